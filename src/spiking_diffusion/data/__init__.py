"""Datasets: fetched, verified, and kept as one .npz of uint8 images each (``fetch``, ``images``)."""
