"""The work of each stage of the pipeline: ``run`` in a module of its own.

``run(job)`` or, for stages that compute with torch, ``run(job, device)`` writes the job's outputs and returns further
entries of the settings file. ``graph.stages`` declares the stages.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from spiking_diffusion.graph.jobs import Job


def make(job: Job, device: str | None = None) -> Path:
    """Run a job and write its settings file. Returns its main output.

    ``device`` is auto, cpu or cuda (default: that of params.yaml).
    """
    run = import_module(f"spiking_diffusion.{job.spec.module}").run
    if job.spec.gpu:
        from spiking_diffusion.devices import pick_device
        from spiking_diffusion.randomness import make_deterministic

        picked = pick_device(device or job.params.device)
        make_deterministic(job.threads)
        job.seal(run(job, picked))
    else:
        job.seal(run(job))
    return job.out
