"""Weights of a trained FSVAE."""

from __future__ import annotations

from pathlib import Path

import torch

from spiking_diffusion import paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.fsvae.model import FSVAE
from spiking_diffusion.weights import load_weights


def load_fsvae(run: RunSettings, device: torch.device, root: Path = Path()) -> FSVAE:
    """The trained FSVAE of a run in the project at ``root``, in evaluation mode."""
    channels, height, width = run.dataset.shape
    model = FSVAE(run.recipe.fsvae, run.recipe.neuron, (channels, height, width))
    load_weights(root / paths.model_path(run.name, "fsvae"), model, device)
    return model
