"""The ``tune`` stage: sampling's temperature, chosen on validation images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import load_split
from spiking_diffusion.errors import UserError
from spiking_diffusion.metrics.features import fid_and_kid
from spiking_diffusion.metrics.protocols import LEAST
from spiking_diffusion.randomness import make_deterministic
from spiking_diffusion.training.sample import Drawing

log = logging.getLogger(__name__)


def tune_run(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Draw images in every way that ``tune`` names, and write what FID and KID they have against validation images.

    First every temperature with the run's own number of steps; that of the lowest FID is chosen, and with it every
    number of steps is tried. All draws begin with the same random numbers. Test images are not read.
    """
    recipe = run.recipe
    make_deterministic(recipe.sample.threads)
    source, classifier = artifacts.data_path(run.dataset_name), artifacts.classifier_path(run.dataset_name)
    real = load_split(source, "validation")
    if len(real) < LEAST:
        raise UserError(
            f"temperatures are chosen against validation images, and dataset {run.dataset_name!r} has {len(real)}: "
            f"set its split.validation to {LEAST} or more in params.yaml"
        )
    drawing = Drawing(run, device)
    most = drawing.diffusion.steps
    own = most if recipe.sample.steps == "all" else recipe.sample.steps

    def tried(temperature: float, steps: int) -> dict[str, Any]:
        images, calls = drawing.draw(recipe.tune.n, temperature, steps, "tune")
        found = _distances(images, real, classifier, run, device)
        log.info("%s: temperature %g, %d steps: FID %.4g", run.name, temperature, steps, found["fid"])
        way = {"sampler": recipe.sample.sampler, "steps": steps, "temperature": temperature}
        return {**way, **found, "network_calls": calls}

    rows = [tried(temperature, own) for temperature in dict.fromkeys(recipe.tune.temperatures)]
    best = min(rows, key=lambda row: row["fid"])
    others = sorted({min(steps, most) for steps in recipe.tune.steps} - {own})
    rows += [tried(best["temperature"], steps) for steps in others]

    out = artifacts.tuning_path(run.name)
    weights = [artifacts.model_path(run.name, model) for model in ("vqsvae", "sdid")]
    text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_text(out.with_suffix(".csv"), text)
    artifacts.write_json(out, {**best, "n_generated": recipe.tune.n, "n_real": len(real), "real": "validation"})
    inputs = [source, classifier, *weights]
    pipeline.seal(pipeline.record(params, "tune", run.name, inputs), out, out.with_suffix(".csv"))
    return out


def _distances(
    images: Tensor, real: Tensor, classifier: Path, run: RunSettings, device: torch.device
) -> dict[str, float]:
    found = fid_and_kid(images, real, classifier, run.recipe.evaluate, run.recipe.seed, device)
    return {name: found[name] for name in ("fid", "kid")}
