"""The stages ``KIND_figure``: pictures of a suite."""

from __future__ import annotations

from importlib import import_module

import matplotlib.pyplot as plt

from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.reporting.groups import groups
from spiking_diffusion.reporting.style import STYLE, save_figure


def run(job: Job) -> None:
    """Draw a figure as PNG, SVG and PDF, and as GIF if its module supports it.

    Raises UserError if one of its input files is missing or damaged.
    """
    module, kind = import_module(f"spiking_diffusion.{job.spec.draws}"), job.spec.options["kind"]
    of_suite = groups(job.params, job.name)
    with plt.style.context(STYLE, after_reset=True):  # independent of the user's style
        figure = getattr(module, kind)(of_suite)
        for path in job.outputs:
            if path.suffix == ".gif":
                module.write_gif(of_suite, path)
        save_figure(figure, job.out)
