"""The ``vqsvae`` stage: images -> a trained VQ-SVAE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import RunSettings
from spiking_diffusion.data.images import ImageSet, load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.snn.layers import record_rates
from spiking_diffusion.stages.train import train
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss
from spiking_diffusion.vqsvae.codebook import perplexity


class VQSVAETask:
    """VQ-SVAE on a set of images."""

    def __init__(self, run: RunSettings, data: ImageSet, device: torch.device) -> None:
        self.settings = run.recipe.vqsvae
        self.module = VQSVAE(self.settings, run.recipe.neuron, data.shape)
        self.device = device
        self.images = data.images["train"].to(device)
        self.validation = data.images["validation"]
        self.variance = data.variance()
        if self.variance < 1e-14:  # 0 but for rounding; Eq. 9 divides by it
            raise UserError(
                f"vqsvae {run.name}: all pixels of {run.dataset_name!r}'s training images are equal: nothing to learn"
            )
        self.uniform = True
        self.size = len(self.images)

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        images = to_unit(self.images[index])
        if progress == 0 and self.settings.codebook.init == "kmeans":
            with torch.no_grad():
                features = self.module.readout(self.module.encoder(images))
            self.module.codebook.place(features, noise)
        out = self.module(images, noise)
        self.module.codebook.update(out.z_e, out.tokens, noise)
        return vqsvae_loss(out, images, self.variance, self.settings)

    def validate(self) -> dict[str, float]:
        tokens, error = [], torch.zeros((), device=self.device)
        for part in batches(self.validation, self.settings.train.batch_size, self.device):
            images = to_unit(part)
            tokens.append(self.module.encode(images))
            error += F.mse_loss(self.module.decode(tokens[-1]), images, reduction="sum")
        with record_rates(self.module) as rates:
            self.module(to_unit(next(batches(self.validation, self.settings.train.batch_size, self.device))))
        codes, used = perplexity(torch.cat(tokens), self.settings.codebook.size)
        return {
            "validation_mse": float(error) / self.validation.numel(),
            "perplexity": codes,
            "codes_used": used,
            "k": float(self.module.k),
            **{f"rate_{layer}": rate for layer, rate in rates.items()},  # of the first batch
        }


def run(job: Job, device: torch.device) -> None:
    """Train the VQ-SVAE of a run, or copy the one of its tokenizer, with the time of that training."""
    if tokenizer := job.run.tokenizer:
        for source, copy in zip(job.inputs, job.outputs, strict=True):
            artifacts.write_bytes(copy, artifacts.require(source).read_bytes())
        cost, noted = (paths.cost_path(paths.work_path(name, job.stage)) for name in (tokenizer, job.name))
        if cost.is_file():
            artifacts.write_bytes(noted, cost.read_bytes())
        return
    data = load_images(paths.data_path(job.run.dataset_name))
    train(job, job.run.recipe.vqsvae.train, device, lambda: VQSVAETask(job.run, data, device))
