"""The stages of the pipeline: what each reads from ``params.yaml`` and which part of the package it runs.

Snakemake's rules, DVC's stages and the settings files beside each output all take these from here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.provenance import maker
from spiking_diffusion.reporting.rows import rows_of

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parent
KINDS = ("py", "cpp", "yaml")
COMMON = ("artifacts.py", "randomness.py")


@dataclass(frozen=True)
class Stage:
    """``sections`` are keys of a recipe, ``sources`` files and folders of the package beside COMMON."""

    sections: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def code(self) -> tuple[str, ...]:
        return tuple(sorted(COMMON + self.sources))


_VQSVAE = ("data/images.py", "snn", "training/devices.py", "training/weights.py", "vqsvae")
_TRAINING = ("training/checkpoints.py", "training/loop.py", "training/stage.py")
_FSVAE = ("data/images.py", "fsvae", "snn", "training/devices.py", "training/weights.py")
_METRICS = ("data/archives.py", "data/sources.py", "metrics")

STAGES = {
    "fetch": Stage((), ("data", "reporting/picture.py")),
    "classifier": Stage((), ("data/images.py", "metrics/classifier.py", "training/devices.py", "training/weights.py")),
    "vqsvae": Stage(("seed", "neuron", "vqsvae"), (*_VQSVAE, *_TRAINING, "training/vqsvae.py")),
    "tokens": Stage(("neuron", "vqsvae"), (*_VQSVAE, "training/tokens.py")),
    "sdid": Stage(
        ("seed", "neuron", "sdid"),
        (
            *_TRAINING,
            "diffusion",
            "snn",
            "training/devices.py",
            "training/sdid.py",
            "training/tokens.py",
            "training/weights.py",
            "vqsvae",
        ),
    ),
    "fsvae": Stage(("seed", "neuron", "fsvae"), (*_FSVAE, *_TRAINING, "training/fsvae.py")),
    "tune": Stage(
        ("seed", "neuron", "vqsvae", "sdid", "sample", "tune", "evaluate"),
        (
            *_VQSVAE,
            "diffusion",
            "metrics/classifier.py",
            "metrics/distances.py",
            "metrics/features.py",
            "training/sample.py",
            "training/sdid.py",
            "training/tokens.py",
            "training/tune.py",
        ),
    ),
    "sample": Stage(("seed", "neuron", "vqsvae", "sdid", "sample"), (*_VQSVAE, "diffusion", "training/sample.py")),
    "fsvae_sample": Stage(("seed", "neuron", "fsvae", "sample"), (*_FSVAE, "training/sample.py")),
    "evaluate": Stage(
        ("seed", "neuron", "vqsvae", "sdid", "sample", "evaluate"),
        (*_VQSVAE, *_METRICS, "diffusion", "training/sample.py", "training/sdid.py", "training/tokens.py"),
    ),
    "fsvae_evaluate": Stage(
        ("seed", "neuron", "fsvae", "sample", "evaluate"), (*_FSVAE, *_METRICS, "training/sample.py")
    ),
    "inspect": Stage(
        ("seed", "neuron", "vqsvae", "sdid", "sample"),
        (*_VQSVAE, "diffusion", "training/inspect.py", "training/sample.py", "training/tokens.py"),
    ),
    "energy": Stage(
        ("seed", "neuron", "vqsvae", "sdid", "sample", "energy"),
        (*_VQSVAE, "diffusion", "metrics/energy.py", "training/sample.py", "training/sdid.py", "training/tokens.py"),
    ),
    "fsvae_energy": Stage(
        ("seed", "neuron", "fsvae", "sample", "energy"), (*_FSVAE, "metrics/energy.py", "training/fsvae.py")
    ),
    "table": Stage((), ("reporting",)),
    "energy_table": Stage((), ("reporting",)),
    "figure": Stage((), ("reporting",)),
}


@cache
def fingerprint(stage: str) -> str:
    """SHA-256 over the sources a stage runs, so that a change to them makes its output stale."""
    digest = hashlib.sha256()
    for source in STAGES[stage].code:
        path = PACKAGE / source
        files = (
            sorted(f for kind in ("py", "cpp", "yaml") for f in path.rglob(f"*.{kind}")) if path.is_dir() else [path]
        )
        for file in files:
            digest.update(f"{file.relative_to(PACKAGE).as_posix()}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def stage_settings(params: Params, stage: str, name: str) -> dict[str, Any]:
    """Just what ``stage`` reads from ``params.yaml`` for the dataset, run or suite ``name``."""
    if stage == "fetch":
        return {"dataset": params.dataset(name).model_dump()}
    if stage == "classifier":
        return {"classifier": params.classifier.model_dump()}
    if stage == "energy_table":
        return {"runs": params.suites[name]}
    if stage in ("table", "figure"):
        return {"rows": [asdict(row) for row in rows_of(params, name)]}
    recipe = params.resolve(name).recipe
    settings = recipe.model_dump(include=set(STAGES[stage].sections))
    if stage.endswith("evaluate") and set(recipe.evaluate.protocols) != {"classifier"}:
        settings["inception"] = params.inception.model_dump()
    return settings


def stage_key(params: Params, stage: str, name: str) -> str:
    """What makes the output of a stage stale when it changes, apart from its input files: one line of JSON."""
    return artifacts.canonical_json({"settings": stage_settings(params, stage, name), "code": fingerprint(stage)})


def record(params: Params, stage: str, name: str, inputs: Iterable[Path] = ()) -> dict[str, Any]:
    """What is saved beside a stage's output: its name, settings, code, and the hashes of its inputs."""
    settings = stage_settings(params, stage, name)
    log.info("%s %s: %s", stage, name, artifacts.canonical_json(settings))
    return {
        "stage": stage,
        "name": name,
        "settings": settings,
        "code": fingerprint(stage),
        "inputs": {path.as_posix(): artifacts.sha256(path) for path in inputs},
    }


def seal(record: dict[str, Any], out: Path, *others: Path) -> None:
    """Write a stage's ``record`` beside ``out``, with the hashes of all that it made, and what made it below ``work/``.

    The last thing a stage does: where the record fits the files, all of them are whole.
    """
    outputs = {path.as_posix(): artifacts.sha256(path) for path in (out, *others)}
    artifacts.write_json(artifacts.settings_path(out), record | {"outputs": outputs})
    maker.note(artifacts.settings_path(out))


def is_made(params: Params, stage: str, name: str, out: Path) -> bool:
    """Whether ``out`` was made by this very stage, with these settings, from the files that are there now."""
    try:
        found = artifacts.read_json(artifacts.settings_path(out))
        same = (found["stage"], found["name"], stage_key(params, stage, name)) == (
            stage,
            name,
            artifacts.canonical_json({"settings": found["settings"], "code": found["code"]}),
        )
        hashes = found["inputs"] | found["outputs"]
        return same and all(artifacts.sha256(Path(path)) == digest for path, digest in hashes.items())
    except (UserError, OSError, LookupError, TypeError, ValueError):
        return False


def stamp(params: Params, stage: str, name: str) -> str:
    """SHA-256 of a stage's settings and code, kept inside the files that later stages must be able to refuse."""
    return hashlib.sha256(stage_key(params, stage, name).encode()).hexdigest()


def check_stamp(params: Params, stage: str, name: str, path: Path, found: str) -> None:
    """Raises UserError if ``path``, which holds the stamp ``found``, was made with other settings or code."""
    if found != stamp(params, stage, name):
        raise UserError(
            f"{path} was made with other settings or other code than today's: "
            f"make it again with `snakemake --cores all {path}`"
        )


def wants_gpu(params: Params) -> bool:
    """Whether jobs compute on a GPU, told without importing torch."""
    return params.device == "cuda" or (params.device == "auto" and Path("/dev/nvidiactl").exists())
