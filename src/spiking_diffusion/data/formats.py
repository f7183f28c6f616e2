"""Reading the files of a dataset into arrays.

Every reader returns ``{"train": (images, labels), "test": (images, labels)}``, images (N, C, H, W) uint8 and
labels (N,) integers from 0; ``test`` is missing if the dataset has no test set, and labels are None if it has no
labels. Archives are read member by member, and nothing is unpacked to disk. Only ``cifar-python`` unpickles anything.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from spiking_diffusion.config import Dataset
from spiking_diffusion.data.archives import LIMIT, Readable, members, read_at_most, wanted, zip_members
from spiking_diffusion.data.cifar import read_cifar_bin, read_cifar_python
from spiking_diffusion.data.folder import KINDS, layout, read_images
from spiking_diffusion.errors import UserError

Files = Mapping[str, Path]
GZIP = b"\x1f\x8b"
"""The first bytes of gzipped files."""


class Arrays(dict[str, tuple[np.ndarray, Any]]):
    """The reader's result, the names of the classes if the format has them, and the number of files that are not
    images."""

    class_names: tuple[str, ...] = ()
    skipped: int = 0


def read_dataset(dataset: Dataset, files: Files) -> Arrays:
    """Read the files of a dataset, check them against its entry, and give labels to images that have none.

    Raises UserError for files that do not fit their format and the entry.
    """
    names = ", ".join(str(path) for path in files.values()) or dataset.format
    try:
        arrays = READERS[dataset.format](dataset, files)
        for split, (images, labels) in arrays.items():
            _check_images(dataset, split, images)
            arrays[split] = images, _check_labels(dataset, split, len(images), labels)
        highest = max(int(labels.max()) for _, labels in arrays.values())
        if highest < dataset.classes - 1:
            raise UserError(
                f"{dataset.title}: the highest label is {highest}, params.yaml says {dataset.classes} classes, 0 to "
                f"{dataset.classes - 1}: set the dataset's classes to {highest + 1}"
            )
    except (
        *(OSError, EOFError, LookupError, MemoryError, RuntimeError, ValueError),  # RuntimeError: a zip with a password
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise _unreadable(names, dataset, error) from error
    return arrays


def _unreadable(names: str, dataset: Dataset, error: Exception) -> UserError:
    return UserError(
        f"{names} cannot be read as {dataset.format} ({' '.join(str(error).split())}): "
        "check the dataset's format and files in params.yaml"
    )


def _check_images(dataset: Dataset, split: str, images: np.ndarray) -> None:
    if not len(images):
        raise ValueError(f"there are no {split} images")
    shape = list(images.shape[1:])
    if shape[0] != dataset.shape[0]:
        raise UserError(
            f"{dataset.title}: the {split} images are {KINDS[shape[0]]}, shape {dataset.shape} in params.yaml means "
            f"{KINDS[dataset.shape[0]]}: correct the dataset's shape, or convert the images"
        )
    if shape != dataset.shape:
        raise UserError(
            f"{dataset.title}: the {split} images have shape {shape}, params.yaml says {dataset.shape}: "
            "correct the dataset's shape"
        )


def _check_labels(dataset: Dataset, split: str, n: int, labels: np.ndarray | None) -> np.ndarray:
    kind = np.min_scalar_type(dataset.classes - 1)
    if labels is None:
        if dataset.classes != 1:
            raise UserError(
                f"{dataset.title}: the {split} images have no labels, params.yaml says {dataset.classes} classes: "
                "set the dataset's classes to 1, or add the labels"
            )
        return np.zeros(n, kind)
    if n != len(labels):
        raise UserError(
            f"{dataset.title}: there are {n} {split} images but {len(labels)} labels: the files do not belong together"
        )
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < dataset.classes:
            raise UserError(
                f"{dataset.title}: there is a {split} label {label}, params.yaml says {dataset.classes} classes, "
                f"0 to {dataset.classes - 1}: correct the dataset's classes or its labels"
            )
    return labels.astype(kind)


# --- digits and IDX -------------------------------------------------------------------------------------


def _digits(dataset: Dataset, files: Files) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels.

    Laid out like MNIST: enlarged bilinearly to 5/7 of the side (20 of 28 pixels), in the middle of a black frame.
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    _, height, width = dataset.shape
    small, labels = load_digits(return_X_y=True)
    grey = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    h, w = height * 5 // 7, width * 5 // 7
    top, left = (height - h) // 2, (width - w) // 2
    images = np.zeros((len(grey), 1, height, width), np.uint8)
    for image, canvas in zip(grey, images[:, 0], strict=True):
        canvas[top : top + h, left : left + w] = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    return Arrays(train=(images, labels))


def read_idx(file: Readable, rank: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, rank, the sizes as big-endian int32, then the bytes.

    Raises ValueError for anything else, and reads no more than the header says.
    """
    header = file.read(4 + 4 * rank)
    if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(
            f"it starts with {header[:4].hex()}, an IDX file of bytes and rank {rank} with 000008{rank:02}"
        )
    sizes = tuple(int(n) for n in np.frombuffer(header, ">i4", rank, 4))
    expected = 1
    for size in sizes:
        expected *= size  # Python's integers do not overflow
    if min(sizes) < 1 or expected > LIMIT:
        raise ValueError(f"its header says {sizes}")
    raw = read_at_most(file, expected, f"an array of {sizes}")
    if len(raw) < expected:
        raise ValueError(f"its header says {sizes}, but it contains {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8).reshape(sizes)


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """The file's content, unpacked if it is gzipped. Sites distribute both."""
    packed = file.read(2) == GZIP
    file.seek(0)
    return cast("IO[bytes]", gzip.open(file)) if packed else file


def _idx(dataset: Dataset, files: Files) -> Arrays:
    """The four files of MNIST, Fashion-MNIST and KMNIST, gzipped or not."""

    def read(role: str, rank: int) -> np.ndarray:
        try:
            with files[role].open("rb") as file:
                return read_idx(_unpacked(file), rank)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise _unreadable(str(files[role]), dataset, error) from error

    return Arrays(
        {split: (read(f"{split}_images", 3)[:, None], read(f"{split}_labels", 1)) for split in ("train", "test")}
    )


def _emnist_zip(dataset: Dataset, files: Files) -> Arrays:
    """EMNIST Letters from NIST's archive, or from a folder of its files: stored transposed, labelled from 1."""
    found = {}
    for member in members(files["archive"]):
        name = member.name.rpartition("/")[2].removesuffix(".gz")
        if name.startswith("emnist-letters-") and name.endswith("-ubyte"):
            with member.open() as file:
                found[name] = read_idx(_unpacked(file), 3 if "-idx3-" in name else 1)
    arrays = Arrays()
    for split in ("train", "test"):
        images = wanted(found, f"emnist-letters-{split}-images-idx3-ubyte")
        labels = wanted(found, f"emnist-letters-{split}-labels-idx1-ubyte")
        arrays[split] = images.transpose(0, 2, 1)[:, None], labels.astype(np.int64) - 1
    return arrays


# --- your own -------------------------------------------------------------------------------------------


def _npz(dataset: Dataset, files: Files) -> Arrays:
    """``x_train``, ``y_train``, ``x_test``, ``y_test``: uint8 images (N, H, W) or (N, H, W, C), whole-number labels.

    Labels may be missing, and so may the test set.
    """
    found = dict(_npy_members(files["data"]))
    arrays = Arrays()
    for split in ("train", "test"):
        x, y = found.pop(f"x_{split}", None), found.pop(f"y_{split}", None)
        if x is not None:
            arrays[split] = _pixels(f"x_{split}", x), y if y is None else _whole(f"y_{split}", y)
        elif split == "train" or y is not None:
            raise ValueError(f"it has no array x_{split}")
    if found:
        raise ValueError(f"its array {sorted(found)[0]!r} is none of x_train, y_train, x_test, y_test")
    return arrays


def _npy_members(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for member in zip_members(path):
        name = member.name.removesuffix(".npy")
        if member.size > LIMIT:
            raise ValueError(f"{name} unpacks to {member.size} bytes, at most {LIMIT} fit in memory")
        with member.open() as file:
            yield name, np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):
                raise ValueError(f"{name} goes on after its array")


def _pixels(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype != np.uint8:
        nan = ", with NaN in it" if x.dtype.kind == "f" and np.isnan(x).any() else ""
        raise ValueError(f"{name} is {x.dtype}{nan}, not uint8: save pixels as whole numbers from 0 to 255")
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return x.transpose(0, 3, 1, 2)
    if x.ndim == 3:
        return x[:, None]
    raise ValueError(f"{name} has shape {x.shape}, not (N, H, W), (N, H, W, 1) or (N, H, W, 3)")


def _whole(name: str, y: np.ndarray) -> np.ndarray:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # Keras stores CIFAR's labels in this shape
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise ValueError(f"{name} is {y.dtype} of shape {y.shape}, not one whole number per image")
    return y


def _folder(dataset: Dataset, files: Files) -> Arrays:
    """PNG and JPEG images, one folder per class: see ``data/folder.py``."""
    images, skipped = read_images(dataset, files["data"])
    splits, names = layout(images, dataset.classes)
    if not splits:
        raise ValueError("there is no PNG or JPEG image in it")
    arrays = Arrays()
    arrays.class_names, arrays.skipped = names, skipped
    for split, found in splits.items():
        labels = np.array([label for _, label in found]) if names else None
        arrays[split] = np.stack([images[name] for name, _ in found]), labels
    return arrays


READERS: dict[str, Callable[[Dataset, Files], Arrays]] = {
    "digits": _digits,
    "idx": _idx,
    "emnist-zip": _emnist_zip,
    "cifar-bin": lambda dataset, files: Arrays(read_cifar_bin(files["archive"])),
    "cifar-python": lambda dataset, files: Arrays(read_cifar_python(files["archive"])),
    "npz": _npz,
    "folder": _folder,
}
