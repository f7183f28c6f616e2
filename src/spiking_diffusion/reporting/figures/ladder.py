"""Where a suite's samples are between real images and noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.pictures import grid
from spiking_diffusion.reporting.figures.images import by_dataset, show
from spiking_diffusion.reporting.groups import Group
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, plain_log, size

SHOWN = 10
"""Images in a row."""


def ladder(groups: list[Group]) -> Figure:
    """For each dataset a row of images for every impostor and every group, in the order of their FID.

    FID and the share that is legible are next to them.
    """
    datasets = by_dataset(groups)
    rungs = {name: rungs_of(name, here) for name, here in datasets.items()}
    heights = [len(found) for found in rungs.values()]
    figure, axes = plt.subplots(
        len(datasets),
        3,
        figsize=size(TWO_COLUMNS, 1, 0.34 * sum(heights) + 0.5 * len(heights)),
        width_ratios=[3.4, 2.0, 1.0],
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for number, (line, (name, found)) in enumerate(zip(axes, rungs.items(), strict=True)):
        pictures, fids, shares = line
        show(pictures, grid(np.concatenate([full_row(images) for *_, images in found]), SHOWN))
        pictures.set_aspect("auto")  # rows are as high as those of the other axes
        side = found[0][-1].shape[2] + 1
        pictures.set_yticks([side * (i + 0.5) for i in range(len(found))], [label for label, *_ in found])
        pictures.tick_params(length=0)
        pictures.set_title(datasets[name][0].first.dataset.title)
        for axis, at, title in ((fids, 1, "FID (classifier)"), (shares, 2, "legible")):
            values = np.array([row[at] for row in found], float)
            colours = [COLOURS[row[3] or "reference"] for row in found]
            axis.scatter(values, range(len(found)), 25, colours)
            if number == 0:
                axis.set_title(title)
            axis.set(ylim=(len(found) - 0.5, -0.5), yticks=range(len(found)))
            axis.tick_params(labelleft=False, length=0)
        fids.set_xscale("log")
        plain_log(fids.xaxis)
        shares.set_xlim(-0.05, 1.05)
    return figure


def rungs_of(dataset: str, here: list[Group]) -> list[tuple[str, float, float, str, np.ndarray]]:
    """Name, FID, legible share, model or "", and images, of impostors and groups, the best first."""
    path = paths.ladder_path(dataset)
    try:
        scores = pd.read_csv(artifacts.require(path)).astype({"images": str, "fid": float, "legible": float})
        if scores.empty:
            raise ValueError("no images in it")
    except (KeyError, ValueError) as error:
        raise artifacts.damaged(path, error) from error
    columns = scores[["images", "fid", "legible"]].itertuples(index=False, name=None)
    found = [(*row, "", artifacts.read_array(path.with_suffix(".npz"), row[0])[:SHOWN]) for row in columns]
    for group in here:
        rows = [read_row(run.name) for run in group.runs]
        values = [
            np.mean([np.nan if row.get(key) is None else row[key] for row in rows])
            for key in ("classifier_fid", "legible")
        ]
        images = artifacts.read_array(paths.samples_path(group.first.name), "images")[:SHOWN]
        found.append((group.title, float(values[0]), float(values[1]), group.first.model, images))
    return sorted(found, key=lambda row: np.inf if np.isnan(row[1]) else row[1])


def full_row(images: np.ndarray) -> np.ndarray:
    """As many images as a row has, with light grey ones in place of those that are missing."""
    row = np.full((SHOWN, *images.shape[1:]), 200, np.uint8)
    row[: len(images)] = images
    return row
