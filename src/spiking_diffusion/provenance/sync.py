"""Snakemake's provenance after files came from elsewhere: DVC, or a stage run by hand.

Snakemake notes in ``.snakemake`` what made each file and compares that with params.yaml. Of files that it has no
note of it would say "nothing to be done", whatever made them. The Snakefile therefore refuses where notes and
settings files differ, and ``sync`` lets Snakemake note what the settings files say.
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
    """Jobs with files here of which Snakemake's notes don't say what the settings beside them say.

    Left out are files of a job that was killed, and, unless ``doubted``, those noted as of unknown origin: Snakemake
    makes both again.
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
    """Whether Snakemake's note of a file is what the settings file says."""
    if note is None or note.params is None:
        return False
    if repr(UNKNOWN) in note.params:
        return not doubted
    if said is None or repr(key_of(said)) not in note.params:
        return False
    made_from = {name: f"sha256:{digest}" for name, digest in said["inputs"].items()}
    if any(made_from.get(name, now) != now for name, now in (note.input_checksums or {}).items()):
        return False
    # only files that were touched since are read
    recorded = said["outputs"].get(str(path))
    return recorded is None or note.endtime == path.stat().st_mtime or artifacts.sha256(path) == recorded


def refuse_strangers(params: Params) -> None:
    """Raise UserError where files lie here that Snakemake knows nothing true of."""
    if found := strangers(params):
        first, others = found[0].present[0], sum(len(job.present) for job in found) - 1
        raise UserError(
            f"{first}{f' and {others} more files' if others else ''} came from elsewhere than Snakemake here (dvc pull "
            "or checkout, or a command by hand): run `spiking-diffusion sync`, which checks them against their settings"
        )


def sync(params: Params) -> list[str]:
    """Let Snakemake note the origin of all files that came from elsewhere. Returns what became of them, in lines."""
    found = strangers(params, doubted=True)
    if not found:
        return ["nothing to do: Snakemake knows where every file comes from"]
    reasons = {job: _stale(job, doubt(job)) for job in found}
    targets = [job.present[-1].as_posix() for job in found]
    # --force: a job that looks finished would not be noted at all
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
            f"Snakemake could not take note of the files ({said}): fix the problem and run the same command again"
        )
    fit = [job for job in found if not reasons[job]]
    return [
        f"{len(fit)} of {len(found)} jobs' files are what params.yaml asks for: Snakemake takes them as they are",
        *(
            f"{job.present[0]}: Snakemake will make it again, it is {reason}"
            for job, reason in reasons.items()
            if reason
        ),
    ]


def _stale(job: Job, doubted: str) -> str:
    """Why Snakemake will make a job's files again, or nothing."""
    if doubted:
        return f"of unknown origin ({doubted})"
    said = claim(job)
    if said and key_of(said) == job.key:
        return ""
    return "of other settings" if said and said["code"] == job.spec.fingerprint else "of other code"
