"""FSVAE, with the encoder and decoder of VQ-SVAE or its own."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.fsvae.latent import Posterior, Prior
from spiking_diffusion.snn import SpikingDecoder, SpikingEncoder, StridedDecoder, StridedEncoder, layers, psp_distance


class FSVAEOutput(NamedTuple):
    """One pass, with what the loss needs."""

    images: Tensor  # (B, C_in, H, W), not clamped
    z: Tensor  # latent spikes (T, B, c)
    q: Tensor  # candidate spikes of the posterior (T, B, c, k)
    p: Tensor  # candidate spikes of the prior (T, B, c, k)


class FSVAE(nn.Module):
    """Spiking encoder -> Linear + LIF -> posterior -> latent spikes -> Linear + LIF -> spiking decoder.

    ``image_shape`` is (C_in, H, W).
    """

    def __init__(self, settings: config.FSVAE, neuron: config.Neuron, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.settings = settings
        c_in, *sides = image_shape
        channels, decay, units = settings.channels, settings.output_decay, settings.latent_dim
        self.encoder: nn.Module
        self.decoder: nn.Module
        if settings.architecture == "shared":
            depth, down = settings.code_dim, 4
            self.encoder = SpikingEncoder(neuron, c_in, channels, depth, settings.T)
            self.decoder = SpikingDecoder(neuron, depth, channels, c_in, decay)
        else:
            depth, down = channels[-1], 2 ** len(channels)
            self.encoder = StridedEncoder(neuron, c_in, channels, settings.T)
            self.decoder = StridedDecoder(neuron, channels, image_shape, decay)
        self.feature_shape = (depth, -(-sides[0] // down), -(-sides[1] // down))
        features = math.prod(self.feature_shape)
        norm = settings.latent_norm
        self.into_latent = layers.linear(neuron, features, units, norm)
        self.posterior = Posterior(neuron, units, settings.k, norm)
        self.prior = Prior(neuron, units, settings.k, norm)
        self.out_of_latent = layers.linear(neuron, units, features, norm)

    def scheduled_probability(self, progress: float) -> float:
        """Probability of scheduled sampling when ``progress`` in [0, 1] of the training is done."""
        schedule = self.settings.scheduled_sampling
        return schedule.start + (schedule.end - schedule.start) * progress

    def forward(self, images: Tensor, progress: float, generator: torch.Generator) -> FSVAEOutput:
        """Images (B, C_in, H, W) in [0, 1] through posterior and decoder; the prior looks on."""
        x = self.into_latent(self.encoder(images).flatten(2))  # (T, B, c)
        z, q = self.posterior(x, generator)
        schedule, probability = self.settings.scheduled_sampling, self.scheduled_probability(progress)
        p = self.prior(z, probability, schedule.from_step, generator, guess=schedule.guess)
        return FSVAEOutput(self.decode(z), z, q, p)

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (B, C_in, H, W) -> one draw of latent spikes (T, B, c) from the posterior."""
        return self.posterior(self.into_latent(self.encoder(images).flatten(2)), generator)[0]

    def reconstruct(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (B, C_in, H, W) -> their reconstructions in [0, 1], by one draw from the posterior."""
        return self.decode(self.encode(images, generator)).clamp(0, 1)

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw images (batch, C_in, H, W) in [0, 1] from the prior."""
        return self.decode(self.prior.sample(batch, self.settings.T, generator, device)).clamp(0, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Latent spikes (T, B, c) -> images (B, C_in, H, W), not clamped."""
        return self.decoder(self.out_of_latent(z).unflatten(2, self.feature_shape))


def fsvae_loss(out: FSVAEOutput, images: Tensor, settings: config.FSVAE) -> dict[str, Tensor]:
    """MSE plus the squared PSP distance of posterior and prior, each averaged over its k candidates.

    The published loss, with its weights of 1, for images (B, C, H, W) in [0, 1].
    """
    terms = {
        "reconstruction": F.mse_loss(out.images, images),
        "prior": psp_distance(out.q.mean(-1), out.p.mean(-1), settings.tau_syn),
    }
    return {"loss": sum(terms.values(), start=images.new_zeros(())), **terms}
