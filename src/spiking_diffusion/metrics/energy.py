"""Synaptic operations, counted on real passes, in millijoules.

``docs/energy.md`` has the formula and its limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion.diffusion import SDID, ResidualSDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.snn import SpikingDecoder, SpikingLayer, StridedDecoder, use_kernels
from spiking_diffusion.snn.residual import Block, PositionSynapse, Trunk

PJ_PER_MAC, PJ_PER_ACCUMULATE = 4.6, 0.9
"""A multiplication and an addition of 32-bit floats in 45 nm, and the addition alone (Horowitz 2014)."""


@dataclass
class Synapse:
    """Counts of one synapse over a number of passes of one image each.

    ``spikes`` (C, H, W) or (C,) counts the incoming spikes at each position, over all passes and steps. It is None for
    a current that is the same at every step. ``fired`` and ``neurons`` are those of the layer after the synapse, summed
    over passes and steps. A last map has no neurons. With ``leaky``, the last map's sum over time leaks.
    """

    module: nn.Module
    steps: int
    leaky: bool = False
    passes: int = 0
    shape: tuple[int, ...] = ()
    spikes: Tensor | None = None
    fired: float = 0.0
    neurons: int = 0

    def see(self, x: Tensor, passes: int, constant: bool) -> None:
        """Take in one call: spikes (T, B, ...), or a constant current (B, ...)."""
        self.passes += passes
        self.shape = tuple(x.shape[1:] if constant else x.shape[2:])
        if not constant:
            counts = x.detach().double().sum((0, 1)).cpu()
            self.spikes = counts if self.spikes is None else self.spikes + counts

    def row(self, images: int) -> dict[str, float | None]:
        """Rates, and operations per image, if all passes together drew ``images`` images.

        Columns ``strict_`` add operations that the field's count leaves out, by the convention of Lemaire et al. 2022
        (arXiv:2210.13107). A constant current is multiplied at every step. A neuron takes a MAC at every step for its
        leak, and an accumulate at every spike for its reset. A bias takes an accumulate at every step, or one in total
        in an ANN. Batch normalisation is folded into the weights and counts as a bias.
        """
        dense = connections(self.module, self.shape)
        calls = self.passes / images
        row: dict[str, Any] = {
            "input_rate": None,
            "firing_rate": self.fired / self.neurons if self.neurons else None,
            "neurons": self.neurons / images,
            "macs": 0.0,
            "accumulates": 0.0,
            "synops": 0.0,
            "ann_macs": calls * dense,
        }
        if self.spikes is None:
            row["macs"] = row["synops"] = calls * dense
        else:
            rate = float(self.spikes.sum()) / (self.spikes.numel() * self.passes * self.steps)
            row |= {"input_rate": rate, "synops": rate * self.steps * calls * dense}
            row["accumulates"] = fan_out(self.module, self.spikes) / images
        row |= {"calls": calls, "mj": energy_mj(row["macs"], row["synops"] - row["macs"])}
        return row | {"ann_mj": energy_mj(row["ann_macs"])} | self._strictly(row, images)

    def _strictly(self, row: dict[str, Any], images: int) -> dict[str, float]:
        if self.neurons:
            leaking = biases = self.neurons / images
        else:
            outputs = self.steps * row["calls"] * prod(out_shape(self.module, self.shape))
            leaking, biases = outputs * self.leaky, outputs * (getattr(self.module, "bias", None) is not None)
        macs = self.steps * row["macs"] + leaking
        accumulates = row["synops"] - row["macs"] + biases + self.fired / images
        return {
            "strict_macs": macs,
            "strict_accumulates": accumulates,
            "strict_mj": energy_mj(macs, accumulates),
            "strict_ann_mj": energy_mj(row["ann_macs"], biases / self.steps),
        }


def energy_mj(macs: float, accumulates: float = 0.0) -> float:
    """Millijoules of these numbers of operations."""
    return (macs * PJ_PER_MAC + accumulates * PJ_PER_ACCUMULATE) * 1e-9


def out_shape(synapse: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape (C, H, W) or (C,) of the output for an input (C, H, W) or (C,)."""
    if isinstance(synapse, nn.Identity | PositionSynapse):
        return tuple(shape)
    if isinstance(synapse, nn.Linear):
        return (synapse.out_features,)
    assert isinstance(synapse, nn.Conv2d | nn.ConvTranspose2d) and isinstance(synapse.padding, tuple)
    settings = synapse.padding, synapse.kernel_size, synapse.stride, synapse.dilation, synapse.output_padding
    sides = zip(shape[1:], *settings, strict=True)
    if isinstance(synapse, nn.Conv2d):
        return (synapse.out_channels, *((side + 2 * p - d * (k - 1) - 1) // s + 1 for side, p, k, s, d, _ in sides))
    return (
        synapse.out_channels,
        *((side - 1) * s - 2 * p + d * (k - 1) + 1 + extra for side, p, k, s, d, extra in sides),
    )


def connections(synapse: nn.Module, shape: Sequence[int]) -> int:
    """MACs of a dense pass of an input (C, H, W) or (C,), with padding counted as in profilers, or 0 without a
    synapse."""
    if isinstance(synapse, nn.Identity):
        return 0
    if isinstance(synapse, PositionSynapse):
        return prod(shape) * synapse.weight.shape[-1]
    if isinstance(synapse, nn.Linear):
        return synapse.in_features * synapse.out_features
    assert isinstance(synapse, nn.Conv2d | nn.ConvTranspose2d)
    # every output position needs a whole kernel; in a transposed convolution every input position does
    asking = out_shape(synapse, shape) if isinstance(synapse, nn.Conv2d) else shape
    return prod(asking[1:]) * prod(synapse.kernel_size) * synapse.in_channels * synapse.out_channels // synapse.groups


def fan_out(synapse: nn.Module, spikes: Tensor) -> float:
    """Additions that spikes, counted by position (C, H, W) or (C,), cause in ``synapse``, without those in the
    padding."""
    if isinstance(synapse, PositionSynapse):
        return float(spikes.sum()) * synapse.weight.shape[-1]
    if isinstance(synapse, nn.Linear):
        return float(spikes.sum()) * synapse.out_features
    assert isinstance(synapse, nn.Conv2d | nn.ConvTranspose2d) and isinstance(synapse.padding, tuple)
    places, ones = spikes.sum(0)[None, None], torch.ones(1, 1, *synapse.kernel_size, dtype=spikes.dtype)
    if isinstance(synapse, nn.Conv2d):
        reached = F.conv2d(places, ones, None, synapse.stride, synapse.padding, synapse.dilation)
    else:
        settings = synapse.stride, synapse.padding, synapse.output_padding, 1, synapse.dilation
        reached = F.conv_transpose2d(places, ones, None, *settings)
    return float(reached.sum()) * synapse.out_channels / synapse.groups


@dataclass
class Counter:
    """Synapses by (stage, layer), filled inside ``counting``. ``images`` is the number of images of each stage."""

    synapses: dict[tuple[str, str], Synapse] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def counting(self, images: int, **stages: nn.Module) -> Iterator[None]:
        """Count in every spiking layer of ``stages``, and in the last map after them, while they process ``images``
        images.

        Our CPU kernels are switched off inside, because they bypass the modules whose calls are counted.
        """
        self.images |= dict.fromkeys(stages, images)
        hooks = []
        for stage, module in stages.items():
            use_kernels(module, False)
            for name, layer in module.named_modules():
                if isinstance(layer, SpikingLayer):
                    hooks += self._watch(stage, name, layer, module)
                elif isinstance(layer, Trunk):
                    hooks.append(layer.register_forward_pre_hook(self._entering(stage, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in stages.values():
                use_kernels(module, True)

    def _watch(self, stage: str, name: str, layer: SpikingLayer, module: nn.Module) -> list[Any]:
        def before(_: nn.Module, args: tuple[Tensor], options: dict[str, Any]) -> None:
            x, constant = args[0], options.get("steps") is not None
            steps, passes = (options["steps"], len(x)) if constant else x.shape[:2]
            if isinstance(layer.synapse, nn.Identity):  # the input is already a current
                x, constant = x if constant else x[0], True
            self._at(stage, name, layer.synapse, steps).see(x, passes, constant)

        def after(_: nn.Module, args: tuple[Tensor], spikes: Tensor) -> None:
            synapse = self._at(stage, name, layer.synapse, len(spikes))
            synapse.fired += float(spikes.detach().double().sum())
            synapse.neurons += spikes.numel()
            for owner, out, leaky in last_maps(module, layer):
                self._at(stage, owner, out, len(spikes), leaky).see(spikes, spikes.shape[1], False)

        return [layer.register_forward_pre_hook(before, with_kwargs=True), layer.lif.register_forward_hook(after)]

    def _entering(self, stage: str, name: str) -> Any:
        def before(trunk: Trunk, args: tuple[Tensor]) -> None:
            (spikes,) = args
            self._at(stage, f"{name}.enter", trunk.enter, len(spikes)).see(spikes, spikes.shape[1], False)

        return before

    def _at(self, stage: str, layer: str, module: nn.Module, steps: int, leaky: bool = False) -> Synapse:
        return self.synapses.setdefault((stage, layer or stage), Synapse(module, steps, leaky))

    def table(self) -> pd.DataFrame:
        """One row per synapse, with its operations for one image."""
        return pd.DataFrame(
            {"stage": stage, "layer": layer, **synapse.row(self.images[stage])}
            for (stage, layer), synapse in self.synapses.items()
        )


COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
NOT_COUNTED = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose3d, nn.MultiheadAttention, nn.RNNBase)


def count(module: nn.Module, *inputs: Any, images: int, steps: int) -> pd.DataFrame:
    """Operations of a spiking network of your own, made of SpikingJelly's or PyTorch's layers: one row for each layer.

    Calls ``module(*inputs)`` once. The call must process ``images`` images in ``steps`` time steps each. Layers may be
    in SpikingJelly's step mode ``m`` or be called once a step. Reset the network before.

    Columns are per image: ``macs`` for inputs with other values than 0 and 1, ``accumulates`` and ``synops`` for spikes
    (docs/energy.md), ``mj``, and ``ann_mj`` of the same layer with real values and one time step.

    >>> net = nn.Sequential(nn.Linear(4, 3))
    >>> float(count(net, torch.ones(2, 4), images=2, steps=1)["accumulates"].sum())
    12.0

    Raises UserError for a layer that it cannot count.
    """
    found: dict[tuple[str, bool], Synapse] = {}

    def see(name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        x = x.reshape(-1, *x.shape[-1 if isinstance(layer, nn.Linear) else -3 :])  # steps and images together
        spikes = bool(((x == 0) | (x == 1)).all())
        found.setdefault((name, spikes), Synapse(layer, 1)).see(x[None] if spikes else x, len(x), not spikes)

    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, NOT_COUNTED) or isinstance(getattr(layer, "padding", None), str):
            raise UserError(f"{name or 'the network'} is a {type(layer).__name__} that cannot be counted: {layer}")
        if isinstance(layer, COUNTED):
            hooks.append(layer.register_forward_pre_hook(partial(see, name or "network")))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    table = pd.DataFrame({"layer": name, **synapse.row(images)} for (name, _), synapse in found.items())
    table["ann_mj"] /= steps
    return table[["layer", "input_rate", "macs", "accumulates", "synops", "mj", "ann_mj"]]


def last_maps(module: nn.Module, layer: SpikingLayer) -> Iterator[tuple[str, nn.Module, bool]]:
    """Maps without neurons in ``module`` that get the spikes of ``layer``, and whether their sum over time leaks. Only
    their geometry counts.

    The networks apply them once to a sum of spikes over time. Hardware adds at every spike, with the same result.
    """
    for owner, part in module.named_modules():
        if isinstance(part, SDID):
            ends = {"out.first": part.first, "out.last": [part.first, *part.rest][-1]}
            for name, source in ends.items():
                if source is layer:
                    channels = layer.synapse.out_channels
                    bias = name == "out.last"  # both are parts of one map
                    part_of_map = nn.Conv2d(channels, part.out.out_channels, 3, padding=1, bias=bias, device="meta")
                    yield name, part_of_map, False
        elif isinstance(part, Block):
            if part.fire is layer:
                yield f"{owner}.synapse", part.synapse, False
                if part.mix is not None:
                    yield f"{owner}.mix", part.mix, False
        elif isinstance(part, ResidualSDID):
            if part.last is layer:
                yield "out", part.out, False
        elif isinstance(part, SpikingDecoder | StridedDecoder):
            source = part.second if isinstance(part, SpikingDecoder) else part.last
            if source is layer:
                yield "out", part.out, True


ENCODING = ("encoder", "into_latent", "posterior")
"""Stages that turn an image into its code. All others are needed to draw an image."""
SUMMED = (
    *("macs", "accumulates", "synops", "mj", "ann_macs", "ann_mj"),
    *("strict_macs", "strict_accumulates", "strict_mj", "strict_ann_mj"),
)


def totals(table: pd.DataFrame) -> dict[str, float | None]:
    """Sums over the layers that draw an image, the millijoules of each stage, and the millijoules of encoding an
    image."""
    encoding = table["stage"].isin(ENCODING)
    drawing, fired = table[~encoding], (table["firing_rate"] * table["neurons"])[~encoding].sum()
    sums = {key: float(drawing[key].sum()) for key in SUMMED}
    return {
        "firing_rate": float(fired / drawing["neurons"].sum()),
        **sums,
        "ann_ratio": sums["ann_mj"] / sums["mj"] if sums["mj"] else None,  # FSVAE may be silent
        "strict_ann_ratio": sums["strict_ann_mj"] / sums["strict_mj"],
        **{f"{stage}_mj": float(part["mj"].sum()) for stage, part in table.groupby("stage")},
        **{f"encoding_{key}": float(table[key][encoding].sum()) for key in SUMMED if key.endswith("mj")},
    }
