"""FSVAE, the fully spiking variational autoencoder (Kamata et al. 2022): the baseline of Table 1."""

from spiking_diffusion.fsvae.latent import Posterior, Prior
from spiking_diffusion.fsvae.model import FSVAE, FSVAEOutput, fsvae_loss

__all__ = ["FSVAE", "FSVAEOutput", "Posterior", "Prior", "fsvae_loss"]
