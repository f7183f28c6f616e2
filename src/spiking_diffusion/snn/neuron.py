"""The leaky integrate-and-fire neuron, Eq. 1-3 of the paper."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor, nn

from spiking_diffusion import config

SURROGATES = {"atan": surrogate.ATan, "rectangular": surrogate.Rect}


class LIF(nn.Module):
    """A layer of LIF neurons without memory between calls.

    For each step t, with input current X (Eq. 1-3)::

        H[t] = V[t-1] + (X[t] - (V[t-1] - V_reset)) / tau
        S[t] = 1 if H[t] >= V_th else 0
        V[t] = H[t] (1 - S[t]) + V_reset S[t]

    Without ``decay_input`` X is not divided by tau. The gradient of S at x = H - V_th is ATan's,
    g'(x) = alpha / (2 (1 + (pi/2 alpha x)^2)), or ``rectangular``: alpha where |x| < 1 / (2 alpha), 0 elsewhere.
    Membranes start at V_reset in every call, so no state can leak from one batch into the next. To step through time by
    hand, pass on the membrane that ``step`` returns.

    """

    def __init__(self, settings: config.Neuron) -> None:
        super().__init__()
        self.settings = settings
        self._dynamics: dict[str, Any] = {
            "tau": float(settings.tau),
            "decay_input": settings.decay_input,
            "v_threshold": float(settings.v_threshold),
            "v_reset": float(settings.v_reset),
            "surrogate_function": SURROGATES[settings.surrogate](alpha=float(settings.alpha)),
            "detach_reset": settings.detach_reset,
        }

    def forward(self, current: Tensor) -> Tensor:
        """Spikes (T, ...) in {0, 1} for an input current (T, ...)."""
        spikes, _, _ = functional.lif_multi_step(current, self.rest(current[0]), **self._dynamics)
        return spikes

    def step(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membranes after one step, both shaped like ``current`` and ``v``."""
        return functional.lif_step(current, v, **self._dynamics)

    def rest(self, like: Tensor) -> Tensor:
        """Membranes at V_reset, shaped like one step of the input."""
        return torch.full_like(like, self.settings.v_reset, requires_grad=False)

    def extra_repr(self) -> str:
        return f"tau={self.settings.tau}, v_threshold={self.settings.v_threshold}, v_reset={self.settings.v_reset}"
