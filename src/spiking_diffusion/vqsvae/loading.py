"""Loading the weights of a trained VQ-SVAE, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """``splits[split]`` (N, h, w) int64 in [0, size), made by the VQ-SVAE with the file hash ``vqsvae``.

    ``stamp`` identifies the settings and the code that made them. ``conditions[split]`` (N,) int64 are the images'
    conditions by the recipe's ``condition``, and empty without conditions.
    """

    splits: dict[str, Tensor]
    size: int
    vqsvae: str
    stamp: str = ""
    conditions: dict[str, Tensor] = field(default_factory=dict)


def load_vqsvae(run: RunSettings, device: torch.device, folder: Path | None = None) -> VQSVAE:
    """The trained VQ-SVAE of a run, in evaluation mode, with the weights in ``folder`` (default: the run's folder)."""
    channels, height, width = run.dataset.shape
    model = VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (channels, height, width))
    load_weights(paths.weights_path(folder or paths.models_path(run.name), "vqsvae"), model, device)
    return model


def load_tokens(path: Path) -> TokenSet:
    """Read tokens. Raises UserError if the file is missing, damaged, or has tokens that are out of range."""
    arrays = artifacts.read_npz(path)
    try:
        size, vqsvae, stamp = int(arrays["size"]), str(arrays["vqsvae"]), str(arrays["stamp"])
        splits = {split: arrays[split] for split in SPLITS}
        if any(a.dtype != np.uint16 or a.ndim != 3 or a.size == 0 or a.max() >= size for a in splits.values()):
            raise ValueError(f"tokens must be uint16, (N, h, w) and below {size}")
        told = {split: arrays[name] for split in SPLITS if (name := f"{split}_condition") in arrays}
        if any(a.dtype != np.uint16 or a.shape != splits[split].shape[:1] for split, a in told.items()):
            raise ValueError("conditions must be uint16, one for each image")
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, error) from error
    tokens, conditions = (
        {split: torch.from_numpy(a.astype(np.int64)) for split, a in arrays.items()} for arrays in (splits, told)
    )
    return TokenSet(tokens, size, vqsvae, stamp, conditions)
