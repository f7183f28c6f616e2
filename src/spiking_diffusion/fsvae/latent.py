"""Prior and posterior of FSVAE: autoregressive Bernoulli spike sampling (Kamata et al. 2022, Sec. 4).

Each latent unit has k candidate neurons; one of their k spikes, picked at random, is the unit's spike. The mean of the
k spikes is the Bernoulli probability. Every step uses the result of the step before, so both networks run forward in
time with their membranes: O(T) layer calls. Drawing uses evaluation mode, without gradient. For training the drawn
train then goes through the layers once more, all steps at a time, so that batch normalisation has its statistics over
time and batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from spiking_diffusion import config
from spiking_diffusion.snn import layers

Guess = Literal["pick", "majority"]


class _Autoregressive(nn.Module):
    """Linear n_in -> 2c -> 4c -> kc, each with LIF, and with tdBN of ``alpha`` or, for ``norm`` none, a bias."""

    def __init__(self, neuron: config.Neuron, n_in: int, units: int, k: int, norm: layers.Norm, alpha: float) -> None:
        super().__init__()
        self.units = units
        self.k = k
        widths = [n_in, 2 * units, 4 * units, k * units]
        self.layers = nn.ModuleList(layers.linear(neuron, a, b, norm, alpha) for a, b in itertools.pairwise(widths))

    def _sequence(self, x: Tensor) -> Tensor:
        """Candidate spikes (T, B, c, k) for an input (T, B, n_in)."""
        for layer in self.layers:
            x = layer(x)
        return x.unflatten(-1, (self.units, self.k))

    def _step(self, x: Tensor, membranes: list[Tensor | None]) -> Tensor:
        """Candidate spikes (B, c, k) of one step. Updates ``membranes`` in place."""
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, layers.SpikingLayer)
            x, membranes[i] = layer.step(x, membranes[i])
        return x.unflatten(-1, (self.units, self.k))

    @contextmanager
    def _drawing(self) -> Iterator[list[Tensor | None]]:
        """Evaluation mode, no gradient, and membranes at rest, as in sampling."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield [None] * len(self.layers)
        finally:
            self.train(training)


class Posterior(_Autoregressive):
    """q(z_t | x_<=t, z_<t)."""

    def __init__(
        self, neuron: config.Neuron, units: int, k: int, norm: layers.Norm = "batch", alpha: float = 1.0
    ) -> None:
        super().__init__(neuron, 2 * units, units, k, norm, alpha)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Encoded train (T, B, c) -> latent spikes z (T, B, c) and candidate spikes (T, B, c, k)."""
        picks = draw_picks(x.shape, self.k, generator, x.device)
        z = torch.zeros_like(x[0])
        before = [z]
        with self._drawing() as membranes:
            for t in range(len(x) - 1):
                z = pick(self._step(torch.cat([x[t], z], -1), membranes), picks[t])
                before.append(z)
        candidates = self._sequence(torch.cat([x, torch.stack(before)], -1))
        return pick(candidates, picks), candidates


class Prior(_Autoregressive):
    """p(z_t | z_<t)."""

    def __init__(
        self, neuron: config.Neuron, units: int, k: int, norm: layers.Norm = "batch", alpha: float = 1.0
    ) -> None:
        super().__init__(neuron, units, units, k, norm, alpha)

    def forward(self, z: Tensor, p: float, from_step: int, generator: torch.Generator, guess: Guess = "pick") -> Tensor:
        """Candidate spikes (T, B, c, k) given the posterior's train z (T, B, c).

        Scheduled sampling: from step ``from_step`` (counted from 0) on, with probability ``p`` the next step sees the
        prior's own guess instead of the posterior's spikes. ``pick`` decides for each sample and guesses with a random
        candidate. ``majority`` decides once a step for the whole batch and guesses with the candidates' majority.
        """
        z = z.detach()
        coins = len(z), z.shape[1] if guess == "pick" else 1
        own = torch.rand(coins, generator=generator, device=z.device) < p
        own[:from_step] = False
        picks = draw_picks(z.shape, self.k, generator, z.device)
        seen = [torch.zeros_like(z[0])]
        with self._drawing() as membranes:
            for t in range(len(z) - 1):
                candidates = self._step(seen[t], membranes)
                guessed = pick(candidates, picks[t]) if guess == "pick" else majority(candidates, generator)
                seen.append(torch.where(own[t, :, None], guessed, z[t]))
        return self._sequence(torch.stack(seen))

    def sample(self, batch: int, steps: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Draw latent spikes (steps, batch, c)."""
        picks = draw_picks((steps, batch, self.units), self.k, generator, device)
        train = [torch.zeros(batch, self.units, device=device)]
        with self._drawing() as membranes:
            for t in range(steps):
                train.append(pick(self._step(train[t], membranes), picks[t]))
        return torch.stack(train[1:])


def majority(candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Candidates (..., c, k) -> spikes (..., c): 1 if more than half of the k fire. A coin decides a tie."""
    lead = 2 * candidates.sum(-1) - candidates.shape[-1]
    coins = torch.rand(lead.shape, generator=generator, device=lead.device)
    return (lead + coins > 0.5).float()


def draw_picks(shape: tuple[int, ...], k: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The index of the picked candidate, uniform: (T, B, c) in [0, k)."""
    return torch.randint(k, tuple(shape), generator=generator, device=device)


def pick(candidates: Tensor, picks: Tensor) -> Tensor:
    """Candidates (..., c, k) and picks (..., c) -> spikes (..., c)."""
    return candidates.gather(-1, picks.unsqueeze(-1)).squeeze(-1)
