"""The ``tune`` stage: how images are drawn, chosen on validation images."""

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

    First every temperature is tried with every sampler, with every guidance if there are conditions, and with the run's
    own number of steps. The lowest FID of a sampler has a standard error, and of the temperatures within it of the
    lowest the one nearest to 1 is chosen, with the least guidance. Then every number of steps is tried at this choice.
    The chosen sampler is the one with the lowest FID at its choice. All draws begin with the same random numbers. Test
    images are not read.
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

    def tried(way: dict[str, Any], steps: int) -> tuple[dict[str, Any], Tensor]:
        images, notes, _ = model.draw(recipe.tune.n, "tune", steps=steps, **way)
        ours = embed(images)
        fid = fmean(distances.fid(a, b) for a, b in zip(ours, theirs, strict=True))
        kid = compare_kid(ours, theirs, subset, KID_SUBSETS, recipe.seed)["kid"]
        log.info("%s: %s, %d steps: FID %.4g", job.name, ", ".join(f"{k} {v}" for k, v in way.items()), steps, fid)
        row = {"sampler": way["sampler"], "steps": steps, **way}
        return {**row, "fid": fid, "kid": kid, "network_calls": notes["network_calls"]}, ours[0]

    others = sorted({min(steps, most) for steps in recipe.tune.steps} - {own})
    rows, bests = [], []
    ways = to_try(recipe, conditional=model.sdid.conditions > 0)
    for _, of_sampler in itertools.groupby(ways, key=lambda way: way["sampler"]):
        first = [(way, *tried(way, own)) for way in of_sampler]
        _, lowest, drawn = min(first, key=lambda one: one[1]["fid"])
        error = standard_error(drawn, theirs[0], generator("cpu", recipe.seed, "tune", "bootstrap"))
        best = nearest_to_one([row for _, row, _ in first], error)
        bests.append({**best, "lowest_fid": lowest["fid"], "lowest_fid_error": error})
        way = next(way for way, row, _ in first if row is best)
        found = [row for _, row, _ in first] + [tried(way, steps)[0] for steps in others]
        rows += [row | {"chosen": int(way.items() <= row.items())} for row in found]

    text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_text(job.out.with_suffix(".csv"), text)
    counts = {"n_generated": recipe.tune.n, "n_real": len(real), "real": "validation"}
    artifacts.write_json(job.out, {**min(bests, key=lambda best: best["fid"]), **counts})


def to_try(recipe: Recipe, conditional: bool) -> list[dict[str, Any]]:
    """Every sampler with every temperature and guidance, where these are to be tuned, without repetition."""
    sample, tune = recipe.sample, recipe.tune
    tried: dict[str, tuple[Any, list[Any]]] = {
        "sampler": (sample.sampler, tune.samplers),
        "temperature": (sample.temperature, tune.temperatures),
    }
    if conditional:
        tried["guidance"] = (sample.guidance, tune.guidances)
    values = [dict.fromkeys(all_of_them if own == "tuned" else [own]) for own, all_of_them in tried.values()]
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
