"""The ``energy`` stage: the cost of drawing an image, by layer and in total.

``docs/energy.md`` has the formula and its limits.
"""

from __future__ import annotations

import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_split, to_unit
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.energy import Counter, totals


@torch.no_grad()
def run(job: Job, device: torch.device) -> None:
    """Count a run's synaptic operations."""
    n, counter = job.run.recipe.energy.n, Counter()
    images = to_unit(load_split(paths.data_path(job.run.dataset_name), "validation")[:n].to(device))
    notes = load(job.run, device).count(counter, images, n, job.params)
    table = counter.table()
    row = {"dataset": job.run.dataset_name, "model": job.run.model, "run": job.name, "n": n, **notes, **totals(table)}
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_text(job.out.with_suffix(".csv"), text)
    artifacts.write_json(job.out, row)
