"""Images of one's own in a folder, or in an archive of one. Nothing wrong gets through."""

import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from own import COLOUR, FOUR, GREY, PNG, as_tar, as_zip, encoded, fetch, get, mine, picture, put, refusal
from PIL import Image

from spiking_diffusion import artifacts, paths
from spiking_diffusion.errors import UserError

pytestmark = pytest.mark.usefixtures("project")


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
        pytest.param(bytes(64 * 2**20 + 1), "unpacks to 67108865 bytes, the limit is 67108864", id="65 MiB"),
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
