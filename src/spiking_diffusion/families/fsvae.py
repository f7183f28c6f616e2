"""FSVAE, the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.families import Batch, Counter, Model, Notes
from spiking_diffusion.fsvae.loading import load_fsvae
from spiking_diffusion.randomness import generator


class FSVAEModel(Model):
    """Images <-> trains of latent spikes (``fsvae``). The prior draws new trains."""

    def __init__(self, config: RunSettings, device: torch.device, folder: Path | None = None) -> None:
        super().__init__(config, device)
        self.fsvae = load_fsvae(config, device, folder)

    def how(self) -> Notes:  # type: ignore[override]
        return {}

    def draw_batch(self, size: int, noise: torch.Generator) -> Batch:  # type: ignore[override]
        return Batch(self.fsvae.sample(size, noise, self.device), size)

    @torch.no_grad()
    def encode(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> one draw of latent spikes (T, B, c) from the posterior."""
        noise = noise or generator(self.device, self.config.recipe.seed, "encode")
        return self.fsvae.encode(self.checked(images), noise)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latent spikes (T, B, c) -> images (B, C, H, W) in [0, 1]."""
        return self.fsvae.decode(codes.to(self.device)).clamp(0, 1)

    @torch.no_grad()
    def unclamped(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.fsvae.decode(self.encode(images, noise))

    def numbers(self, params: Params) -> dict[str, Any]:
        return {}

    def count(self, counter: Counter, images: Tensor, n: int, params: Params) -> Notes:
        model, recipe = self.fsvae, self.config.recipe
        noise = generator(self.device, recipe.seed, "energy")
        encoding = {"encoder": model.encoder, "into_latent": model.into_latent, "posterior": model.posterior}
        with counter.counting(len(images), **encoding):
            model.reconstruct(images, noise)
        z = model.prior.sample(n, recipe.fsvae.T, noise, self.device)
        with counter.counting(n, prior=model.prior, out_of_latent=model.out_of_latent, decoder=model.decoder):
            # the prior drew step by step, but given its own train it fires the same spikes in one pass
            model.prior(z, 0.0, 0, noise)
            model.decode(z)
        return {"network_calls": 1.0, "T": recipe.fsvae.T}


MODEL = FSVAEModel
