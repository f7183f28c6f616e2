"""Weights of a trained SDID."""

from __future__ import annotations

from pathlib import Path

import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.diffusion.absorbing import AbsorbingDiffusion
from spiking_diffusion.diffusion.sdid import SDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.weights import load_weights


def make_sdid(run: RunSettings, size: int, shape: tuple[int, int]) -> tuple[SDID, AbsorbingDiffusion]:
    """An untrained SDID for tokens of ``shape`` (h, w) in [0, size), and its diffusion process."""
    steps = shape[0] * shape[1]
    return SDID(run.recipe.sdid, run.recipe.neuron, size, steps), AbsorbingDiffusion(size, steps)


def load_sdid(run: RunSettings, device: torch.device, root: Path = Path()) -> tuple[SDID, AbsorbingDiffusion]:
    """The trained SDID of a run in the project at ``root``, in evaluation mode, and its diffusion process.

    Raises UserError if its tokens came from another VQ-SVAE than the run's.
    """
    _, height, width = run.dataset.shape
    model, diffusion = make_sdid(run, run.recipe.vqsvae.codebook.size, (height // 4, width // 4))
    path, vqsvae = (root / paths.model_path(run.name, network) for network in ("sdid", "vqsvae"))
    if load_weights(path, model, device) != artifacts.sha256(vqsvae):
        raise UserError(f"{path} was trained on tokens of another VQ-SVAE than {vqsvae}: train it again")
    return model, diffusion
