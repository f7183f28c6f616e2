"""Files: how they are written so that no reader sees half of one, and how they are read and checked."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spiking_diffusion.errors import UserError, refused

SPLITS = ("train", "validation", "test")
"""What images and tokens are stored as."""
DEEPEST = 8
"""Folders in folders that are followed: a link that leads back up would have no end."""


# --- writing --------------------------------------------------------------------------------------------


def write_atomic(path: Path, write: Callable[[io.BufferedWriter], Any]) -> None:
    """Call ``write`` on a temporary file in the same folder, flush it to disk, and rename it to ``path``.

    Whatever happens, ``path`` holds either its old content or all of the new one. Its mode is what the umask leaves,
    without a chmod, which some disks refuse. Raises UserError where the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise refused(f"cannot write {path}", error) from error


UNABLE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.EACCES, errno.EISDIR)
"""What file systems say that cannot bring a folder to disk; the file itself is there."""


def _sync_folder(folder: Path) -> None:
    """Bring a rename to disk, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise


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


def sha256_of(content: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files in a folder."""
    if not path.is_dir():
        return sha256(path)
    try:
        hashes = {file.relative_to(path).as_posix(): sha256(file) for file in files_of(path)}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fix it, or name another folder") from error
    return sha256_of(canonical_json(hashes).encode())


def files_of(path: Path) -> list[Path]:
    """All files in a folder, in order, or just ``path`` where it is a file.

    Raises ValueError for broken links, for links that lead in a circle, and for devices, and OSError for a folder that
    cannot be read.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for parent, _, files in os.walk(path, onerror=_raise, followlinks=True):
        if len(Path(parent).relative_to(path).parts) > DEEPEST:
            raise ValueError(f"{parent} is nested too deep, or a link in it leads back up")
        for name in files:
            if not Path(parent, name).is_file():
                raise ValueError(f"{Path(parent, name)} is a broken link or a device")
            found.append(Path(parent, name))
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names fit; none where it is not there.

    Unlike ``Path.glob`` it raises PermissionError where the folder cannot be read, and does not say that it is empty.
    """
    return sorted(path for path in folder.iterdir() if path.match(pattern)) if folder.is_dir() else []


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
