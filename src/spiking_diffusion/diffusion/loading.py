"""Weights of a trained SDID."""

from __future__ import annotations

from pathlib import Path

import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.diffusion.absorbing import AbsorbingDiffusion
from spiking_diffusion.diffusion.residual import ResidualSDID
from spiking_diffusion.diffusion.sdid import SDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.weights import load_weights

Network = SDID | ResidualSDID


def make_sdid(run: RunSettings, size: int, shape: tuple[int, int]) -> tuple[Network, AbsorbingDiffusion]:
    """An untrained SDID for tokens of ``shape`` (h, w) in [0, size), and its diffusion process."""
    settings, neuron, steps = run.recipe.sdid, run.recipe.neuron, shape[0] * shape[1]
    model: Network = (
        SDID(settings, neuron, size, steps)
        if settings.architecture == "stack"
        else ResidualSDID(settings, neuron, size, shape, run.conditions)
    )
    return model, AbsorbingDiffusion(size, steps)


def load_sdid(run: RunSettings, device: torch.device, folder: Path | None = None) -> tuple[Network, AbsorbingDiffusion]:
    """The trained SDID of a run, in evaluation mode, and its diffusion process.

    Its weights are in ``folder``, by default the run's, next to the VQ-SVAE's.
    Raises UserError if its tokens came from another VQ-SVAE than the run's.
    """
    model, diffusion = make_sdid(run, run.recipe.vqsvae.codebook.size, run.token_shape)
    folder = folder or paths.models_path(run.name)
    path, vqsvae = (paths.weights_path(folder, network) for network in ("sdid", "vqsvae"))
    if load_weights(path, model, device) != artifacts.sha256(vqsvae):
        raise UserError(f"{path} was trained on tokens of another VQ-SVAE than {vqsvae}: train it again")
    return model, diffusion
