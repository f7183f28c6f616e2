"""Scores of images of other programs, in the columns of our tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Evaluate, Params, Protocol
from spiking_diffusion.data.folder import read_images
from spiking_diffusion.data.images import load_images
from spiking_diffusion.errors import UserError, unknown
from spiking_diffusion.metrics.distances import LEAST
from spiking_diffusion.metrics.protocols import Images, measure
from spiking_diffusion.stages.evaluate import copying, reading

SEED, BATCH, KID = 0, 250, (1000, 100)


@torch.no_grad()
def score(params: Params, dataset: str, path: Path, protocols: list[str], device: torch.device) -> dict[str, Any]:
    """Metrics of the images at ``path``, an .npz or a folder, by ``protocols`` against a dataset.

    An .npz has one array, or one called ``images``: (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1].
    A folder has PNG and JPEG files. Raises UserError for images that do not fit the dataset.
    """
    for name in protocols:
        if name not in get_args(Protocol):
            raise UserError(f"--protocols has {name!r}: {unknown('protocol', name, dict.fromkeys(get_args(Protocol)))}")
    entry = params.dataset(dataset)
    if path.is_dir():
        try:
            images = np.stack(list(read_images(entry, path)[0].values()))
        except ValueError as error:
            raise UserError(f"{path} cannot be scored: {error}") from error
    else:
        images = as_stored(path, _only_array(path), entry.shape)
    if len(images) < LEAST:
        raise UserError(f"{path} has {len(images)} images: precision and recall need {LEAST} or more")
    data, judges = load_images(paths.data_path(dataset)), paths.classifier_path(dataset)
    artifacts.require(judges)
    generated, none = torch.from_numpy(images), torch.empty(0, *entry.shape, dtype=torch.uint8)
    sets = Images(generated, none, none, data.images)
    settings = Evaluate.model_construct(
        protocols=protocols, batch_size=BATCH, kid_subset_size=KID[0], kid_subsets=KID[1]
    )
    measured, _ = measure(sets, settings, params.inception, judges, SEED, device)
    asked = {key: value for key, value in measured.items() if key.partition("_")[0] in protocols}
    return {
        "dataset": dataset,
        "images": len(images),
        **asked,
        **reading(sets, data.labels["train"], judges, BATCH, device),
        **copying(generated, data.images["test"], data.images["train"], judges, BATCH, SEED, device),
    }


def _only_array(path: Path) -> np.ndarray:
    arrays = artifacts.read_npz(path) if path.is_file() else None
    if arrays is None:
        raise UserError(f"there is no file or folder {path}: name an .npz or a folder of images")
    if len(arrays) > 1 and "images" not in arrays:
        raise UserError(f"{path} has the arrays {', '.join(sorted(arrays))}: call the one with images `images`")
    return arrays.get("images", next(iter(arrays.values())))


def as_stored(path: Path, images: np.ndarray, shape: list[int]) -> np.ndarray:
    """Convert images in any usual layout to uint8 (N, C, H, W) of ``shape`` (C, H, W)."""
    channels, *sides = shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and list(images.shape[1:3]) == sides and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or list(images.shape[2:]) != sides:
        raise UserError(f"{path} has images of shape {images.shape[1:]}, the dataset's are {tuple(shape)}: resize them")
    if images.shape[1] != channels:
        if images.shape[1] == 3 and (images == images[:, :1]).all():
            images = images[:, :1]  # grey in three equal channels
        else:
            kind = "grey" if channels == 1 else "colour"
            raise UserError(f"{path} has images of {images.shape[1]} channels, the dataset's are {kind}: convert them")
    if images.dtype.kind == "f":
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise UserError(
                f"{path} has floats from {images.min()} to {images.max()}: save them in [0, 1], or as uint8"
            )
        images = (images * 255).round().astype(np.uint8)
    if images.dtype != np.uint8:
        raise UserError(f"{path} is {images.dtype}: save images as uint8, or as floats in [0, 1]")
    return np.ascontiguousarray(images)
