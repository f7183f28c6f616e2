"""The ``table`` stage: the metrics of a suite in one table."""

from __future__ import annotations

from spiking_diffusion import artifacts
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.reporting.latex import to_latex
from spiking_diffusion.reporting.tables import cells_of, to_csv, to_markdown


def run(job: Job) -> None:
    """Write the table as CSV, Markdown and LaTeX."""
    table, columns = cells_of(job.params, job.name)
    titles = {name: dataset.title for name, dataset in job.params.datasets.items()}
    texts = (to_csv(table, columns), to_markdown(table, columns), to_latex(table, columns, titles))
    for path, text in zip(job.outputs, texts, strict=True):
        artifacts.write_text(path, text)
