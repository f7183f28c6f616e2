"""A synapse (convolution or linear map), batch normalisation and LIF neurons as one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spiking_diffusion import config
from spiking_diffusion.snn import events, kernels
from spiking_diffusion.snn.neuron import LIF

Precision = Literal["float32", "tf32", "bfloat16"]
Norm = Literal["batch", "none"]


class SpikingLayer(nn.Module):
    """``synapse`` -> ``norm`` -> LIF.

    ``norm`` is tdBN (Zheng et al. 2021): statistics over time and batch together, and currents normalised to ``alpha``
    V_th, a factor in addition to the learned weight. Without a norm, the synapse's currents enter the neurons directly.
    On the CPU in float32 the kernels of this package compute the layer (``spiking_diffusion.snn.events``), unless they
    do not support its neuron (``events.covers``), it has no norm, or ``kernels`` is off. With ``precision: bfloat16``
    synapses multiply in bfloat16, on the CPU only for the gradient of their input. Currents, statistics and membranes
    stay float32.
    """

    def __init__(
        self,
        synapse: nn.Module,
        norm: nn.BatchNorm1d | nn.BatchNorm2d | None,
        neuron: config.Neuron,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = alpha * neuron.v_threshold
        self.synapse = synapse
        self.norm = norm
        self.lif = LIF(neuron)
        self.kernels = True
        self.precision: Precision = "float32"

    def forward(
        self, x: Tensor, *, readout: Tensor | None = None, steps: int | None = None, where: Tensor | None = None
    ) -> Tensor:
        """Spikes (T, B, ...) for a spike train (T, B, ...), or with ``readout`` (T,) their weighted sum (B, ...).

        With ``steps`` the input is (B, ...), a current that is the same at every step. Synapse and norm then process it
        once, because all steps have the same current, mean and variance.

        ``where`` (B, H, W) bool marks the positions of the spikes that will be used. It is for evaluation mode and for
        synapses that keep height and width. Elsewhere the result is undefined, and kernels spend no time on it.
        """
        flat, constant = (x.flatten(0, 1), False) if steps is None else (x, True)
        steps = len(x) if steps is None else steps
        if self._by_kernels(x):
            assert self.norm is not None
            if not constant and isinstance(self.synapse, events.Convolution) and events.supports(self.synapse):
                current = events.apply_synapse(flat, self.synapse, self.precision, where)
            else:
                current = self.synapse(flat)
            return events.norm_lif(current, self.norm, self.lif.settings, steps, constant, readout, where, self.scale)
        current = self.normalise(self._current(flat))
        # contiguous: Triton would compile a kernel for each shape of an expanded view
        current = current.expand(steps, *current.shape).contiguous() if constant else current.unflatten(0, (steps, -1))
        spikes = self.lif(current)
        return spikes if readout is None else torch.tensordot(readout, spikes, dims=1)

    def _by_kernels(self, x: Tensor) -> bool:
        covered = self.norm is not None and events.covers(self.lif.settings)
        return self.kernels and covered and kernels.usable(x)

    def normalise(self, current: Tensor) -> Tensor:
        """The synapse's currents (N, C, ...) as they enter the neurons."""
        if self.norm is None:
            return current
        if self.scale == 1:
            return self.norm(current)
        return functional_call(self.norm, {"weight": self.scale * self.norm.weight}, (current,))

    def _current(self, x: Tensor) -> Tensor:
        rounded = self.precision == "bfloat16" and not self._by_kernels(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=rounded):
            return self.synapse(x).to(x.dtype)

    def step(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """One time step on (B, ...): spikes and membranes. ``v`` is None at the first step."""
        current = self.normalise(self._current(x))
        return self.lif.step(current, self.lif.rest(current) if v is None else v)


class EventConvolution(nn.Conv2d):
    """A 3x3 convolution of spikes in {0, 1}, by this package's kernels as in ``SpikingLayer``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1, bias=False)
        self.kernels = True
        self.precision: Precision = "float32"

    def forward(self, input: Tensor) -> Tensor:
        """Spikes (N, c_in, H, W) -> currents (N, c_out, H, W)."""
        if self.kernels and kernels.usable(input):
            return events.apply_synapse(input, self, self.precision)
        with torch.autocast(input.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return super().forward(input).to(input.dtype)


def conv(neuron: config.Neuron, c_in: int, c_out: int, kernel: int, stride: int = 1) -> SpikingLayer:
    """Conv + BatchNorm + LIF; ``stride`` divides height and width exactly. The norm has a bias, so the synapse has
    none."""
    synapse = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return SpikingLayer(synapse, nn.BatchNorm2d(c_out), neuron)


def conv_transpose(neuron: config.Neuron, c_in: int, c_out: int) -> SpikingLayer:
    """ConvTranspose 3x3 that doubles height and width, + BatchNorm + LIF."""
    synapse = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False)
    return SpikingLayer(synapse, nn.BatchNorm2d(c_out), neuron)


def linear(neuron: config.Neuron, n_in: int, n_out: int, norm: Norm = "batch", alpha: float = 1.0) -> SpikingLayer:
    """Linear + BatchNorm + LIF, or Linear with a bias + LIF."""
    if norm == "none":
        return SpikingLayer(nn.Linear(n_in, n_out), None, neuron)
    return SpikingLayer(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), neuron, alpha)


def use_kernels(module: nn.Module, on: bool) -> None:
    """Switch this package's CPU kernels on or off in all layers of ``module``."""
    for layer in module.modules():
        if isinstance(layer, SpikingLayer | EventConvolution):
            layer.kernels = on


def set_precision(module: nn.Module, precision: Precision) -> None:
    """Set the precision of the synapses in all layers of ``module``, and for all modules whether cuDNN may use TF32."""
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"  # type: ignore[attr-defined]
    for layer in module.modules():
        if isinstance(layer, SpikingLayer | EventConvolution):
            layer.precision = "bfloat16" if precision == "bfloat16" else "float32"


@contextmanager
def record_rates(module: nn.Module) -> Iterator[dict[str, float]]:
    """Firing rates in [0, 1] of the spiking layers of ``module`` that are called in this context, by name: the mean of
    the last call.

    For evaluation mode. A layer with a readout returns no spike train, so it is computed a second time to get one.
    """
    rates: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any], spikes: Tensor) -> None:
            if options.get("readout") is None:
                rates[name] = float(spikes.mean())
            else:
                layer(*args, steps=options.get("steps"))  # calls this hook again

        return hook

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, SpikingLayer)]
    handles = [layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers]
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()
