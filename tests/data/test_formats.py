"""Readers of dataset files against bytes made by hand; what is wrong with them is said by name."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from spiking_diffusion.config import FORMATS, Dataset
from spiking_diffusion.data import formats
from spiking_diffusion.data.formats import read_idx
from spiking_diffusion.errors import UserError

IMAGES = (np.arange(3 * 8 * 12) % 251).astype(np.uint8).reshape(3, 8, 12)
LABELS = np.array([2, 0, 1], np.uint8)


def idx(array):
    """``array`` as an IDX file of unsigned bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


CLASSES = {"idx": 3, "emnist-zip": 26, "cifar-bin": 6, "cifar-python": 10, "digits": 10}


def read_dataset(kind, shape, files, classes=None, resize="none"):
    """The files read by the entry that says so."""
    classes = classes or CLASSES[kind]
    entry = {
        "title": "some",
        "format": kind,
        "shape": list(shape),
        "resize": resize,
        "classes": classes,
        "split": {"validation": 1, "test": 0, "seed": 0},
        "licence": "",
        "citation": "",
        "files": {role: {"path": "x"} for role in FORMATS[kind]},
    }
    return formats.read_dataset(Dataset.model_validate(entry), files)


def refusal(kind, shape, files, **entry):
    with pytest.raises(UserError) as caught:
        read_dataset(kind, shape, files, **entry)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- IDX ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [LABELS, IMAGES, IMAGES[:1]], ids=["labels", "images", "one"])
def test_read_idx(array):
    parsed = read_idx(io.BytesIO(idx(array)), array.ndim)
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


GOOD = idx(IMAGES)


@pytest.mark.parametrize(
    ("raw", "rank"),
    [
        pytest.param(b"", 3, id="empty"),
        pytest.param(b"\x01" + GOOD[1:], 3, id="wrong magic"),
        pytest.param(GOOD[:2] + b"\x0d" + GOOD[3:], 3, id="floats"),
        pytest.param(GOOD, 1, id="images where labels belong"),
        pytest.param(idx(LABELS), 3, id="labels where images belong"),
        pytest.param(GOOD[:15], 3, id="header cut short"),
        pytest.param(GOOD[:-1], 3, id="body cut short"),
        pytest.param(GOOD + b"\0", 3, id="one byte more"),
        pytest.param(GOOD[:4] + struct.pack(">III", 4, 8, 12) + GOOD[16:], 3, id="more images in header"),
        pytest.param(GOOD[:4] + struct.pack(">III", 2, 8, 12) + GOOD[16:], 3, id="fewer images in header"),
        pytest.param(GOOD[:4] + struct.pack(">III", 0, 8, 12), 3, id="no images"),
        pytest.param(GOOD[:4] + struct.pack(">iii", -3, -8, 12) + GOOD[16:], 3, id="negative sizes"),
        pytest.param(GOOD[:4] + struct.pack(">III", 2**30, 2**30, 2**4), 3, id="product overflows to 0"),
    ],
)
def test_read_idx_refuses(raw, rank):
    with pytest.raises(ValueError):
        read_idx(io.BytesIO(raw), rank)


def test_no_more_is_unpacked_than_the_header_says(four):
    """A hundred times as much behind a true header, and a header that promises terabytes."""
    bomb = gzip.compress(GOOD + bytes(99 * len(GOOD)))
    assert f"more than the {IMAGES.size} bytes" in refusal("idx", (1, 8, 12), four("train_images", bomb))
    with gzip.open(four("train_images", bomb)["train_images"]) as file:
        with pytest.raises(ValueError):
            read_idx(file, 3)
        assert file.tell() == 16 + IMAGES.size + 1
    huge = gzip.compress(GOOD[:4] + struct.pack(">III", 2**31 - 1, 8, 12) + GOOD[16:])
    assert "its header says (2147483647, 8, 12)" in refusal("idx", (1, 8, 12), four("train_images", huge))


@pytest.fixture
def four(tmp_path):
    """A folder with the four files of a tiny IDX dataset, and a function that replaces one."""
    files = {}

    def put(role, raw):
        files[role] = tmp_path / f"{role}.gz"
        files[role].write_bytes(raw)
        return files

    for split in ("train", "test"):
        put(f"{split}_images", gzip.compress(GOOD))
        put(f"{split}_labels", gzip.compress(idx(LABELS)))
    return put


def test_idx_dataset(four):
    other = IMAGES[::-1].copy()
    arrays = read_dataset("idx", (1, 8, 12), four("test_images", gzip.compress(idx(other))))
    assert set(arrays) == {"train", "test"}
    np.testing.assert_array_equal(arrays["train"][0], IMAGES[:, None])
    np.testing.assert_array_equal(arrays["test"][0], other[:, None])
    np.testing.assert_array_equal(arrays["train"][1], LABELS)


def test_idx_files_may_lie_unpacked(four):
    """As torchvision's ``raw`` folder and Kaggle have them."""
    packed = read_dataset("idx", (1, 8, 12), four("test_images", gzip.compress(GOOD)))
    mixed = read_dataset("idx", (1, 8, 12), four("train_images", GOOD) | four("test_labels", idx(LABELS)))
    for split in ("train", "test"):
        for one, other in zip(packed[split], mixed[split], strict=True):
            np.testing.assert_array_equal(one, other)


PACKED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(PACKED[: len(PACKED) // 2], id="gz cut short"),
        pytest.param(PACKED[:-4], id="gz without its length"),
        pytest.param(PACKED[:-8] + b"\0" * 4 + PACKED[-4:], id="gz with wrong CRC"),
        pytest.param(PACKED[:10] + b"\xff" * 40, id="gz with broken deflate stream"),
        pytest.param(GOOD[:-1], id="not gzipped and cut short"),
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>no such file</html>", id="a web page"),
        pytest.param(gzip.compress(GOOD[:-1]), id="IDX cut short inside"),
        pytest.param(gzip.compress(idx(LABELS)), id="labels instead of images"),
    ],
)
def test_damaged_idx_file_is_refused_by_name(four, raw):
    assert "train_images.gz" in refusal("idx", (1, 8, 12), four("train_images", raw))


def test_wrong_shape_is_refused(four):
    message = refusal("idx", (1, 12, 8), four("train_labels", gzip.compress(idx(LABELS))))
    assert "[1, 8, 12]" in message
    assert "[1, 12, 8]" in message


@pytest.mark.parametrize("classes", [1, 2])
def test_labels_out_of_range(four, classes):
    message = refusal("idx", (1, 8, 12), four("train_labels", gzip.compress(idx(LABELS))), classes=classes)
    assert f"a train label 2, params.yaml says {classes} classes, 0 to {classes - 1}" in message
    assert read_dataset("idx", (1, 8, 12), four("train_labels", gzip.compress(idx(LABELS))), classes=3)


def test_a_single_image_is_read(four):
    four("train_labels", gzip.compress(idx(LABELS[:1])))
    images, labels = read_dataset("idx", (1, 8, 12), four("train_images", gzip.compress(idx(IMAGES[:1]))))["train"]
    np.testing.assert_array_equal(images, IMAGES[:1, None])
    assert labels.tolist() == [2]


def test_images_and_labels_that_do_not_belong_together(four):
    message = refusal("idx", (1, 8, 12), four("test_labels", gzip.compress(idx(LABELS[:2]))))
    assert "3 test images" in message
    assert "2 labels" in message


# --- EMNIST ---------------------------------------------------------------------------------------------

UPRIGHT = np.zeros((2, 8, 12), np.uint8)
UPRIGHT[0, 0, 11] = 200  # top right
UPRIGHT[1, 7, 0] = 100  # bottom left


def emnist(path, leave_out="", cut=None, labels=(1, 26), after=b""):
    """NIST's archive with Letters, stored transposed and labelled from 1, beside another member."""
    members = {"gzip/emnist-digits-train-labels-idx1-ubyte.gz": b"ignored"}
    for split in ("train", "test"):
        prefix = f"gzip/emnist-letters-{split}"
        members[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(UPRIGHT.transpose(0, 2, 1).copy()) + after)
        members[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.array(labels, np.uint8)))
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            if not leave_out or leave_out not in name:
                archive.writestr(name, raw)
    path.write_bytes(path.read_bytes()[:cut])
    return {"archive": path}


def test_emnist_is_turned_upright_and_labelled_from_0(tmp_path):
    arrays = read_dataset("emnist-zip", (1, 8, 12), emnist(tmp_path / "gzip.zip"))
    for split in ("train", "test"):
        images, labels = arrays[split]
        np.testing.assert_array_equal(images, UPRIGHT[:, None])
        np.testing.assert_array_equal(labels, [0, 25])


def test_emnist_files_may_lie_unpacked(tmp_path):
    """In the folder that one has after unpacking the archive, and some of its members."""
    archive = emnist(tmp_path / "gzip.zip")["archive"]
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    one = tmp_path / "gzip/emnist-letters-train-images-idx3-ubyte.gz"
    one.with_suffix("").write_bytes(gzip.decompress(one.read_bytes()))
    one.unlink()
    arrays = read_dataset("emnist-zip", (1, 8, 12), {"archive": tmp_path / "gzip"})
    for images, labels in arrays.values():
        np.testing.assert_array_equal(images, UPRIGHT[:, None])
        np.testing.assert_array_equal(labels, [0, 25])


@pytest.mark.parametrize(
    "damage", [{"leave_out": "test-labels"}, {"cut": 300}, {"cut": 0}], ids=["member missing", "cut short", "empty"]
)
def test_damaged_emnist_is_refused_by_name(tmp_path, damage):
    assert "gzip.zip" in refusal("emnist-zip", (1, 8, 12), emnist(tmp_path / "gzip.zip", **damage))


def test_emnist_member_that_unpacks_to_a_hundred_times_its_size(tmp_path):
    files = emnist(tmp_path / "gzip.zip", after=bytes(99 * UPRIGHT.size))
    assert f"more than the {UPRIGHT.size} bytes" in refusal("emnist-zip", (1, 8, 12), files)


@pytest.mark.parametrize(("labels", "found"), [((0, 26), -1), ((1, 27), 26)])
def test_emnist_labels_out_of_range(tmp_path, labels, found):
    message = refusal("emnist-zip", (1, 8, 12), emnist(tmp_path / "gzip.zip", labels=labels))
    assert f"a train label {found}, params.yaml says 26 classes" in message


def test_emnist_with_broken_bytes_in_a_member(tmp_path):
    files = emnist(tmp_path / "gzip.zip")
    raw = bytearray(files["archive"].read_bytes())
    start = raw.index(b"\x1f\x8b")
    raw[start + 12] ^= 0xFF
    files["archive"].write_bytes(raw)
    assert "gzip.zip" in refusal("emnist-zip", (1, 8, 12), files)


# --- CIFAR-10 -------------------------------------------------------------------------------------------


def cifar(path, names=None, size=3073, extra=()):
    """CIFAR-10's binary archive, two records in each batch; batch i's pixels are (i, 50 + i, 100 + i) in R, G, B."""
    names = names or ["test_batch.bin", *(f"data_batch_{i}.bin" for i in (5, 3, 1, 2, 4))]
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            i = int(name[11]) if name.startswith("data_batch_") else 0
            record = bytes([i]) + bytes([i]) * 1024 + bytes([50 + i]) * 1024 + bytes([100 + i]) * 1024
            add(archive, f"cifar-10-batches-bin/{name}", (record * 2)[: 2 * size])
        for name, raw in extra:
            add(archive, name, raw)
    return {"archive": path}


def add(archive, name, raw):
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    archive.addfile(member, io.BytesIO(raw))


def test_cifar_in_order_with_channels_red_green_blue(tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    extra = [("cifar-10-batches-bin/readme.html", b"<html>"), ("cifar-10-batches-bin/other.bin", b"\0" * 3073)]
    arrays = read_dataset("cifar-bin", (3, 32, 32), cifar(deep / "c.tar.gz", extra=extra))
    images, labels = arrays["train"]
    assert images.shape == (10, 3, 32, 32)
    np.testing.assert_array_equal(labels, np.repeat([1, 2, 3, 4, 5], 2))
    expected = np.repeat([1, 2, 3, 4, 5], 2)[:, None, None, None] + np.array([0, 50, 100])[:, None, None]
    np.testing.assert_array_equal(images, np.broadcast_to(expected, images.shape))
    assert arrays["test"][0].shape == (2, 3, 32, 32)
    assert list(arrays["test"][1]) == [0, 0]
    assert [p.name for p in tmp_path.rglob("*.bin")] == [], "nothing is unpacked to disk"


def test_cifar_files_may_lie_unpacked(tmp_path):
    files = cifar(tmp_path / "c.tar.gz")
    with tarfile.open(files["archive"]) as packed:
        packed.extractall(tmp_path, filter="data")
    expected = read_dataset("cifar-bin", (3, 32, 32), files)
    found = read_dataset("cifar-bin", (3, 32, 32), {"archive": tmp_path / "cifar-10-batches-bin"})
    for split in ("train", "test"):
        for one, other in zip(found[split], expected[split], strict=True):
            np.testing.assert_array_equal(one, other)


def test_cifar_rows_before_columns(tmp_path):
    pixels = np.arange(3072, dtype=np.uint16).astype(np.uint8)
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
            add(archive, f"x/{name}.bin", b"\x07" + pixels.tobytes())
    images, labels = read_dataset("cifar-bin", (3, 32, 32), {"archive": path}, classes=8)["test"]
    np.testing.assert_array_equal(images[0, 0, 0], pixels[:32])
    np.testing.assert_array_equal(images[0, 0, :, 0], pixels[:1024:32])
    assert labels[0] == 7


@pytest.mark.parametrize(
    "options",
    [{"names": ["data_batch_1.bin", "test_batch.bin"]}, {"size": 3000}, {"size": 0}],
    ids=["batches missing", "half a record", "no records"],
)
def test_damaged_cifar_is_refused_by_name(tmp_path, options):
    assert "c.tar.gz" in refusal("cifar-bin", (3, 32, 32), cifar(tmp_path / "c.tar.gz", **options))


@pytest.mark.parametrize("cut", [0, 60, -20])
def test_cifar_archive_cut_short(tmp_path, cut):
    files = cifar(tmp_path / "c.tar.gz")
    files["archive"].write_bytes(files["archive"].read_bytes()[:cut])
    assert "c.tar.gz" in refusal("cifar-bin", (3, 32, 32), files)


def test_cifar_archive_with_broken_bytes(tmp_path):
    files = cifar(tmp_path / "c.tar.gz")
    raw = files["archive"].read_bytes()
    files["archive"].write_bytes(raw[:30] + b"\xff" * 40 + raw[70:])
    assert "c.tar.gz" in refusal("cifar-bin", (3, 32, 32), files)


def test_cifar_batch_larger_than_ten_thousand_records(tmp_path):
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "x/data_batch_1.bin", bytes(10_001 * 3073))
    message = refusal("cifar-bin", (3, 32, 32), {"archive": path})
    assert "x/data_batch_1.bin unpacks to 30733073 bytes, the limit is 30730000" in message


def test_cifar_batch_that_is_there_twice(tmp_path):
    files = cifar(tmp_path / "c.tar.gz", extra=[("elsewhere/data_batch_1.bin", b"\0" * 3073)])
    assert "two members of the name 'data_batch_1.bin'" in refusal("cifar-bin", (3, 32, 32), files)


def test_cifar_labels_out_of_range(tmp_path):
    message = refusal("cifar-bin", (3, 32, 32), cifar(tmp_path / "c.tar.gz"), classes=5)
    assert "a train label 5, params.yaml says 5 classes" in message


# --- CIFAR-10, Python version ---------------------------------------------------------------------------


def text(value):
    """A short string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value


def python_2_batch(pixels, labels):
    """A batch opcode by opcode as in the official archive, which Python 2 wrote (protocol 2)."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNN"
        + 2 * b"J\xff\xff\xff\xff"
        + b"K\x00tb"
    )
    state = b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86" + dtype + b"\x89"
    raw = b"T" + struct.pack("<I", pixels.size) + pixels.tobytes()
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"labels") + numbers + text(b"data") + array + state + raw + b"tbu."


def cifar_python(path, batch):
    with tarfile.open(path, "w:gz") as archive:
        for name in ["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
            add(archive, f"cifar-10-batches-py/{name}", batch)
    return {"archive": path}


PIXELS = (np.arange(2 * 3072) % 253).astype(np.uint8).reshape(2, 3072)


@pytest.mark.parametrize(
    "batch",
    [
        python_2_batch(PIXELS, [7, 9]),
        pickle.dumps({b"data": PIXELS, b"labels": [7, 9], b"filenames": [b"a.png", b"b.png"]}, protocol=2),
        pickle.dumps({b"data": PIXELS, b"labels": [7, 9]}),
    ],
    ids=["Python 2", "Python 3, protocol 2", "Python 3"],
)
def test_cifar_python_is_cifar_bin(tmp_path, batch):
    assert pickle.loads(batch, encoding="bytes")[b"data"].tolist() == PIXELS.tolist()
    arrays = read_dataset("cifar-python", (3, 32, 32), cifar_python(tmp_path / "c.tar.gz", batch))
    assert {split: len(y) for split, (_, y) in arrays.items()} == {"train": 10, "test": 2}
    images, labels = arrays["test"]
    np.testing.assert_array_equal(images, PIXELS.reshape(2, 3, 32, 32))
    assert labels.tolist() == [7, 9]
    assert labels.dtype == np.uint8


class Evil:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("make", "clue"),
    [
        pytest.param(lambda evil: evil, "wants to run pathlib.Path.touch", id="a call"),
        pytest.param(lambda evil: {b"data": np.array([evil]), b"labels": [0]}, "wants to run", id="an object array"),
        pytest.param(lambda evil: {b"data": np.array([None]), b"labels": [0]}, "other than bytes", id="no bytes"),
        pytest.param(lambda evil: {b"data": PIXELS / 255, b"labels": [7, 9]}, "other than bytes", id="floats"),
        pytest.param(lambda evil: {b"data": PIXELS, b"labels": [0.5, 1]}, "other than bytes", id="half a label"),
        pytest.param(lambda evil: {b"data": PIXELS, b"labels": [7]}, "10 train images but 5 labels", id="lengths"),
        pytest.param(lambda evil: {b"data": PIXELS[:, :9], b"labels": [7, 9]}, "reshape", id="half an image"),
        pytest.param(lambda evil: [1, 2], "no dictionary of data and labels", id="a list"),
        pytest.param(lambda evil: {b"labels": [7, 9]}, "no dictionary of data and labels", id="no data"),
    ],
)
def test_cifar_python_that_is_forged(tmp_path, make, clue):
    files = cifar_python(tmp_path / "c.tar.gz", pickle.dumps(make(Evil(tmp_path / "made")), protocol=4))
    assert clue in refusal("cifar-python", (3, 32, 32), files)
    assert not (tmp_path / "made").exists()


# --- digits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "inner"), [(28, 20), (32, 22)])
def test_digits_lie_in_the_middle_of_a_black_frame(side, inner):
    arrays = read_dataset("digits", (1, side, side), {})
    assert set(arrays) == {"train"}
    images, labels = arrays["train"]
    assert images.shape == (1797, 1, side, side)
    assert images.dtype == labels.dtype == np.uint8
    edge = (side - inner) // 2
    middle = images[..., edge : edge + inner, edge : edge + inner]
    assert images.sum(dtype=np.int64) == middle.sum(dtype=np.int64), "the border is black"
    for line in (middle[..., 0, :], middle[..., -1, :], middle[..., :, middle.any((0, 1, 2)).argmax()]):
        assert line.any(), "the frame is no wider than it has to be"
    assert images.max() == 255


def test_digits_are_scikit_learns_own_in_order():
    images, labels = read_dataset("digits", (1, 28, 28), {})["train"]
    small, expected = load_digits(return_X_y=True)
    np.testing.assert_array_equal(labels, expected)
    # a 20x20 picture and its 8x8 original agree in their quarters' mean brightness
    quarters = images[:, 0, 4:24, 4:24].reshape(-1, 2, 10, 2, 10).mean((2, 4)) / 255
    original = small.reshape(-1, 2, 4, 2, 4).mean((2, 4)) / 16
    np.testing.assert_allclose(quarters, original, atol=0.08)
    assert abs(quarters.mean() - original.mean()) < 0.01


def test_digits_are_grey():
    assert refusal("digits", (3, 28, 28), {}) == (
        "some: the train images are grey (1 channel), shape [3, 28, 28] in params.yaml means colour (3 channels): "
        "correct the dataset's shape, or convert the images"
    )
