"""The ``table`` stage: the metrics of a suite in one table."""

from __future__ import annotations

from spiking_diffusion import artifacts
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.reporting.tables import cells_of, to_csv, to_latex, to_markdown


def run(job: Job) -> None:
    """Write the table as CSV, Markdown and LaTeX."""
    table, columns = cells_of(job.params, job.name)
    for path, write in zip(job.outputs, (to_csv, to_markdown, to_latex), strict=True):
        artifacts.write_text(path, write(table, columns))
