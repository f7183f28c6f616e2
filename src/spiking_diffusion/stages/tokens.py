"""The ``tokens`` stage: a trained VQ-SVAE turns images into tokens."""

from __future__ import annotations

import numpy as np
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.vqsvae.loading import load_vqsvae


@torch.no_grad()
def run(job: Job, device: torch.device) -> None:
    """Encode all images of a run's dataset."""
    settings = job.run.recipe.vqsvae
    data = load_images(paths.data_path(job.run.dataset_name))
    model = load_vqsvae(job.run, device)
    weights = artifacts.sha256(paths.model_path(job.name, "vqsvae"))
    content = {"size": np.array(settings.codebook.size), "vqsvae": np.array(weights), "stamp": np.array(job.stamp)}
    for split in SPLITS:
        tokens = [
            model.encode(to_unit(part)).cpu() for part in batches(data.images[split], settings.train.batch_size, device)
        ]
        content[split] = torch.cat(tokens).numpy().astype(np.uint16)
    artifacts.write_npz(job.out, content)
