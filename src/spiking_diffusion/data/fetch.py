"""The ``fetch`` stage: a dataset's files -> ``results/data/{dataset}.npz``, its card and its contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.config import Dataset, LocalFile, Params
from spiking_diffusion.data.card import card, contact_sheet, write_png
from spiking_diffusion.data.formats import Arrays, read_dataset
from spiking_diffusion.data.sources import Found, locate, obtain
from spiking_diffusion.errors import UserError

DOWNLOADS = Path("work/downloads")


def fetch(params: Params, name: str) -> Path:
    """Obtain, verify, split and store one dataset."""
    dataset = params.dataset(name)
    found = {
        role: locate(name, role, file, dataset.format == "folder")
        if isinstance(file, LocalFile)
        else obtain(name, file, DOWNLOADS / name)
        for role, file in dataset.files.items()
    }
    arrays = read_dataset(dataset, {role: file.path for role, file in found.items()})
    return _store(params, name, _split(name, dataset, arrays), found)


def _store(params: Params, name: str, splits: Arrays, found: dict[str, Found]) -> Path:
    dataset, out = params.dataset(name), artifacts.data_path(name)
    content = {f"{split}_{kind}": splits[split][i] for split in SPLITS for i, kind in enumerate(("images", "labels"))}
    artifacts.write_npz(out, content)
    artifacts.write_json(artifacts.card_path(name), card(dataset, splits, found, out))
    write_png(artifacts.sheet_path(name), contact_sheet(*splits["train"], dataset.classes))
    own = {file.source: file.sha256 for file in found.values() if not file.verified}
    record = pipeline.record(params, "fetch", name) | {"inputs": own}
    pipeline.seal(record, out, artifacts.card_path(name), artifacts.sheet_path(name))
    return out


def _split(name: str, dataset: Dataset, arrays: Arrays) -> Arrays:
    """Set validation images (and test images, where there are none) aside, by seed, in their original order."""
    images, labels = arrays["train"]
    sizes = {"validation": dataset.split.validation}
    if "test" not in arrays:
        sizes["test"] = dataset.split.test
    elif dataset.split.test:
        raise UserError(
            f"{name} brings {len(arrays['test'][0])} test images, params.yaml asks for {dataset.split.test} out of "
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
    splits.class_names = arrays.class_names
    for split, size in sizes.items():
        chosen, order = np.sort(order[:size]), order[size:]
        splits[split] = images[chosen], labels[chosen]
    splits["train"] = images[np.sort(order)], labels[np.sort(order)]
    return splits
