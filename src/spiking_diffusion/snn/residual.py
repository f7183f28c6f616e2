"""Blocks with membrane shortcuts, and synapses between all positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spiking_diffusion import config
from spiking_diffusion.snn.layers import EventConvolution, SpikingLayer


class PositionSynapse(nn.Module):
    """A synapse from each of ``positions`` P to each other, within a channel.

    The channels are in ``groups`` of equal size. The channels of a group share a P x P matrix of weights.
    """

    def __init__(self, groups: int, positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, positions, positions) * 0.5 / math.sqrt(positions))

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (N, C, h, w) in {0, 1} -> currents (N, C, h, w), h w = P."""
        rows = spikes.movedim(1, -1).flatten(1, 2)  # (N, P, C), as the kernels leave them
        parts = rows.chunk(len(self.weight), dim=2)
        mixed = torch.cat([torch.matmul(weight, part) for weight, part in zip(self.weight, parts, strict=True)], dim=2)
        return mixed.unflatten(1, spikes.shape[2:]).movedim(-1, 1)


class Block(nn.Module):
    """u + synapses(LIF(norm(u))): spikes go through a 3x3 convolution and, with ``groups``, a synapse over positions.

    The shortcut carries currents u from block to block (Hu et al., arXiv:2112.08954). The synapses see only spikes.
    Norm and neuron come before the synapse (He et al., arXiv:1603.05027).
    """

    def __init__(self, neuron: config.Neuron, channels: int, groups: int, positions: int) -> None:
        super().__init__()
        self.fire = firing(neuron, channels)
        self.synapse = EventConvolution(channels, channels)
        self.mix = PositionSynapse(groups, positions) if groups else None

    def forward(self, current: Tensor, steps: int) -> Tensor:
        """Currents (T, B, C, h, w), or (B, C, h, w), the same at each of ``steps``, -> (T, B, C, h, w)."""
        constant = current.dim() == 4
        spikes = (self.fire(current, steps=steps) if constant else self.fire(current)).flatten(0, 1)
        change = self.synapse(spikes)
        if self.mix is not None:
            change = change + self.mix(spikes)
        return current + change.unflatten(0, (steps, -1))


def firing(neuron: config.Neuron, channels: int) -> SpikingLayer:
    """Normalisation and LIF of a current. Its mean is initially 1/2, because at 0 few neurons would fire."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, 0.5)
    return SpikingLayer(nn.Identity(), norm, neuron)


class Trunk(nn.Module):
    """From spikes to spikes of the same size: a 3x3 convolution, ``blocks`` blocks of ``channels``, normalisation and
    LIF."""

    def __init__(self, neuron: config.Neuron, c_in: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.enter = EventConvolution(c_in, channels)
        self.blocks = nn.ModuleList(Block(neuron, channels, 0, 0) for _ in range(blocks))
        self.last = firing(neuron, channels)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, c_in, h, w) -> spikes (T, B, channels, h, w)."""
        current = self.enter(spikes.flatten(0, 1)).unflatten(0, (len(spikes), -1))
        for block in self.blocks:
            current = block(current, len(spikes))
        return self.last(current)
