"""Datasets: fetched, verified, and kept as one .npz of uint8 images each."""

from spiking_diffusion.data.images import ImageSet, load_images

__all__ = ["ImageSet", "load_images"]
