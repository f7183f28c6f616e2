"""Getting a dataset's files: the mirror first, then each URL, and only bytes with the right hash."""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import pooch

from spiking_diffusion import artifacts
from spiking_diffusion.config import LocalFile, RemoteFile
from spiking_diffusion.errors import UserError

MIRROR = "SPIKING_DIFFUSION_MIRROR"
ROUNDS = 3
"""How often every source is tried, because a network may fail for a moment."""
log = logging.getLogger(__name__)
pooch.get_logger().setLevel(logging.WARNING)  # it logs URLs with their secrets


@dataclass(frozen=True)
class Found:
    """A file's current path, the URL or path it came from, its hash, and whether params.yaml gives this hash."""

    path: Path
    source: str
    sha256: str
    verified: bool


def obtain(dataset: str, file: RemoteFile, cache: Path, timeout: float = 30) -> Found:
    """A verified copy of ``file``.

    Tried in order, in several rounds: ``cache``; the file ``{dataset}/{name}`` of ``$SPIKING_DIFFUSION_MIRROR``, a
    folder or a URL prefix; the file's own URLs. If no source has the bytes, raises UserError that lists the attempts.
    """
    cached, origin, partial = cache / file.name, cache / f"{file.name}.source", cache / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed download
    artifacts.clear_leftovers(origin)
    if cached.is_file() and artifacts.sha256(cached) == file.sha256:
        source = origin.read_text(encoding="utf-8") if origin.is_file() else str(cached)
        return Found(cached, source, file.sha256, verified=True)
    mirror = os.environ.get(MIRROR, "")
    sources = [_mirrored(mirror, f"{dataset}/{file.name}")] if mirror else []
    failures: list[str] = []
    for source in [*sources, *file.urls] * ROUNDS:
        remote = source.startswith(("http://", "https://"))
        secret = remote and source not in file.urls  # URLs in params.yaml are public
        told = without_secrets(source) if secret else source
        try:
            if remote:
                log.info("downloading %s", told)
                arrived = pooch.retrieve(
                    source,
                    f"sha256:{file.sha256}",
                    file.name,
                    partial,
                    downloader=pooch.HTTPDownloader(timeout=timeout),
                )
                artifacts.write_text(origin, told)
                Path(arrived).replace(cached)
                return Found(cached, told, file.sha256, verified=True)
            if not Path(source).is_file():
                raise FileNotFoundError("no such file")
            found = artifacts.sha256(Path(source))
            if found != file.sha256:
                raise ValueError(f"sha256 is {found}, expected {file.sha256}")
            return Found(Path(source), source, file.sha256, verified=True)
        except Exception as error:  # a dead link can raise many errors, and the next source may work
            why = _why(error)
            failures.append(f"{told}: {without_secrets(why) if secret else why}")
            log.warning("%s", failures[-1])
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    said = "; ".join(dict.fromkeys(failures)) or "none is listed"
    raise UserError(
        f"no source of {dataset}/{file.name} gave the expected file ({said}): "
        f"set {MIRROR} to a folder or URL prefix that has {dataset}/{file.name}, or add a URL in params.yaml"
    )


def _mirrored(mirror: str, name: str) -> str:
    """A file's place in a mirror: below a folder, with its ``~`` expanded, or below the path of a URL, before its
    query."""
    parts = urlsplit(mirror)
    if parts.scheme in ("http", "https"):
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    folder = unquote(parts.path) if parts.scheme == "file" else mirror
    return os.path.join(os.path.expanduser(folder), name)  # noqa: PTH111, PTH118 (Path's fails where there is no home)


def without_secrets(text: str) -> str:
    """A URL, or a text with URLs, without user names, passwords and queries. A query can sign a URL."""
    return re.sub(r"(?<=://)[^\s/@]*@|\?[^\s'\")]*", "", text)


def _why(error: Exception) -> str:
    """The error as one line. For a failed connection only its cause, because the wrapping errors repeat the URL."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return " ".join(str(cause if isinstance(cause, Exception) else error).split())


def locate(dataset: str, role: str, file: LocalFile, folder: bool) -> Found:
    """A file on disk, or a folder if ``folder`` allows one.

    Raises UserError if it does not exist.
    """
    path = Path(file.path)
    if not path.is_file() and not (folder and path.is_dir()):
        kind = "file or folder" if folder else "file"
        raise UserError(f"there is no {kind} {path}: correct datasets.{dataset}.files.{role}.path in params.yaml")
    return Found(path, file.path, artifacts.content_hash(path), verified=False)
