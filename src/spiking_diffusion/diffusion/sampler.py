"""Drawing tokens from a trained denoiser (Fig. 1, step 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spiking_diffusion.diffusion.absorbing import AbsorbingDiffusion

Denoiser = Callable[..., Tensor]
"""Tokens (B, h, w) in [0, K], steps (B,), positions (B, h, w) bool and, if there are any, conditions (B,) -> the logits
(N, K) of these N positions."""


@torch.no_grad()
def sample_ancestral(
    denoiser: Denoiser,
    diffusion: AbsorbingDiffusion,
    shape: tuple[int, int, int],
    temperature: float,
    generator: torch.Generator,
    device: torch.device,
    callback: Callable[[Tensor, Tensor], None] | None = None,
    steps: int | None = None,
    condition: Tensor | None = None,
    guidance: float = 0.0,
    known: Tensor | None = None,
) -> tuple[Tensor, int]:
    """The paper's sampler: t = T_d..1, each token still masked at t is revealed with probability 1/t.

    That makes the step at which a token is revealed uniform on 1..T_d, independently of the others, so all
    of them are drawn first; a sample whose step reveals nothing needs no call of the network. Each round
    takes every unfinished sample to its own next step t.

    With fewer ``steps`` S than T_d, t takes the S values floor(j T_d / S) alone, and at each a masked token is revealed
    with the probability of all the steps down to the next: what T_d steps reveal between two of these values comes at
    the upper one.

    With a ``condition`` (B,) and ``guidance`` w the logits are l + w (l - l'), where l' are those without the
    condition: two calls in place of one (Schiff et al., arXiv:2412.10193; Ho and Salimans, arXiv:2207.12598).

    ``known`` (B, h, w) in [0, K] has tokens to begin with, in place of masks alone. They stay, and the others are
    revealed from the step on at which as large a share of all tokens is masked.

    ``shape`` is (B, h, w). Returns tokens (B, h, w) in [0, K) and the number of network calls summed over
    the samples. ``callback`` gets copies of the tokens and the steps (B,) after each round, e.g. to draw a trajectory.
    """
    batch, height, width = shape
    if known is None:
        tokens = torch.full((batch, height * width), diffusion.mask, device=device)
        first = torch.full((batch, 1), diffusion.steps, device=device)
        reveal_at = torch.randint(1, diffusion.steps + 1, tokens.shape, generator=generator, device=device)
    else:
        tokens = known.flatten(1).clone()
        share = (tokens == diffusion.mask).double().mean(1, keepdim=True)
        first = (diffusion.steps * share).ceil().long().clamp(min=1)
        reveal_at = (torch.rand(tokens.shape, generator=generator, device=device) * first).long() + 1
    if steps is not None:  # (a b + c - 1) // c is a b / c rounded up
        fewer = first.clamp(max=steps)
        reveal_at = (reveal_at * fewer + first - 1) // first * first // fewer
    calls, guided = 0, condition is not None and guidance != 0
    while (masked := tokens == diffusion.mask).any():
        t = torch.where(masked, reveal_at, 0).amax(1)  # (B,), 0 where the sample is finished
        active = t.nonzero().squeeze(1)
        now = masked[active] & (reveal_at[active] == t[active, None])  # (A, h*w)
        grid = (len(active), height, width)
        seen = tokens[active].view(grid), t[active], now.view(grid)
        logits = denoiser(*seen) if condition is None else denoiser(*seen, condition[active])  # (revealed, K)
        if guided:
            logits = logits + guidance * (logits - denoiser(*seen))
        p = (logits / temperature).softmax(-1)
        drawn = torch.multinomial(p, 1, generator=generator).squeeze(1)
        tokens[active] = tokens[active].masked_scatter(now, drawn)
        calls += len(active) * (1 + guided)
        if callback:
            callback(tokens.view(shape).clone(), t)
    return tokens.view(shape), calls
