"""The ImageNet networks of the Inception protocols: finding their weights and reading them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from spiking_diffusion import artifacts
from spiking_diffusion.config import PinnedFile, Weights
from spiking_diffusion.data.sources import obtain
from spiking_diffusion.errors import UserError, refused

INCEPTION = "SPIKING_DIFFUSION_INCEPTION"
CACHE = Path("work/downloads/inception.weights")  # the dot keeps it apart from datasets' names
log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """A number is not available, with the reason and the remedy. The run continues."""


def find_weights(network: str, file: Weights) -> Path:
    """A file with the hash ``file.sha256``.

    Tried in order: ``$SPIKING_DIFFUSION_INCEPTION``, a folder with the networks' files or the file of ``fid``; the path
    in params.yaml; or an earlier download in ``work/``, the mirror, and the URLs. Raises UnavailableError if no
    download is possible. Raises UserError if a named file is missing or has another hash.
    """
    name = Path(file.path).name if isinstance(file, PinnedFile) else file.name
    given = Path(os.environ[INCEPTION]) if os.environ.get(INCEPTION) else None
    if given and not given.exists():
        raise UserError(f"{INCEPTION} is {given}, and there is no such file or folder: correct it, or unset it")
    if given and given.is_dir():
        given = given / name if (given / name).is_file() else None
    elif given and network != "fid":
        given = None
    if isinstance(file, PinnedFile):
        given = given or Path(file.path)
        if not given.is_file():
            raise UserError(f"there is no file {given}: correct inception.{network}.path in params.yaml")
    if given:
        found = artifacts.sha256(given)
        if found != file.sha256:
            raise UserError(
                f"{given} is not the file of inception.{network} (its sha256 is {found}, not {file.sha256}): "
                f"name another by {INCEPTION} or in params.yaml"
            )
        return given
    assert not isinstance(file, PinnedFile)
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / ".lock"):  # only one of several jobs downloads
            return obtain("inception", file, CACHE).path
    except OSError as error:
        raise refused(f"cannot lock {CACHE}", error) from error
    except UserError as error:
        log.warning("%s", error)
        # without `error`, because its words for a dead network differ each time
        raise UnavailableError(
            f"weights {name} could not be downloaded: set {INCEPTION} to a folder that has them and evaluate again"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.pth`` file, without running pickled code.

    Raises UserError if the file contains anything but tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it contains more than named tensors")
    except Exception as error:  # pickle, zipfile and torch each have their own exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a file of weights ({reason}): name another in params.yaml") from error
    return state
