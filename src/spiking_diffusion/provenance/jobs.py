"""Which files each job makes, and whether those that lie here are what the settings beside them say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from spiking_diffusion import artifacts
from spiking_diffusion.artifacts import canonical_json
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.projection import dvc_stages
from spiking_diffusion.reporting import layout

SETTINGS = ".settings.json"
UNKNOWN = canonical_json({"origin": "unknown"})
"""What Snakemake is told to have made files whose origin nobody knows: never what it would make now."""


@dataclass(frozen=True)
class Job:
    """One stage of one dataset, run or suite; ``settings`` lies beside its other ``outputs``."""

    stage: str
    name: str
    settings: Path
    outputs: tuple[Path, ...]

    @property
    def present(self) -> list[Path]:
        """Those of its files that exist, the settings last."""
        return [path for path in (*self.outputs, self.settings) if path.is_file()]


def jobs(params: Params) -> list[Job]:
    """Every job of everything that ``params.yaml`` names; figures and table of a suite each by themselves."""
    found = []
    for address, stage in dvc_stages(params).items():
        do, over = stage.get("do", stage), stage.get("foreach")
        kind, _, only = address.partition("-")  # fetch-mine, suite-quick
        templates = [*do["outs"], *do.get("metrics", []), *(path for plot in do.get("plots", []) for path in plot)]
        names = getattr(params, over[2:-1]) if isinstance(over, str) else over or [only]
        for name in names:
            paths = [Path(path.replace("${key}", name).replace("${item}", name)) for path in dict.fromkeys(templates)]
            found += _split(kind, name, paths)
    return found


def _split(kind: str, name: str, paths: list[Path]) -> list[Job]:
    """A stage's files as one job, or a suite's as one for each of its settings files."""
    every = [path for path in paths if path.name.endswith(SETTINGS)]
    if kind != "suite":
        return [Job(kind, name, every[0], tuple(path for path in paths if path not in every))]
    tables = {layout.table_path(name): "table", layout.energy_table_path(name): "energy_table"}
    stages = {artifacts.settings_path(path): stage for path, stage in tables.items()}
    found = []
    for settings in every:
        stem = str(settings).removesuffix(SETTINGS) + "."
        outputs = tuple(path for path in paths if path != settings and str(path).startswith(stem))
        found.append(Job(stages.get(settings, "figure"), name, settings, outputs))
    return found


def claim(job: Job) -> dict[str, Any] | None:
    """What the settings file says, or None where it is missing, damaged or another job's."""
    try:
        said = artifacts.read_json(job.settings)
    except UserError:
        return None
    hashes = isinstance(said, dict) and all(isinstance(said.get(part), dict) for part in ("inputs", "outputs"))
    whole = hashes and {"settings", "code"} <= said.keys()
    return said if whole and (said.get("stage"), said.get("name")) == (job.stage, job.name) else None


def key_of(said: dict[str, Any]) -> str:
    """``pipeline.stage_key`` as it was when a settings file was written."""
    return canonical_json({"settings": said["settings"], "code": said["code"]})


def doubt(job: Job) -> str:
    """Why the files that are here are not what their settings say, or nothing."""
    said = claim(job)
    if said is None:
        return f"{job.settings} is missing, damaged or another job's" if job.present else ""
    for path, recorded in said["outputs"].items():
        if content(Path(path)) not in (recorded, None):
            return f"{path} is damaged or changed"
    for path, recorded in said["inputs"].items():
        if content(Path(path)) not in (recorded, None):
            return f"made from another {path}"
    return ""


def origin(params: Params, stage: str, name: str) -> str:
    """What made the files of a stage that lie here, in the form of ``pipeline.stage_key``; UNKNOWN where in doubt."""
    mine = [job for job in jobs(params) if (job.stage, job.name) == (stage, name) and job.present]
    keys = {key_of(said) if (said := claim(job)) and not doubt(job) else UNKNOWN for job in mine}
    return keys.pop() if len(keys) == 1 else UNKNOWN


def content(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder as ``fetch`` takes it; None where there is neither."""
    if path.is_dir():
        from spiking_diffusion.data.sources import content_hash

        return content_hash(path)
    return artifacts.sha256(path) if path.is_file() else None


def md5(path: Path) -> str:
    """MD5 of a file, which is DVC's name for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def dvc_lock() -> dict[str, str]:
    """MD5 of each output by path, as ``dvc.lock`` has it; nothing where DVC made nothing yet."""
    path = Path("dvc.lock")
    if not path.is_file():
        return {}
    try:
        stages = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"].values()
        return {
            out["path"]: out["md5"] for stage in stages for out in stage.get("outs", []) if out.get("hash") == "md5"
        }
    except Exception as error:  # a merge's markers, half a file, something else altogether
        raise UserError(
            f"dvc.lock is damaged ({' '.join(str(error).split())[:200]}): restore it with git, or delete it "
            "and run `dvc repro`"
        ) from error
