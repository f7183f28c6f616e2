"""Drawing tokens from a trained denoiser (Fig. 1, step 3).

Every sampler is a function with one signature:

    sampler(network, tokens, steps) -> tokens

``tokens`` (B, h, w) in [0, K] holds the mask K where a token is to be drawn; the other tokens stay. ``steps`` S is the
largest number of times that the network is asked about an image.

Tokens that are revealed at once are drawn independently of each other. ``ancestral``, ``cosine`` and ``margin`` have no
other bias: for exact conditionals they are exact if no two tokens of an image are revealed at once. ``remask`` is so
in the limit of many steps and small ``REMASKED``. ``confidence`` never is: it keeps the tokens that were drawn with a
large probability, so it prefers images that the network is sure of.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spiking_diffusion.diffusion.absorbing import AbsorbingDiffusion

Denoiser = Callable[..., Tensor]
"""Tokens (B, h, w) in [0, K], steps (B,), positions (B, h, w) bool and, if there are any, conditions (B,) -> the logits
(N, K) of these N positions."""

CHOICE = 4.5
"""Scale of the noise of ``confidence`` at its beginning (choice_temperature of MaskGIT's released code)."""
REMASKED = 0.1
"""Largest probability with which ``remask`` masks a token again in one step."""


class Network:
    """A denoiser with everything that a draw depends on: temperature, condition, guidance and noise.

    With a condition and guidance w the logits are l + w (l - l'), where l' are those without the condition: two calls
    in place of one (Schiff et al., arXiv:2412.10193; Ho and Salimans, arXiv:2207.12598). ``calls`` counts them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        diffusion: AbsorbingDiffusion,
        temperature: float,
        noise: torch.Generator,
        condition: Tensor | None = None,
        guidance: float = 0.0,
        callback: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self.denoiser, self.diffusion, self.temperature, self.noise = denoiser, diffusion, temperature, noise
        self.condition, self.guidance, self.callback = condition, guidance, callback
        self.calls = 0

    def draw(self, tokens: Tensor, t: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N,) drawn for the N positions ``where`` (B, h, w), row by row, and their distributions p (N, K).

        The network is asked about samples with such a position alone, at their steps ``t`` (B,).
        """
        rows = where.flatten(1).any(1).nonzero().squeeze(1)
        seen = tokens[rows], t[rows], where[rows]
        if self.condition is None:
            logits = self.denoiser(*seen)
        else:
            logits = self.denoiser(*seen, self.condition[rows])
            if self.guidance:
                logits = logits + self.guidance * (logits - self.denoiser(*seen))
                self.calls += len(rows)
        self.calls += len(rows)
        p = (logits / self.temperature).softmax(-1)
        return torch.multinomial(p, 1, generator=self.noise).squeeze(1), p

    def masked(self, tokens: Tensor) -> Tensor:
        """Where there is a mask, bool."""
        return tokens == self.diffusion.mask

    def step_of(self, masks: Tensor, tokens: Tensor) -> Tensor:
        """The step t in 1..T_d, or 0, at which the share of masks is that of ``masks`` (B, ...) among ``tokens``."""
        return -(-self.diffusion.steps * masks // tokens[0].numel())

    def uniform(self, like: Tensor) -> Tensor:
        """Noise in [0, 1) of the shape of ``like``."""
        return torch.rand(like.shape, generator=self.noise, device=like.device)

    def show(self, tokens: Tensor, t: Tensor) -> None:
        """Tell the callback."""
        if self.callback:
            self.callback(tokens.clone(), t)


def ancestral(network: Network, tokens: Tensor, steps: int) -> Tensor:
    """The paper's sampler: t = T_d..1, each token still masked at t is revealed with probability 1/t.

    That makes the step at which a token is revealed uniform on 1..T_d, independently of the others, so all of them are
    drawn first. A sample whose step reveals nothing needs no call.

    With fewer ``steps`` S than T_d, t takes only the S values floor(j T_d / S). At each of these values a masked token
    is revealed with the probability of all the steps down to the next one.

    Where some tokens are known, t begins at the step at which as large a share of all tokens is masked.
    """
    masked = network.masked(tokens)
    first = network.step_of(masked.sum((1, 2), keepdim=True), tokens).clamp(min=1)
    if masked.all():  # the same law as below, and the same draws as before there were known tokens
        most = network.diffusion.steps
        reveal_at = torch.randint(1, most + 1, tokens.shape, generator=network.noise, device=tokens.device)
    else:
        reveal_at = (network.uniform(tokens) * first).long() + 1
    fewer = first.clamp(max=steps)
    # (a b + c - 1) // c is a b / c rounded up
    reveal_at = (reveal_at * fewer + first - 1) // first * first // fewer
    return _reveal_in_order(network, tokens, reveal_at)


def cosine(network: Network, tokens: Tensor, steps: int) -> Tensor:
    """In any order, all equally likely, with m cos(pi/2 j/S) of m tokens still masked after step j.

    The first calls, which know little, reveal few tokens (Chang et al., arXiv:2202.04200). Each call reveals one token
    at least, so with S >= m they are revealed one by one.
    """
    masked = network.masked(tokens).flatten(1)
    order = network.uniform(masked).masked_fill(~masked, 2)
    rank = order.argsort(1).argsort(1)  # masked ones have 0..m-1; the larger, the earlier it is revealed
    before, reveal_at = masked.sum(1, keepdim=True), torch.zeros_like(rank)
    for left in cosine_schedule(before, steps):
        now = (left <= rank) & (rank < before)
        reveal_at = torch.where(now, network.step_of(before, tokens), reveal_at)
        before = left
    return _reveal_in_order(network, tokens, reveal_at.view_as(tokens))


def confidence(network: Network, tokens: Tensor, steps: int) -> Tensor:
    """MaskGIT's sampler: a token is drawn for every mask, and those that were likeliest to be drawn stay.

    The likeliest by log p plus Gumbel noise, whose scale falls from ``CHOICE`` to 0 (Chang et al., arXiv:2202.04200).
    Numbers of masks as in ``cosine``.
    """

    def rank(p: Tensor, drawn: Tensor, over: float) -> Tensor:
        gumbel = -torch.empty_like(p[:, 0]).exponential_(generator=network.noise).log()
        return p.gather(1, drawn[:, None]).squeeze(1).log() + CHOICE * (1 - over) * gumbel

    return _reveal_by_rank(network, tokens, steps, cosine_schedule, rank)


def margin(network: Network, tokens: Tensor, steps: int) -> Tensor:
    """Positions with the largest margin between their two likeliest tokens come first (Kim et al., arXiv:2502.06768).

    m^(1 - j/S) of m tokens are still masked after step j: each call reveals the same share of the masks, half of them
    for S = 6 and m = 49.
    """

    def rank(p: Tensor, drawn: Tensor, over: float) -> Tensor:
        first, second = p.topk(2).values.unbind(1)
        return first - second

    return _reveal_by_rank(network, tokens, steps, geometric_schedule, rank)


def remask(network: Network, tokens: Tensor, steps: int) -> Tensor:
    """Tokens get a second chance (ReMDM with a capped schedule, Wang et al., arXiv:2503.00307).

    From a share a of revealed tokens to b = a + 1/S, a token that shows is masked again with probability
    s = min(``REMASKED``, (1 - b) / a), and a mask is revealed with probability (b - (1 - s) a) / (1 - a). So the
    expected share of masks at each step is as without remasking. S may be larger than the number of tokens.
    """
    free = network.masked(tokens)
    for j in range(steps):
        a, b = j / steps, (j + 1) / steps
        again = min(REMASKED, (1 - b) / a) if j else 0.0
        masked, chance = network.masked(tokens), network.uniform(tokens)
        now = masked & (chance * (1 - a) < b - (1 - again) * a) if j + 1 < steps else masked
        t = network.step_of(masked.sum((1, 2)), tokens)
        before, tokens = tokens, tokens.masked_fill(free & ~masked & (chance < again), network.diffusion.mask)
        if now.any():
            tokens = tokens.masked_scatter(now, network.draw(before, t, now)[0])
        network.show(tokens, torch.where(now.any(2).any(1), t, 0))
    return tokens


SAMPLERS: dict[str, Callable[[Network, Tensor, int], Tensor]] = {
    sampler.__name__: sampler for sampler in (ancestral, cosine, confidence, margin, remask)
}


@torch.no_grad()
def sample_tokens(
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
    sampler: str = "ancestral",
) -> tuple[Tensor, int]:
    """Draw tokens of ``shape`` (B, h, w) by one of ``SAMPLERS``, in ``steps``, by default T_d.

    ``condition`` (B,) and ``guidance`` as in ``Network``. ``known`` (B, h, w) in [0, K] has tokens to begin with, in
    place of masks alone.

    Returns tokens (B, h, w) in [0, K) and the number of network calls summed over the samples. ``callback`` gets copies
    of the tokens and the steps t (B,) after each round, 0 for samples without a call, e.g. to draw a trajectory.
    """
    network = Network(denoiser, diffusion, temperature, generator, condition, guidance, callback)
    tokens = torch.full(shape, diffusion.mask, device=device) if known is None else known
    tokens = SAMPLERS[sampler](network, tokens, steps or diffusion.steps)
    return tokens, network.calls


def cosine_schedule(many: Tensor, steps: int) -> list[Tensor]:
    """How many of ``many`` (B, 1) masks are left after each of ``steps``; each step reveals one token at least."""
    return _schedule(many, [many * math.cos(math.pi / 2 * j / steps) for j in range(1, steps)])


def geometric_schedule(many: Tensor, steps: int) -> list[Tensor]:
    """As ``cosine_schedule``, with the same share of the masks revealed by each step."""
    return _schedule(many, [many.double() ** (1 - j / steps) for j in range(1, steps)])


def _schedule(many: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    left = [many]
    for number in wanted:
        left.append(number.long().clamp(max=left[-1] - 1).clamp(min=0))
    return [*left[1:], torch.zeros_like(many)]


def _reveal_in_order(network: Network, tokens: Tensor, reveal_at: Tensor) -> Tensor:
    """Reveal each masked token at its step ``reveal_at`` (B, h, w), the largest first.

    Each round takes every unfinished sample to its own next step.
    """
    while (masked := network.masked(tokens)).any():
        t = torch.where(masked, reveal_at, 0).amax((1, 2))  # (B,), 0 where the sample is finished
        now = masked & (reveal_at == t[:, None, None])
        tokens = tokens.masked_scatter(now, network.draw(tokens, t, now)[0])
        network.show(tokens, t)
    return tokens


def _reveal_by_rank(
    network: Network,
    tokens: Tensor,
    steps: int,
    schedule: Callable[[Tensor, int], list[Tensor]],
    rank: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Draw a token for every mask at each step, and keep those of the highest ``rank``, as many as ``schedule`` says.

    ``rank`` takes p (N, K), the tokens drawn from it (N,) and the share of the steps that is over, in (0, 1].
    """
    many = network.masked(tokens).flatten(1).sum(1, keepdim=True)
    for j, left in enumerate(schedule(many, steps), 1):
        masked = network.masked(tokens)
        if not masked.any():
            break
        t = network.step_of(masked.sum((1, 2)), tokens)
        drawn, p = network.draw(tokens, t, masked)
        ranks = p.new_full(tokens.shape, -torch.inf).masked_scatter(masked, rank(p, drawn, j / steps)).flatten(1)
        place = ranks.argsort(1, descending=True).argsort(1)
        now = masked & (place < masked.flatten(1).sum(1, keepdim=True) - left).view_as(masked)
        tokens = torch.where(now, tokens.masked_scatter(masked, drawn), tokens)
        network.show(tokens, t)
    return tokens
