"""Files of runs, datasets and suites that ``params.yaml`` no longer names."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path

from spiking_diffusion import artifacts
from spiking_diffusion.config import FAMILIES, Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import jobs


def orphans(params: Params) -> list[Path]:
    """Files that the pipeline made for names that no longer exist. Other folders are not touched."""
    names: dict[Path, set[str]] = defaultdict(set)  # the allowed first parts of names of files and folders, by folder
    for job in jobs(params):
        for path in (job.settings_file, *job.outputs):
            for top in ("results", "work/provenance"):
                names[Path(top, path.parts[1])].add(_name(path.parts[2]))
    # a dataset and a run can have the same name, so each rule has its own names; files of unknown rules stay
    for job in jobs(params):
        of_suite = job.spec.over == "suites"  # results/figures/quick-losses.png -> logs/figure/quick-losses.log
        for folder in ("logs", "benchmarks"):
            rule = Path(folder, job.spec.command if of_suite else job.stage)
            names[rule].add(_name(job.settings_file.name) if of_suite else job.name)
    found = [
        entry
        for folder, allowed in names.items()
        if folder.is_dir()
        for entry in folder.iterdir()
        if _name(entry.name) not in allowed and entry.name != ".gitignore"
    ]
    # folders of datasets have no dot, and those of runs have a folder for each network
    found += [path for path in Path().glob("work/downloads/*/") if path.name not in params.datasets and not path.suffix]
    marks = {"sampling.json", *(model for family in FAMILIES.values() for model in family.networks)}
    found += [
        path
        for path in Path().glob("work/*/")
        if path.name not in params.all_runs and any((path / mark).exists() for mark in marks)
    ]
    files = [file for entry in found for file in [entry, *entry.rglob("*")] if not file.is_dir()]
    made = _made()
    return sorted(file for file in files if file.parts[0] != "results" or (file.parent, _name(file.name)) in made)


def _made() -> set[tuple[Path, str]]:
    """Folders and first parts of the names of all files below ``results`` that settings files mention."""
    made = set()
    for settings in Path("results").rglob("*.settings.json"):
        said = {}
        with contextlib.suppress(UserError):  # a damaged file mentions only itself
            said = artifacts.read_json(settings)
        outputs = said.get("outputs", {}) if isinstance(said, dict) else {}
        made |= {(path.parent, _name(path.name)) for path in (settings, *map(Path, outputs))}
    return made


def remove(files: list[Path]) -> None:
    """Delete files, and folders that become empty."""
    for file in files:
        file.unlink(missing_ok=True)
    for folder in sorted({parent for file in files for parent in file.parents if len(parent.parts) > 1}, reverse=True):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _name(part: str) -> str:
    """The run, dataset or suite in a file's name. Temporary files have it after a dot."""
    return part.lstrip(".").partition(".")[0]
