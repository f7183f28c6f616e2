"""Settings files: what they say of the files beside them, and whether that still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts
from spiking_diffusion.artifacts import canonical_json
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job

UNKNOWN = canonical_json({"origin": "unknown"})
"""What Snakemake is told to have made files whose origin nobody knows: never what it would make now."""


def claim(job: Job) -> dict[str, Any] | None:
    """What the settings file says, or None where it is missing, damaged or another job's."""
    try:
        said = artifacts.read_json(job.settings_file)
    except UserError:
        return None
    hashes = isinstance(said, dict) and all(isinstance(said.get(part), dict) for part in ("inputs", "outputs"))
    whole = hashes and {"settings", "code"} <= said.keys()
    return said if whole and (said.get("stage"), said.get("name")) == (job.stage, job.name) else None


def key_of(said: dict[str, Any]) -> str:
    """``Job.key`` as it was when a settings file was written."""
    return canonical_json({"settings": said["settings"], "code": said["code"]})


def doubt(job: Job) -> str:
    """Why the files that are here are not what their settings say; empty if they are."""
    said = claim(job)
    if said is None:
        return f"{job.settings_file} is missing, damaged or another job's" if job.present else ""
    for path, recorded in said["outputs"].items():
        if content(Path(path)) not in (recorded, None):
            return f"{path} is damaged or changed"
    for path, recorded in said["inputs"].items():
        if content(Path(path)) not in (recorded, None):
            return f"made from another {path}"
    return ""


def origin(job: Job) -> str:
    """What made the files of a job that are here, in the form of ``Job.key``; UNKNOWN where in doubt."""
    said = claim(job)
    return key_of(said) if said and not doubt(job) else UNKNOWN


def content(path: Path) -> str | None:
    """SHA-256 of a file or folder; None where there is neither."""
    return artifacts.content_hash(path) if path.exists() else None
