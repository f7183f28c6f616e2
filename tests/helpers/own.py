"""Datasets of one's own, of arrays and of small pictures, and what the stage ``fetch`` makes of them."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spiking_diffusion.artifacts import files_of
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import load_images
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def fetch(params, name):
    """The path of a dataset that the stage has just made."""
    return make(Job(params, "fetch", name))


def mine(kind, path, shape=(1, 8, 12), classes=3, validation=2, test=0, resize="none"):
    """params.yaml with one entry of the user's own."""
    entry = {
        "title": "Mine",
        "format": kind,
        "shape": list(shape),
        "resize": resize,
        "classes": classes,
        "split": {"validation": validation, "test": test, "seed": 0},
        "licence": "my own",
        "citation": "none",
        "files": {"data": {"path": str(path)}},
    }
    nothing = {key: {} for key in ("recipes", "runs", "baselines", "suites")}
    return check_params({**RAW, **nothing, "datasets": {"mine": entry}})


def get(kind, path, **entry):
    return load_images(fetch(mine(kind, path, **entry), "mine"))


def tree():
    """Every file in and above the project with its bytes, but for the lock."""
    return {p: p.read_bytes() for p in Path("../..").resolve().rglob("*") if p.is_file() and p.suffix != ".lock"}


def refusal(kind, path, **entry):
    """The sentence with which a file is refused, after which there is nothing that was not there before."""
    params, before = mine(kind, path, **entry), tree()
    with pytest.raises(UserError) as caught:
        fetch(params, "mine")
    assert tree() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(value, size=(12, 8), mode="L"):
    """An image whose pixels say which one it is."""
    array = (np.arange(size[0] * size[1] * len(mode)) + value).astype(np.uint8)
    return Image.fromarray(array.reshape(size[1], size[0], -1).squeeze(), mode=None)


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def put(names, make=picture, root="photos"):
    """A folder of images; the i-th name gets picture i, or the bytes given for it."""
    for i, name in enumerate(names):
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(names[name] if isinstance(names, dict) and names[name] else encoded(make(i)))
    return root


FOUR = [f"{animal}/{i}.png" for animal in ("cat", "dog", "emu") for i in range(4)]


def as_zip(root, inside=""):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in reversed(files_of(Path(root))):
            archive.write(path, inside + path.relative_to(root).as_posix())
    return "photos.zip"


def as_tar(root, inside=""):
    with tarfile.open("photos.tar.gz", "w:gz") as archive:
        archive.add(root, inside or ".")
    return "photos.tar.gz"


N = 12
GREY = (np.arange(N * 8 * 12) % 251).astype(np.uint8).reshape(N, 8, 12)
COLOUR = (np.arange(N * 8 * 12 * 3) % 253).astype(np.uint8).reshape(N, 8, 12, 3)
LABELS = np.arange(N) % 3


def npz(**arrays):
    """mine.npz with all four arrays, where ``arrays`` replaces some and None leaves them out."""
    content = {"x_train": GREY, "y_train": LABELS, "x_test": GREY[:5], "y_test": LABELS[:5]} | arrays
    np.savez_compressed("mine.npz", **{name: array for name, array in content.items() if array is not None})
    return "mine.npz"


def npy(array, shape=None):
    """``array`` as an .npy whose header may say another shape."""
    content = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": array.shape if shape is None else shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + array.tobytes()


PNG = encoded(picture(7))
