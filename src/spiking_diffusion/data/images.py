"""A dataset in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiking_diffusion.artifacts import SPLITS, damaged, read_array, read_npz


@dataclass(frozen=True)
class ImageSet:
    """``images[split]`` (N, C, H, W) uint8, ``labels[split]`` (N,) int64, for train, validation and test."""

    images: dict[str, Tensor]
    labels: dict[str, Tensor]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images["train"].shape[1:]
        return channels, height, width

    def variance(self) -> float:
        """Variance of the training images' pixels in [0, 1], one number over all pixels."""
        counts = torch.bincount(self.images["train"].flatten(), minlength=256).double()  # exact, and in one pass
        values = torch.arange(256, dtype=torch.float64) / 255
        p = counts / counts.sum()
        return float((p * values**2).sum() - (p * values).sum() ** 2)


def load_images(path: Path) -> ImageSet:
    """Read ``results/data/{dataset}.npz``. Raises UserError if it is missing or not what ``fetch`` writes."""
    arrays = read_npz(path)
    images, labels = {}, {}
    for split in SPLITS:
        x, y = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if x is None or y is None or x.dtype != np.uint8 or x.ndim != 4 or len(x) != len(y) or not len(x):
            raise damaged(path, f"no valid {split} images and labels in it")
        images[split] = torch.from_numpy(x)
        labels[split] = torch.from_numpy(y.astype(np.int64))
    return ImageSet(images, labels)


def load_split(path: Path, split: str) -> Tensor:
    """Images (N, C, H, W) uint8 of one split; nothing else in the file is read. Raises UserError as ``load_images``."""
    images = read_array(path, f"{split}_images")
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise damaged(path, f"no valid {split} images in it")
    return torch.from_numpy(images)


def to_unit(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8, rounded to nearest."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
