"""The ``evaluate`` stage: a run's reconstructions and samples -> one flat JSON of numbers, and notes on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.data.images import load_images, to_uint8, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import DRAWN, Model, load
from spiking_diffusion.families.inputs import load_samples
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import is_random
from spiking_diffusion.metrics.distances import nearest, nearest_in_pixels
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.protocols import Images, measure
from spiking_diffusion.metrics.reading import Reader, class_balance, legible
from spiking_diffusion.metrics.reconstruction import mse, released_ssim_loss, ssim_loss
from spiking_diffusion.metrics.rows import write_row
from spiking_diffusion.randomness import generator

COPIES = 1000
"""Number of images that are compared with every training image."""


@torch.no_grad()
def run(job: Job, device: torch.device) -> dict[str, Any]:
    """Measure a run, and store its reconstructions of the test images."""
    run, settings = job.run, job.run.recipe.evaluate
    classifier = paths.classifier_path(run.dataset_name)
    data = load_images(paths.data_path(run.dataset_name))
    samples = load_samples(job.params, run)
    if samples["images"].shape[1:] != data.shape:
        raise artifacts.damaged(paths.samples_path(run.name), f"no images of shape {data.shape} in it")
    images, test = torch.from_numpy(samples["images"]), data.images["test"]
    model = load(run, device)
    own = model.numbers(job.params)
    reconstructed, errors = _reconstruct(model, test, settings.batch_size)
    # in random order, because protocols use the first ones and training images can be in the order of their classes
    chosen = torch.randperm(len(data.images["train"]), generator=generator("cpu", run.recipe.seed, "perfect"))
    perfect = torch.cat(
        [
            to_uint8(again).cpu()
            for _, again in _rebuilt(model, data.images["train"][chosen[: len(images)]], settings.batch_size)
        ]
    )
    classes = torch.from_numpy(samples["conditions"].astype(int)) if run.recipe.condition.by == "label" else None
    sets = Images(images, reconstructed, perfect, data.images)
    measured, hashes = measure(sets, settings, job.params.inception, classifier, run.recipe.seed, device)
    row: dict[str, Any] = {
        "dataset": run.dataset_name,
        "model": run.model,
        "run": run.name,
        "recipe": run.recipe_name,
        "seed": run.recipe.seed,
        **errors,
        **images_seen(run, len(data.images["train"])),
        **measured,
        **reading(sets, data.labels["train"], classifier, settings.batch_size, device, classes),
        **copying(images, test, data.images["train"], classifier, settings.batch_size, run.recipe.seed, device),
        **{key: samples[key].item() for key in ("network_calls", *DRAWN) if key in samples},
        **own,
    }
    bad = [key for key, value in row.items() if isinstance(value, float) and not abs(value) < float("inf")]
    if bad:
        raise UserError(
            f"{run.name}: {', '.join(bad)} are not finite: look at results/samples/{run.name}.npz, "
            "the model may have diverged"
        )
    artifacts.write_npz(paths.reconstructions_path(run.name), {"images": reconstructed.numpy()})
    write_row(run.name, row)
    return {"inception": hashes}


def images_seen(run: RunSettings, images: int) -> dict[str, int]:
    """The number of training images that all networks of a run saw, in epochs of ``images``. With several networks,
    also the number of each."""
    each = {network: getattr(run.recipe, network).train.epochs * images for network in run.family.networks}
    apart = {f"{network}_images_seen": seen for network, seen in each.items()} if len(each) > 1 else {}
    return {**apart, "images_seen": sum(each.values())}


def reading(
    sets: Images, labels: Tensor, classifier: Path, batch_size: int, device: torch.device, classes: Tensor | None = None
) -> dict[str, float | None]:
    """How the reader judges generated images, test images and their reconstructions.

    ``class_accuracy`` is the share of generated images to which the reader gives the requested ``classes`` (N,).
    """
    if is_random(classifier):
        return dict.fromkeys(("legible", "class_balance", "test_legible"))
    reader = Reader(classifier, batch_size, device)
    read = reader(sets.generated)
    floors = {"reconstruction_legible": sets.reconstructed, "perfect_prior_legible": sets.perfect}
    return {
        "legible": legible(read),
        "class_balance": class_balance(read, labels),
        "test_legible": legible(reader(sets.real["test"])),
        **({} if classes is None else {"class_accuracy": float((read.argmax(1) == classes).double().mean())}),
        **{key: legible(reader(images)) for key, images in floors.items() if len(images)},
    }


def copying(
    images: Tensor, test: Tensor, train: Tensor, classifier: Path, batch_size: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Distances to the nearest training image, of samples and of test images: the mean, and the first percentile.

    ``nearest_train`` is in the features of the first network. ``pixel`` is in pixels, and an image may be moved by one
    pixel. Both use at most COPIES images. Samples far nearer than test images are copies.
    """
    embed = Features(ClassifierFeatures, classifier, batch_size, device)
    known = embed(train)[0].to(device)
    found: dict[str, float] = {}
    for name, part in (("", images), ("test_", test)):
        some = part[torch.randperm(len(part), generator=generator("cpu", seed, "copies"))[:COPIES]]
        measured = {
            "nearest_train": nearest(embed(some)[0].to(device), known),
            "pixel_nearest_train": nearest_in_pixels(some.to(device), train.to(device)),
        }
        for key, values in measured.items():
            values = values.double().cpu()
            found |= {f"{name}{key}_mean": float(values.mean()), f"{name}{key}_p01": float(values.quantile(0.01))}
    return found


def _reconstruct(model: Model, images: Tensor, batch_size: int) -> tuple[Tensor, dict[str, float]]:
    """Reconstructions (uint8) of images (N, C, H, W) uint8, and their mean errors by both sets of rules."""
    kept: list[Tensor] = []
    errors: dict[str, list[Tensor]] = defaultdict(list)
    for real, raw in _rebuilt(model, images, batch_size):
        again = raw.clamp(0, 1)
        kept.append(to_uint8(again).cpu())
        for key, error in {
            "mse": mse(again, real),
            "ssim": ssim_loss(again, real),
            "released_mse": mse(raw, real),
            "released_ssim": released_ssim_loss(raw, real),
        }.items():
            errors[key].append(error.double().cpu())
    return torch.cat(kept), {key: float(torch.cat(parts).mean()) for key, parts in errors.items()}


def _rebuilt(model: Model, images: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, C, H, W) uint8 as floats, batch by batch, with their unclamped reconstructions."""
    noise = generator(model.device, model.config.recipe.seed, "evaluate", "posterior")
    for part in batches(images, batch_size, model.device, f"reconstructing {model.config.name}"):
        real = to_unit(part)
        yield real, model.unclamped(real, noise)
