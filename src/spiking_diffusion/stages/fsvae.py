"""The ``fsvae`` stage: images -> a trained FSVAE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion import paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.data.images import ImageSet, load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn.layers import record_rates
from spiking_diffusion.stages.train import train


class FSVAETask:
    """FSVAE on a set of images."""

    def __init__(self, run: RunSettings, data: ImageSet, device: torch.device) -> None:
        self.seed = run.recipe.seed
        self.settings = run.recipe.fsvae
        self.module = FSVAE(self.settings, run.recipe.neuron, data.shape)
        self.device = device
        self.images = data.images["train"].to(device)
        self.validation = data.images["validation"]
        self.uniform = False  # scheduled sampling changes with progress
        self.size = len(self.images)

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        images = to_unit(self.images[index])
        return fsvae_loss(self.module(images, progress, noise), images, self.settings)

    def validate(self) -> dict[str, float]:
        noise = generator(self.device, self.seed, "fsvae", "validation")
        error = torch.zeros((), device=self.device)
        for part in batches(self.validation, self.settings.train.batch_size, self.device):
            images = to_unit(part)
            error += F.mse_loss(self.module.reconstruct(images, noise), images, reduction="sum")
        with record_rates(self.module) as rates:
            first = next(batches(self.validation, self.settings.train.batch_size, self.device))
            self.module.reconstruct(to_unit(first), noise)
        return {
            "validation_mse": float(error) / self.validation.numel(),
            **{f"rate_{layer}": rate for layer, rate in rates.items()},  # of the first batch
        }


def run(job: Job, device: torch.device) -> None:
    """Train the FSVAE of a run."""
    data = load_images(paths.data_path(job.run.dataset_name))
    train(job, job.run.recipe.fsvae.train, device, lambda: FSVAETask(job.run, data, device))
