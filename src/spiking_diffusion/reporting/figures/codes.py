"""The codebook: how often each code is used, and what it decodes to."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.pictures import grid
from spiking_diffusion.reporting.figures.images import show
from spiking_diffusion.reporting.groups import Group, with_codes


def codebook(groups: list[Group]) -> Figure:
    """For each group the share of every code in the training tokens, and the codes as images in the same order."""
    shown = with_codes(groups)
    if len(shown) == 1:
        figure, axes = plt.subplots(2, 1, figsize=(7.2, 5.0), height_ratios=[1, 2.6], layout="constrained")
    else:
        figure, axes = plt.subplots(len(shown), 2, figsize=(9.0, 2.6 * len(shown)), layout="constrained")
    for (bars, pictures), group in zip(axes.reshape(-1, 2), shown, strict=True):
        path = paths.tokens_path(group.first.name)
        tokens, size = artifacts.read_array(path, "train"), int(artifacts.read_array(path, "size"))
        counts = np.bincount(tokens.ravel(), minlength=size)
        order = np.argsort(-counts, kind="stable")
        share = counts[order] / counts.sum()
        used = share[share > 0]
        spread = float(np.exp(-(used * np.log(used)).sum()))
        bars.bar(np.arange(size) + 1, share, width=1.0, linewidth=0)
        bars.axhline(1 / size, color="#444444", linewidth=0.8, linestyle=":", label="even use")
        bars.set(xlim=(0.5, size + 0.5), yscale="log", xlabel="code, by frequency", ylabel="share of tokens")
        bars.legend()
        bars.set_title(f"{group.first.name}: {len(used)} of {size} codes used, perplexity {spread:.1f}")
        traces = artifacts.read_npz(paths.traces_path(group.first.name))
        codes = traces["codes"].copy()
        codes[traces["occurrences"] == 0] = 200  # as light as the gaps
        show(pictures, grid(codes[order], min(16, size), gap=2))
        pictures.set_xlabel("codes with their neighbours, decoded; in the same order, row by row")
    return figure
