"""The ``fetch`` stage: a dataset's files -> ``results/data/{dataset}.npz``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.config import Dataset, Params
from spiking_diffusion.data.formats import Arrays, read_dataset
from spiking_diffusion.data.sources import obtain
from spiking_diffusion.errors import UserError


def fetch(params: Params, name: str) -> Path:
    """Obtain, verify, split and store one dataset."""
    dataset = params.dataset(name)
    channels, height, width = dataset.shape
    cache = Path("work/downloads", name)
    files = {role: obtain(name, file, cache) for role, file in dataset.files.items()}
    arrays = read_dataset(dataset.format, (channels, height, width), files)
    labels = np.concatenate([y for _, y in arrays.values()])
    if labels.max() >= dataset.classes:
        raise UserError(
            f"{name} has a label {labels.max()}, params.yaml says {dataset.classes} classes from 0: "
            f"correct datasets.{name}.classes"
        )

    out = artifacts.data_path(name)
    splits = _split(name, dataset, arrays)
    content = {f"{split}_{kind}": splits[split][i] for split in SPLITS for i, kind in enumerate(("images", "labels"))}
    artifacts.write_npz(out, content)
    artifacts.write_json(artifacts.settings_path(out), pipeline.record(params, "fetch", name))
    return out


def _split(name: str, dataset: Dataset, arrays: Arrays) -> Arrays:
    """Set validation images (and test images, where there are none) aside, by seed, in their original order."""
    images, labels = arrays["train"]
    sizes = {"validation": dataset.split.validation} | ({} if "test" in arrays else {"test": dataset.split.test})
    if min(sizes.values()) < 1 or sum(sizes.values()) >= len(images):
        raise UserError(
            f"{name} has {len(images)} images, which cannot spare {sizes} and leave some of each: "
            f"correct datasets.{name}.split in params.yaml"
        )
    order = np.random.default_rng(dataset.split.seed).permutation(len(images))
    splits = dict(arrays)
    for split, size in sizes.items():
        chosen, order = np.sort(order[:size]), order[size:]
        splits[split] = images[chosen], labels[chosen]
    splits["train"] = images[np.sort(order)], labels[np.sort(order)]
    return splits
