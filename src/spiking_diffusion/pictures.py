"""Many images in one, and pictures as files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from spiking_diffusion import artifacts


def grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images (N, C, H, W) uint8 -> one picture (rows, columns[, 3]) uint8, light grey in empty places."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 200, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        picture[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return picture[..., 0] if channels == 1 else picture


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture; equal pictures give equal bytes."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    artifacts.write_bytes(path, content.getvalue())
