"""The ``figure`` stage: pictures of a suite, a file for each theme."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from spiking_diffusion import pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.reporting.figures.codes import codebook
from spiking_diffusion.reporting.figures.curves import ablation, steps, temperature
from spiking_diffusion.reporting.figures.images import reconstructions, samples
from spiking_diffusion.reporting.figures.spikes import spikes
from spiking_diffusion.reporting.figures.training import dynamics, losses
from spiking_diffusion.reporting.figures.trajectory import trajectory, write_gif
from spiking_diffusion.reporting.layout import Group, figure_inputs, figure_path, figure_paths, figures_of, groups
from spiking_diffusion.reporting.style import STYLE, save_figure

DRAW: dict[str, Callable[[list[Group]], Figure]] = {
    "samples": samples,
    "reconstructions": reconstructions,
    "losses": losses,
    "dynamics": dynamics,
    "codebook": codebook,
    "trajectory": trajectory,
    "spikes": spikes,
    "ablation": ablation,
    "temperature": temperature,
    "steps": steps,
}


def make_figure(params: Params, suite: str, kind: str) -> Path:
    """Draw a figure of a suite as PNG, SVG and PDF, a trajectory as GIF too. Returns the path of the PNG.

    Raises UserError if a file it is drawn from is missing or damaged, and for a kind that the suite does not have.
    """
    kinds = figures_of(params, suite)
    if kind not in kinds:
        raise UserError(f"suite {suite!r} has no figure {kind!r}: its runs allow {', '.join(kinds)}")
    out = figure_path(suite, kind)
    inputs = figure_inputs(params, suite, kind)
    of_suite = groups(params, suite)
    with plt.rc_context(STYLE):
        figure = DRAW[kind](of_suite)
        record = pipeline.record(params, "figure", suite, inputs)
        if kind == "trajectory":
            write_gif(of_suite, out.with_suffix(".gif"))
        save_figure(figure, out)
    pipeline.seal(record, *figure_paths(suite, kind))
    return out
