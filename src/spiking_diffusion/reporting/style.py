"""How figures look and how they are written: the same bytes for the same content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, NullLocator

from spiking_diffusion.artifacts import write_atomic

Item = TypeVar("Item")

ONE_COLUMN, TWO_COLUMNS, PAGE = 3.25, 6.75, 9.0
"""Widths of one and of two columns of a paper, and the height of its page, in inches."""
POINTS = 8
"""Size of all text."""
COLOURS = {
    "spiking-diffusion": "#0072b2",
    "fsvae": "#d55e00",
    "encoder": "#009e73",
    "generator": "#cc79a7",
    "latent": "#56b4e9",  # losses of the codebook, or of the prior
    "marked": "#e69f00",  # tokens that are masked, and the one whose spikes are shown
    "whole": "#000000",  # the sum of all losses
    "reference": "#6b6b6b",  # what models are compared with, and how far seeds spread
}
"""What each colour means in every figure: those of Okabe and Ito, which the colour-blind can tell apart, and a grey.

Layers, settings and datasets are shades of their model's colour.
"""
STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same everywhere
    "font.size": POINTS,
    "axes.titlesize": POINTS,
    "axes.labelsize": POINTS,
    "xtick.labelsize": POINTS,
    "ytick.labelsize": POINTS,
    "legend.fontsize": POINTS,
    "figure.titlesize": POINTS,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.w_pad": 0.05,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.hashsalt": "spiking-diffusion",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    # for pictures whose lines have no meaning of their own; the second round is dashed
    "axes.prop_cycle": cycler(linestyle=["-", "--"])
    * cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]),
}
FORMATS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def size(width: float, rows: int, height: float) -> tuple[float, float]:
    """Inches of a figure of ``rows`` rows, each ``height`` high, or lower so that all are on one page."""
    return width, min(rows * height, PAGE)


def shades(colour: str, n: int) -> list[str]:
    """``n`` shades of a colour, from light to dark; the colour itself if there is one."""
    if n == 1:
        return [to_hex(colour)]
    rgb = np.array(to_rgb(colour))
    light, dark = 1 - 0.45 * (1 - rgb), 0.35 * rgb
    ends = np.array([light, rgb, dark])
    at = np.linspace(0, 2, n)
    return [to_hex([np.interp(place, range(3), ends[:, part]) for part in range(3)]) for place in at]


def at_most(items: Sequence[Item], n: int) -> list[Item]:
    """``n`` of the items at even distances, the first and the last among them; all where there are no more."""
    if len(items) <= n:
        return list(items)
    return [items[int(place + 0.5)] for place in np.linspace(0, len(items) - 1, n)]


class RoundNumbers(Locator):
    """Some round numbers of a logarithmic axis: 1, 2 and 5 in every decade, decades alone where there are many."""

    MOST = 4

    def __call__(self) -> Sequence[float]:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        decades = [10.0**power for power in range(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)]
        finer = [float(f"{part * decade:.0e}") for decade in decades for part in (1, 2, 5)]
        for values in (finer, decades):
            within = [value for value in values if vmin <= value <= vmax]
            if len(within) < 2:
                return MaxNLocator(self.MOST, steps=[1, 2, 5, 10]).tick_values(vmin, vmax)
            if len(within) <= self.MOST:
                return within
        return within[:: math.ceil(len(within) / self.MOST)]


def plain_log(axis: Axis) -> None:
    """Numbers as they are on a logarithmic axis, as the exponents of powers would be small."""
    axis.set_major_locator(RoundNumbers())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_locator(NullLocator())


def ticks_at(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at these values and nowhere else."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def legend_below(axis: Axes, columns: int = 1, of: Sequence[Axes] = ()) -> None:
    """A legend of the lines of an axis, or of several, under the label of ``axis``, where it hides no line."""
    entries = {
        text: line for each in of or [axis] for line, text in zip(*each.get_legend_handles_labels(), strict=True)
    }
    axis.legend(
        entries.values(),
        entries.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        borderaxespad=3.6,  # in letters
        ncols=columns,
    )


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
            lambda file, s=suffix, m=metadata: figure.savefig(file, format=s, metadata=m),  # type: ignore[misc]
        )
    plt.close(figure)
