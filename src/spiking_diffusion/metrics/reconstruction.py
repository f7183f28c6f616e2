"""MSE and SSIM of reconstructions, as exact means over all images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 5
"""Reach of SSIM's window of 11 x 11 pixels from its middle."""


def mse(images: Tensor, other: Tensor) -> Tensor:
    """Squared error of each image, mean over its pixels: (B, C, H, W) in [0, 1] -> (B,)."""
    return ((images - other) ** 2).flatten(1).mean(1)


def ssim_loss(images: Tensor, other: Tensor) -> Tensor:
    """1 - SSIM of each image (Wang et al. 2004), borders mirrored: (B, C, H, W) in [0, 1] -> (B,) in [0, 2], float64.

    The paper's column is called SSIM and falls as images get better, so it contains 1 - SSIM.
    """
    a, b = (F.pad(x.double(), (REACH,) * 4, mode="reflect") for x in (images, other))
    return 1 - _ssim(a, b)


def released_ssim_loss(images: Tensor, other: Tensor) -> Tensor:
    """1 - SSIM of each image as in the paper's released code: (B, C, H, W), [0, 1] is black to white -> (B,).

    0.5 is subtracted first, so the means can be negative. The padding is 0 (mid-grey). Values outside [0, 1] are not
    clamped.
    """
    a, b = (F.pad(x.double() - 0.5, (REACH,) * 4) for x in (images, other))
    return 1 - _ssim(a, b)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM over the positions where the window fits: a Gaussian of sigma 1.5, for values of range 1."""
    line = torch.exp(-(torch.arange(-REACH, REACH + 1, device=a.device, dtype=a.dtype) ** 2) / (2 * 1.5**2))
    line = (line / line.sum()).expand(a.shape[1], 1, -1)
    m, n, aa, bb, ab = (
        F.conv2d(F.conv2d(x, line[..., None], groups=a.shape[1]), line[:, :, None], groups=a.shape[1])
        for x in (a, b, a * a, b * b, a * b)
    )
    ssim = (2 * m * n + 0.01**2) * (2 * (ab - m * n) + 0.03**2)
    ssim = ssim / ((m**2 + n**2 + 0.01**2) * (aa - m**2 + bb - n**2 + 0.03**2))
    return ssim.flatten(1).mean(1)
