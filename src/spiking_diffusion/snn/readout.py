"""From spike trains to numbers: firing rate, postsynaptic potential, leaky sum, and a distance of trains."""

from __future__ import annotations

import torch
from torch import Tensor


def sfr(spikes: Tensor) -> Tensor:
    """Spike firing rate (Eq. 4): the mean over time. (T, ...) -> (...) in [0, 1]."""
    return spikes.mean(0)


def psp(spikes: Tensor, tau_syn: float) -> Tensor:
    """Postsynaptic potential (Eq. 5) at every step. (T, ...) -> (T, ...) in [0, 1].

    ``PSP_t = (1 - 1/tau_syn) PSP_{t-1} + s_t / tau_syn`` with ``PSP_0 = 0``, unrolled into one product
    with the lower triangular matrix ``W[t, s] = (1 - 1/tau_syn)^(t-s) / tau_syn``.
    """
    steps = torch.arange(len(spikes), device=spikes.device)
    age = steps[:, None] - steps[None, :]
    kernel = torch.where(age >= 0, (1 - 1 / tau_syn) ** age.clamp(min=0) / tau_syn, 0.0).to(spikes.dtype)
    return (kernel @ spikes.flatten(1)).view_as(spikes)


def weighted_sum(spikes: Tensor, decay: float) -> Tensor:
    """``sum_t decay^(T-1-t) s_t``: a leaky membrane that never fires, at the last step. (T, ...) -> (...)."""
    return torch.tensordot(decay_weights(decay, spikes), spikes, dims=1)


def decay_weights(decay: float, spikes: Tensor) -> Tensor:
    """(decay^(T-1), ..., decay, 1) for spikes (T, ...), of their type and on their device."""
    return decay ** torch.arange(len(spikes) - 1, -1, -1, dtype=spikes.dtype, device=spikes.device)


def psp_distance(a: Tensor, b: Tensor, tau_syn: float) -> Tensor:
    """Squared distance of two trains (T, ...) after PSP filtering, mean over time and units.

    The paper calls it MMD with PSP as kernel (Eq. 9). Trains are compared pairwise, so it is a squared van Rossum
    distance.
    """
    return (psp(a - b, tau_syn) ** 2).mean()
