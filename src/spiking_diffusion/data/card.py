"""The card of numbers and the contact sheet of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spiking_diffusion import artifacts
from spiking_diffusion.config import Dataset
from spiking_diffusion.data.formats import Arrays
from spiking_diffusion.data.sources import Found
from spiking_diffusion.pictures import grid

ROWS, COLUMNS = 30, 10
"""Classes, and images of each, on a contact sheet."""


def card(dataset: Dataset, splits: Arrays, found: Mapping[str, Found], stored: Path) -> dict[str, Any]:
    """Counts, brightness, hashes, sources and licence of a dataset; pixel values are of training images in [0, 1]."""
    return {
        "title": dataset.title,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "format": dataset.format,
        "shape": dataset.shape,
        "classes": dataset.classes,
        "class_names": list(splits.class_names),
        "images": {
            split: {"total": len(labels), "by_class": np.bincount(labels, minlength=dataset.classes).tolist()}
            for split, (_, labels) in splits.items()
        },
        "files_skipped": splits.skipped,
        "pixels": _pixels(splits["train"][0]),
        "files": {
            role: {"source": file.source, "sha256": file.sha256, "verified": file.verified}
            for role, file in found.items()
        },
        "sha256": artifacts.sha256(stored),
    }


def _pixels(images: np.ndarray) -> dict[str, Any]:
    """Mean and variance of all pixels and of each channel, from the counts of the 256 values."""
    channels = range(images.shape[1])
    counts = np.zeros((len(channels), 256))
    for start in range(0, len(images), 1000):  # bincount makes eight bytes of each pixel
        part = images[start : start + 1000]
        counts += [np.bincount(part[:, c].ravel(), minlength=256) for c in channels]
    counts = np.concatenate([counts, counts.sum(0, keepdims=True)])
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return {
        "mean": mean[-1],
        "variance": variance[-1],
        "channel_mean": mean[:-1].tolist(),
        "channel_variance": variance[:-1].tolist(),
    }


def contact_sheet(images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The first images of each class, one row per class, twice as large: (rows, columns[, 3]) uint8.

    If there is only one class, its first hundred images.
    """
    rows = min(classes, ROWS)
    if classes == 1:
        labels, rows = np.arange(len(labels)) // COLUMNS, COLUMNS
    shown = np.full((rows * COLUMNS, *images.shape[1:]), 200, np.uint8)
    for row in range(rows):
        chosen = images[np.flatnonzero(labels == row)[:COLUMNS]]
        shown[row * COLUMNS : row * COLUMNS + len(chosen)] = chosen
    return grid(shown, COLUMNS).repeat(2, 0).repeat(2, 1)
