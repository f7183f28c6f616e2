"""The spiking encoder and decoder of Sec. 2.2, shared by VQ-SVAE and the FSVAE baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn import layers
from spiking_diffusion.snn.readout import decay_weights, weighted_sum


class SpikingEncoder(nn.Module):
    """Conv 3x3 s2, Conv 3x3 s2, Conv 1x1, each with BatchNorm and LIF.

    Direct encoding: the image, shifted to [-0.5, 0.5], is the input current of each of the T steps.
    """

    def __init__(self, neuron: config.Neuron, c_in: int, channels: Sequence[int], code_dim: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.first = layers.conv(neuron, c_in, channels[0], 3, stride=2)
        self.second = layers.conv(neuron, channels[0], channels[1], 3, stride=2)
        self.third = layers.conv(neuron, channels[1], code_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C_in, H, W) in [0, 1] -> spikes (T, B, code_dim, H/4, W/4)."""
        return self.third(self.second(self.first.forward_constant(images - 0.5, self.steps)))


class SpikingDecoder(nn.Module):
    """ConvT 3x3 s2, ConvT 3x3 s2, each with BatchNorm and LIF, then ConvT 3x3 read out as
    ``tanh(sum_t decay^(T-1-t) out_t)``."""

    def __init__(self, neuron: config.Neuron, code_dim: int, channels: Sequence[int], c_out: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.first = layers.conv_transpose(neuron, code_dim, channels[1])
        self.second = layers.conv_transpose(neuron, channels[1], channels[0])
        self.out = nn.ConvTranspose2d(channels[0], c_out, 3, padding=1)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, code_dim, h, w) -> images (B, C_out, 4h, 4w) in (-0.5, 1.5).

        Training compares these values as they are; ``clamp(0, 1)`` makes an image of them.
        The last map is linear, so the sum over time comes first and the map is applied once; the bias,
        which each step would have added, is multiplied by the sum of the weights.
        """
        hidden = weighted_sum(self.second(self.first(spikes)), self.decay)
        assert self.out.bias is not None
        bias = self.out.bias * decay_weights(len(spikes), self.decay).sum().to(hidden)
        return torch.tanh(F.conv_transpose2d(hidden, self.out.weight, bias, padding=1)) + 0.5
