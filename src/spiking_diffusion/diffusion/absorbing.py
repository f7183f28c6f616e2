"""The forward process with an absorbing state (Eq. 10-12) and the bound it is trained by (Eq. 14)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AbsorbingDiffusion:
    """``steps`` = T_d steps over ``size`` = K codes; the mask is token K.

    A token still there at t-1 is masked at t with probability ``gamma_t = 1 / (T_d - t + 1)`` (Eq. 12),
    so it is masked by t with probability t / T_d, and at T_d every token is.
    """

    def __init__(self, size: int, steps: int) -> None:
        self.size = size
        self.steps = steps
        self.mask = size

    def gamma(self, t: int) -> float:
        """Probability of being masked at step t in 1..T_d (Eq. 12)."""
        return 1 / (self.steps - t + 1)

    def transition(self, t: int) -> Tensor:
        """Q_t (Eq. 11), (K+1, K+1): row i holds q(h_t | h_{t-1} = i)."""
        gamma = self.gamma(t)
        q = torch.eye(self.size + 1) * (1 - gamma)
        q[:, self.mask] = gamma
        q[self.mask, self.mask] = 1
        return q

    def q_sample(self, tokens: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw h_t from q(h_t | h_0): each token masked with probability t / T_d.

        tokens (B, h, w) in [0, K), t (B,) in 1..T_d -> (B, h, w) in [0, K].
        """
        p = (t / self.steps).view(-1, *[1] * (tokens.dim() - 1))
        masked = torch.rand(tokens.shape, generator=generator, device=tokens.device) < p
        return tokens.masked_fill(masked, self.mask)

    def draw_counts(self, batch: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Numbers of masks (batch,), each uniform on 1..T_d, and together spread evenly over this range."""
        shift = torch.rand(1, generator=generator, device=device)
        order = torch.randperm(batch, generator=generator, device=device)
        return ((order + shift) / batch * self.steps).long().clamp(max=self.steps - 1) + 1

    def mask_exactly(self, tokens: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        """Mask ``counts`` (B,) of each sample's tokens (B, h, w), every choice equally likely.

        h_t given that ``counts`` of its tokens are masked. The bound of Eq. 14 with t = ``counts`` is then one over all
        orders of revealing one token after the other (Hoogeboom et al., arXiv:2110.02037).
        """
        rank = torch.rand(tokens.shape, generator=generator, device=tokens.device).flatten(1).argsort(1).argsort(1)
        return tokens.masked_fill((rank < counts[:, None]).view_as(tokens), self.mask)

    def draw_t(self, batch: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Steps (batch,), uniform on 1..T_d."""
        return torch.randint(1, self.steps + 1, (batch,), generator=generator, device=device)

    def bound(self, logits: Tensor, tokens: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """One-sample estimate of the bound of Eq. 14, in nats per token, (B,).

        Eq. 14 is ``sum_t 1/t sum_masked -log p(h_0 | h_t)`` for the whole image; with one t drawn uniformly
        from 1..T_d, its estimate divided by the T_d tokens is ``1/t sum_masked -log p``.
        logits (B, K, h, w), tokens and noisy (B, h, w), t (B,).
        """
        return self._masked_nll(logits, tokens, noisy) / t

    def reweighted(self, logits: Tensor, tokens: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The released code's loss, ``(1 - t/T_d) sum_masked -log p / T_d``, (B,); no bound, and 0 at t = T_d."""
        return self._masked_nll(logits, tokens, noisy) * (1 - t / self.steps) / self.steps

    def _masked_nll(self, logits: Tensor, tokens: Tensor, noisy: Tensor) -> Tensor:
        """-log p of the masked tokens' true values, summed over each sample: (B,)."""
        # flat, because CUDA has no deterministic kernel for the (B, K, h, w) form
        nll = F.cross_entropy(logits.movedim(1, -1).flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)
        return (nll * (noisy == self.mask)).flatten(1).sum(1)


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)


@torch.no_grad()
def log_likelihoods(
    model: Callable[..., Tensor],
    diffusion: AbsorbingDiffusion,
    tokens: Tensor,
    conditions: int,
    noise: torch.Generator,
    rounds: int = 16,
) -> Tensor:
    """Estimates of log p(tokens | condition), each a bound from below, for every condition: (conditions,), in nats.

    ``tokens`` (h, w) in [0, K]; of those that are masked nothing is asked. Each of ``rounds`` hides k more tokens, and
    -log p of these, times all that show over k, estimates the bound over all orders of revealing them (Hoogeboom et
    al., arXiv:2110.02037). All conditions see the same masks.
    """
    shown, device = (tokens != diffusion.mask).flatten().nonzero().squeeze(1), tokens.device
    found = torch.zeros(conditions, dtype=torch.float64, device=device)
    every = torch.arange(conditions, device=device)
    for number in range(rounds if len(shown) else 0):
        k = 1 + number * len(shown) // rounds
        hidden = shown[torch.rand(len(shown), generator=noise, device=device).argsort()[:k]]
        where = torch.zeros(tokens.numel(), dtype=torch.bool, device=device)
        where[hidden] = True
        where = where.view_as(tokens)
        noisy = tokens.masked_fill(where, diffusion.mask)
        t = torch.full((conditions,), int((noisy == diffusion.mask).double().mean().mul(diffusion.steps).ceil()))
        seen = noisy.expand(conditions, -1, -1), t.to(device), where.expand(conditions, -1, -1)
        log_p = model(*seen, every).log_softmax(-1).unflatten(0, (conditions, k)).double()
        picked = log_p.gather(2, tokens[where].expand(conditions, -1)[..., None])
        found += picked.sum((1, 2)) * len(shown) / k / rounds
    return found


@torch.no_grad()
def bits_per_token(
    model: nn.Module,
    diffusion: AbsorbingDiffusion,
    tokens: Tensor,
    batch_size: int,
    noise: torch.Generator,
    device: torch.device,
    conditions: Tensor | None = None,
) -> tuple[float, float]:
    """The bound of Eq. 14 in bits per token over ``tokens`` (N, h, w), and its standard error.

    With ``conditions`` (N,) it is that of the tokens given these, and says nothing of the bits of the condition.

    Each image has one step t. All t from 1 to T_d are equally frequent, or as good as, and the means over each of them
    count alike; where there are less than two images for each t, every image has several.
    """
    steps = diffusion.steps
    of_image = torch.arange(len(tokens)).repeat(max(1, -(-2 * steps // len(tokens))))
    order = torch.rand(len(of_image), generator=noise, device=device).argsort().cpu()
    t_of = torch.arange(len(of_image))[order] % steps + 1
    found = []
    for index, t in zip(of_image.split(batch_size), t_of.split(batch_size), strict=True):
        part, t = tokens[index].to(device), t.to(device)
        noisy = diffusion.q_sample(part, t, noise)
        told = {} if conditions is None else {"condition": conditions[index.to(conditions.device)]}
        found.append(diffusion.bound(model(noisy, t, **told), part, noisy, t).double().cpu())
    values = torch.cat(found)
    per_step = [values[t_of == t] for t in range(1, steps + 1)]
    mean = torch.stack([group.mean() for group in per_step]).mean()
    error = torch.stack([group.var() / len(group) for group in per_step]).sum().sqrt() / steps
    return bits(float(mean)), bits(float(error))
