"""An SDID of blocks with membrane shortcuts, whose synapses reach every position."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn.residual import Block, firing


class ResidualSDID(nn.Module):
    """Blocks of one width, then spikes whose rates a linear map turns into K logits.

    The input current is a sum of learned currents: of each token (K+1 entries), of its position, and of the image's
    condition, one of ``conditions`` or, the last entry, none. The masks say how far the diffusion is, so there is no
    step t (Ou et al., arXiv:2406.03736): a call is a function of the tokens and the condition.
    """

    shares: Tensor

    def __init__(
        self, settings: config.SDID, neuron: config.Neuron, size: int, shape: tuple[int, int], conditions: int
    ) -> None:
        super().__init__()
        self.settings, self.conditions = settings, conditions
        width, positions = settings.channels[0], shape[0] * shape[1]
        self.token = nn.Embedding(size + 1, width)
        self.position = nn.Parameter(torch.randn(width, *shape))
        if conditions:
            self.condition = nn.Embedding(conditions + 1, width)
            self.register_buffer("shares", torch.full((conditions,), 1 / conditions))
        blocks = [Block(neuron, width, settings.positions, positions) for _ in settings.channels]
        self.blocks: Iterable[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.last = firing(neuron, width)
        self.out = nn.Conv2d(width, size, 1)

    def learn_shares(self, conditions: Tensor) -> None:
        """Remember how frequent each condition is among those (N,) of the training images."""
        self.shares.copy_(torch.bincount(conditions, minlength=self.conditions) / len(conditions))

    def draw_conditions(self, n: int, noise: torch.Generator, log_p: Tensor | None = None) -> Tensor | None:
        """Conditions (n,) as frequent as among training images; None if there are none.

        ``log_p`` (conditions,) is the log-likelihood, under each condition, of something that is known. Conditions are
        then drawn from their posterior.
        """
        if not self.conditions:
            return None
        p = self.shares if log_p is None else (log_p + self.shares.double().log()).softmax(0)
        return torch.multinomial(p, n, replacement=True, generator=noise)

    def current(self, tokens: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Tokens (B, h, w) in [0, K] -> the input current (B, C, h, w) of each time step; ``forward`` has the rest."""
        current = self.token(tokens)
        if self.conditions:
            none = torch.full_like(tokens[:, 0, 0], self.conditions)
            current = current + self.condition(none if condition is None else condition)[:, None, None]
        return current.movedim(-1, 1) + self.position

    def forward(
        self, tokens: Tensor, t: Tensor, where: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, h, w) in [0, K] -> logits (B, K, h, w), or those (N, K) of the N positions ``where`` (B, h, w).

        Without ``condition`` (B,) in [0, conditions] there is none. ``t`` is not read.
        """
        current = self.current(tokens, t, condition)
        for block in self.blocks:
            current = block(current, self.settings.T)
        rates = self.last(current, readout=current.new_full((self.settings.T,), 1 / self.settings.T))
        if where is None:
            return self.out(rates)
        return F.linear(rates.movedim(1, -1)[where], self.out.weight.flatten(1), self.out.bias)
