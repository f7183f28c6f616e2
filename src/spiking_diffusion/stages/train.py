"""The common part of the three training stages."""

from __future__ import annotations

from collections.abc import Callable

import torch

from spiking_diffusion import config, paths
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.randomness import seed_initialisation
from spiking_diffusion.training.loop import Task, fit, save_history
from spiking_diffusion.weights import save_weights


def train(
    job: Job, settings: config.Train, device: torch.device, make_task: Callable[[], Task], made_from: str = ""
) -> None:
    """Train the network that the stage is named after, and write its weights and history."""
    seed, identity = job.run.recipe.seed, job.record
    seed_initialisation(seed, job.stage)
    task = make_task()
    task.module.to(device)
    history = fit(task, settings, seed, identity, paths.work_path(job.name, job.stage), device)
    save_history(paths.history_path(job.out), history)
    save_weights(job.out, task.module, made_from)
