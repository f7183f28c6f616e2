"""Spiking building blocks: neuron, layers, readouts, and the encoder and decoder that both models share."""

from spiking_diffusion.snn.autoencoder import SpikingDecoder, SpikingEncoder
from spiking_diffusion.snn.layers import SpikingLayer
from spiking_diffusion.snn.neuron import LIF, use_fused
from spiking_diffusion.snn.readout import psp, psp_distance, sfr, weighted_sum

__all__ = [
    "LIF",
    "SpikingDecoder",
    "SpikingEncoder",
    "SpikingLayer",
    "psp",
    "psp_distance",
    "sfr",
    "use_fused",
    "weighted_sum",
]
