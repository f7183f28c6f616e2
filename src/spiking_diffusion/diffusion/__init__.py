"""Absorbing-state diffusion over tokens and the spiking network that reverses it (Sec. 2.3)."""

from spiking_diffusion.diffusion.absorbing import AbsorbingDiffusion
from spiking_diffusion.diffusion.residual import ResidualSDID
from spiking_diffusion.diffusion.sampler import sample_tokens
from spiking_diffusion.diffusion.sdid import SDID

__all__ = ["SDID", "AbsorbingDiffusion", "ResidualSDID", "sample_tokens"]
