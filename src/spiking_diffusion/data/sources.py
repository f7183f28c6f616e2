"""Getting a dataset's files: the mirror first, then each URL, and only bytes with the right hash."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pooch

from spiking_diffusion.config import RemoteFile
from spiking_diffusion.errors import UserError

MIRROR = "SPIKING_DIFFUSION_MIRROR"
log = logging.getLogger(__name__)


def obtain(dataset: str, file: RemoteFile, cache: Path, timeout: float = 30) -> Path:
    """The path of a verified copy of ``file``.

    Tried in order: ``cache``; ``$SPIKING_DIFFUSION_MIRROR/{dataset}/{name}``, where the variable is a folder
    or a URL prefix; the file's own URLs. Raises UserError listing what was tried when none has the bytes.
    """
    mirror = os.environ.get(MIRROR, "")
    sources = [f"{mirror.rstrip('/')}/{dataset}/{file.name}"] if mirror else []
    failures = []
    cached = cache / file.name
    if cached.is_file() and _sha256(cached) == file.sha256:
        return cached
    for source in [*sources, *file.urls]:
        try:
            if source.startswith(("http://", "https://")):
                log.info("downloading %s", source)
                # pooch downloads to a temporary file and moves it only when the hash is right
                return Path(
                    pooch.retrieve(
                        source,
                        f"sha256:{file.sha256}",
                        file.name,
                        cache,
                        downloader=pooch.HTTPDownloader(timeout=timeout),
                    )
                )
            path = Path(source)
            found = _sha256(path)
            if found != file.sha256:
                raise ValueError(f"sha256 is {found}, expected {file.sha256}")
            return path
        except Exception as error:  # a dead link has many names; the next source may still do
            failures.append(f"{source}: {' '.join(str(error).split())}")
            log.warning("%s", failures[-1])
    raise UserError(
        f"no source of {dataset}/{file.name} gave the expected file ({'; '.join(failures) or 'none is listed'}): "
        f"set {MIRROR} to a folder or URL prefix that has {dataset}/{file.name}, or add a URL in params.yaml"
    )


def _sha256(path: Path) -> str:
    return pooch.file_hash(str(path), alg="sha256")
