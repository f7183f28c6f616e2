"""The ``evaluate`` stage: a run's reconstructions and samples -> one flat JSON of numbers, and notes on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_images, to_uint8, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import Model, load
from spiking_diffusion.families.inputs import load_samples
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.distances import nearest
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.protocols import Images, measure
from spiking_diffusion.metrics.reconstruction import mse, ssim_loss
from spiking_diffusion.metrics.rows import write_row
from spiking_diffusion.randomness import generator


@torch.no_grad()
def run(job: Job, device: torch.device) -> dict[str, Any]:
    """Measure a run, and keep its reconstructions of the test images."""
    run, settings = job.run, job.run.recipe.evaluate
    classifier = paths.classifier_path(run.dataset_name)
    data = load_images(paths.data_path(run.dataset_name))
    samples = load_samples(job.params, run)
    if samples["images"].shape[1:] != data.shape:
        raise artifacts.damaged(paths.samples_path(run.name), f"no images of shape {data.shape} in it")
    images, test = torch.from_numpy(samples["images"]), data.images["test"]
    model = load(run, device)
    own = model.numbers(job.params)
    reconstructed, mean_mse, mean_ssim = _reconstruct(model, test, settings.batch_size)
    sets = Images(images, reconstructed, data.images)
    measured, hashes = measure(sets, settings, job.params.inception, classifier, run.recipe.seed, device)
    row: dict[str, Any] = {
        "dataset": run.dataset_name,
        "model": run.model,
        "run": run.name,
        "recipe": run.recipe_name,
        "seed": run.recipe.seed,
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
    artifacts.write_npz(paths.reconstructions_path(run.name), {"images": reconstructed.numpy()})
    write_row(run.name, row)
    return {"inception": hashes}


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


def _reconstruct(model: Model, images: Tensor, batch_size: int) -> tuple[Tensor, float, float]:
    """Reconstructions (uint8) of images (N, C, H, W) uint8, and their mean MSE and 1 - SSIM."""
    noise = generator(model.device, model.config.recipe.seed, "evaluate", "posterior")
    kept, errors, losses = [], [], []
    for part in batches(images, batch_size, model.device):
        real = to_unit(part)
        again = model.reconstruct(real, noise)
        kept.append(to_uint8(again).cpu())
        errors.append(mse(again, real).double().cpu())
        losses.append(ssim_loss(again, real).double().cpu())
    return torch.cat(kept), float(torch.cat(errors).mean()), float(torch.cat(losses).mean())
