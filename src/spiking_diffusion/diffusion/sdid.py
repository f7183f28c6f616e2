"""SDID, the spiking diffusion image decoder: predicts the tokens under the masks."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn import layers, sfr
from spiking_diffusion.snn.events import reached


class SDID(nn.Module):
    """A stack of 3x3 convolutions, each with BatchNorm and LIF; the first block's spikes join the last
    block's before a 3x3 convolution to the K logits, averaged over time.

    The input current is a learned embedding of each token (K+1 entries) plus one of the diffusion step, or
    with ``input: raw`` the two numbers themselves.
    """

    def __init__(self, settings: config.SDID, neuron: config.Neuron, size: int, steps: int) -> None:
        super().__init__()
        self.settings = settings
        raw = settings.input == "raw"
        channels = [2 if raw else settings.embed_dim, *settings.channels]
        if not raw:
            self.token_embedding = nn.Embedding(size + 1, settings.embed_dim)
            self.step_embedding = nn.Embedding(steps + 1, settings.embed_dim)
        first, *rest = [layers.conv(neuron, a, b, 3) for a, b in itertools.pairwise(channels)]
        self.first = first
        self.rest = nn.ModuleList(rest)
        self.out = nn.Conv2d(channels[1] + channels[-1], size, 3, padding=1)

    conditions = 0

    def draw_conditions(self, n: int, noise: torch.Generator, log_p: Tensor | None = None) -> None:
        """This network is told no conditions."""

    def current(self, tokens: Tensor, t: Tensor) -> Tensor:
        """Tokens (B, h, w) in [0, K] and steps t (B,) in 1..T_d -> the input current (B, C, h, w) of each time step."""
        if self.settings.input == "raw":
            return torch.stack([tokens, t[:, None, None].expand_as(tokens)], dim=1).float()
        return (self.token_embedding(tokens) + self.step_embedding(t)[:, None, None]).movedim(-1, 1)

    def forward(self, tokens: Tensor, t: Tensor, where: Tensor | None = None) -> Tensor:
        """Tokens (B, h, w) in [0, K] and steps t (B,) in 1..T_d -> logits (B, K, h, w).

        With ``where`` (B, h, w) bool, in evaluation mode, the logits of these N positions alone, (N, K), row by row:
        every block is then computed only where they depend on it.
        """
        current = self.current(tokens, t)
        field = [where]  # what each block, the last one first, is asked for
        for _ in self.rest:
            field.append(None if field[-1] is None else reached(field[-1], 3))
        x = first = self.first(current, steps=self.settings.T)
        mean = first.new_full((self.settings.T,), 1 / self.settings.T)
        for i, block in enumerate(self.rest, 1):
            x = block(x, where=field[-i], readout=mean if i == len(self.rest) else None)
        # the last map is linear: the mean over time comes first, the map is applied once
        rates = torch.cat([sfr(first), x if self.rest else sfr(first)], dim=1)
        if where is None:
            return self.out(rates)
        around = F.pad(rates, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).movedim(1, 3)[where]  # (N, C, 3, 3)
        return F.linear(around.flatten(1), self.out.weight.flatten(1), self.out.bias)
