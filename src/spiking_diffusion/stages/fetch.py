"""The ``fetch`` stage: a dataset's files -> ``results/data/{dataset}.npz``, its card and its contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.config import Dataset, LocalFile
from spiking_diffusion.data.card import card, contact_sheet
from spiking_diffusion.data.formats import Arrays, read_dataset
from spiking_diffusion.data.sources import locate, obtain
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.paths import DOWNLOADS
from spiking_diffusion.pictures import write_png

FOLDERS = ("folder", "emnist-zip", "cifar-bin", "cifar-python")
"""Formats that allow unpacked files in a folder."""


def run(job: Job) -> dict[str, Any]:
    """Get, verify, split and store one dataset, with its card and its contact sheet."""
    name, dataset = job.name, job.params.dataset(job.name)
    found = {
        role: locate(name, role, file, dataset.format in FOLDERS)
        if isinstance(file, LocalFile)
        else obtain(name, file, DOWNLOADS / name)
        for role, file in dataset.files.items()
    }
    arrays = read_dataset(dataset, {role: file.path for role, file in found.items()})
    splits = _split(name, dataset, arrays)
    content = {f"{split}_{kind}": splits[split][i] for split in SPLITS for i, kind in enumerate(("images", "labels"))}
    artifacts.write_npz(job.out, content)
    artifacts.write_json(paths.card_path(name), card(dataset, splits, found, job.out))
    write_png(paths.sheet_path(name), contact_sheet(*splits["train"], dataset.classes))
    return {"inputs": {Path(file.source).as_posix(): file.sha256 for file in found.values() if not file.verified}}


def _split(name: str, dataset: Dataset, arrays: Arrays) -> Arrays:
    """Set validation images aside, and test images if the dataset has none, by seed, in their original order."""
    images, labels = arrays["train"]
    sizes = {"validation": dataset.split.validation}
    if "test" not in arrays:
        sizes["test"] = dataset.split.test
    elif dataset.split.test:
        raise UserError(
            f"{name} has {len(arrays['test'][0])} test images, and params.yaml takes {dataset.split.test} more from "
            f"its training images: set datasets.{name}.split.test to 0"
        )
    if min(sizes.values()) < 1 or sum(sizes.values()) >= len(images):
        parts = ", ".join(f"{size} for {split}" for split, size in sizes.items())
        raise UserError(
            f"{name} has {len(images)} image{'s' * (len(images) > 1)}, which cannot be split into {parts} "
            f"and the rest for training, some of each: correct datasets.{name}.split in params.yaml"
        )
    order = np.random.default_rng(dataset.split.seed).permutation(len(images))
    splits = Arrays(arrays)
    splits.class_names, splits.skipped = arrays.class_names, arrays.skipped
    for split, size in sizes.items():
        chosen, order = np.sort(order[:size]), order[size:]
        splits[split] = images[chosen], labels[chosen]
    splits["train"] = images[np.sort(order)], labels[np.sort(order)]
    return splits
