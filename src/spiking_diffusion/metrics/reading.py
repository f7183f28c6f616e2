"""How the reader, a calibrated classifier that no FID uses, judges images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spiking_diffusion.data.images import to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.metrics.classifier import CERTAIN, load_judges


class Reader:
    """The reader from a file of judges, for images (N, C, H, W) uint8."""

    def __init__(self, path: Path, batch_size: int, device: torch.device) -> None:
        self.judges, self.batch_size, self.device = load_judges(path, device), batch_size, device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Probabilities (N, classes), on the CPU."""
        return torch.cat(
            [self.judges.read(to_unit(part)).cpu() for part in batches(images, self.batch_size, self.device)]
        )


def legible(probabilities: Tensor) -> float:
    """The share of images to which the reader gives one class with a probability above CERTAIN."""
    return float((probabilities.amax(1) > CERTAIN).double().mean())


def class_balance(probabilities: Tensor, labels: Tensor) -> float:
    """Total variation, 0 to 1, between the classes that the reader sees and ``labels``: half the summed differences."""
    classes = probabilities.shape[1]
    counts = (torch.bincount(found, minlength=classes).double() for found in (probabilities.argmax(1), labels))
    seen, known = (each / each.sum() for each in counts)
    return float((seen - known).abs().sum() / 2)
