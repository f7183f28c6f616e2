"""MSE and SSIM of reconstructions, as exact means over all images."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def mse(images: Tensor, other: Tensor) -> Tensor:
    """Squared error of each image, mean over its pixels: (B, C, H, W) in [0, 1] -> (B,)."""
    return ((images - other) ** 2).flatten(1).mean(1)


def ssim_loss(images: Tensor, other: Tensor) -> Tensor:
    """1 - SSIM of each image (window 11, sigma 1.5, data range 1): (B, C, H, W) in [0, 1] -> (B,) in [0, 2].

    The paper's column is called SSIM and falls as images get better: it holds 1 - SSIM.
    """
    ssim = structural_similarity_index_measure(
        other, images, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
    )
    assert isinstance(ssim, Tensor)
    return 1 - torch.atleast_1d(ssim)
