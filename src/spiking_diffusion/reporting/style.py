"""How figures look and how they are written: the same bytes for the same content."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
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
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.hashsalt": "spiking-diffusion",
    "svg.fonttype": "none",
    "axes.prop_cycle": cycler(color=["#1b6ca8", "#d1495b", "#2a9d5c", "#8d5fb0", "#c98b1d", "#4f5d75"]),
}
FORMATS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG and PDF beside each other, ``path`` naming the PNG."""
    for suffix, metadata in FORMATS.items():
        write_atomic(
            path.with_suffix(f".{suffix}"),
            lambda file, s=suffix, m=metadata: figure.savefig(file, format=s, metadata=m, bbox_inches="tight"),  # type: ignore[misc]
        )
    plt.close(figure)
