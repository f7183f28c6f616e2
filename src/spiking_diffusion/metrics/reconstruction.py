"""MSE and SSIM of reconstructions, as exact means over all images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
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


def released_ssim_loss(images: Tensor, other: Tensor) -> Tensor:
    """1 - SSIM of each image as the paper's released code takes it: (B, C, H, W), [0, 1] is black to white -> (B,).

    The constants and the window are those of ``ssim_loss``. Three things differ. 0.5 is subtracted first, so the means
    have a sign. Beyond the border is 0 (mid-grey). Values outside [0, 1] stay as they are. In float64.
    """
    a, b = (x.double() - 0.5 for x in (images, other))
    line = torch.exp(-(torch.arange(-5, 6, device=a.device, dtype=a.dtype) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    window = torch.outer(line, line).expand(a.shape[1], 1, 11, 11)
    m, n, aa, bb, ab = (F.conv2d(x, window, padding=5, groups=a.shape[1]) for x in (a, b, a * a, b * b, a * b))
    ssim = (2 * m * n + 0.01**2) * (2 * (ab - m * n) + 0.03**2)
    ssim = ssim / ((m**2 + n**2 + 0.01**2) * (aa - m**2 + bb - n**2 + 0.03**2))
    return 1 - ssim.flatten(1).mean(1)
