"""Choosing a device and walking over data in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spiking_diffusion.errors import UserError


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises UserError for ``cuda`` where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is 'cuda' but PyTorch finds no CUDA device: set device to auto or cpu in params.yaml, "
            "or pass --device cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def batches(data: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
    """``data`` in order, ``size`` rows at a time, on ``device``."""
    for part in data.split(size):
        yield part.to(device)
