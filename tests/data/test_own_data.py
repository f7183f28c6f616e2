"""Datasets of one's own: arrays in an .npz, images in a folder or an archive of one. Nothing wrong gets through."""

import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import files_of
from spiking_diffusion.config import check_params
from spiking_diffusion.data import formats
from spiking_diffusion.data.images import load_images
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
pytestmark = pytest.mark.usefixtures("project")


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


# --- npz ------------------------------------------------------------------------------------------------

N = 12
GREY = (np.arange(N * 8 * 12) % 251).astype(np.uint8).reshape(N, 8, 12)
COLOUR = (np.arange(N * 8 * 12 * 3) % 253).astype(np.uint8).reshape(N, 8, 12, 3)
LABELS = np.arange(N) % 3


def npz(**arrays):
    """mine.npz with all four arrays, where ``arrays`` replaces some and None leaves them out."""
    content = {"x_train": GREY, "y_train": LABELS, "x_test": GREY[:5], "y_test": LABELS[:5]} | arrays
    np.savez_compressed("mine.npz", **{name: array for name, array in content.items() if array is not None})
    return "mine.npz"


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


def npy(array, shape=None):
    """``array`` as an .npy whose header may say another shape."""
    content = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": array.shape if shape is None else shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + array.tobytes()


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


# --- folder ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "pack",
    [str, as_zip, as_tar, lambda r: as_zip(r, "a/b/"), lambda r: as_tar(r, "a")],
    ids=["folder", "zip", "tar", "deep zip", "named tar"],
)
def test_one_folder_per_class(pack):
    path = pack(put(sorted(FOUR, key=hash)))
    data = get("folder", path, test=3)
    found = {
        bytes(x.numpy().tobytes()): int(y)
        for split in data.images
        for x, y in zip(data.images[split], data.labels[split], strict=True)
    }
    expected = {np.asarray(Image.open(Path("photos", name))).tobytes(): i // 4 for i, name in enumerate(FOUR)}
    assert found == expected
    assert artifacts.read_json(paths.card_path("mine"))["class_names"] == ["cat", "dog", "emu"]


def test_same_bytes_from_folder_zip_and_tar():
    put(FOUR)
    made = {
        fetch(mine("folder", path, test=3), "mine").read_bytes()
        for path in ("photos", as_zip("photos"), as_tar("photos"))
    }
    assert len(made) == 1


def test_train_and_test_folders():
    data = get("folder", put([f"{s}/{name}" for s in ("train", "test") for name in FOUR]))
    assert {split: len(x) for split, x in data.images.items()} == {"train": 10, "validation": 2, "test": 12}
    assert data.labels["test"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    "names", [[f"{i}.png" for i in range(9)], [f"{s}/{i}.png" for s in ("train", "test") for i in range(9)]]
)
def test_images_without_class_folders_are_one_class(names):
    data = get("folder", put(names), classes=1, test=0 if "/" in names[0] else 3)
    assert {int(y) for labels in data.labels.values() for y in labels} == {0}


def test_hidden_files_and_other_files_are_passed_over(caplog):
    put(FOUR)
    put({"cat/.hidden.png": b"x", ".git/a.png": b"x", "__MACOSX/cat/0.png": b"x", "notes.txt": b"x", "cat/b.gif": b"x"})
    assert sum(map(len, get("folder", "photos", test=3).images.values())) == 12
    assert "photos: 2 files are skipped, because they are not named .png, .jpg, .jpeg, .jfif, .jpe" in caplog.text
    assert artifacts.read_json(paths.card_path("mine"))["files_skipped"] == 2


def test_colour_in_png_and_jpeg():
    put(
        {
            "a/x.JPG": encoded(Image.new("RGB", (12, 8), (250, 0, 0)), "JPEG"),
            "a/z.jfif": encoded(Image.new("RGB", (12, 8), (0, 0, 250)), "JPEG"),
            "a/y.jpeg": encoded(Image.new("RGB", (12, 8), (0, 0, 250)), "JPEG"),
        }
    )
    put({f"b/{i}.png": encoded(Image.new("RGB", (12, 8), (0, 250, 0))) for i in range(4)})
    data = get("folder", "photos", shape=(3, 8, 12), classes=2, test=1, validation=1)
    for images, labels in zip(data.images.values(), data.labels.values(), strict=True):
        for image, label in zip(images, labels, strict=True):
            red, green, blue = image.float().mean((1, 2)).tolist()
            assert (green > 240) == bool(label)
            assert (max(red, blue) > 240) == (not label)


def test_palettes_are_colours():
    image = Image.fromarray(COLOUR[0]).quantize(8)
    put({f"{i}.png": encoded(image) for i in range(9)})
    data = get("folder", "photos", shape=(3, 8, 12), classes=1, test=1)
    assert data.images["test"][0].tolist() == np.asarray(image.convert("RGB")).transpose(2, 0, 1).tolist()


def test_a_palette_of_greys_is_grey():
    """As programs that make files smaller write grey images of few levels, with or without an unused transparency."""
    grey = picture(0).quantize(64)
    assert grey.mode == "P" and grey.convert("L").tobytes() == grey.convert("RGB").getchannel("G").tobytes()
    put({f"{i}.png": encoded(grey, transparency=bytes([255] * 64)) for i in range(4)})
    put({f"{i + 4}.png": encoded(grey) for i in range(4)})
    expected = np.asarray(grey.convert("L")).tolist()
    assert get("folder", "photos", classes=1, test=1).images["test"][0, 0].tolist() == expected
    colour = get("folder", "photos", shape=(3, 8, 12), classes=1, test=1)
    assert colour.images["test"][0].tolist() == [expected] * 3, "in a dataset of colours, one without any is none less"


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_a_transparency_that_no_pixel_uses_is_none(mode, channels):
    plain = Image.fromarray((COLOUR if channels == 3 else GREY)[0])
    with_alpha = plain.copy()
    with_alpha.putalpha(255)
    assert with_alpha.mode == mode
    put({f"{i}.png": encoded(with_alpha) for i in range(6)})
    data = get("folder", "photos", shape=(channels, 8, 12), classes=1, test=1)
    assert data.images["test"][0].numpy().tobytes() == np.asarray(plain).reshape(8, 12, -1).transpose(2, 0, 1).tobytes()


def spelt(form):
    return [unicodedata.normalize(form, f"{word}/{i}.png") for word in ("café", "thé", "zoo") for i in range(4)]


def test_spellings_that_look_the_same_are_one():
    """A Mac's archive has "é" in two characters. Classes and the order of images are those of the form with one."""
    assert spelt("NFC") != spelt("NFD")
    made = set()
    for i, form in enumerate(("NFC", "NFD")):
        root = put([f"train/{name}" for name in spelt("NFC")], root=f"photos{i}")
        put([f"test/{name}" for name in spelt(form)], root=root)
        made.add(fetch(mine("folder", root), "mine").read_bytes())
        assert artifacts.read_json(paths.card_path("mine"))["class_names"] == ["café", "thé", "zoo"]
    assert len(made) == 1
    put([unicodedata.normalize("NFD", "train/café/0.png")], root=root)
    assert "two files 'train/café/0.png', whose names look the same" in refusal("folder", root)


def test_train_and_test_in_capitals():
    data = get("folder", put([f"{s}/{name}" for s in ("Train", "TEST") for name in FOUR]))
    assert {split: len(x) for split, x in data.images.items()} == {"train": 10, "validation": 2, "test": 12}


def wide(value):
    """24 x 8: black, white, black and 6 + 12 + 6 wide."""
    array = np.zeros((8, 24), np.uint8)
    array[:, 6:18] = 255
    return Image.fromarray(array)


def test_resize_crop_keeps_the_middle_and_the_proportions():
    data = get("folder", put([f"{i}.png" for i in range(6)], wide), classes=1, test=1, resize="crop")
    assert data.images["test"].unique().tolist() == [255]


def test_resize_stretch_keeps_everything():
    data = get("folder", put([f"{i}.png" for i in range(6)], wide), classes=1, test=1, resize="stretch")
    row = data.images["test"][0, 0, 4].tolist()
    assert row[0] < 9 and row[-1] < 9 and min(row[4:8]) > 246


def test_photographs_are_turned_as_their_camera_was():
    image = Image.fromarray(
        np.repeat([[0], [255]], [6, 6], 0).repeat(8, 1).astype(np.uint8)
    )  # 12 high, 8 wide, dark above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    put({f"{i}.jpg": encoded(image, "JPEG", exif=exif) for i in range(6)})
    one = get("folder", "photos", classes=1, test=1).images["test"][0, 0]
    assert one[:, 0].min() > 200 and one[:, -1].max() < 55


PNG = encoded(picture(7))


def patched(at, value):
    raw = bytearray(PNG)
    raw[at] ^= value
    return bytes(raw)


def bomb_png():
    """A PNG of a few bytes whose header says a million by a million."""
    size = struct.pack(">II", 10**5, 10**5) + PNG[24:29]
    return PNG[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + PNG[33:]


JPEG = encoded(Image.fromarray(COLOUR[0][..., 0]), "JPEG")


@pytest.mark.parametrize(
    ("raw", "clue"),
    [
        pytest.param(b"", "is damaged or no PNG or JPEG", id="empty"),
        pytest.param(b"<html>", "is damaged or no PNG or JPEG", id="a web page"),
        pytest.param(PNG[:40], "is damaged or no PNG or JPEG", id="cut short"),
        pytest.param(PNG[:-20], "is damaged: ", id="without its end"),
        pytest.param(patched(50, 1), "is damaged: ", id="one bit of the pixels"),
        pytest.param(patched(20, 1), "is damaged or no PNG or JPEG", id="one bit of the size"),
        pytest.param(encoded(picture(1), "GIF"), "is damaged or no PNG or JPEG", id="a GIF"),
        pytest.param(JPEG[: len(JPEG) // 2], "is damaged: ", id="half a JPEG"),
        pytest.param(bomb_png(), "is damaged: Image size (10000000000 pixels)", id="a bomb"),
        pytest.param(
            encoded(Image.fromarray(COLOUR[0])), "is colour (3 channels), shape [1, 8, 12] means grey", id="colour"
        ),
        pytest.param(encoded(Image.new("LA", (12, 8))), "has pixels of the kind LA", id="transparent"),
        pytest.param(encoded(Image.new("I;16", (12, 8))), "has pixels of the kind I;16", id="16 bits"),
        pytest.param(
            encoded(picture(0), transparency=3), "has pixels of the kind transparent L", id="a transparent grey"
        ),
        pytest.param(encoded(picture(0, (8, 12))), "is 12 pixels high and 8 wide", id="another size"),
        pytest.param(bytes(64 * 2**20 + 1), "unpacks to 67108865 bytes, at most 67108864", id="65 MiB"),
    ],
)
@pytest.mark.parametrize("pack", [str, as_zip, as_tar], ids=["folder", "zip", "tar"])
def test_image_that_is_wrong_is_named(raw, clue, pack):
    put(FOUR)
    put({"dog/bad one.png": raw})
    Path("photos/dog/bad one.png").write_bytes(raw)
    path = pack("photos")
    message = refusal("folder", path, test=3)
    assert f"{path} cannot be read as folder (dog/bad one.png {clue}" in message


def test_grey_images_where_colour_belongs():
    message = refusal("folder", put(FOUR), shape=(3, 8, 12), test=3)
    assert "cat/0.png is grey (1 channel), shape [3, 8, 12] means colour (3 channels)" in message


@pytest.mark.parametrize(
    ("names", "entry", "clue"),
    [
        ([], {}, "there is no PNG or JPEG image in it"),
        (["a.txt"], {}, "there is no PNG or JPEG image in it"),
        (FOUR, {"classes": 4}, "it has 3 class folders (cat, dog, emu), params.yaml says 4"),
        ([*FOUR, "0.png"], {}, "put all images in one folder, or in one folder per class"),
        ([*FOUR, "cat/more/0.png"], {}, "cat/more/0.png: put all images in one folder"),
        ([f"{s}/{n}" for s in ("train", "test", "val") for n in FOUR], {}, "put all images in one folder"),
        ([f"train/{n}" for n in FOUR[:8]] + ["test/fox/0.png"], {"classes": 2}, "its class fox is in test but not in"),
        ([f"test/{n}" for n in FOUR], {}, "it has a folder test but no folder train"),
        (FOUR, {"test": 0}, "mine has 12 images, which cannot be split"),
        (["0.png"], {"classes": 1, "test": 1}, "mine has 1 image, which cannot be split"),
        ([f"{i}.png" for i in range(9)], {}, "no labels, params.yaml says 3 classes"),
        (["/".join("abcdefghij") + "/0.png"], {}, "is nested too deep, or a link in it leads back up"),
    ],
)
def test_folder_of_another_layout(names, entry, clue):
    Path("photos").mkdir()
    assert clue in refusal("folder", put(names), **({"test": 3} | entry))


def test_links_in_a_folder_are_followed_and_must_lead_somewhere():
    put(FOUR, root="elsewhere")
    Path("photos").mkdir()
    Path("photos/all").symlink_to(Path("elsewhere").absolute())
    assert sum(map(len, get("folder", "photos", test=3).images.values())) == 12
    Path("elsewhere/cat/broken.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"photos/all/cat/broken\.png is a broken link or a device"):
        get("folder", "photos", test=3)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("..")], ids=["pipe", "circle"])
def test_folder_without_end(make):
    put(FOUR)
    make(Path("photos/cat/x.png"))
    with pytest.raises(UserError, match=r"broken link or a device|leads back up"):
        get("folder", "photos", test=3)


# --- archives that attack -------------------------------------------------------------------------------


def evil_zip(name, mode=stat.S_IFREG | 0o644, content=PNG):
    """A zip of good images and one evil member."""
    with zipfile.ZipFile("evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for member in FOUR:
            archive.writestr(member, PNG)
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return "evil.zip"


def evil_tar(name, kind=tarfile.REGTYPE, target="", content=PNG):
    with tarfile.open("evil.tar.gz", "w:gz") as archive:
        for member in FOUR:
            add(archive, member, PNG)
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        info.size = len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(content))
    return "evil.tar.gz"


def add(archive, name, raw):
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    archive.addfile(info, io.BytesIO(raw))


OUTSIDE = [
    "../evil.png",
    "../../evil.png",
    "cat/../../evil.png",
    "/evil.png",
    "..\\evil.png",
    "C:\\evil.png",
    "\\evil.png",
    "c:evil.png",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [evil_zip, evil_tar])
def test_member_that_points_outside(make, name, tmp_path):
    assert "points outside the archive" in refusal("folder", make(name), test=3)
    assert not list(tmp_path.rglob("*evil.png"))
    assert not Path("/evil.png").exists()


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "cat/0.png"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
def test_links_in_a_tar(kind, target):
    assert "'cat/x.png' is a link or a device" in refusal("folder", evil_tar("cat/x.png", kind, target), test=3)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE])
def test_devices_in_a_tar(kind):
    if kind == tarfile.CONTTYPE:  # an old name for a regular file: an empty one is no image
        assert "cat/x.png is damaged or no PNG or JPEG" in refusal("folder", evil_tar("cat/x.png", kind), test=3)
    else:
        assert "'cat/x.png' is a link or a device" in refusal("folder", evil_tar("cat/x.png", kind), test=3)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip(kind):
    path = evil_zip("cat/x.png", kind | 0o777, b"/etc/passwd")
    assert "'cat/x.png' is a link or a device" in refusal("folder", path, test=3)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["dog/0.png", "./dog/0.png", "dog//0.png", "dog\\0.png"])
@pytest.mark.parametrize("make", [evil_zip, evil_tar])
def test_two_members_of_one_name(make, name):
    assert "it has two members of the name 'dog/0.png'" in refusal("folder", make(name), test=3)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name():
    with zipfile.ZipFile(npz(), "a") as archive:
        archive.writestr("x_train.npy", npy(GREY))
    assert "it has two members of the name 'x_train.npy'" in refusal("npz", "mine.npz")


@pytest.mark.parametrize("make", [evil_zip, evil_tar])
def test_member_a_hundred_times_too_large(make):
    message = refusal("folder", make("cat/x.png", content=bytes(100 * 2**20)), test=3)
    assert "cat/x.png unpacks to 104857600 bytes, at most 67108864 belong there" in message


def test_zip_member_a_hundred_times_its_declared_size():
    raw = bytearray(Path(evil_zip("cat/x.png", content=PNG + bytes(99 * len(PNG)))).read_bytes())
    true, told = struct.pack("<I", 100 * len(PNG)), struct.pack("<I", len(PNG))
    assert raw.count(true) == 2
    Path("evil.zip").write_bytes(raw.replace(true, told))
    assert "Bad CRC-32 for file 'cat/x.png'" in refusal("folder", "evil.zip", test=3)


def test_zip_with_a_password():
    raw = bytearray(Path(evil_zip("cat/x.png")).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1
    Path("evil.zip").write_bytes(raw)
    assert "encrypted" in refusal("folder", "evil.zip", test=3)


@pytest.mark.parametrize("raw", [b"", b"PK", b"nothing of the kind", gzip.compress(b"no tar", mtime=0)])
def test_archive_that_is_none(raw):
    Path("x.zip").write_bytes(raw)
    assert "x.zip cannot be read as folder" in refusal("folder", "x.zip", test=3)


def test_missing_folder():
    assert refusal("folder", "nowhere") == (
        "there is no file or folder nowhere: correct datasets.mine.files.data.path in params.yaml"
    )
