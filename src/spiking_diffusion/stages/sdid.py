"""The ``sdid`` stage: tokens -> a trained SDID."""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_diffusion.config import RunSettings
from spiking_diffusion.diffusion import ResidualSDID
from spiking_diffusion.diffusion.absorbing import bits_per_token
from spiking_diffusion.diffusion.loading import make_sdid
from spiking_diffusion.families.inputs import tokens_of
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn.layers import record_rates
from spiking_diffusion.stages.train import train
from spiking_diffusion.vqsvae.loading import TokenSet


class SDIDTask:
    """SDID on a set of tokens."""

    def __init__(self, run: RunSettings, tokens: TokenSet, device: torch.device) -> None:
        height, width = tokens.splits["train"].shape[1:]
        self.seed = run.recipe.seed
        self.settings, self.dropped = run.recipe.sdid, run.recipe.condition.dropped
        self.batch_size = run.recipe.sdid.train.batch_size
        self.module, self.diffusion = make_sdid(run, tokens.size, (height, width))
        self.device = device
        self.tokens = tokens.splits["train"].to(device)
        self.validation = tokens.splits["validation"]
        self.conditions = {split: part.to(device) for split, part in tokens.conditions.items()}
        if isinstance(self.module, ResidualSDID) and self.module.conditions:
            self.module.learn_shares(self.conditions["train"])
        self.uniform = True
        self.size = len(self.tokens)

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        if self.settings.masks == "counted":
            t = self.diffusion.draw_counts(len(tokens), noise, self.device)
            noisy = self.diffusion.mask_exactly(tokens, t, noise)
        else:
            t = self.diffusion.draw_t(len(tokens), noise, self.device)
            noisy = self.diffusion.q_sample(tokens, t, noise)
        told = {}
        if self.conditions:
            condition = self.conditions["train"][index]
            dropped = torch.rand(len(tokens), generator=noise, device=self.device) < self.dropped
            told = {"condition": condition.masked_fill(dropped, self.module.conditions)}
        loss = self.diffusion.bound if self.settings.loss == "elbo" else self.diffusion.reweighted
        return {"loss": loss(self.module(noisy, t, **told), tokens, noisy, t).mean()}

    def validate(self) -> dict[str, float]:
        noise = generator(self.device, self.seed, "sdid", "validation")  # the same masks after every epoch
        bound, _ = self._bits(len(self.validation), noise)
        with record_rates(self.module) as rates:
            self._bits(self.batch_size, noise)
        return {
            "validation_bits_per_token": bound,
            **{f"rate_{layer}": rate for layer, rate in rates.items()},  # of one batch
        }

    def _bits(self, n: int, noise: torch.Generator) -> tuple[float, float]:
        """Bits per token of the first ``n`` validation images, and their standard error."""
        told = self.conditions["validation"][:n] if self.conditions else None
        tokens = self.validation[:n]
        return bits_per_token(self.module, self.diffusion, tokens, self.batch_size, noise, self.device, told)


def run(job: Job, device: torch.device) -> None:
    """Train the SDID of a run on its tokens."""
    tokens = tokens_of(job.params, job.run)
    train(job, job.run.recipe.sdid.train, device, lambda: SDIDTask(job.run, tokens, device), tokens.vqsvae)
