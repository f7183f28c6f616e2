"""Completing a picture where a mask covers it. Both are files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import Model
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion
from spiking_diffusion.pictures import grid, write_png
from spiking_diffusion.randomness import make_deterministic

log = logging.getLogger(__name__)
COLUMNS = 10
"""Pictures in a row."""


def inpaint(model: Model, picture: Path, mask: Path, n: int, out: Path, **how: Any) -> None:
    """Write one PNG with the picture, the picture with its masked part in grey, and ``n`` completions.

    ``how`` is as in ``SpikingDiffusion.inpaint``. Raises UserError for files that are not pictures, for a mask that has
    another size than the picture or covers nothing, and for a model without tokens.
    """
    if not isinstance(model, SpikingDiffusion):
        raise UserError(f"{model.config.name} is a run of {model.config.family.title}, which has no tokens")
    make_deterministic(model.config.recipe.sample.threads)
    image, covered = read(picture, mask, model.config.dataset.shape)
    completed = model.inpaint(image, covered, n, **how)
    shown = torch.cat([image, torch.where(covered, torch.tensor(0.5), image), completed])
    write_png(out, grid(to_uint8(shown).numpy(), columns=min(COLUMNS, len(shown))))


def read(picture: Path, mask: Path, shape: list[int]) -> tuple[Tensor, Tensor]:
    """A picture as (1, C, H, W) in [0, 1], and the pixels (H, W) that its mask covers, of a dataset's ``shape``.

    Pictures of another size are resized. Transparent pixels are black. A pixel is covered if any part of it is lighter
    than half in the mask.
    """
    channels, height, width = shape
    one, other = _open(picture), _open(mask).convert("L")
    if one.size != other.size:
        sizes = [f"{file} is {image.width} x {image.height} pixels" for file, image in ((picture, one), (mask, other))]
        raise UserError(f"{', '.join(sizes)}: a mask has the size of its picture")
    if one.size != (width, height):
        log.info("%s is %d x %d pixels, and is resized to %d x %d", picture, *one.size, width, height)
    plain = one.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.LANCZOS)
    light = torch.from_numpy(np.asarray(other) > 127).float()[None]
    covered = F.adaptive_max_pool2d(light, (height, width))[0] > 0
    if not covered.any():
        raise UserError(f"{mask} covers nothing: paint the part to be redrawn white")
    pixels = np.asarray(plain).reshape(height, width, channels).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy())[None] / 255, covered


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except Exception as error:  # each decoder has its own exceptions
        raise UserError(f"{path} cannot be read as a picture ({' '.join(str(error).split())})") from error
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if "transparency" in upright.info or upright.mode in ("LA", "PA", "RGBA"):
        full = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", full.size, (0, 0, 0, 255)), full).convert("RGB")
    return upright.convert("RGB") if upright.mode not in ("L", "RGB") else upright
