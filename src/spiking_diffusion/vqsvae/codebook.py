"""The codebook: nearest code (Eq. 7), lookup (Eq. 8), and updates of its codes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.errors import UserError

DEAD, FRESH = 0.1, 0.2
"""Shares of an even use of all codes. Below DEAD a code counts as dead. A restarted code begins with FRESH. The two are
close, so that a code restarted without success is restarted again after some 70 steps at ``decay: 0.99``."""


class Codebook(nn.Module):
    """K codes of dimension C.

    With ``update: gradient`` the codes are parameters and learn from the loss. With ``update: ema`` they are
    running means of the features assigned to them (van den Oord et al. 2017, App. A.1), and
    ``restart_dead`` moves a code with hardly any assigned features to a random feature of the batch.
    """

    codes: Tensor  # (K, C)
    counts: Tensor  # (K,), EMA of the number of features of a code in a batch
    sums: Tensor  # (K, C), EMA of their sum

    def __init__(self, settings: config.Codebook, dim: int) -> None:
        super().__init__()
        self.settings = settings
        draw = torch.randn if settings.init == "normal" else torch.rand
        codes = draw(settings.size, dim)
        if settings.update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("counts", torch.zeros(settings.size))
            self.register_buffer("sums", torch.zeros(settings.size, dim))

    @torch.no_grad()
    def place(self, features: Tensor, generator: torch.Generator) -> None:
        """``init: kmeans``: move the codes to the centres of features (B, C, h, w). There must be more features than
        codes."""
        from sklearn.cluster import KMeans  # slow to import
        from threadpoolctl import threadpool_limits

        x = features.detach().movedim(1, -1).flatten(0, -2).float().cpu().numpy()
        if len(x) < self.settings.size:
            raise UserError(
                f"codebook.init is kmeans, but a batch has only {len(x)} features for {self.settings.size} codes: "
                "use larger batches or fewer codes"
            )
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        # one thread, so that the last bits of the centres do not depend on the number of threads
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # equal features give equal centres, and restart_dead separates them
            centres = KMeans(self.settings.size, n_init=1, random_state=seed).fit(x).cluster_centers_
        self.codes.copy_(torch.from_numpy(centres))

    def nearest(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> tokens (B, h, w), the lower index if two codes are equally near.

        Distances are computed in float32 even under autocast.
        """
        x = features.detach().movedim(1, -1).float()
        codes = self.codes.detach().float()
        with torch.autocast(x.device.type, enabled=False):
            distance = (codes**2).sum(1) - 2 * x @ codes.t()  # |x|^2 is the same for all codes
        return distance.argmin(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) -> features (B, C, h, w)."""
        return self.codes[tokens].movedim(-1, 1)

    @torch.no_grad()
    def update(self, features: Tensor, tokens: Tensor, generator: torch.Generator) -> None:
        """One EMA step on a batch's features (B, C, h, w) and their tokens; does nothing for ``gradient``.

        Before the first step, every code counts as used evenly at its place after ``init``.
        """
        if self.settings.update == "gradient":
            return
        x = features.detach().movedim(1, -1).flatten(0, -2).float()
        index = tokens.flatten()
        size, decay = self.settings.size, self.settings.decay
        if x.is_cuda:  # on a GPU a product is much faster than a deterministic sum by index, and bincount waits
            chosen = F.one_hot(index, size).to(x)
            counts, sums = chosen.sum(0), chosen.t() @ x
        else:
            counts = torch.bincount(index, minlength=size).to(x)
            sums = torch.zeros_like(self.sums).index_add_(0, index, x)
        even, new = len(x) / size, self.counts.sum() == 0
        self.counts.copy_(torch.where(new, even, self.counts))
        self.sums.copy_(torch.where(new, even * self.codes, self.sums))
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        if self.settings.restart_dead:
            dead = self.counts < DEAD * even
            fresh = x[torch.randint(len(x), (size,), generator=generator, device=x.device)]
            self.counts.copy_(torch.where(dead, FRESH * even, self.counts))
            self.sums.copy_(torch.where(dead[:, None], FRESH * even * fresh, self.sums))
        seen = self.counts[:, None] > 0
        self.codes.copy_(torch.where(seen, self.sums / self.counts.clamp(min=1e-12)[:, None], self.codes))


def perplexity(tokens: Tensor, size: int) -> tuple[float, int]:
    """exp(entropy) of the codes' frequencies, in [1, K], and the number of codes that occur."""
    p = torch.bincount(tokens.flatten(), minlength=size).double() / tokens.numel()
    used = p[p > 0]
    return float(torch.exp(-(used * used.log()).sum())), len(used)
