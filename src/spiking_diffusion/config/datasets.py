"""``datasets:`` of ``params.yaml``: where images come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from spiking_diffusion.config.base import Count, Section, Seed, Sha256


class RemoteFile(Section):
    """One file of a dataset: its name, its URLs, and its sha256."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    urls: list[Annotated[str, StringConstraints(pattern=r"^https?://")]]
    sha256: Sha256

    @field_validator("urls")
    @classmethod
    def _no_password(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if "@" in urlsplit(url).netloc:
                raise ValueError(
                    f"a URL of {urlsplit(url).hostname} has a user name or password, and this file is no secret: "
                    "put them into ~/.netrc"
                )
        return urls


class LocalFile(Section):
    """One file of a dataset that is already on this machine. For the format ``folder`` it is a folder.

    ``path`` is relative to the project's folder, or absolute. Its hash is recorded, not checked, because the file is
    the user's own.
    """

    path: Annotated[str, StringConstraints(pattern=r"^[^\s${}][^\n\r${}]*$")]


class PinnedFile(Section):
    """A file that is already on this machine and must have this ``sha256``. ``path`` is as in ``LocalFile``."""

    path: Annotated[str, StringConstraints(pattern=r"^[^\s${}][^\n\r${}]*$")]
    sha256: Sha256


def _kind_of_file(value: Any) -> str:
    local = "path" in value if isinstance(value, Mapping) else isinstance(value, (LocalFile, PinnedFile))
    return "file on disk" if local else "file to download"


File = Annotated[
    Annotated[RemoteFile, Tag("file to download")] | Annotated[LocalFile, Tag("file on disk")],
    Discriminator(_kind_of_file),
]

Weights = Annotated[
    Annotated[RemoteFile, Tag("file to download")] | Annotated[PinnedFile, Tag("file on disk")],
    Discriminator(_kind_of_file),
]

FORMATS: dict[str, set[str]] = {
    "digits": set(),
    "idx": {"train_images", "train_labels", "test_images", "test_labels"},
    "emnist-zip": {"archive"},
    "cifar-bin": {"archive"},
    "cifar-python": {"archive"},
    "npz": {"data"},
    "folder": {"data"},
}
"""The files that each format consists of."""


class Split(Section):
    """How many images are set aside by ``seed``: ``validation`` of the training images, and ``test`` if the dataset has
    no test set of its own (0 otherwise)."""

    validation: Count
    test: Annotated[int, Field(ge=0)]
    seed: Seed


class Dataset(Section):
    """Where images come from. ``shape`` is (channels, height, width); pixels are uint8.

    ``resize`` says what happens to images of another size in a ``folder``. They are refused (``none``), scaled and
    cropped to the middle (``crop``) or distorted (``stretch``). Images without labels are one class.
    """

    title: str
    format: Literal["digits", "idx", "emnist-zip", "cifar-bin", "cifar-python", "npz", "folder"]
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    resize: Literal["none", "crop", "stretch"]
    classes: Annotated[int, Field(ge=1, le=65536)]
    split: Split
    licence: str
    citation: str
    files: dict[str, File]

    @model_validator(mode="after")
    def _check(self) -> Dataset:
        if any(side % 4 for side in self.shape[1:]):
            raise ValueError("height and width must be divisible by 4: the encoder halves both twice")
        if min(self.shape[1:]) < 8:
            raise ValueError(
                f"shape is {self.shape}: height and width must be at least 8, because SSIM's window needs them"
            )
        if self.shape[0] not in (1, 3):
            raise ValueError(f"shape is {self.shape}: the first number must be 1 for grey images or 3 for colour")
        if self.resize != "none" and self.format != "folder":
            raise ValueError(f"resize is {self.resize!r}: {self.format} does not resize images: set resize to none")
        if set(self.files) != FORMATS[self.format]:
            raise ValueError(
                f"format {self.format} needs files {sorted(FORMATS[self.format])}, found {sorted(self.files)}"
            )
        return self

    @property
    def paths(self) -> list[Path]:
        """The dataset's files that are on this machine."""
        return [Path(file.path) for file in self.files.values() if isinstance(file, LocalFile)]
