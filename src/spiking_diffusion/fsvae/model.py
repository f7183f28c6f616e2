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
    """The result of one pass, as the loss needs it."""

    images: Tensor  # (B, C_in, H, W) at the network's own size, not clamped
    z: Tensor  # latent spikes (T, B, c)
    q: Tensor  # candidate spikes of the posterior (T, B, c, k)
    p: Tensor  # candidate spikes of the prior (T, B, c, k)


class FSVAE(nn.Module):
    """Spiking encoder -> Linear + LIF -> posterior -> latent spikes -> Linear + LIF -> spiking decoder.

    ``image_shape`` is (C_in, H, W). ``architecture: original`` works on images resized to the next multiple of
    2^stages, such as 32x32 for 28x28. Drawn images are resized back.
    """

    def __init__(self, settings: config.FSVAE, neuron: config.Neuron, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.settings = settings
        c_in, *sides = image_shape
        self.image_size = (sides[0], sides[1])
        channels, decay, units = settings.channels, settings.output_decay, settings.latent_dim
        self.encoder: nn.Module
        self.decoder: nn.Module
        if settings.architecture == "shared":
            depth, down, alpha = settings.code_dim, 4, 1.0
            self.encoder = SpikingEncoder(neuron, c_in, channels, depth, settings.T)
            self.decoder = SpikingDecoder(neuron, depth, channels, c_in, decay)
        else:
            depth, down, alpha = channels[-1], 2 ** len(channels), 2.0
            self.encoder = StridedEncoder(neuron, c_in, channels, settings.T)
            self.decoder = StridedDecoder(neuron, channels, c_in, decay)
        self.feature_shape = (depth, -(-sides[0] // down), -(-sides[1] // down))
        self.own_size = (self.feature_shape[1] * down, self.feature_shape[2] * down)
        features = math.prod(self.feature_shape)
        norm = settings.latent_norm
        self.into_latent = layers.linear(neuron, features, units, norm)
        self.posterior = Posterior(neuron, units, settings.k, norm, alpha)
        self.prior = Prior(neuron, units, settings.k, norm, alpha)
        self.out_of_latent = layers.linear(neuron, units, features, norm)

    def scheduled_probability(self, progress: float) -> float:
        """Probability of scheduled sampling at ``progress`` in [0, 1] of the training."""
        schedule = self.settings.scheduled_sampling
        return schedule.start + (schedule.end - schedule.start) * progress

    def forward(self, images: Tensor, progress: float, generator: torch.Generator) -> FSVAEOutput:
        """Images (B, C_in, H, W) in [0, 1] through posterior and decoder, with the prior's candidates for the same
        train."""
        z, q = self.posterior(self._encoded(images), generator)
        schedule, probability = self.settings.scheduled_sampling, self.scheduled_probability(progress)
        p = self.prior(z, probability, schedule.from_step, generator, guess=schedule.guess)
        return FSVAEOutput(self._decoded(z), z, q, p)

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (B, C_in, H, W) -> one draw of latent spikes (T, B, c) from the posterior."""
        return self.posterior(self._encoded(images), generator)[0]

    def reconstruct(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (B, C_in, H, W) -> their reconstructions in [0, 1], by one draw from the posterior."""
        return self.decode(self.encode(images, generator)).clamp(0, 1)

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw images (batch, C_in, H, W) in [0, 1] from the prior."""
        return self.decode(self.prior.sample(batch, self.settings.T, generator, device)).clamp(0, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Latent spikes (T, B, c) -> images (B, C_in, H, W), not clamped."""
        return resized(self._decoded(z), self.image_size)

    def _encoded(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) -> the posterior's input train (T, B, c)."""
        return self.into_latent(self.encoder(resized(images, self.own_size)).flatten(2))

    def _decoded(self, z: Tensor) -> Tensor:
        """Latent spikes (T, B, c) -> images at the network's own size, not clamped."""
        return self.decoder(self.out_of_latent(z).unflatten(2, self.feature_shape))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) -> (B, C, *size) by Pillow's bilinear filter, which averages when it shrinks an image."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def fsvae_loss(out: FSVAEOutput, images: Tensor, settings: config.FSVAE) -> dict[str, Tensor]:
    """MSE plus the squared PSP distance of posterior and prior, each averaged over its k candidates.

    The published loss, with its weights of 1, for images (B, C, H, W) in [0, 1]. ``architecture: original`` compares
    at its own size and in [-1, 1], where errors are twice as large.
    """
    stretch = 4 if settings.architecture == "original" else 1
    height, width = out.images.shape[2:]
    terms = {
        "reconstruction": stretch * F.mse_loss(out.images, resized(images, (height, width))),
        "prior": psp_distance(out.q.mean(-1), out.p.mean(-1), settings.tau_syn),
    }
    return {"loss": sum(terms.values(), start=images.new_zeros(())), **terms}
