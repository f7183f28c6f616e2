"""Weights of a trained FSVAE."""

from __future__ import annotations

from pathlib import Path

import torch

from spiking_diffusion import paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.fsvae.model import FSVAE
from spiking_diffusion.weights import load_weights


def load_fsvae(run: RunSettings, device: torch.device, folder: Path | None = None) -> FSVAE:
    """The trained FSVAE of a run, in evaluation mode, with the weights in ``folder`` (default: the run's folder)."""
    channels, height, width = run.dataset.shape
    model = FSVAE(run.recipe.fsvae, run.recipe.neuron, (channels, height, width))
    load_weights(paths.weights_path(folder or paths.models_path(run.name), "fsvae"), model, device)
    return model
