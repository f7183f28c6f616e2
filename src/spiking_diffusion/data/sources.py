"""Getting a dataset's files: the mirror first, then each URL, and only bytes with the right hash."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pooch

from spiking_diffusion import artifacts
from spiking_diffusion.config import LocalFile, RemoteFile
from spiking_diffusion.errors import UserError

MIRROR = "SPIKING_DIFFUSION_MIRROR"
ROUNDS = 3
"""How often every source is tried, as a network may fail for a moment."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Where a file lies now, the URL or path it came from, its hash, and whether params.yaml said so."""

    path: Path
    source: str
    sha256: str
    verified: bool


def obtain(dataset: str, file: RemoteFile, cache: Path, timeout: float = 30) -> Found:
    """A verified copy of ``file``.

    Tried in order, in several rounds: ``cache``; ``$SPIKING_DIFFUSION_MIRROR/{dataset}/{name}``, where the variable is
    a folder or a URL prefix; the file's own URLs. Raises UserError listing what was tried when none has the bytes.
    """
    cached, origin, partial = cache / file.name, cache / f"{file.name}.source", cache / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a download that was killed
    artifacts.clear_leftovers(origin)
    if cached.is_file() and artifacts.sha256(cached) == file.sha256:
        source = origin.read_text(encoding="utf-8") if origin.is_file() else str(cached)
        return Found(cached, source, file.sha256, verified=True)
    mirror = os.environ.get(MIRROR, "")
    sources = [f"{mirror.rstrip('/')}/{dataset}/{file.name}"] if mirror else []
    failures: list[str] = []
    for source in [*sources, *file.urls] * ROUNDS:
        try:
            if source.startswith(("http://", "https://")):
                log.info("downloading %s", source)
                arrived = pooch.retrieve(
                    source,
                    f"sha256:{file.sha256}",
                    file.name,
                    partial,
                    downloader=pooch.HTTPDownloader(timeout=timeout),
                )
                artifacts.write_text(origin, source)
                Path(arrived).replace(cached)
                return Found(cached, source, file.sha256, verified=True)
            if not Path(source).is_file():
                raise FileNotFoundError("no such file")
            found = artifacts.sha256(Path(source))
            if found != file.sha256:
                raise ValueError(f"sha256 is {found}, expected {file.sha256}")
            return Found(Path(source), source, file.sha256, verified=True)
        except Exception as error:  # a dead link has many names; the next source may still do
            failures.append(f"{source}: {_why(error)}")
            log.warning("%s", failures[-1])
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    said = "; ".join(dict.fromkeys(failures)) or "none is listed"
    raise UserError(
        f"no source of {dataset}/{file.name} gave the expected file ({said}): "
        f"set {MIRROR} to a folder or URL prefix that has {dataset}/{file.name}, or add a URL in params.yaml"
    )


def _why(error: Exception) -> str:
    """One line; of a failed connection the cause alone, since what is wrapped around it names the URL again."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return " ".join(str(cause if isinstance(cause, Exception) else error).split())


def locate(dataset: str, role: str, file: LocalFile, folder: bool) -> Found:
    """A file on disk, or a folder where ``folder`` says that one may be.

    Raises UserError where it is not there.
    """
    path = Path(file.path)
    if not path.is_file() and not (folder and path.is_dir()):
        kind = "file or folder" if folder else "file"
        raise UserError(f"there is no {kind} {path}: correct datasets.{dataset}.files.{role}.path in params.yaml")
    return Found(path, file.path, artifacts.content_hash(path), verified=False)
