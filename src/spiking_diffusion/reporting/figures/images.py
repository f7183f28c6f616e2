"""Images that models draw and rebuild."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import FAMILIES
from spiking_diffusion.pictures import grid
from spiking_diffusion.reporting.groups import Group
from spiking_diffusion.reporting.style import ONE_COLUMN, TWO_COLUMNS, size

SIDE, PAIRS, COLUMNS = 7, 14, 4
"""Samples along each side of a panel, test images in a row of reconstructions, panels beside each other at most."""


def by_dataset(groups: list[Group]) -> dict[str, list[Group]]:
    """Groups by dataset, FSVAE before Spiking-Diffusion as in the paper's Fig. 2."""
    datasets = dict.fromkeys(group.first.dataset_name for group in groups)
    order = list(FAMILIES)[::-1]
    return {
        name: sorted((g for g in groups if g.first.dataset_name == name), key=lambda g: order.index(g.first.model))
        for name in datasets
    }


def samples(groups: list[Group]) -> Figure:
    """Fig. 2 of the paper, a row for each dataset and a column for each model, and test images at the end."""
    rows: list[list[tuple[str, np.ndarray]]] = []
    titles: list[str] = []
    for name, here in by_dataset(groups).items():
        panels = [
            (g.title.replace(", ", "\n"), artifacts.read_array(paths.samples_path(g.first.name), "images"))
            for g in here
        ]
        test = artifacts.read_array(paths.data_path(name), "test_images")
        panels.append(("Test images", test[by_chance(len(test), SIDE**2)]))
        for start in range(0, len(panels), COLUMNS):
            rows.append(panels[start : start + COLUMNS])
            titles.append(here[0].first.dataset.title)
    columns = max(map(len, rows))
    width = ONE_COLUMN if columns < 3 else TWO_COLUMNS
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=size(width, len(rows), width / columns + 0.35),
        squeeze=False,
        layout="constrained",
    )
    above: list[str] = []
    for line, row, title in zip(axes, rows, titles, strict=True):
        labels = [label for label, _ in row]
        for axis, (label, images) in zip(line, row, strict=False):
            show(axis, grid(images[: SIDE**2], SIDE), label if labels != above else "")
        above = labels
        line[0].set_ylabel(title)
        for axis in line[len(row) :]:
            axis.set_axis_off()
    return figure


def reconstructions(groups: list[Group]) -> Figure:
    """Test images, and below each what every model makes of it."""
    rows: list[tuple[str, np.ndarray, str]] = []
    for name, here in by_dataset(groups).items():
        images = artifacts.read_array(paths.data_path(name), "test_images")
        picked = by_chance(len(images), PAIRS)
        rows.append(("Test images", images[picked], here[0].first.dataset.title))
        for group in here:
            images = artifacts.read_array(paths.reconstructions_path(group.first.name), "images")
            rows.append((group.title.replace(", ", "\n"), images[picked], ""))
    figure, axes = plt.subplots(
        len(rows), 1, figsize=size(TWO_COLUMNS, len(rows), 0.42), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.01, hspace=0)
    for axis, (label, images, title) in zip(axes[:, 0], rows, strict=True):
        show(axis, grid(images, PAIRS), title)
        axis.set_yticks([images.shape[2] / 2], [label])
        axis.tick_params(length=0)
    return figure


def by_chance(size: int, n: int) -> np.ndarray:
    """Indices of at most ``n`` of ``size`` images, always the same: the first of a test set may be all of one class."""
    return np.random.default_rng(0).permutation(size)[:n]


def show(axis: Axes, picture: np.ndarray, title: str = "") -> None:
    """A picture (H, W[, 3]) uint8 without frame and ticks."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    if title:
        axis.set_title(title)
