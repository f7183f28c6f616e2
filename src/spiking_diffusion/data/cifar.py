"""CIFAR-10 from either of its archives, or from a folder of its files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spiking_diffusion.data.archives import members, wanted

Pair = tuple[np.ndarray, np.ndarray]
Splits = dict[str, Pair]

RECORD = 1 + 3 * 32 * 32
BATCHES = ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"])


def read_cifar_bin(path: Path) -> Splits:
    """CIFAR-10's binary version: batches of 10,000 records, each one label byte and 3 x 32 x 32 pixels."""

    def parse(raw: bytes) -> Pair:
        records = np.frombuffer(raw, np.uint8).reshape(-1, RECORD)
        return records[:, 1:], records[:, 0]

    return _read(path, ".bin", 10_000 * RECORD, parse)


def read_cifar_python(path: Path) -> Splits:
    """CIFAR-10's Python version: pickled dictionaries of ``data`` (N, 3072) and a list of ``labels``."""

    def parse(raw: bytes) -> Pair:
        try:
            batch = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
            pixels, labels = batch[b"data"], np.array(batch[b"labels"])
        except Exception as error:  # a forged pickle can fail in any way
            raise ValueError(f"a batch is no dictionary of data and labels: {error}") from error
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or labels.dtype.kind != "i":
            raise ValueError("a batch contains something other than bytes and whole numbers")
        return pixels, labels

    return _read(path, "", 2**25, parse)


def _read(path: Path, suffix: str, limit: int, parse: Callable[[bytes], Pair]) -> Splits:
    names_of_batches = {name + suffix for names in BATCHES for name in names}
    found = {}
    for member in members(path):
        name = member.name.rpartition("/")[2]
        if name in found:
            raise ValueError(f"it has two members of the name {name!r}")
        if name in names_of_batches:
            found[name] = parse(member.read(limit))
    splits = {}
    for split, names in zip(("train", "test"), BATCHES, strict=True):
        batches = [wanted(found, name + suffix) for name in names]
        images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
        splits[split] = images, np.concatenate([labels for _, labels in batches])
    return splits


class _Unpickler(pickle.Unpickler):
    """Makes arrays of numbers, lists and dictionaries, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda kind, shape, code: np.ndarray(0, np.uint8)  # pickle sets its state afterwards
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return lambda text, encoding: text.encode("latin-1")
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which no image needs")
