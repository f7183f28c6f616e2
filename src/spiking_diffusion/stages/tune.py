"""The ``tune`` stage: sampling's temperature, chosen on validation images."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_split
from spiking_diffusion.errors import UserError
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.distances import LEAST
from spiking_diffusion.metrics.features import fid_and_kid

log = logging.getLogger(__name__)


def run(job: Job, device: torch.device) -> None:
    """Draw images in every way that ``tune`` names, and write what FID and KID they have against validation images.

    First every temperature is tried with the run's own number of steps, then every number of steps at the temperature
    of the lowest FID. All draws begin with the same random numbers. Test images are not read.
    """
    recipe, dataset = job.run.recipe, job.run.dataset_name
    real = load_split(paths.data_path(dataset), "validation")
    if len(real) < LEAST:
        raise UserError(
            f"temperatures are chosen against validation images, and dataset {dataset!r} has {len(real)}: "
            f"set its split.validation to {LEAST} or more in params.yaml"
        )
    classifier, model = paths.classifier_path(dataset), SpikingDiffusion(job.run, device)
    most = model.diffusion.steps
    own = most if recipe.sample.steps == "all" else recipe.sample.steps

    def tried(temperature: float, steps: int) -> dict[str, Any]:
        images, notes = model.draw(recipe.tune.n, "tune", temperature=temperature, steps=steps)
        found = fid_and_kid(images, real, classifier, recipe.evaluate, recipe.seed, device)
        log.info("%s: temperature %g, %d steps: FID %.4g", job.name, temperature, steps, found["fid"])
        way = {"sampler": recipe.sample.sampler, "steps": steps, "temperature": temperature}
        return {**way, "fid": found["fid"], "kid": found["kid"], "network_calls": notes["network_calls"]}

    rows = [tried(temperature, own) for temperature in dict.fromkeys(recipe.tune.temperatures)]
    best = min(rows, key=lambda row: row["fid"])
    others = sorted({min(steps, most) for steps in recipe.tune.steps} - {own})
    rows += [tried(best["temperature"], steps) for steps in others]

    text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_text(job.out.with_suffix(".csv"), text)
    artifacts.write_json(job.out, {**best, "n_generated": recipe.tune.n, "n_real": len(real), "real": "validation"})
