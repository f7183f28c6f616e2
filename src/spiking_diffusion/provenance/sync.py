"""Snakemake's provenance after files came from elsewhere: DVC, or a stage run by hand.

Snakemake notes in ``.snakemake`` what made each file and compares that with params.yaml. Of files that it has no
note of it would say "nothing to be done", whatever made them. The Snakefile therefore refuses where notes and
settings files differ, and ``sync`` lets Snakemake note what the settings files say.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spiking_diffusion import pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.provenance.jobs import UNKNOWN, Job, claim, claimed_key, doubt, dvc_lock, jobs


def strangers(params: Params) -> list[Job]:
    """Jobs with files here of which Snakemake's notes don't say what the settings beside them say.

    Files of a job that was killed are Snakemake's own: it makes them again.
    """
    here = [job for job in jobs(params) if job.present]
    if not here:
        return []
    from snakemake.persistence.file import FilePersistence

    notes = FilePersistence(path=Path(".snakemake").absolute())
    found = []
    for job in here:
        files = [path.as_posix() for path in job.present]
        if notes._filter_incomplete_keys(files):
            continue
        said, key = claim(job), claimed_key(job)
        inputs = {path: f"sha256:{recorded}" for path, recorded in said["inputs"].items()} if said else {}
        for record in map(notes._read_record, files):
            params_then = (record and record.params) or []
            if repr(UNKNOWN) in params_then:
                continue
            sums = (record and record.input_checksums) or {}
            if repr(key) not in params_then or any(inputs.get(path, now) != now for path, now in sums.items()):
                found.append(job)
                break
    return found


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
    found = strangers(params)
    if not found:
        return ["nothing to do: Snakemake knows where every file comes from"]
    lock = dvc_lock()
    reasons = {job: _stale(params, job, doubt(job, lock)) for job in found}
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
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).removeprefix("error: ").split()[-60:])
        raise UserError(
            f"Snakemake could not take note of the files ({said}): mend that and run the same command again"
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


def _stale(params: Params, job: Job, doubted: str) -> str:
    """Why Snakemake will make a job's files again, or nothing."""
    if doubted:
        return f"of unknown origin ({doubted})"
    if claimed_key(job) == pipeline.stage_key(params, job.stage, job.name):
        return ""
    said = claim(job)
    return "of other settings" if said and said["code"] == pipeline.fingerprint(job.stage) else "of other code"
