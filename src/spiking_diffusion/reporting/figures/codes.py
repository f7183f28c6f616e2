"""The codebook: how often each code is used, and what it decodes to."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.pictures import grid
from spiking_diffusion.reporting.figures.images import show
from spiking_diffusion.reporting.groups import Group, legend, with_codes
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, plain_log, size


def codebook(groups: list[Group]) -> Figure:
    """For each group the share of every code in the training tokens, and the codes as images in the same order."""
    shown = with_codes(groups)
    if len(shown) == 1:
        figure, axes = plt.subplots(2, 1, figsize=(TWO_COLUMNS, 4.8), height_ratios=[1, 2.6], layout="constrained")
    else:
        figure, axes = plt.subplots(len(shown), 2, figsize=size(TWO_COLUMNS, len(shown), 2.0), layout="constrained")
    for (bars, pictures), group in zip(axes.reshape(-1, 2), shown, strict=True):
        path = paths.tokens_path(group.first.name)
        tokens, codes = artifacts.read_array(path, "train"), int(artifacts.read_array(path, "size"))
        counts = np.bincount(tokens.ravel(), minlength=codes)
        order = np.argsort(-counts, kind="stable")
        share = counts[order] / counts.sum()
        used = share[share > 0]
        spread = float(np.exp(-(used * np.log(used)).sum()))
        bars.bar(np.arange(codes) + 1, share, width=1.0, linewidth=0, color=COLOURS[group.first.model])
        bars.axhline(1 / codes, color=COLOURS["reference"], linewidth=1, linestyle=":", label="all codes alike")
        bars.set(xlim=(0.5, codes + 0.5), yscale="log", ylabel="share of tokens")
        plain_log(bars.yaxis)
        name = legend(group, shown)
        bars.set_title(f"{name}: {len(used)} of {codes} codes used, perplexity {spread:.1f}", loc="left")
        traces = artifacts.read_npz(paths.traces_path(group.first.name))
        decoded = traces["codes"].copy()
        decoded[traces["occurrences"] == 0] = 200  # as light as the gaps
        show(pictures, grid(decoded[order], min(16, codes), gap=2))
    bars.set_xlabel("code, most frequent first")
    pictures.set_xlabel("decoded codes, row by row")
    axes.flat[0].legend(loc="upper right")
    return figure
