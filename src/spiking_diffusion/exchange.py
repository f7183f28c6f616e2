"""Trained networks as files of the Neuromorphic Intermediate Representation, NIR (docs/nir.md)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiking_diffusion import artifacts, config
from spiking_diffusion.diffusion.residual import ResidualSDID
from spiking_diffusion.diffusion.sdid import SDID
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import Model
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion
from spiking_diffusion.snn import SpikingEncoder, SpikingLayer
from spiking_diffusion.snn.residual import Block, PositionSynapse, Trunk

try:
    import nir
except ImportError as error:
    raise UserError("the package nir, which writes NIR files, is missing: install it with `pip install nir`") from error

DT = 1e-4
"""Seconds of a time step in NIR's continuous time. SpikingJelly assumes it by default, snnTorch always."""


class Graph:
    """A NIR graph while it is wired. A node that several nodes lead to gets the sum of their currents."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.nodes: dict[str, Any] = {"input": nir.Input(np.array(shape))}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, node: Any, *sources: str) -> str:
        """Add ``node`` with an edge from each of ``sources``, and return its name."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape (C, H, W) of what a node sends."""
        return tuple(int(size) for size in self.nodes[name].output_type["output"])

    def convolve(
        self, name: str, weight: Tensor, *sources: str, bias: Tensor | None = None, stride: int = 1, padding: int = 0
    ) -> str:
        """Add a convolution with ``weight`` (C_out, C_in, k, k) and, without ``bias`` (C_out,), zeros for it."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        arrays = [tensor.detach().float().cpu().numpy() for tensor in (weight, bias)]
        options = (stride, stride), (padding, padding), (1, 1), 1
        return self.add(name, nir.Conv2d(self.shape(sources[0])[1:], arrays[0], *options, arrays[1]), *sources)

    def fire(self, name: str, layer: SpikingLayer, *sources: str) -> str:
        """Add a layer: its synapse with the norm folded in, ``name``, and its neurons, whose name is returned."""
        norm, synapse = layer.norm, layer.synapse
        assert norm is not None and norm.running_var is not None and norm.running_mean is not None
        gain = layer.scale * norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = norm.bias - gain * norm.running_mean
        if isinstance(synapse, nn.Conv2d):
            weight, stride, padding = synapse.weight, synapse.stride[0], int(synapse.padding[0])
        else:  # blocks normalise a current as it is
            weight, stride, padding = torch.eye(len(gain))[:, :, None, None], 1, 0
        self.convolve(name, gain[:, None, None, None] * weight, *sources, bias=bias, stride=stride, padding=padding)
        return self.add(f"{name}_lif", neurons(layer.lif.settings, self.shape(name)), name)

    def run_blocks(self, blocks: Sequence[Block], *sources: str) -> list[str]:
        """Add blocks with membrane shortcuts, and return the nodes whose sum is the current behind the last one."""
        current = list(sources)
        for i, block in enumerate(blocks):
            spikes = self.fire(f"block{i}", block.fire, *current)
            current.append(self.convolve(f"block{i}_synapse", block.synapse.weight, spikes, padding=1))
            if block.mix is not None:
                current += self.mix(f"block{i}_mix", block.mix, spikes)
        return current

    def mix(self, name: str, synapse: PositionSynapse, spikes: str) -> list[str]:
        """Add a synapse over positions, and return the nodes whose sum is its current.

        NIR can split neither channels nor positions. So for each group one convolution picks its channels, another, as
        large as the grid, makes a channel of every position, a third places these on the grid, and a last one puts the
        channels back.
        """
        channels, side, width = self.shape(spikes)
        if side != width:
            raise UserError(
                f"tokens are {side} x {width}: a NIR file needs a square grid for the synapses over positions"
            )
        size = channels // len(synapse.weight)
        one = torch.eye(size)
        # what arrives at a padded 1x1 grid's position (i, j) comes through the kernel's opposite one
        place = torch.eye(side * side).unflatten(1, (side, side)).flip(1, 2)
        ends = []
        for g, weight in enumerate(synapse.weight):
            group = torch.eye(channels)[g * size : (g + 1) * size, :, None, None]
            picked = self.convolve(f"{name}{g}_pick", group, spikes)
            kernels = torch.einsum("cd,pq->cpdq", one, weight).reshape(-1, size, side, side)
            sums = self.convolve(f"{name}{g}", kernels, picked)
            kernels = torch.einsum("cd,pij->cdpij", one, place).flatten(1, 2)
            placed = self.convolve(f"{name}{g}_place", kernels, sums, padding=side - 1)
            ends.append(self.convolve(f"{name}{g}_join", group.transpose(0, 1), placed))
        return ends

    def finish(self, source: str, **metadata: Any) -> Any:
        """The graph as NIR has it, whose output is ``source``'s; ``metadata`` are stored with it."""
        self.add("output", nir.Output(np.array(self.shape(source))), source)
        return nir.NIRGraph(self.nodes, self.edges, {"dt": DT, **metadata})


def neurons(settings: config.Neuron, shape: tuple[int, ...]) -> Any:
    """LIF neurons (C, H, W).

    NIR's ``tau dv/dt = v_leak - v + r I`` is our Eq. 1 in steps of ``DT`` with tau = tau DT and r = 1, or r = tau
    without ``decay_input``. Potentials are counted from V_reset, because snnTorch resets to 0.

    Our neurons fire at the threshold, NIR's above it. So r is larger by one rounding of float32, which takes a membrane
    at the threshold above it. (snnTorch does not see the difference without ``decay_input``.)
    """
    threshold, r = settings.v_threshold - settings.v_reset, 1.0 if settings.decay_input else settings.tau
    current = threshold * settings.tau / r  # charges a membrane to the threshold in one step
    r *= current / float(np.nextafter(np.float32(current), np.float32(0)))
    values = settings.tau * DT, r, 0.0, threshold, 0.0
    return nir.LIF(*[np.full(shape, float(value)) for value in values])


@torch.no_grad()
def encoder_graph(encoder: SpikingEncoder, shape: Sequence[int]) -> Any:
    """Images ``shape`` (C, H, W) in [-0.5, 0.5], the same at each step -> spikes (code_dim, h, w) of each step."""
    graph = Graph(shape)
    spikes = graph.fire("second", encoder.second, graph.fire("first", encoder.first, "input"))
    if isinstance(encoder.trunk, Trunk):
        entered = graph.convolve("enter", encoder.trunk.enter.weight, spikes, padding=1)
        spikes = graph.fire("last", encoder.trunk.last, *graph.run_blocks(list(encoder.trunk.blocks), entered))  # type: ignore[arg-type]
    return graph.finish(graph.fire("third", encoder.third, spikes), steps=encoder.steps, input="images - 0.5")


@torch.no_grad()
def sdid_graph(sdid: SDID | ResidualSDID, shape: tuple[int, int]) -> Any:
    """The current of tokens ``shape`` (h, w), (C, h, w) and the same at each step -> (K, h, w), whose mean is the
    logits."""
    out = sdid.out
    if isinstance(sdid, ResidualSDID):
        graph = Graph((out.in_channels, *shape))
        spikes = graph.fire("last", sdid.last, *graph.run_blocks(list(sdid.blocks), "input"))
        logits = graph.convolve("logits", out.weight, spikes, bias=out.bias)
    else:
        graph = Graph((sdid.settings.embed_dim if sdid.settings.input == "embedding" else 2, *shape))
        first = spikes = graph.fire("block0", sdid.first, "input")
        for i, block in enumerate(sdid.rest, 1):
            assert isinstance(block, SpikingLayer)
            spikes = graph.fire(f"block{i}", block, spikes)
        width = graph.shape(first)[0]
        # NIR joins by addition alone; in a node of its own, because readers lose what is added at the output
        parts = [
            graph.convolve(name, weight, source, padding=1)
            for name, weight, source in (
                ("out_first", out.weight[:, :width], first),
                ("out_last", out.weight[:, width:], spikes),
            )
        ]
        logits = graph.convolve("logits", torch.eye(out.out_channels)[:, :, None, None], *parts, bias=out.bias)
    return graph.finish(logits, steps=sdid.settings.T, input="SDID.current of tokens")


def write_nir(model: Model, folder: Path) -> list[Path]:
    """Write ``encoder.nir`` and ``sdid.nir`` of a model into ``folder``.

    Raises UserError for a model of another family, and where the folder cannot be written.
    """
    if not isinstance(model, SpikingDiffusion):
        raise UserError(
            f"{model.config.name} is a run of {model.config.family.title}: NIR files are for Spiking-Diffusion's "
            "networks, so name a run of it"
        )
    graphs = {
        folder / "encoder.nir": encoder_graph(model.vqsvae.encoder, model.config.dataset.shape),
        folder / "sdid.nir": sdid_graph(model.sdid, model.vqsvae.token_shape),
    }
    for path, graph in graphs.items():
        content = io.BytesIO()
        nir.write(content, graph)
        artifacts.write_bytes(path, content.getvalue())
    return list(graphs)
