"""The ``tune`` stage: sampling's temperature, chosen on validation images."""

from __future__ import annotations

import itertools
import logging
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Recipe
from spiking_diffusion.data.images import load_split
from spiking_diffusion.errors import UserError
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.distances import LEAST
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.protocols import compare_kid
from spiking_diffusion.randomness import generator

log = logging.getLogger(__name__)


RESAMPLED, KID_SUBSETS = 20, 10
"""Bootstrap samples behind the standard error of the lowest FID, and subsets of KID, which chooses nothing."""


def run(job: Job, device: torch.device) -> None:
    """Draw images in every way that ``tune`` names, and write what FID and KID they have against validation images.

    First every temperature is tried, with every guidance if there are conditions, and with the run's own number of
    steps. The lowest FID has a standard error, and of the temperatures within it of the lowest the one nearest to 1 is
    chosen, with the least guidance. Then every number of steps is tried at this choice. All draws begin with the same
    random numbers. Test images are not read.
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
    embed = Features(ClassifierFeatures, classifier, recipe.evaluate.batch_size, device)
    theirs, subset = embed(real), min(recipe.evaluate.kid_subset_size, recipe.tune.n, len(real))
    drawn: list[Tensor] = []

    def tried(way: dict[str, float], steps: int) -> dict[str, Any]:
        images, notes, _ = model.draw(recipe.tune.n, "tune", steps=steps, **way)
        ours = embed(images)
        fid = fmean(distances.fid(a, b) for a, b in zip(ours, theirs, strict=True))
        kid = compare_kid(ours, theirs, subset, KID_SUBSETS, recipe.seed)["kid"]
        drawn.append(ours[0])
        log.info("%s: %s, %d steps: FID %.4g", job.name, ", ".join(f"{k} {v:g}" for k, v in way.items()), steps, fid)
        row = {"sampler": recipe.sample.sampler, "steps": steps, **way}
        return {**row, "fid": fid, "kid": kid, "network_calls": notes["network_calls"]}

    ways = to_try(recipe, conditional=model.sdid.conditions > 0)
    rows = [tried(way, own) for way in ways]
    fids = [row["fid"] for row in rows]
    noise = generator("cpu", recipe.seed, "tune", "bootstrap")
    error = standard_error(drawn[fids.index(min(fids))], theirs[0], noise)
    best = nearest_to_one(rows, error)
    way = ways[rows.index(best)]
    others = sorted({min(steps, most) for steps in recipe.tune.steps} - {own})
    rows += [tried(way, steps) for steps in others]
    rows = [row | {"chosen": int(way.items() <= row.items())} for row in rows]

    text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_text(job.out.with_suffix(".csv"), text)
    counts = {"n_generated": recipe.tune.n, "n_real": len(real), "real": "validation"}
    artifacts.write_json(job.out, {**best, "lowest_fid": min(fids), "lowest_fid_error": error, **counts})


def to_try(recipe: Recipe, conditional: bool) -> list[dict[str, float]]:
    """Every temperature with every guidance, where these are to be tuned, without repetition."""
    tried = {"temperature": (recipe.sample.temperature, recipe.tune.temperatures)}
    if conditional:
        tried["guidance"] = (recipe.sample.guidance, recipe.tune.guidances)
    values = [dict.fromkeys(all_of_them if own == "tuned" else [float(own)]) for own, all_of_them in tried.values()]
    return [dict(zip(tried, way, strict=True)) for way in itertools.product(*values)]


def standard_error(ours: Tensor, theirs: Tensor, noise: torch.Generator) -> float:
    """Of the FID of features ``ours`` (N, F) against ``theirs``, by drawing as many of ours again with replacement."""
    again = (torch.randint(len(ours), (len(ours),), generator=noise) for _ in range(RESAMPLED))
    return stdev(distances.fid(ours[index], theirs) for index in again)


def nearest_to_one(rows: list[dict[str, Any]], error: float) -> dict[str, Any]:
    """Of the rows whose FID is within ``error`` of the lowest, the one whose temperature is nearest to 1.

    Of several the one with the least guidance.
    """
    lowest = min(row["fid"] for row in rows)
    return min(
        (row for row in rows if row["fid"] <= lowest + error),
        key=lambda row: (abs(row["temperature"] - 1), row.get("guidance", 0.0), row["fid"]),
    )
