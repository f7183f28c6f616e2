"""How figures look and how they are written: the same bytes for the same content."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from spiking_diffusion.artifacts import write_atomic

STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.w_pad": 0.1,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.hashsalt": "spiking-diffusion",
    "svg.fonttype": "none",
    # Okabe and Ito's colours, which the colour-blind can tell apart; the second round is dashed
    "axes.prop_cycle": cycler(linestyle=["-", "--"])
    * cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]),
}
FORMATS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG and PDF beside each other, ``path`` naming the PNG."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        # the solver behind the layout goes by addresses in memory, and the last bits of what it finds with them
        axis.set_position(np.round(axis.get_position(original=True).bounds, 6))
        axis.set_in_layout(True)  # set_position takes it out
    for suffix, metadata in FORMATS.items():
        write_atomic(
            path.with_suffix(f".{suffix}"),
            lambda file, s=suffix, m=metadata: figure.savefig(file, format=s, metadata=m, bbox_inches="tight"),  # type: ignore[misc]
        )
    plt.close(figure)
