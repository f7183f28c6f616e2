"""The format ``folder``: PNG and JPEG images, one folder per class, in a folder or an archive of one."""

from __future__ import annotations

import io
import logging
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spiking_diffusion.config import Dataset
from spiking_diffusion.data.archives import members

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe")
CHANNELS = {"1": 1, "L": 1, "RGB": 3}
"""Channels by Pillow's mode; others have transparency, 16 bits or inks."""
KINDS = {1: "grey (1 channel)", 3: "colour (3 channels)"}
FILE_LIMIT = 64 * 2**20
"""The most bytes that are read of one image file."""

Parts = tuple[str, ...]


def read_images(dataset: Dataset, path: Path) -> tuple[dict[Parts, np.ndarray], int]:
    """Every image in a folder or archive as (C, H, W) uint8, by the parts of its name, in order of names.

    Names are in Unicode's composed form, because archives from a Mac have another form. The second value is the number
    of files that are skipped because their names are not those of images. Raises ValueError, naming the file, for an
    image that is damaged or not of the dataset's kind, and for two names that look the same.
    """
    found: dict[Parts, np.ndarray] = {}
    skipped = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for member in members(path):
            parts = tuple(unicodedata.normalize("NFC", member.name).split("/"))
            if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
                continue
            if not member.name.lower().endswith(SUFFIXES):
                skipped += 1
                continue
            if parts in found:
                raise ValueError(f"it has two files {'/'.join(parts)!r}, whose names look the same")
            found[parts] = _decode(member.read(FILE_LIMIT), member.name, dataset)
    if skipped:
        log.warning("%s: %d files are skipped, because they are not named %s", path, skipped, ", ".join(SUFFIXES))
    return {parts: found[parts] for parts in sorted(found)}, skipped


def _decode(raw: bytes, name: str, dataset: Dataset) -> np.ndarray:
    channels, height, width = dataset.shape
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
            image.verify()  # checks the checksums of a PNG, which decoding skips
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
            image.load()
            upright, kind = _plain(ImageOps.exif_transpose(image), channels)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is damaged or no PNG or JPEG") from error
    except Exception as error:  # each decoder has its own exceptions
        raise ValueError(f"{name} is damaged: {error}") from error
    if kind not in CHANNELS:
        raise ValueError(f"{name} has pixels of the kind {kind}: save it as 8-bit grey or RGB without transparency")
    if CHANNELS[kind] != channels:
        raise ValueError(f"{name} is {KINDS[CHANNELS[kind]]}, shape {dataset.shape} means {KINDS[channels]}")
    plain = upright.convert("L" if channels == 1 else "RGB")
    if dataset.resize == "crop":
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.LANCZOS)
    elif dataset.resize == "stretch":
        plain = plain.resize((width, height), Image.Resampling.LANCZOS)
    elif plain.size != (width, height):
        raise ValueError(
            f"{name} is {plain.height} pixels high and {plain.width} wide, shape {dataset.shape} says {height} and "
            f"{width}: set resize to crop or stretch"
        )
    return np.asarray(plain).reshape(height, width, channels).transpose(2, 0, 1)


def _plain(image: Image.Image, channels: int) -> tuple[Image.Image, str]:
    """The image and its kind, without a palette and without an opaque alpha channel.

    A palette of greys is grey if ``channels`` is 1. The kind is L, RGB, or a word for any other kind.
    """
    stored = image.mode in ("1", "LA", "P", "PA", "RGBA") or "transparency" in image.info
    if not stored or image.mode.startswith("I"):
        return image, image.mode
    full = image.convert("RGBA")
    if np.asarray(full.getchannel("A")).min() < 255:
        return image, image.mode if image.mode.endswith("A") else f"transparent {image.mode}"
    if image.mode in ("1", "L", "LA"):
        return image.convert("L"), "L"
    colour = full.convert("RGB")
    red, green, blue = (band.tobytes() for band in colour.split())
    if channels == 1 and image.mode in ("P", "PA") and red == green == blue:
        return colour.getchannel("R"), "L"
    return colour, "RGB"


def layout(names: Iterable[Parts], classes: int) -> tuple[dict[str, list[tuple[Parts, int | None]]], tuple[str, ...]]:
    """Sort names of images into ``train`` and ``test``, each with its label, or None without class folders.

    ``[train/|test/][class/]image``; folders around all of that do not matter. The second value is the classes in
    the order of their labels. Raises ValueError for any other layout.
    """
    inner = {name: name for name in names}
    while len(heads := {parts[0].lower() for parts in inner.values()}) == 1 and not heads & {"train", "test"}:
        if min(map(len, inner.values())) == 1:
            break
        inner = {name: parts[1:] for name, parts in inner.items()}
    split_of = dict.fromkeys(inner, "train")
    if heads and heads <= {"train", "test"}:
        split_of = {name: parts[0].lower() for name, parts in inner.items()}
        inner = {name: parts[1:] for name, parts in inner.items()}
        if "train" not in heads:
            raise ValueError("it has a folder test but no folder train")

    depths = {len(parts): "/".join(name) for name, parts in inner.items()}
    if len(depths) > 1 or max(depths, default=1) > 2:
        raise ValueError(
            f"{' and '.join(depths.values())}: put all images in one folder, or in one folder per class, "
            "and these folders may be in train and test"
        )
    label_of: dict[Parts, int | None] = dict.fromkeys(inner)
    found: tuple[str, ...] = ()
    if 2 in depths:
        found = tuple(sorted({parts[0] for name, parts in inner.items() if split_of[name] == "train"}))
        if len(found) != classes:
            raise ValueError(f"it has {len(found)} class folders ({', '.join(found[:20])}), params.yaml says {classes}")
        number = {name: label for label, name in enumerate(found)}
        if unknown := {parts[0] for parts in inner.values()} - number.keys():
            raise ValueError(f"its class {min(unknown)} is in test but not in train")
        label_of = {name: number[parts[0]] for name, parts in inner.items()}
    return {
        split: [(name, label_of[name]) for name in inner if split_of[name] == split]
        for split in ("train", "test")
        if split in split_of.values()
    }, found
