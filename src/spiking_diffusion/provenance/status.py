"""Finished, running and waiting jobs of a suite, derived from the existing files."""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from spiking_diffusion import artifacts, locks, paths
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job, jobs
from spiking_diffusion.graph.records import claim, key_of
from spiking_diffusion.graph.suites import figures_of, of_all
from spiking_diffusion.provenance import estimate

LINES = 10
"""Lines that a finished run prints, at most."""


def status(params: Params, suite: str) -> list[str]:
    """Lines for people: a count, a line for each running job with the last words of its log, what is to come and how
    long that takes on a CPU.

    A job is done if its files exist and have the current settings and code. Files are not hashed. ``verify`` does that.
    """
    found: dict[str, list[Job]] = defaultdict(list)
    for job in of_suite(params, suite):
        found[state(job)].append(job)
    total = sum(map(len, found.values()))
    lines = [f"{suite}: {len(found['done'])} of {total} jobs are done"]
    for job in found["running"]:
        lines.append(f"running  {job.stage} {job.name}: {last_words(log_of(job)) or 'no output yet'} ({log_of(job)})")
    for kind in ("stale", "to come"):
        stages: dict[str, list[str]] = defaultdict(list)
        for job in found[kind]:
            stages[job.stage].append(job.name)
        lines += [f"{kind:8} {stage}: {', '.join(names)}" for stage, names in stages.items()]
    rest = [job for kind in ("running", "stale", "to come") for job in found[kind]]
    return lines + estimate.told(params, [suite], rest, partial(of_suite, params))


def suites_of(params: Params, targets: Iterable[str]) -> list[str]:
    """The suites that Snakemake's targets name; without a target those of ``all``."""
    asked = set(targets) or {"all"}
    return [suite for suite in params.suites if suite in asked or ("all" in asked and suite in of_all(params))]


def warning(params: Params, targets: Iterable[str]) -> list[str]:
    """What to know before a run that takes more than a day: how long it takes, and what to try first."""
    suites = suites_of(params, targets)
    needed = {(job.stage, job.name): job for suite in suites for job in of_suite(params, suite)}
    rest = [job for job in needed.values() if estimate.seconds(job) and state(job) != "done"]
    lines = estimate.told(params, suites, rest, partial(of_suite, params))
    return lines if len(lines) > 1 else []


def summary(params: Params, targets: Iterable[str]) -> list[str]:
    """What a finished run says: table and samples of each suite, and the main numbers of its runs."""
    lines = []
    for suite in suites_of(params, targets):
        files = [paths.table_path(suite).with_suffix(".md")]
        files += [paths.figure_path(suite, "samples")] if "samples" in figures_of(params, suite) else []
        lines.append(f"{suite}: {' and '.join(map(str, files))}")
        for run in params.suites[suite]:
            try:
                numbers = artifacts.read_json(paths.metrics_path(run))
            except UserError:
                continue
            found = {"FID (classifier)": numbers.get("classifier_fid"), "legible": numbers.get("legible")}
            said = [f"{name} {value:.3g}" for name, value in found.items() if isinstance(value, (int, float))]
            lines.append(f"  {run}: {', '.join(said)}")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"  and {len(lines) - LINES + 1} more lines: spiking-diffusion list"]
    return lines


def of_suite(params: Params, suite: str) -> list[Job]:
    """The jobs that a suite needs."""
    runs = {name: params.resolve(name) for name in params.suites[suite]}
    runs |= {run.tokenizer: params.resolve(run.tokenizer) for run in list(runs.values()) if run.tokenizer}
    names = {
        "suites": {suite},
        "datasets": {run.dataset_name for run in runs.values()},
    }  # a run can have a dataset's name
    return [job for job in jobs(params) if job.name in names.get(job.spec.over, runs)]


def state(job: Job) -> str:
    """``done``, ``running``, ``stale`` or ``to come``."""
    if is_running(job):
        return "running"
    said = claim(job)
    if said is None or not all(path.is_file() for path in job.outputs):
        return "to come"
    return "done" if key_of(said) == job.key else "stale"


def is_running(job: Job) -> bool:
    """Whether a live process of this machine, or a process of another machine, holds the lock of the job's outputs."""
    try:
        said = locks.holder_of(job.outputs[0]).read_text(encoding="utf-8")
    except OSError:
        return False
    holder = re.match(r"process (\d+) on (\S+) ", said)
    if holder and holder[2] == platform.node():
        try:
            os.kill(int(holder[1]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
    return True


def log_of(job: Job) -> Path:
    """The log file of a job under Snakemake."""
    if job.spec.over != "suites":
        return Path("logs", job.stage, f"{job.name}.log")
    which = [option if value is True else value for option, value in job.spec.options.items()]
    return Path("logs", job.spec.command, f"{'-'.join([job.name, *which])}.log")


def last_words(log: Path, most: int = 100) -> str:
    """The last line of a log, cut to ``most`` characters, or empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if len(last) <= most else f"{last[: most - 1]}…"
