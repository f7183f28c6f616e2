"""A synapse (convolution or linear map), batch normalisation and LIF neurons as one layer."""

from __future__ import annotations

from torch import Tensor, nn

from spiking_diffusion import config
from spiking_diffusion.snn.neuron import LIF


class SpikingLayer(nn.Module):
    """``synapse`` -> ``norm`` -> LIF.

    Statistics of ``norm`` are taken over time and batch together.
    """

    def __init__(self, synapse: nn.Module, norm: nn.Module, neuron: config.Neuron) -> None:
        super().__init__()
        self.synapse = synapse
        self.norm = norm
        self.lif = LIF(neuron)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, ...) for a spike train (T, B, ...)."""
        current = self.norm(self.synapse(spikes.flatten(0, 1)))
        return self.lif(current.unflatten(0, spikes.shape[:2]))

    def forward_constant(self, x: Tensor, steps: int) -> Tensor:
        """Spikes (steps, B, ...) for an input (B, ...) that is the same at every step.

        Synapse and norm see it once: all steps have the same current, hence the same mean and variance.
        """
        current = self.norm(self.synapse(x))
        return self.lif(current.expand(steps, *current.shape))

    def step(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """One time step on (B, ...): spikes and membranes. ``v`` is None at the first step."""
        current = self.norm(self.synapse(x))
        return self.lif.step(current, self.lif.rest(current) if v is None else v)


def conv(neuron: config.Neuron, c_in: int, c_out: int, kernel: int, stride: int = 1) -> SpikingLayer:
    """Conv + BatchNorm + LIF; ``stride`` divides height and width exactly. No bias: the norm has one."""
    synapse = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return SpikingLayer(synapse, nn.BatchNorm2d(c_out), neuron)


def conv_transpose(neuron: config.Neuron, c_in: int, c_out: int) -> SpikingLayer:
    """ConvTranspose 3x3 that doubles height and width, + BatchNorm + LIF."""
    synapse = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False)
    return SpikingLayer(synapse, nn.BatchNorm2d(c_out), neuron)


def linear(neuron: config.Neuron, n_in: int, n_out: int) -> SpikingLayer:
    """Linear + BatchNorm + LIF."""
    return SpikingLayer(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), neuron)
