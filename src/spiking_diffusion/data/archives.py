"""The members of a zip, a tar or a folder, one by one. Nothing is unpacked to disk."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Protocol, TypeVar

from spiking_diffusion.artifacts import files_of

T = TypeVar("T")

LIMIT = 4 * 2**30
"""The most bytes that are read of one array or member, because images stay in memory."""


@dataclass(frozen=True)
class Member:
    """A regular file: its name with forward slashes, and its size in bytes when unpacked."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]

    def read(self, limit: int) -> bytes:
        """The whole content. Raises ValueError if it is larger than ``limit`` bytes, without unpacking the rest."""
        if self.size > limit:
            raise ValueError(f"{self.name} unpacks to {self.size} bytes, the limit is {limit}")
        with self.open() as file:
            return read_at_most(file, limit, self.name)


class Readable(Protocol):
    """Any object with a ``read`` method for bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


def read_at_most(file: Readable, limit: int, name: str) -> bytes:
    """The rest of a file. Raises ValueError if it has more than ``limit`` bytes, and reads no more than these."""
    raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"{name} unpacks to more than the {limit} bytes expected")
    return raw


def members(path: Path) -> Iterator[Member]:
    """The files in a folder, a zip, or a tar (packed or not), in no particular order.

    Raises ValueError for names that point outside, links, devices, and two members of one name.
    """
    if path.is_dir():
        return folder_members(path)
    with path.open("rb") as file:
        packed = file.read(2) == b"PK"
    return zip_members(path) if packed else tar_members(path)


def folder_members(folder: Path) -> Iterator[Member]:
    """The files in a folder, in order. Links within it are followed, because it is the user's own folder."""
    for path in files_of(folder):
        yield Member(path.relative_to(folder).as_posix(), path.stat().st_size, partial(_open, path))


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def zip_members(path: Path) -> Iterator[Member]:
    """The files in a zip archive."""
    with zipfile.ZipFile(path) as archive:
        seen: set[str] = set()
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            regular = info.is_dir() or kind in (0, stat.S_IFREG)  # systems without modes write 0
            name = _checked(info.filename, regular, seen)
            if not info.is_dir():
                yield Member(name, info.file_size, partial(archive.open, info))


def tar_members(path: Path) -> Iterator[Member]:
    """The files in a tar archive. Read each before you ask for the next."""
    with tarfile.open(path) as archive:
        seen: set[str] = set()
        for info in archive:
            name = _checked(info.name, info.isfile() or info.isdir(), seen)
            if info.isfile():
                yield Member(name, info.size, partial(_extract, archive, info))


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file  # as it is a regular file
    return file


def wanted(found: Mapping[str, T], name: str) -> T:
    """The member with this name. Raises ValueError if there is none."""
    if name not in found:
        raise ValueError(f"it has no member {name}")
    return found[name]


def _checked(name: str, regular: bool, seen: set[str]) -> str:
    path = PureWindowsPath(name)  # knows both slashes and drives
    if path.anchor or ".." in path.parts:
        raise ValueError(f"its member {name!r} points outside the archive")
    if not regular:
        raise ValueError(f"its member {name!r} is a link or a device")
    plain = path.as_posix()
    if plain in seen:
        raise ValueError(f"it has two members of the name {plain!r}")
    seen.add(plain)
    return plain
