"""Reading the files of a dataset into arrays.

Every reader returns ``{"train": (images, labels), "test": (images, labels)}``, images (N, C, H, W) uint8 and
labels (N,) uint8 from 0; ``test`` is missing where the dataset has no test set. Archives are read member by
member, nothing is unpacked to disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from spiking_diffusion.errors import UserError

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def read_dataset(kind: str, shape: tuple[int, int, int], files: Mapping[str, Path]) -> Arrays:
    """Read a dataset of format ``kind`` whose images must have ``shape`` (C, H, W).

    Raises UserError for files that are not what their format promises.
    """
    names = ", ".join(str(path) for path in files.values()) or kind
    try:
        arrays = READERS[kind](shape, files)
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{names} cannot be read as {kind} ({' '.join(str(error).split())}): "
            "check the dataset's format and files in params.yaml"
        ) from error
    for split, (images, labels) in arrays.items():
        if images.shape[1:] != shape:
            raise UserError(
                f"the {split} images have shape {images.shape[1:]}, params.yaml says {shape}: "
                "correct the dataset's shape"
            )
        if not len(images):
            raise UserError(f"there are no {split} images in {names}: check the dataset's files in params.yaml")
        if len(images) != len(labels):
            raise UserError(
                f"there are {len(images)} {split} images but {len(labels)} labels: the files do not belong together"
            )
    return arrays


def _digits(shape: tuple[int, int, int], files: Mapping[str, Path]) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels.

    Laid out as MNIST is: enlarged to 5/7 of the side (20 of 28 pixels), bilinearly, in the middle of a black frame.
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    _, height, width = shape
    small, labels = load_digits(return_X_y=True)
    grey = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    h, w = height * 5 // 7, width * 5 // 7
    top, left = (height - h) // 2, (width - w) // 2
    images = np.zeros((len(grey), 1, height, width), np.uint8)
    for image, canvas in zip(grey, images[:, 0], strict=True):
        canvas[top : top + h, left : left + w] = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    return {"train": (images, labels.astype(np.uint8))}


def parse_idx(raw: bytes, rank: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, rank, the sizes as big-endian int32, then the bytes."""
    if len(raw) < 4 + 4 * rank or raw[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(f"not an IDX file of rank {rank} with unsigned bytes")
    sizes = tuple(int(n) for n in np.frombuffer(raw, ">i4", rank, 4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if min(sizes) < 1 or len(values) != np.prod(sizes, dtype=np.int64):
        raise ValueError(f"its header says {sizes}, it holds {len(values)} bytes")
    return values.reshape(sizes)


def _idx(shape: tuple[int, int, int], files: Mapping[str, Path]) -> Arrays:
    """The four gzipped files of MNIST, Fashion-MNIST and KMNIST."""

    def read(role: str, rank: int) -> np.ndarray:
        with gzip.open(files[role]) as file:
            return parse_idx(file.read(), rank)

    return {split: (read(f"{split}_images", 3)[:, None], read(f"{split}_labels", 1)) for split in ("train", "test")}


def _emnist_zip(shape: tuple[int, int, int], files: Mapping[str, Path]) -> Arrays:
    """EMNIST Letters out of NIST's archive: stored transposed, labelled from 1."""
    with zipfile.ZipFile(files["archive"]) as archive:

        def read(split: str, kind: str, rank: int) -> np.ndarray:
            with archive.open(f"gzip/emnist-letters-{split}-{kind}-idx{rank}-ubyte.gz") as member:
                return parse_idx(gzip.decompress(member.read()), rank)

        return {
            split: (read(split, "images", 3).transpose(0, 2, 1)[:, None], read(split, "labels", 1) - 1)
            for split in ("train", "test")
        }


def _cifar_bin(shape: tuple[int, int, int], files: Mapping[str, Path]) -> Arrays:
    """CIFAR-10's binary version: records of one label byte and 3 x 32 x 32 pixels."""
    records = {}
    with tarfile.open(files["archive"], "r:gz") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member) if member.isfile() and name.endswith(".bin") else None
            if file:
                records[name] = np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    train = np.concatenate([records[f"data_batch_{i}.bin"] for i in range(1, 6)])
    test = records["test_batch.bin"]
    return {split: (r[:, 1:].reshape(-1, 3, 32, 32), r[:, 0]) for split, r in (("train", train), ("test", test))}


READERS: dict[str, Callable[[tuple[int, int, int], Mapping[str, Path]], Arrays]] = {
    "digits": _digits,
    "idx": _idx,
    "emnist-zip": _emnist_zip,
    "cifar-bin": _cifar_bin,
}
