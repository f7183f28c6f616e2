"""Recompute all recorded hashes: in settings files, in DVC's lock, and in DVC's cache, which DVC itself trusts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import safetensors
from dvc.config import Config
from ruamel.yaml import YAML

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import jobs
from spiking_diffusion.graph.records import claim, content


def verify(params: Params) -> tuple[int, list[str]]:
    """The number of checked records, and a line for each wrong one. Missing files are not checked."""
    checked, wrong = 0, []
    for part in (_settings(params), _weights_of_tokens(params), _dvc_outputs(), _dvc_cache()):
        for line in part:
            checked += 1
            wrong += [line] if line else []
    return checked, wrong


def _settings(params: Params) -> Iterator[str]:
    """The hashes of outputs and inputs in each settings file."""
    hashes: dict[str, str | None] = {}
    for job in jobs(params):
        if not job.present:
            continue
        said = claim(job)
        if said is None:
            yield f"{job.settings_file}: missing, damaged or another job's: unknown origin of {job.present[0]}"
            continue
        for path, recorded in [*said["outputs"].items(), *said["inputs"].items()]:
            if path not in hashes:
                hashes[path] = content(Path(path))
            if hashes[path]:
                yield (
                    ""
                    if hashes[path] == recorded
                    else f"{path}: damaged or changed since {job.settings_file} recorded it"
                )


def _weights_of_tokens(params: Params) -> Iterator[str]:
    """The hash of the VQ-SVAE in tokens, and in the SDID trained on them."""
    for run in params.runs:
        vqsvae = paths.model_path(run, "vqsvae")
        tokens, sdid = paths.tokens_path(run), paths.model_path(run, "sdid")
        if not vqsvae.is_file():
            continue
        for path, of in ((tokens, _token_source), (sdid, _weight_source)):
            if path.is_file():
                try:
                    yield (
                        ""
                        if of(path) == artifacts.sha256(vqsvae)
                        else f"{path}: made with another VQ-SVAE than {vqsvae}"
                    )
                except UserError as error:
                    yield f"{path}: {error}"


def _token_source(path: Path) -> str:
    return str(artifacts.read_array(path, "vqsvae"))


def _weight_source(path: Path) -> str:
    try:
        with safetensors.safe_open(path, "np") as file:
            return (file.metadata() or {}).get("made_from", "")
    except Exception as error:  # the library's errors have no common base class
        raise artifacts.damaged(path, error) from error


def _dvc_outputs() -> Iterator[str]:
    """The outputs in ``dvc.lock``."""
    for path, recorded in dvc_lock().items():
        if Path(path).is_file():
            yield "" if md5(Path(path)) == recorded else f"{path}: not the file that dvc.lock recorded"


def _dvc_cache() -> Iterator[str]:
    """Objects of DVC's local cache, each named by the MD5 of its bytes."""
    if not Path(".dvc").is_dir():
        return
    folder = Path(Config(".dvc").get("cache", {}).get("dir") or ".dvc/cache", "files", "md5")
    for path in (file for part in artifacts.listed(folder, "[0-9a-f][0-9a-f]") for file in artifacts.listed(part, "*")):
        name = path.parent.name + path.name.removesuffix(".dir")
        if re.fullmatch("[0-9a-f]{32}", name):
            found = md5(path)
            yield (
                ""
                if found == name
                else f"{path}: damaged, its bytes have the hash {found}: delete it, DVC makes or pulls it again"
            )


def md5(path: Path) -> str:
    """MD5 of a file. DVC names files by it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def dvc_lock() -> dict[str, str]:
    """MD5 of each output by path in ``dvc.lock``, or nothing if DVC has made nothing yet."""
    path = Path("dvc.lock")
    if not path.is_file():
        return {}
    try:
        stages = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"].values()
        return {
            out["path"]: out["md5"] for stage in stages for out in stage.get("outs", []) if out.get("hash") == "md5"
        }
    except Exception as error:  # merge markers, half a file, or anything else
        raise UserError(
            f"dvc.lock is damaged ({' '.join(str(error).split())[:200]}): restore it with git, or delete it "
            "and run `dvc repro`"
        ) from error
