"""The ``classifier`` stage: images and labels -> the networks that judge images of a dataset."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion import config, paths
from spiking_diffusion.data.images import ImageSet, load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import Classifier, Judges, cells_of
from spiking_diffusion.progress import watch
from spiking_diffusion.randomness import generator, seed_initialisation
from spiking_diffusion.weights import save_weights

log = logging.getLogger(__name__)


def run(job: Job, device: torch.device) -> dict[str, Any]:
    """Train the networks of a dataset one after the other, and record their test accuracies."""
    settings, dataset = job.params.classifier, job.params.dataset(job.name)
    data = load_images(paths.data_path(job.name))
    if len(data.images["train"]) < 2:
        raise UserError(
            f"{job.name} has 1 training image, and its classifiers need 2 or more: "
            f"set fewer aside in datasets.{job.name}.split in params.yaml"
        )
    sizes = (settings.channels, cells_of(data.shape, settings.channels), settings.features, dataset.classes)
    seed_initialisation(settings.seed, "classifier", job.name)
    judges = Judges(settings.networks, data.shape[0], *sizes).to(device)
    accuracies = []
    for number, network in enumerate([*judges.networks, judges.reader]):
        assert isinstance(network, Classifier)
        reads = network is judges.reader
        _train(network, data, settings, f"{job.name} {number}", reads, device)
        accuracies.append(_accuracy(network, data, device) if dataset.classes > 1 else None)
        log.info("classifier %s: network %d, test accuracy %s", job.name, number, accuracies[-1])
    if dataset.classes > 1:
        judges.temperature.fill_(calibrate(_logits(judges.reader, data.images["validation"], device), data))
    else:
        log.warning(
            "classifier %s: there are no labels to learn, so its features are those of random weights", job.name
        )
    save_weights(job.out, judges)
    *of_networks, of_reader = accuracies
    return {"test_accuracy": of_networks, "reader_test_accuracy": of_reader}


def _train(
    network: Classifier, data: ImageSet, settings: config.Classifier, what: str, reads: bool, device: torch.device
) -> None:
    """AdamW with a rate that rises and falls once (Smith and Topin, arXiv:1708.07120).

    A network that ``reads`` also learns images that belong to no single class. A sixth of its images contain a
    rectangle of another image, with both labels weighted by area (CutMix, Yun et al. 2019). A twelfth are noise, with
    equal weights for all labels (outlier exposure, Hendrycks et al. 2019). It trains twice as long.
    """
    images, labels = data.images["train"].to(device), data.labels["train"].to(device)
    size = min(settings.batch_size, len(images))
    steps = max(settings.least_steps, settings.epochs * len(images) // size) * (2 if reads else 1)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=steps)
    draws = generator("cpu", settings.seed, "classifier", what, "order")
    order = torch.empty(0, dtype=torch.int64)
    for step in watch(range(steps), f"classifier {what}, step", steps):
        if len(order) < size:
            order = torch.randperm(len(images), generator=draws)
        index, order = order[:size].to(device), order[size:]
        shown, targets = to_unit(images[index]), F.one_hot(labels[index], network.head.out_features).float()
        if reads:  # in each batch, so that batch normalisation sees the same mixture at every step
            mixed, noisy = size // 6, size // 6 + size // 12
            shown[:mixed], targets[:mixed] = cut_and_mixed(shown[:mixed], targets[:mixed], draws)
            shown[mixed:noisy] = torch.rand(shown[mixed:noisy].shape, generator=draws).to(device)
            targets[mixed:noisy] = 1 / targets.shape[1]
        loss = F.cross_entropy(network(shown), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradient = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        if not torch.isfinite(loss + gradient):
            raise UserError(
                f"classifier {what}: step {step}, the loss is {loss.item()} and its gradient {gradient.item()} "
                f"(lr {settings.lr}): nothing is kept; lower classifier.lr and run again"
            )
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        squares = [
            network.features(to_unit(part)).square().mean(1).double().sum() for part in batches(images, 500, device)
        ]
        network.scale.copy_(torch.sqrt(torch.stack(squares).sum() / len(images)))


def cut_and_mixed(images: Tensor, targets: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) with a rectangle from another image, and the targets (B, classes) mixed by area."""
    height, width = images.shape[2:]
    share, y, x = torch.rand(3, generator=draws).tolist()
    half = share**0.5 / 2  # of a side, so that areas are uniform
    top, bottom = round(max(y - half, 0) * height), round(min(y + half, 1) * height)
    left, right = round(max(x - half, 0) * width), round(min(x + half, 1) * width)
    other = torch.randperm(len(images), generator=draws).to(images.device)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / (height * width)
    return mixed, (1 - area) * targets + area * targets[other]


@torch.no_grad()
def _logits(network: Classifier, images: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network(to_unit(part)).cpu() for part in batches(images, 500, device)])


def _accuracy(network: Classifier, data: ImageSet, device: torch.device) -> float:
    guesses = _logits(network, data.images["test"], device).argmax(1)
    return float((guesses == data.labels["test"]).float().mean())


def calibrate(logits: Tensor, data: ImageSet) -> float:
    """The temperature, 1 to 4, with the lowest validation loss (Guo et al. 2017).

    If every validation image is classified correctly, values below 1 would sharpen without limit.
    """
    tried = torch.logspace(0, 2, 41, base=2)
    losses = torch.stack([F.cross_entropy(logits / temperature, data.labels["validation"]) for temperature in tried])
    return float(tried[losses.argmin()])
