"""The ``sample`` stage: draw images from a trained model."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.families import Model, load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.pictures import grid, write_png
from spiking_diffusion.randomness import make_deterministic

log = logging.getLogger(__name__)


def run(job: Job, device: torch.device) -> None:
    """Draw as many images as the recipe says.

    The time that took goes to ``work/{run}/sampling.json``: no two machines agree on it, and on ``results/`` they do.
    """
    timing = paths.sampling_path(job.name)
    artifacts.clear_leftovers(timing)
    model, start = load(job.run, device), time.perf_counter()
    images, notes, conditions = model.draw(job.run.recipe.sample.n)
    seconds = time.perf_counter() - start
    log.info("%s: %d images in %.1f s, %.4f s each", job.name, len(images), seconds, seconds / len(images))
    artifacts.write_json(timing, {"device": device.type, "images": len(images), "seconds": seconds, **notes})
    weights = paths.model_path(job.name, job.run.family.last)
    made_by = {"model": np.array(artifacts.sha256(weights)), "stamp": np.array(job.stamp)}
    content = {"images": images.numpy(), **{key: np.array(value) for key, value in notes.items()}}
    if conditions is not None:
        content["conditions"] = conditions.numpy().astype(np.uint16)
    artifacts.write_npz(job.out, content | made_by)


def write_picture(model: Model, n: int, out: Path, **how: Any) -> None:
    """Draw ``n`` images and write them as one PNG, near square; ``how`` is as in ``Model.sample``."""
    make_deterministic(model.config.recipe.sample.threads)
    write_png(out, grid(to_uint8(model.sample(n, **how)).numpy(), columns=math.ceil(math.sqrt(n))))
