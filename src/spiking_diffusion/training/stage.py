"""What the three trainings have in common around the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from spiking_diffusion import artifacts, config, pipeline
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.randomness import make_deterministic, seed_initialisation
from spiking_diffusion.training.loop import Task, fit, save_history
from spiking_diffusion.training.weights import save_weights


def train_stage(
    params: Params,
    run: RunSettings,
    model: str,
    settings: config.Train,
    sources: list[Path],
    device: torch.device,
    make_task: Callable[[], Task],
    made_from: str = "",
) -> Path:
    """Train ``model`` of a run on ``sources`` and write weights, history and settings. Returns the weights' path."""
    make_deterministic(settings.threads)
    identity = pipeline.record(params, model, run.name, sources)
    seed_initialisation(run.recipe.seed, model)
    task = make_task()
    task.module.to(device)
    history = fit(task, settings, run.recipe.seed, identity, Path("work", run.name, model), device)
    out = artifacts.model_path(run.name, model)
    save_history(artifacts.history_path(out), history)
    save_weights(out, task.module, made_from)
    pipeline.seal(identity, out, artifacts.history_path(out))
    return out
