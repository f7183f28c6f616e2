"""Weights of a trained VQ-SVAE, and the tokens that it made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.config import RunSettings
from spiking_diffusion.vqsvae.model import VQSVAE
from spiking_diffusion.weights import load_weights


@dataclass(frozen=True)
class TokenSet:
    """``splits[split]`` (N, h, w) int64 in [0, size), made by the VQ-SVAE whose file hashes to ``vqsvae``.

    ``stamp`` is that of the settings and the code that made them.
    """

    splits: dict[str, Tensor]
    size: int
    vqsvae: str
    stamp: str = ""


def load_vqsvae(run: RunSettings, device: torch.device, root: Path = Path()) -> VQSVAE:
    """The trained VQ-SVAE of a run in the project at ``root``, in evaluation mode."""
    channels, height, width = run.dataset.shape
    model = VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (channels, height, width))
    load_weights(root / paths.model_path(run.name, "vqsvae"), model, device)
    return model


def load_tokens(path: Path) -> TokenSet:
    """Read tokens. Raises UserError if the file is missing, damaged, or has tokens that are out of range."""
    arrays = artifacts.read_npz(path)
    try:
        size, vqsvae, stamp = int(arrays["size"]), str(arrays["vqsvae"]), str(arrays["stamp"])
        splits = {split: arrays[split] for split in SPLITS}
        if any(a.dtype != np.uint16 or a.ndim != 3 or a.size == 0 or a.max() >= size for a in splits.values()):
            raise ValueError(f"tokens must be uint16, (N, h, w) and below {size}")
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, error) from error
    return TokenSet({k: torch.from_numpy(a.astype(np.int64)) for k, a in splits.items()}, size, vqsvae, stamp)
