"""LIF over all time steps as one CPU kernel forward and one backward, compiled by ``torch.compile``.

Step by step, each of some ten small operations reads and writes whole tensors; fused, a membrane stays in a
register from the first step to the last. Where no C++ compiler is found the same functions run as they are.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion import config

log = logging.getLogger(__name__)


def lif_forward(x: Tensor, tau: float, v_threshold: float, v_reset: float) -> tuple[Tensor, Tensor]:
    """Spikes and membranes H before the reset, both (T, N), for a current (T, N)."""
    v = torch.zeros_like(x[0]) + v_reset
    spikes, charged = [], []
    for current in x.unbind():
        h = v + (current - (v - v_reset)) / tau
        s = (h >= v_threshold).to(x.dtype)
        v = h * (1 - s) + v_reset * s  # not torch.where(..., v_reset, h): compiled, it takes v_reset for an integer
        spikes.append(s)
        charged.append(h)
    return torch.stack(spikes), torch.stack(charged)


def lif_backward(
    grad: Tensor, charged: Tensor, tau: float, v_threshold: float, v_reset: float, alpha: float, detach_reset: bool
) -> Tensor:
    """Gradient of the current (T, N): backpropagation through time of Eq. 1-3 with ATan's surrogate."""
    grad_v = torch.zeros_like(grad[0])
    grads: list[Tensor] = []
    for grad_s, h in zip(reversed(grad.unbind()), reversed(charged.unbind()), strict=True):
        x = h - v_threshold
        surrogate = alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)
        through_reset = 0.0 if detach_reset else grad_v * (v_reset - h)
        grad_h = grad_v * (1 - (x >= 0).to(h.dtype)) + (grad_s + through_reset) * surrogate
        grads.append(grad_h / tau)
        grad_v = grad_h * (1 - 1 / tau)
    return torch.stack(grads[::-1])


class _Kernel:
    """A function compiled when a new kind of input comes, or run as it is from the day compiling fails."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            # in this process: a pool of compiler processes would outlive the few kernels there are
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
            self.compiled = torch.compile(self.function, dynamic=True, fullgraph=True)
        try:
            return self.compiled(*args)
        except Exception as error:
            if self.compiled is self.function:
                raise
            log.warning("no fused LIF, training will be slower: %s", " ".join(str(error).split())[:300])
            self.compiled = self.function
            return self.function(*args)


_forward, _backward = _Kernel(lif_forward), _Kernel(lif_backward)


class _FusedLIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, settings: config.Neuron) -> Tensor:
        constants = (float(settings.tau), float(settings.v_threshold), float(settings.v_reset))
        spikes, charged = _forward(current.detach().reshape(len(current), -1).contiguous(), *constants)
        ctx.save_for_backward(charged)
        ctx.constants = (*constants, float(settings.alpha), settings.detach_reset)
        return spikes.view(current.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (charged,) = ctx.saved_tensors
        grad = _backward(grads[0].reshape(charged.shape).contiguous(), charged, *ctx.constants)
        return grad.view(grads[0].shape), None


def fused_lif(current: Tensor, settings: config.Neuron) -> Tensor:
    """Spikes (T, ...) for an input current (T, ...), as ``LIF`` defines them."""
    spikes = _FusedLIF.apply(current, settings)
    assert isinstance(spikes, Tensor)
    return spikes
