"""VQ-SVAE (Fig. 1, step 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.randomness import generator as make_generator
from spiking_diffusion.snn import SpikingDecoder, SpikingEncoder, layers, psp, sfr, weighted_sum
from spiking_diffusion.vqsvae.codebook import Codebook


class VQSVAEOutput(NamedTuple):
    """The result of one pass, as the loss needs it."""

    images: Tensor  # (B, C_in, H, W), not clamped
    encoder_spikes: Tensor  # z^E_1:T (T, B, C, h, w)
    asg_spikes: Tensor  # z^Q_1:T (T, B, C, h, w), from the generator or from Poisson coding
    z_e: Tensor  # (B, C, h, w)
    z_q: Tensor  # (B, C, h, w)
    tokens: Tensor  # (B, h, w)


class VQSVAE(nn.Module):
    """Spiking encoder, readout k SFR + (1-k) PSP, codebook, adaptive spike generator, spiking decoder.

    ``image_shape`` is (C_in, H, W); tokens are (H/scale, W/scale).
    """

    k_parameter: Tensor

    def __init__(self, settings: config.VQSVAE, neuron: config.Neuron, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.settings = settings
        c_in, height, width = image_shape
        self.token_shape = (height // settings.scale, width // settings.scale)
        size = settings.scale, settings.blocks
        self.encoder = SpikingEncoder(neuron, c_in, settings.channels, settings.code_dim, settings.T, *size)
        start = torch.tensor(float(settings.k_init if settings.k == "learned" else settings.k))
        if settings.k == "learned":
            self.k_parameter = nn.Parameter(torch.logit(start) if settings.k_range == "unit" else start)
        else:
            self.register_buffer("k_parameter", start)
        self.codebook = Codebook(settings.codebook, settings.code_dim)
        if settings.coding == "asg":
            self.asg = layers.conv(neuron, settings.code_dim, settings.code_dim, 1)
        self.decoder = SpikingDecoder(neuron, settings.code_dim, settings.channels, c_in, settings.output_decay, *size)

    @property
    def k(self) -> Tensor:
        """The weight of SFR in Eq. 6, a scalar."""
        unit = self.settings.k == "learned" and self.settings.k_range == "unit"
        return torch.sigmoid(self.k_parameter) if unit else self.k_parameter

    def readout(self, spikes: Tensor) -> Tensor:
        """z^E (Eq. 6) of encoder spikes: (T, B, C, h, w) -> (B, C, h, w)."""
        settings, k = self.settings, self.k
        if settings.readout == "psp":
            potential = psp(spikes, settings.tau_syn)[-1]
        else:
            potential = weighted_sum(spikes, settings.output_decay)
        return k * sfr(spikes) + (1 - k) * potential

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) in [0, 1] -> tokens h_0 (B, h, w) in [0, K)."""
        return self.codebook.nearest(self.readout(self.encoder(images)))

    def covered(self, mask: Tensor) -> Tensor:
        """Pixels (B, H, W) bool -> the tokens (B, h, w) bool with at least one of these pixels in their receptive
        field.

        The field is that of the encoder without its ``blocks``. Blocks can see the whole image, so every token would
        count as covered.
        """
        seen = mask[:, None].float()
        for layer in (self.encoder.first, self.encoder.second):
            synapse = layer.synapse
            assert isinstance(synapse, nn.Conv2d)
            pairs = synapse.kernel_size, synapse.stride, synapse.padding
            seen = F.max_pool2d(seen, *pairs)  # type: ignore[arg-type]
        return seen[:, 0] > 0

    def generate_spikes(self, z_q: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features (B, C, h, w) -> spikes (T, B, C, h, w).

        The adaptive spike generator gets the features at each step. Poisson coding draws each step's spike, and the
        feature, clamped to [0, 1], is the probability. The random numbers are from ``generator`` or, without one, the
        same in every call. The gradient is that of the probability.
        """
        if self.settings.coding == "asg":
            return self.asg(z_q, steps=self.settings.T)
        rate = z_q.clamp(0, 1).expand(self.settings.T, *z_q.shape)
        draws = torch.rand(
            rate.shape, generator=generator or make_generator(z_q.device, 0, "poisson"), device=z_q.device
        )
        return (draws < rate).to(rate) + (rate - rate.detach())  # the last term is 0: spikes stay 0 or 1

    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens (B, h, w) in [0, K] -> images (B, C_in, H, W) in [0, 1]; ``generator`` as in ``generate_spikes``.

        A token of K, the mask, sends no current.
        """
        return self.unclamped(tokens, generator).clamp(0, 1)

    def unclamped(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images that ``decode`` clamps: (B, C_in, H, W) in (-0.5, 1.5)."""
        known = tokens < self.settings.codebook.size
        z_q = self.codebook(tokens.where(known, 0)) * known[:, None]
        return self.decoder(self.generate_spikes(z_q, generator))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> VQSVAEOutput:
        """Encode, quantise and decode images (B, C_in, H, W), with gradients as ``straight_through`` says.

        ``spikes`` (the paper): the decoder's gradient skips from z^Q_1:T to z^E_1:T, and the generator learns only from
        the PSP distance. ``embedding``: it passes through the generator and skips from z^Q to z^E. With ``spikes`` it
        does not reach k, unless ``k_gradient`` is ``reconstruction``.
        """
        encoder_spikes = self.encoder(images)
        z_e = self.readout(encoder_spikes)
        tokens = self.codebook.nearest(z_e)
        z_q = self.codebook(tokens)
        if self.settings.straight_through == "spikes":
            asg_spikes = self.generate_spikes(z_q, generator)
            into_decoder = encoder_spikes + (asg_spikes - encoder_spikes).detach()
            if self.settings.k_gradient == "reconstruction" and z_e.requires_grad:
                into_decoder = into_decoder + self._way_to_k(encoder_spikes, z_q)
        else:
            asg_spikes = into_decoder = self.generate_spikes(z_e + (z_q - z_e).detach(), generator)
        return VQSVAEOutput(self.decoder(into_decoder), encoder_spikes, asg_spikes, z_e, z_q, tokens)

    def _way_to_k(self, encoder_spikes: Tensor, z_q: Tensor) -> Tensor:
        """Zeros, shaped like the spikes, that pass the decoder's gradient to k and to nothing else.

        The gradient passes through the generator with constant weights and skips from z^Q to z^E of constant encoder
        spikes. Therefore dL/dk is the sum over dL/dz^Q (SFR - PSP).
        """
        z_e = self.readout(encoder_spikes.detach())
        features = z_q.detach() + (z_e - z_e.detach())
        if self.settings.coding == "asg":
            # copies, because running statistics must not change twice
            constants = {name: tensor.clone() for name, tensor in self.asg.state_dict().items()}
            spikes = functional_call(self.asg, constants, (features,), {"steps": self.settings.T})
        else:
            spikes = self.generate_spikes(features)  # the gradient does not depend on the draws
        return spikes - spikes.detach()
