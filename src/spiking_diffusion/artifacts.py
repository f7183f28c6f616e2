"""Files: where they lie, how they are written so that no reader sees half of one, and how they are checked."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spiking_diffusion.errors import UserError

SPLITS = ("train", "validation", "test")
"""What images and tokens are stored as."""


def data_path(dataset: str) -> Path:
    """Images, labels and split of a dataset."""
    return Path("results/data", f"{dataset}.npz")


def card_path(dataset: str) -> Path:
    """What is in a dataset and where it came from, as JSON."""
    return data_path(dataset).with_suffix(".card.json")


def sheet_path(dataset: str) -> Path:
    """Some images of every class in one picture."""
    return data_path(dataset).with_suffix(".png")


def classifier_path(dataset: str) -> Path:
    """The classifier whose features the ``classifier`` protocol compares."""
    return Path("results/classifiers", f"{dataset}.safetensors")


def model_path(run: str, model: str) -> Path:
    """Weights of ``vqsvae``, ``sdid`` or ``fsvae``."""
    return Path("results/models", run, f"{model}.safetensors")


def tokens_path(run: str) -> Path:
    """Training and validation images as tokens."""
    return Path("results/tokens", f"{run}.npz")


def tuning_path(run: str) -> Path:
    """The temperature that was chosen; every setting that was tried lies beside it as CSV."""
    return Path("results/tuning", f"{run}.json")


def samples_path(run: str) -> Path:
    """Generated images."""
    return Path("results/samples", f"{run}.npz")


def sampling_path(run: str) -> Path:
    """How long drawing the images took: no output of a stage, for it is never the same twice."""
    return Path("work", run, "sampling.json")


def metrics_path(run: str) -> Path:
    """One flat JSON of numbers."""
    return Path("results/metrics", f"{run}.json")


def reconstructions_path(run: str) -> Path:
    """The test images after encoder and decoder."""
    return Path("results/reconstructions", f"{run}.npz")


def traces_path(run: str) -> Path:
    """What goes on inside a trained run: codes as images, samples in the making, spikes."""
    return Path("results/traces", f"{run}.npz")


def energy_path(run: str) -> Path:
    """Operations and millijoules per drawn image; those of each layer lie beside it as CSV."""
    return Path("results/energy", f"{run}.json")


def settings_path(output: Path) -> Path:
    """The resolved settings that made ``output``, beside it."""
    return output.with_suffix(".settings.json")


def history_path(weights: Path) -> Path:
    """Losses by epoch, beside the weights they led to."""
    return weights.with_suffix(".history.csv")


# --- writing --------------------------------------------------------------------------------------------


def write_atomic(path: Path, write: Callable[[io.BufferedWriter], Any]) -> None:
    """Call ``write`` on a temporary file in the same folder, flush it to disk, and rename it to ``path``.

    Whatever happens, ``path`` holds either its old content or all of the new one. Raises UserError where the
    file system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): "
            "free the space or the permission and run the same command again"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Bring a rename to disk; file systems that cannot do it for a folder say EINVAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of ``path`` and of its side files left.

    Only for who holds the lock of ``path``: another's would be in use.
    """
    for left in path.parent.glob(f".{path.stem}.*"):
        left.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    write_atomic(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def canonical_json(value: Any) -> str:
    """JSON with one spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs: sorted keys, indented."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz; equal arrays give equal bytes."""
    write_atomic(path, lambda file: np.savez_compressed(file, **dict(arrays)))  # type: ignore[arg-type]


# --- reading --------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    require(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(path: Path) -> Path:
    """``path``, if it is a file. Raises UserError otherwise, naming the way to make it."""
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with `snakemake --cores all {path}`")
    return path


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Raises UserError if it is missing or damaged; never unpickles."""
    require(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: _array(arrays, name) for name in arrays}
    except Exception as error:  # zipfile, zlib, numpy and struct each have their own
        raise damaged(path, error) from error


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of an .npz; the others are not read. Raises UserError if it is missing or damaged."""
    require(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _array(arrays, name)
    except Exception as error:
        raise damaged(path, error) from error


def _array(arrays: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"it has no array {name!r}")
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of a member that is none
        raise ValueError(f"{name!r} is no array")
    return array


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises UserError if it is missing or damaged."""
    require(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception | str) -> UserError:
    """The error for a file that is there but cannot be used."""
    return UserError(f"{path} is damaged ({' '.join(str(error).split())}): delete it and run the same command again")
