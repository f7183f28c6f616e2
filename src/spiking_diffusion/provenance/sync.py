"""Snakemake's provenance for files from elsewhere: DVC, or a stage run by hand.

Snakemake records in ``.snakemake`` what made each file, and compares the records with params.yaml. It trusts any file
without a record. The Snakefile therefore stops if records and settings files disagree. ``sync`` records the settings of
the settings files in Snakemake.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts, locks
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job, jobs
from spiking_diffusion.graph.records import UNKNOWN, claim, doubt, key_of


def strangers(params: Params, doubted: bool = False) -> list[Job]:
    """Jobs with files for which Snakemake's records disagree with the settings files.

    Files of killed jobs are left out, and, unless ``doubted``, files recorded as of unknown origin. Snakemake makes
    both again.
    """
    here = [job for job in jobs(params) if job.present]
    if not here:
        return []
    from snakemake.persistence.file import FilePersistence

    notes = FilePersistence(path=Path(".snakemake").absolute())
    return [
        job
        for job in here
        if not notes._filter_incomplete_keys(map(str, job.present))
        and not all(_agrees(claim(job), path, notes._read_record(str(path)), doubted) for path in job.present)
    ]


def _agrees(said: dict[str, Any] | None, path: Path, note: Any, doubted: bool) -> bool:
    """Whether Snakemake's record of a file agrees with the settings file."""
    if note is None or note.params is None:
        return False
    if repr(UNKNOWN) in note.params:
        return not doubted
    if said is None or repr(key_of(said)) not in note.params:
        return False
    made_from = {name: f"sha256:{digest}" for name, digest in said["inputs"].items()}
    if any(made_from.get(name, now) != now for name, now in (note.input_checksums or {}).items()):
        return False
    # only files that were touched since then are read
    recorded = said["outputs"].get(str(path))
    return recorded is None or note.endtime == path.stat().st_mtime or artifacts.sha256(path) == recorded


def refuse_strangers(params: Params) -> None:
    """Raise UserError if there are files for which Snakemake's records are missing or wrong."""
    if found := strangers(params):
        first, others = found[0].present[0], sum(len(job.present) for job in found) - 1
        raise UserError(
            f"{first}{f' and {others} more files' if others else ''} came from elsewhere than Snakemake here (dvc pull "
            "or checkout, or a command by hand): run `spiking-diffusion sync`, which checks them against their settings"
        )


def sync(params: Params) -> list[str]:
    """Record the origin of all files from elsewhere in Snakemake. Returns lines that report the result."""
    found = strangers(params, doubted=True)
    if not found:
        return ["nothing to do: Snakemake knows where every file comes from"]
    reasons = {job: _stale(job, doubt(job)) for job in found}
    targets = [job.present[-1].as_posix() for job in found]
    # --force, because Snakemake would skip a job that looks finished
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--touch",
        "--force",
        "--cores",
        "1",
        "--quiet",
        "all",
        "--",
        *targets,
    ]
    locks.wait_for_snakemake()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).removeprefix("error: ").split()[-60:])
        raise UserError(
            f"Snakemake could not record the files ({said}): fix the problem and run the same command again"
        )
    fit = [job for job in found if not reasons[job]]
    return [
        f"{len(fit)} of {len(found)} jobs' files fit params.yaml: Snakemake keeps them",
        *(
            f"{job.present[0]}: Snakemake will make it again, it is {reason}"
            for job, reason in reasons.items()
            if reason
        ),
    ]


def _stale(job: Job, doubted: str) -> str:
    """Why Snakemake will make a job's files again, or an empty string."""
    if doubted:
        return f"of unknown origin ({doubted})"
    said = claim(job)
    if said and key_of(said) == job.key:
        return ""
    return "of other settings" if said and said["code"] == job.spec.fingerprint else "of other code"
