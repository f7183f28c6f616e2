"""Spiking encoders and decoders: those of Sec. 2.2, shared by VQ-SVAE and FSVAE, and those of Kamata et al. (2022)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn import layers
from spiking_diffusion.snn.readout import decay_weights
from spiking_diffusion.snn.residual import Trunk


class SpikingEncoder(nn.Module):
    """Conv 3x3 s2, Conv 3x3 s2, Conv 1x1, each with BatchNorm and LIF.

    Direct encoding: the image, shifted to [-0.5, 0.5], is the input current of each of the T steps. With a ``scale`` of
    2 the second stride is 1, and with ``blocks`` a ``Trunk`` comes before the last convolution.
    """

    def __init__(
        self,
        neuron: config.Neuron,
        c_in: int,
        channels: Sequence[int],
        code_dim: int,
        steps: int,
        scale: int = 4,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.first = layers.conv(neuron, c_in, channels[0], 3, stride=2)
        self.second = layers.conv(neuron, channels[0], channels[1], 3, stride=scale // 2)
        self.trunk = Trunk(neuron, channels[1], channels[1], blocks) if blocks else nn.Identity()
        self.third = layers.conv(neuron, channels[1], code_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) in [0, 1] -> spikes (T, B, code_dim, H/scale, W/scale)."""
        return self.third(self.trunk(self.second(self.first(images - 0.5, steps=self.steps))))


class SpikingDecoder(nn.Module):
    """ConvT 3x3 s2, ConvT 3x3 s2, each with BatchNorm and LIF, then ConvT 3x3 read out as
    ``tanh(sum_t decay^(T-1-t) out_t)``.

    With a ``scale`` of 2 the first stride is 1, and with ``blocks`` a ``Trunk`` comes before it.
    """

    def __init__(
        self,
        neuron: config.Neuron,
        code_dim: int,
        channels: Sequence[int],
        c_out: int,
        decay: float,
        scale: int = 4,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.trunk = Trunk(neuron, code_dim, channels[1], blocks) if blocks else nn.Identity()
        width = channels[1] if blocks else code_dim
        self.first = (
            layers.conv_transpose(neuron, width, channels[1])
            if scale == 4
            else layers.conv(neuron, width, channels[1], 3)
        )
        self.second = layers.conv_transpose(neuron, channels[1], channels[0])
        self.out = nn.ConvTranspose2d(channels[0], c_out, 3, padding=1)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, code_dim, h, w) -> images (B, C_out, scale h, scale w) in (-0.5, 1.5).

        Training compares these values without clamping. ``clamp(0, 1)`` makes an image of them.
        """
        return leaky_readout(self.first(self.trunk(spikes)), self.second, self.out, self.decay) + 0.5


class StridedEncoder(nn.Module):
    """The encoder of Kamata et al. (2022): Conv 3x3 s2 + BatchNorm + LIF for each of ``channels``.

    Direct encoding: the image, stretched to [-1, 1], is the input current of each of the T steps.
    """

    def __init__(self, neuron: config.Neuron, c_in: int, channels: Sequence[int], steps: int) -> None:
        super().__init__()
        self.steps = steps
        first, *rest = [layers.conv(neuron, a, b, 3, stride=2) for a, b in itertools.pairwise([c_in, *channels])]
        self.first = first
        self.rest = nn.Sequential(*rest)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) in [0, 1] -> spikes (T, B, channels[-1], H / 2^stages, W / 2^stages)."""
        return self.rest(self.first(2 * images - 1, steps=self.steps))


class StridedDecoder(nn.Module):
    """The mirror of ``StridedEncoder``, with the readout of ``SpikingDecoder``."""

    def __init__(self, neuron: config.Neuron, channels: Sequence[int], c_out: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        widths = [*reversed(channels), channels[0]]
        *inner, last = [layers.conv_transpose(neuron, a, b) for a, b in itertools.pairwise(widths)]
        self.inner = nn.Sequential(*inner)
        self.last = last
        self.out = nn.ConvTranspose2d(channels[0], c_out, 3, padding=1)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, channels[-1], h, w) -> images (B, C_out, h 2^stages, w 2^stages) in (0, 1)."""
        return (leaky_readout(self.inner(spikes), self.last, self.out, self.decay) + 1) / 2


def leaky_readout(spikes: Tensor, last: layers.SpikingLayer, out: nn.ConvTranspose2d, decay: float) -> Tensor:
    """``tanh(sum_t decay^(T-1-t) out(last(spikes))_t)``.

    ``out`` is linear, so the sum over time comes first and the map is applied once. Each step would have added the
    bias, so the bias is multiplied by the sum of the weights.
    """
    weights = decay_weights(decay, spikes)
    assert out.bias is not None
    bias = out.bias * weights.sum()
    return torch.tanh(F.conv_transpose2d(last(spikes, readout=weights), out.weight, bias, padding=1))
