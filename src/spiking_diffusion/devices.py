"""Choosing a device and iterating over data in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spiking_diffusion.errors import UserError
from spiking_diffusion.progress import watch


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA if it is available. Raises UserError for ``cuda`` if it is not available."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is 'cuda' but PyTorch finds no CUDA device: set device to auto or cpu in params.yaml, "
            "or pass --device cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def batches(data: Tensor, size: int, device: torch.device, what: str = "") -> Iterator[Tensor]:
    """``data`` in order, ``size`` rows at a time, on ``device``. With a name, ``what``, it shows progress."""
    parts = data.split(size)
    for part in watch(parts, f"{what}, batch", len(parts)) if what else parts:
        yield part.to(device)
