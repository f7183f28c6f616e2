"""Arrays of one's own in an .npz. Nothing wrong gets through."""

import gzip
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from own import COLOUR, GREY, LABELS, N, fetch, get, mine, npy, npz, refusal

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.data import formats
from spiking_diffusion.errors import UserError

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize("images", [GREY, GREY[..., None]], ids=["(N, H, W)", "(N, H, W, 1)"])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8)], ids=["(N,)", "(N, 1)", "bytes"])
def test_npz(images, labels):
    data = get("npz", npz(x_train=images, y_train=labels))
    assert {split: len(x) for split, x in data.images.items()} == {"train": 10, "validation": 2, "test": 5}
    assert data.images["test"][:, 0].tolist() == GREY[:5].tolist()
    assert data.labels["test"].tolist() == LABELS[:5].tolist()
    together = [
        (x.tolist(), int(y))
        for split in ("train", "validation")
        for x, y in zip(data.images[split][:, 0], data.labels[split], strict=True)
    ]
    assert sorted(together) == sorted((x.tolist(), int(y)) for x, y in zip(GREY, LABELS, strict=True))


def test_npz_in_colour_has_its_channels_moved_to_the_front():
    data = get("npz", npz(x_train=COLOUR, x_test=COLOUR[:5]), shape=(3, 8, 12))
    assert data.images["test"].tolist() == COLOUR[:5].transpose(0, 3, 1, 2).tolist()


def test_npz_without_a_test_set_has_one_held_out_by_seed():
    data = get("npz", npz(x_test=None, y_test=None), test=4)
    assert {split: len(x) for split, x in data.images.items()} == {"train": 6, "validation": 2, "test": 4}
    pixels = [x.tolist() for images in data.images.values() for x in images[:, 0]]
    assert sorted(pixels) == sorted(GREY.tolist())


def test_npz_without_labels_is_one_class():
    data = get("npz", npz(y_train=None, y_test=None), classes=1)
    assert {int(y) for labels in data.labels.values() for y in labels} == {0}
    assert "no labels, params.yaml says 3 classes: set the dataset's classes to 1" in refusal("npz", "mine.npz")


def test_fewer_classes_than_promised():
    """Seen to be taken: seven of ten classes had no image, and no table said so."""
    message = refusal("npz", npz(), classes=10)
    assert "the highest label is 2, params.yaml says 10 classes, 0 to 9: set the dataset's classes to 3" in message


def test_npz_with_many_classes():
    labels = np.arange(N) * 90
    data = get("npz", npz(y_train=labels, y_test=labels[:5]), classes=991)
    assert data.labels["test"].tolist() == [0, 90, 180, 270, 360]


def test_own_bytes_are_noted_though_not_checked():
    fetch(mine("npz", npz()), "mine")
    digest = artifacts.sha256(Path("mine.npz"))
    card = artifacts.read_json(paths.card_path("mine"))
    assert card["files"] == {"data": {"source": "mine.npz", "sha256": digest, "verified": False}}
    settings = artifacts.read_json(paths.settings_path(paths.data_path("mine")))
    assert settings["inputs"] == {"mine.npz": digest}


def test_npz_by_url_is_checked(server):
    params = mine("npz", npz())
    server.replies["/a"] = (200, {}, Path("mine.npz").read_bytes())
    raw = params.model_dump()
    file = {"name": "mine.npz", "urls": [server.url("/a")], "sha256": artifacts.sha256(Path("mine.npz"))}
    raw["datasets"]["mine"]["files"]["data"] = file
    expected = fetch(params, "mine").read_bytes()
    assert fetch(check_params(raw), "mine").read_bytes() == expected
    assert server.asked == ["/a"]
    raw["datasets"]["mine"]["files"]["data"] = file | {"name": "other.npz", "sha256": "0" * 64}
    with pytest.raises(UserError, match=f"expected sha256:{'0' * 64} but got {file['sha256']}"):
        fetch(check_params(raw), "mine")


@pytest.mark.parametrize(
    ("arrays", "clue"),
    [
        ({"x_train": GREY / 255}, "x_train is float64, not uint8"),
        ({"x_test": GREY[:5].astype(np.float32)}, "x_test is float32, not uint8"),
        ({"x_train": np.where(GREY > 3, GREY, np.nan)}, "x_train is float64, with NaN in it, not uint8"),
        ({"x_train": GREY.astype(np.int16)}, "x_train is int16, not uint8"),
        ({"x_train": GREY > 99}, "x_train is bool, not uint8"),
        ({"x_train": COLOUR, "x_test": COLOUR}, "are colour (3 channels), shape [1, 8, 12] in params.yaml means grey"),
        ({"x_test": COLOUR[:5]}, "the test images are colour (3 channels)"),
        ({"x_train": COLOUR.transpose(0, 3, 1, 2)}, "x_train has shape (12, 3, 8, 12), not (N, H, W)"),
        ({"x_train": np.zeros((N, 8, 12, 2), np.uint8)}, "x_train has shape (12, 8, 12, 2), not (N, H, W)"),
        ({"x_train": np.zeros((N, 8, 12, 4), np.uint8)}, "x_train has shape (12, 8, 12, 4), not (N, H, W)"),
        ({"x_train": GREY.reshape(N, -1)}, "x_train has shape (12, 96), not (N, H, W)"),
        ({"x_train": np.uint8(3)}, "x_train has shape (), not (N, H, W)"),
        ({"x_train": GREY.transpose(0, 2, 1)}, "the train images have shape [1, 12, 8], params.yaml says [1, 8, 12]"),
        ({"x_train": GREY[:0], "y_train": LABELS[:0]}, "there are no train images"),
        ({"x_test": GREY[:0], "y_test": LABELS[:0]}, "there are no test images"),
        ({"x_train": GREY[:1], "y_train": LABELS[:1]}, "mine has 1 image, which cannot be split"),
        ({"y_train": LABELS[1:]}, "there are 12 train images but 11 labels"),
        ({"y_test": LABELS}, "there are 5 test images but 12 labels"),
        ({"y_train": LABELS + 1}, "a train label 3, params.yaml says 3 classes, 0 to 2"),
        ({"y_train": LABELS - 1}, "a train label -1, params.yaml says 3 classes"),
        ({"y_test": LABELS[:5] + 300}, "a test label 300, params.yaml says 3 classes"),
        (
            {"y_train": LABELS.astype(np.uint64) + np.uint64(2**63)},
            "a train label 9223372036854775808, params",
        ),
        ({"y_train": LABELS / 2}, "y_train is float64 of shape (12,), not one whole number per image"),
        ({"y_train": np.eye(3, dtype=np.uint8)[LABELS]}, "y_train is uint8 of shape (12, 3), not one whole number"),
        ({"y_train": None}, "the train images have no labels"),
        ({"y_test": None}, "the test images have no labels"),
        ({"x_train": None}, "it has no array x_train"),
        ({"x_test": None}, "it has no array x_test"),
        ({"X_test": GREY}, "its array 'X_test' is none of x_train, y_train, x_test, y_test"),
    ],
)
def test_npz_with_wrong_arrays(arrays, clue):
    assert clue in refusal("npz", npz(**arrays))


class Evil:
    """Pickles as a call that makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("made"),)


def test_object_array_is_not_unpickled():
    objects = np.empty(N, object)
    objects[:] = [Evil() for _ in range(N)]
    assert "Object arrays cannot be loaded" in refusal("npz", npz(y_train=objects))
    assert not Path("made").exists()


def test_file_of_another_kind_with_the_name_of_an_npz():
    for raw in (b"", b"<html>not found</html>", pickle.dumps(Evil()), b"\x93NUMPY\x01\0", gzip.compress(b"x")):
        Path("mine.npz").write_bytes(raw)
        assert "mine.npz cannot be read as npz (File is not a zip file)" in refusal("npz", "mine.npz")
    assert not Path("made").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_npz_cut_short(share):
    raw = Path(npz()).read_bytes()
    Path("mine.npz").write_bytes(raw[: int(share * len(raw))])
    assert "mine.npz cannot be read as npz" in refusal("npz", "mine.npz")


def test_npz_with_broken_bytes():
    raw = bytearray(Path(npz()).read_bytes())
    raw[200] ^= 0xFF
    Path("mine.npz").write_bytes(raw)
    assert "mine.npz cannot be read as npz" in refusal("npz", "mine.npz")


@pytest.mark.parametrize(
    ("shape", "clue"),
    [
        ((2 * N, 8, 12), "cannot be read as npz"),
        ((2**20, 2**20, 2**20), "cannot be read as npz"),
        ((N // 2, 8, 12), "x_train goes on after its array"),
        ((1, 8, 12), "x_train goes on after its array"),
        ((-1, 8, 12), "cannot be read as npz"),
    ],
)
def test_npy_header_that_lies(shape, clue):
    with zipfile.ZipFile("mine.npz", "w") as archive:
        archive.writestr("x_train.npy", npy(GREY, shape))
    assert clue in refusal("npz", "mine.npz", classes=1, test=2)


def test_npz_with_a_member_too_large_for_memory(monkeypatch):
    monkeypatch.setattr(formats, "LIMIT", 1000)
    assert "x_train unpacks to 1280 bytes, at most 1000 fit in memory" in refusal("npz", npz())


@pytest.mark.parametrize("name", ["nowhere.npz", ".", "nowhere/mine.npz"])
def test_path_where_no_file_is(name):
    message = refusal("npz", name)
    assert message == f"there is no file {name}: correct datasets.mine.files.data.path in params.yaml"


def test_labels_alone_do_not_make_a_test_set():
    assert "it has no array x_test" in refusal("npz", npz(x_test=None), test=2)
