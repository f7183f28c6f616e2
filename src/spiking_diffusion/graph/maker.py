"""What made a file, apart from ``params.yaml``: commit, locked libraries, machine and time.

Kept below ``work/``, for no two machines agree on it, and on ``results/`` they do.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from spiking_diffusion import artifacts
from spiking_diffusion.errors import UserError

LIBRARIES = ("torch", "spikingjelly", "torch-fidelity", "numpy", "snakemake", "dvc")
MADE = "Made"
NO_REPOSITORY = "not in a git repository"


def facts() -> dict[str, str]:
    """What numbers that are made here and now depend on."""
    lock = Path("requirements.lock")
    return {
        "Commit": _commit(),
        "requirements.lock": f"SHA-256 {artifacts.sha256(lock)}" if lock.is_file() else "none here",
        "Processor": _processor(),
        "GPU": _gpu() if Path("/dev/nvidiactl").exists() else "none",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "Libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        MADE: time(),
    }


def time() -> str:
    """Now, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def note(settings: Path) -> None:
    """Write down what made the files that ``settings`` lies beside."""
    artifacts.clear_leftovers(_path(settings))
    artifacts.write_json(_path(settings), facts() | {"settings": artifacts.sha256(settings)})


def made_by(settings: Path) -> dict[str, str] | None:
    """The ``facts`` of when these files were made; None where others made them, or it is not known."""
    try:
        found = artifacts.read_json(_path(settings))
        same = found.pop("settings") == artifacts.sha256(settings)
    except (UserError, OSError, AttributeError, KeyError):
        return None
    return found if same else None


def _path(settings: Path) -> Path:
    """results/metrics/digits.settings.json -> work/provenance/metrics/digits.json"""
    return Path("work/provenance", *settings.parts[1:-1], settings.name.replace(".settings.json", ".json"))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # a stage needs no workflow tool
        return "absent"


def _commit() -> str:
    try:
        head = _output("git", "rev-parse", "HEAD")
        changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    except OSError as error:
        return f"unknown, git cannot be run: {error.strerror}"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit code {error.returncode}"
        return NO_REPOSITORY if "not a git repository" in said else f"unknown, git says: {said.splitlines()[0]}"
    return f"{head}{' and changes that are not committed' if changed else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _gpu() -> str:
    try:
        return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").replace("\n", "; ")
    except (OSError, subprocess.SubprocessError):
        return "one that nvidia-smi does not name"


def _output(*command: str) -> str:
    plain = os.environ | {"LC_ALL": "C"}  # in English
    return subprocess.run(command, check=True, capture_output=True, text=True, env=plain).stdout.strip()
