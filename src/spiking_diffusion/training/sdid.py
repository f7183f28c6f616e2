"""The ``sdid`` stage: tokens -> a trained SDID."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spiking_diffusion import artifacts
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion
from spiking_diffusion.diffusion.absorbing import bits
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn.layers import record_rates
from spiking_diffusion.training.devices import batches
from spiking_diffusion.training.stage import train_stage
from spiking_diffusion.training.tokens import TokenSet, tokens_of
from spiking_diffusion.training.weights import load_weights


def make_sdid(run: RunSettings, size: int, shape: tuple[int, int]) -> tuple[SDID, AbsorbingDiffusion]:
    """An untrained SDID for tokens of ``shape`` (h, w) in [0, size), and its diffusion process."""
    steps = shape[0] * shape[1]
    return SDID(run.recipe.sdid, run.recipe.neuron, size, steps), AbsorbingDiffusion(size, steps)


def load_sdid(run: RunSettings, device: torch.device) -> tuple[SDID, AbsorbingDiffusion]:
    """The trained SDID of a run. Raises UserError if its tokens came from another VQ-SVAE than the run's."""
    _, height, width = run.dataset.shape
    model, diffusion = make_sdid(run, run.recipe.vqsvae.codebook.size, (height // 4, width // 4))
    path, vqsvae = artifacts.model_path(run.name, "sdid"), artifacts.model_path(run.name, "vqsvae")
    if load_weights(path, model, device) != artifacts.sha256(vqsvae):
        raise UserError(f"{path} was trained on tokens of another VQ-SVAE than {vqsvae}: train it again")
    return model, diffusion


@torch.no_grad()
def bits_per_token(
    model: SDID,
    diffusion: AbsorbingDiffusion,
    tokens: Tensor,
    batch_size: int,
    noise: torch.Generator,
    device: torch.device,
) -> float:
    """The bound of Eq. 14 in bits per token over ``tokens`` (N, h, w), with one step t drawn for each."""
    total = torch.zeros((), device=device)
    for part in batches(tokens, batch_size, device):
        t = diffusion.draw_t(len(part), noise, device)
        noisy = diffusion.q_sample(part, t, noise)
        total += diffusion.bound(model(noisy, t), part, noisy, t).sum()
    return bits(float(total) / len(tokens))


class SDIDTask:
    """SDID on a set of tokens."""

    def __init__(self, run: RunSettings, tokens: TokenSet, device: torch.device) -> None:
        height, width = tokens.splits["train"].shape[1:]
        self.seed = run.recipe.seed
        self.loss_name = run.recipe.sdid.loss
        self.batch_size = run.recipe.sdid.train.batch_size
        self.module, self.diffusion = make_sdid(run, tokens.size, (height, width))
        self.device = device
        self.tokens = tokens.splits["train"].to(device)
        self.validation = tokens.splits["validation"]
        self.size = len(self.tokens)

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        tokens = self.tokens[index.to(self.device)]
        t = self.diffusion.draw_t(len(tokens), noise, self.device)
        noisy = self.diffusion.q_sample(tokens, t, noise)
        loss = self.diffusion.bound if self.loss_name == "elbo" else self.diffusion.reweighted
        return {"loss": loss(self.module(noisy, t), tokens, noisy, t).mean()}

    def validate(self) -> dict[str, float]:
        noise = generator(self.device, self.seed, "sdid", "validation")  # the same masks after every epoch
        bound = bits_per_token(self.module, self.diffusion, self.validation, self.batch_size, noise, self.device)
        with record_rates(self.module) as rates:
            bits_per_token(
                self.module, self.diffusion, self.validation[: self.batch_size], self.batch_size, noise, self.device
            )
        return {
            "validation_bits_per_token": bound,
            **{f"rate_{layer}": rate for layer, rate in rates.items()},  # of one batch
        }


def train_sdid(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Train the SDID of a run on its tokens."""
    sources = [artifacts.tokens_path(run.name), artifacts.model_path(run.name, "vqsvae")]
    tokens = tokens_of(params, run)
    return train_stage(
        params,
        run,
        "sdid",
        run.recipe.sdid.train,
        sources,
        device,
        lambda: SDIDTask(run, tokens, device),
        tokens.vqsvae,
    )
