"""Spiking building blocks: neuron, layers, readouts, and the encoder and decoder of both models."""

from spiking_diffusion.snn.autoencoder import SpikingDecoder, SpikingEncoder, StridedDecoder, StridedEncoder
from spiking_diffusion.snn.layers import SpikingLayer, set_precision, use_kernels
from spiking_diffusion.snn.neuron import LIF
from spiking_diffusion.snn.readout import psp, psp_distance, sfr, weighted_sum

__all__ = [
    "LIF",
    "SpikingDecoder",
    "SpikingEncoder",
    "SpikingLayer",
    "StridedDecoder",
    "StridedEncoder",
    "psp",
    "psp_distance",
    "set_precision",
    "sfr",
    "use_kernels",
    "weighted_sum",
]
