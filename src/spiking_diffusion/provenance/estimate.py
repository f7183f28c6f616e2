"""How long jobs take on a CPU, told from rates that were measured, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from spiking_diffusion import artifacts, environment, paths
from spiking_diffusion.config import FAMILIES, Params
from spiking_diffusion.config.datasets import Dataset
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job, jobs
from spiking_diffusion.graph.stages import wants_gpu

RATES: dict[str, tuple[float, int, tuple[int, ...]]] = {
    "vqsvae": (2.2, 4, (32, 64)),
    "sdid": (3.2, 4, (64, 128, 128, 128, 128)),
    "fsvae": (2.4, 4, (32, 64)),
}
"""Processor milliseconds for an image of 28x28 in a training step, at this T and with these channels: recipe ``small``,
docs/table1-small.md. They grow linearly with T and the pixels (docs/speed.md)."""
WIDTH = 0.75
"""Power of the products of neighbouring channels with which they grow, between recipes ``quick`` and ``paper``."""
CALL = 0.08
"""A call of SDID over its training step, docs/speed.md."""
MEASURED, JUDGES = 0.03, 0.0055
"""Processor seconds of measuring for a generated image without Inception, and of the classifiers for a training image,
docs/table1-small.md."""
IMAGES = {"digits": 1797, "emnist-zip": 124_800, "cifar-bin": 50_000, "cifar-python": 50_000}
"""Images of a dataset that are no test images of its own. Other formats count as MNIST, 60,000."""
TELLING = 300
"""Processor seconds from which a training says how fast this machine is: small networks wait more than they compute."""
LONG = 24
"""Hours from which a smaller suite is named."""


def training_images(dataset: Dataset) -> int:
    """How many images a dataset has to train with."""
    return max(1, IMAGES.get(dataset.format, 60_000) - dataset.split.validation - dataset.split.test)


def seconds(job: Job) -> float:
    """Processor seconds of a job on a CPU core like those of docs/table1-small.md; 0 for jobs that are short."""
    params, stage = job.params, job.stage
    if stage == "classifier":
        return JUDGES * training_images(params.dataset(job.name))
    if job.spec.over not in {family.section for family in FAMILIES.values()}:
        return 0.0
    run = params.resolve(job.name)
    recipe = run.recipe
    if stage in RATES:
        if stage == "vqsvae" and run.tokenizer:
            return 0.0
        settings = getattr(recipe, stage)
        return _step(stage, settings, run.dataset) * training_images(run.dataset) * settings.train.epochs
    if stage in ("sample", "tune"):
        call, tokens = CALL * _step("sdid", recipe.sdid, run.dataset), math.prod(run.token_shape)
        whole = _calls(recipe.sample.steps, tokens)
        if stage == "sample":
            return call * recipe.sample.n * whole * (1 if recipe.sample.guidance == 0 else 2)
        tried = len(recipe.tune.temperatures) * len(recipe.tune.guidances) * whole
        fewer = sum(_calls(steps, tokens) for steps in recipe.tune.steps)
        return (call * (tried + fewer) + MEASURED / 3) * recipe.tune.n
    return MEASURED * recipe.sample.n if stage in ("evaluate", "fsvae_evaluate") else 0.0


def _step(network: str, settings: Any, dataset: Dataset) -> float:
    """Processor seconds of an image in a training step."""
    milliseconds, T, channels = RATES[network]
    width = _width(settings.channels) / _width(channels)
    pixels = math.prod(dataset.shape[1:]) / 28**2
    return milliseconds / 1000 * settings.T / T * pixels * width**WIDTH


def _width(channels: Iterable[int]) -> int:
    sizes = list(channels)
    return sum(a * b for a, b in pairwise(sizes)) or sizes[0] ** 2


def _calls(steps: int | str, tokens: int) -> float:
    """Calls of SDID for an image: the steps that reveal any of its tokens (docs/speed.md)."""
    taken = tokens if steps == "all" else int(steps)
    return taken * (1 - (1 - 1 / taken) ** tokens)


def speed(params: Params) -> float:
    """Processor seconds that trainings took on this machine, over those estimated; 1 if no long one ran on its CPU."""
    took = expected = 0.0
    for job in jobs(params):
        if job.stage in RATES and seconds(job) >= TELLING and job.outputs[0].is_file():
            try:
                cost = artifacts.read_json(paths.cost_path(paths.work_path(job.name, job.stage)))
                if cost["device"] == "cpu":
                    took, expected = took + float(cost["processor_seconds"]), expected + seconds(job)
            except (UserError, LookupError, TypeError, ValueError):
                continue
    return took / expected if expected else 1.0


def hours(params: Params, these: Iterable[Job]) -> float:
    """Processor hours of jobs on a CPU of this machine."""
    return sum(map(seconds, these)) * speed(params) / 3600


def told(params: Params, suites: Sequence[str], to_come: Iterable[Job], needs: Callable[[str], list[Job]]) -> list[str]:
    """How long the jobs ``to_come`` of suites take; if that is more than ``LONG`` hours, the smaller suite to try.

    ``needs`` gives the jobs of a suite. Empty with a GPU, for which there are no rates, and where all jobs are short.
    """
    work = 0.0 if wants_gpu(params) else hours(params, to_come)
    if not work:
        return []
    here = environment.cores()
    line = f"estimate: {_hours(work)} of processor time, {_hours(work / here)} on this machine's {here} cores"
    if work / here < LONG:
        return [line]
    for name in [*(f"{suite}-{size}" for suite in suites for size in ("small", "quick")), "quick"]:
        if name in params.suites and name not in suites:
            smaller = hours(params, needs(name)) / here
            if smaller < LONG:
                return [line, f"try first: snakemake --cores {here} {name} ({_hours(smaller)})"]
    return [line]


def _hours(number: float) -> str:
    return f"{number:.0f} hours" if number >= 2 else f"{max(1, number * 60):.0f} minutes"
