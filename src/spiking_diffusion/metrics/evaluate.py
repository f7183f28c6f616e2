"""The ``evaluate`` stage: a run's reconstructions and samples -> one flat JSON of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import ImageSet, load_images, to_uint8, to_unit
from spiking_diffusion.errors import UserError
from spiking_diffusion.metrics.distances import nearest
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.protocols import Images, measure
from spiking_diffusion.metrics.reconstruction import mse, ssim_loss
from spiking_diffusion.randomness import generator, make_deterministic
from spiking_diffusion.training.devices import batches
from spiking_diffusion.training.fsvae import load_fsvae
from spiking_diffusion.training.sample import load_samples
from spiking_diffusion.training.sdid import bits_per_token, load_sdid
from spiking_diffusion.training.tokens import load_vqsvae, tokens_of
from spiking_diffusion.vqsvae.codebook import perplexity


@torch.no_grad()
def evaluate_run(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Measure a run and write ``results/metrics/{run}.json`` and its reconstructions of the test images."""
    settings = run.recipe.evaluate
    make_deterministic(settings.threads)
    source, classifier, drawn = (
        artifacts.data_path(run.dataset_name),
        artifacts.classifier_path(run.dataset_name),
        artifacts.samples_path(run.name),
    )
    data = load_images(source)
    samples = load_samples(params, run)
    if samples["images"].shape[1:] != data.shape:
        raise artifacts.damaged(drawn, f"no images of shape {data.shape} in it")
    images = torch.from_numpy(samples["images"])
    if run.model == "fsvae":
        stage, inputs = "fsvae_evaluate", [artifacts.model_path(run.name, "fsvae")]
        reconstructed, mean_mse, mean_ssim, own = _fsvae(run, data, device)
    else:
        stage = "evaluate"
        inputs = [artifacts.model_path(run.name, model) for model in ("vqsvae", "sdid")] + [
            artifacts.tokens_path(run.name)
        ]
        reconstructed, mean_mse, mean_ssim, own = _spiking_diffusion(params, run, data, device)

    seed, test = run.recipe.seed, data.images["test"]
    sets = Images(images, reconstructed, data.images)
    measured, hashes = measure(sets, settings, params.inception, classifier, seed, device)
    row: dict[str, Any] = {
        "dataset": run.dataset_name,
        "model": run.model,
        "run": run.name,
        "recipe": run.recipe_name,
        "seed": seed,
        "mse": mean_mse,
        "ssim": mean_ssim,
        **measured,
        **_copying(images, test, data.images["train"], classifier, settings.batch_size, device),
        **{key: float(samples[key]) for key in ("network_calls", "steps", "temperature") if key in samples},
        **own,
    }
    bad = [key for key, value in row.items() if isinstance(value, float) and not abs(value) < float("inf")]
    if bad:
        raise UserError(
            f"{run.name}: {', '.join(bad)} came out as not finite: look at results/samples/{run.name}.npz, "
            "the model may have diverged"
        )
    out, kept = artifacts.metrics_path(run.name), artifacts.reconstructions_path(run.name)
    artifacts.write_npz(kept, {"images": reconstructed.numpy()})
    artifacts.write_json(out, row)
    record = pipeline.record(params, stage, run.name, [source, classifier, drawn, *inputs])
    pipeline.seal(record | {"inception": hashes}, out, kept)
    return out


def _copying(
    images: Tensor, test: Tensor, train: Tensor, classifier: Path, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Distances to the nearest training image in the classifier's features, of samples and of test images: the mean,
    and the first percentile. Samples far nearer than test images are copies."""
    embed = Features(ClassifierFeatures, classifier, batch_size, device)
    known = embed(train).to(device)
    found: dict[str, float] = {}
    for name, part in (("nearest_train", images), ("test_nearest_train", test)):
        distances = nearest(embed(part).to(device), known).double().cpu()
        found |= {f"{name}_mean": float(distances.mean()), f"{name}_p01": float(distances.quantile(0.01))}
    return found


def _reconstruct(data: ImageSet, batch_size: int, device: torch.device, model: Any) -> tuple[Tensor, float, float]:
    """Reconstructions (uint8) of the test images by ``model(images)``, and their mean MSE and 1 - SSIM."""
    kept, errors, losses = [], [], []
    for part in batches(data.images["test"], batch_size, device):
        images = to_unit(part)
        again = model(images)
        kept.append(to_uint8(again).cpu())
        errors.append(mse(again, images).double().cpu())
        losses.append(ssim_loss(again, images).double().cpu())
    return torch.cat(kept), float(torch.cat(errors).mean()), float(torch.cat(losses).mean())


def _fsvae(run: RunSettings, data: ImageSet, device: torch.device) -> tuple[Tensor, float, float, dict[str, Any]]:
    model = load_fsvae(run, device)
    noise = generator(device, run.recipe.seed, "evaluate", "posterior")
    return *_reconstruct(
        data, run.recipe.evaluate.batch_size, device, lambda images: model.reconstruct(images, noise)
    ), {}


def _spiking_diffusion(
    params: Params, run: RunSettings, data: ImageSet, device: torch.device
) -> tuple[Tensor, float, float, dict[str, Any]]:
    vqsvae, (sdid, diffusion) = load_vqsvae(run, device), load_sdid(run, device)
    tokens = tokens_of(params, run)
    noise = generator(device, run.recipe.seed, "evaluate", "bound")
    spread, used = perplexity(tokens.splits["test"], tokens.size)
    own = {
        "bits_per_token": bits_per_token(
            sdid, diffusion, tokens.splits["test"], run.recipe.evaluate.batch_size, noise, device
        ),
        "perplexity": spread,
        "codes_used": used,
        "k": float(vqsvae.k),
        "sampler": run.recipe.sample.sampler,
    }
    return *_reconstruct(
        data, run.recipe.evaluate.batch_size, device, lambda images: vqsvae.decode(vqsvae.encode(images))
    ), own
