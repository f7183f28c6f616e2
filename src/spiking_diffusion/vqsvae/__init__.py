"""VQ-SVAE: images to discrete codes and back through spiking layers (Sec. 2.2)."""

from spiking_diffusion.vqsvae.codebook import Codebook
from spiking_diffusion.vqsvae.model import VQSVAE, VQSVAEOutput
from spiking_diffusion.vqsvae.objective import vqsvae_loss

__all__ = ["VQSVAE", "Codebook", "VQSVAEOutput", "vqsvae_loss"]
