"""Impostors: sets of images made from real ones, in an order that a person can give. They test the judges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion.data.images import to_uint8, to_unit

REPEATED, BLOCKS = 50, 4
"""Number of repeated images, and number of shuffled blocks along each side of an image."""


def impostors(images: Tensor, labels: Tensor, n: int, noise: torch.Generator) -> dict[str, Tensor]:
    """Sets of ``n`` images each, from the most to the least like ``images`` (N, C, H, W) uint8, with real ones first.

    Without labels, halves of one class are halves of any two images.
    """

    def draw(size: int) -> Tensor:
        return torch.randint(len(images), (size,), generator=noise)

    first = torch.randperm(len(images), generator=noise)[:n] if n <= len(images) else draw(n)
    real, other = images[first], draw(n)
    same = torch.empty_like(first)
    for label in labels.unique():
        own, of_class = labels[first] == label, (labels == label).nonzero().squeeze(1)
        same[own] = of_class[torch.randint(len(of_class), (int(own.sum()),), generator=noise)]
    _, channels, height, width = images.shape
    box = torch.ones(channels, 1, 3, 3) / 9
    return {
        "real": real,
        "halves of one class": halves(real, images[same]),
        "halves of any two": halves(real, images[other]),
        "blurred, 3x3": to_uint8(F.conv2d(to_unit(real), box, padding=1, groups=channels)),
        f"{REPEATED} images repeated": images[draw(REPEATED)].repeat(-(-n // REPEATED), 1, 1, 1)[:n],
        "shuffled blocks": shuffled(real, noise),
        "noise": torch.randint(256, (n, channels, height, width), generator=noise, dtype=torch.uint8),
    }


def halves(above: Tensor, below: Tensor) -> Tensor:
    """The upper halves of one set's images on the lower halves of the other's, (N, C, H, W)."""
    middle = above.shape[2] // 2
    return torch.cat([above[:, :, :middle], below[:, :, middle:]], dim=2)


def shuffled(images: Tensor, noise: torch.Generator) -> Tensor:
    """Images (N, C, H, W) cut into BLOCKS x BLOCKS blocks, which are shuffled in each image separately."""
    n, channels, height, width = images.shape
    y, x = height // BLOCKS, width // BLOCKS
    blocks = images.unfold(2, y, y).unfold(3, x, x).flatten(2, 3)  # (N, C, blocks, y, x)
    order = torch.rand(n, BLOCKS**2, generator=noise).argsort(1)
    moved = blocks.gather(2, order[:, None, :, None, None].expand_as(blocks)).unflatten(2, (BLOCKS, BLOCKS))
    return moved.permute(0, 1, 2, 4, 3, 5).reshape(n, channels, BLOCKS * y, BLOCKS * x)
