"""The ImageNet networks of the Inception protocols: where their weights are found, and how they are read."""

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
CACHE = Path("work/downloads/inception.weights")  # a dot: no dataset's name
log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """Why a number cannot be had here and now, and what would help; no reason for a run to fail."""


def find_weights(network: str, file: Weights) -> Path:
    """A file that hashes to ``file.sha256``.

    Tried in order: ``$SPIKING_DIFFUSION_INCEPTION``, a folder with the networks' files or the file of ``fid``; the path
    in params.yaml, or what a download left in ``work/``, the mirror, and the URLs. Raises UnavailableError if none of
    the latter can be reached, UserError if a file that was named is not there or not the right one.
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
                f"{given} is not what inception.{network} asks for (its sha256 is {found}, not {file.sha256}): "
                f"name another by {INCEPTION} or in params.yaml"
            )
        return given
    assert not isinstance(file, PinnedFile)
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / ".lock"):  # of jobs at once, one downloads
            return obtain("inception", file, CACHE).path
    except OSError as error:
        raise refused(f"cannot lock {CACHE}", error) from error
    except UserError as error:
        log.warning("%s", error)
        # nothing of `error`, which words a dead network differently each time
        raise UnavailableError(
            f"weights {name} could not be downloaded: give them by {INCEPTION} and evaluate again"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name out of a ``.pth`` file, without running what may be pickled in it.

    Raises UserError if there is anything but tensors in it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds other things than tensors by name")
    except Exception as error:  # pickle, zipfile and torch each have their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no file of weights ({reason}): name another in params.yaml") from error
    return state
