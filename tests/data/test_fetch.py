"""From a dataset's sources to results/data: downloads from a real server, mirrors, splits."""

import copy
import gzip
import hashlib
import logging
import os
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import RemoteFile, check_params
from spiking_diffusion.data.card import contact_sheet
from spiking_diffusion.data.images import load_images
from spiking_diffusion.data.sources import MIRROR, obtain
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
REAL = Path(os.environ.get(MIRROR) or ROOT.parent / "shared" / "data")


pytestmark = pytest.mark.usefixtures("project")


# --- sources --------------------------------------------------------------------------------------------

GOOD, BAD = b"the right bytes " * 100, b"some other bytes"


def fetch(params, name):
    """The path of a dataset that the stage has just made."""
    return make(Job(params, "fetch", name))


@pytest.fixture
def faulty(server):
    """The server with one good file and every way in which a link can be dead."""
    server.replies |= {
        "/good": (200, {}, GOOD),
        "/moved": (302, {"Location": "/good"}, b""),
        "/forbidden": (403, {}, b"forbidden"),
        "/broken": (500, {}, b"oh no"),
        "/page": (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"),
        "/short": (200, {"Content-Length": str(len(GOOD))}, GOOD[:100]),
        "/length": (200, {"Content-Length": "100"}, GOOD),
        "/gzip": (200, {"Content-Encoding": "gzip"}, GOOD),
        "/other": (200, {}, BAD),
        "/empty": (200, {}, b""),
        "/circle": (302, {"Location": "/circle"}, b""),
    }
    return server


def remote(*urls, content=GOOD):
    return RemoteFile(name="file.gz", urls=list(urls), sha256=hashlib.sha256(content).hexdigest())


CACHE = Path("cache")


def get(file):
    return obtain("some-set", file, CACHE, timeout=0.5).path


@pytest.mark.parametrize("path", ["/good", "/moved"])
def test_download(faulty, path):
    found = get(remote(faulty.url(path)))
    assert found.read_bytes() == GOOD
    assert sorted(p.name for p in CACHE.iterdir()) == ["file.gz", "file.gz.source"]


def test_verified_copy_in_the_cache_needs_no_network(faulty):
    file = remote(faulty.url("/good"))
    first = get(file)
    assert get(file).samefile(first)
    assert faulty.asked == ["/good"]


def test_wrong_copy_in_the_cache_is_replaced(faulty):
    CACHE.mkdir()
    (CACHE / "file.gz").write_bytes(BAD)
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD


FAULTS = [
    *("/missing", "/forbidden", "/broken", "/page", "/short", "/length", "/gzip", "/other", "/empty", "/silent"),
    "/circle",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_next_source_is_tried(faulty, fault):
    found = get(remote(faulty.url(fault), faulty.url("/good")))
    assert found.read_bytes() == GOOD
    assert list(dict.fromkeys(faulty.asked)) == [fault, "/good"]
    assert sorted(p.name for p in CACHE.iterdir()) == ["file.gz", "file.gz.source"]


def test_a_source_that_fails_for_a_moment_is_tried_again(server):
    """Seen to fail with one round."""

    class Recovering(dict):
        def get(self, path, default):
            return (200, {}, GOOD) if server.asked.count(path) > 2 else (503, {}, b"")

    server.replies = Recovering()
    assert get(remote(server.url("/a"))).read_bytes() == GOOD
    assert server.asked == ["/a"] * 3


def test_one_sentence_lists_all_that_was_tried_and_nothing_is_left_behind(faulty):
    urls = [faulty.url(fault) for fault in FAULTS] + ["http://127.0.0.1:1/closed"]
    with pytest.raises(UserError) as caught:
        get(remote(*urls))
    message = str(caught.value)
    assert "\n" not in message
    assert [url for url in urls if url not in message] == []
    assert MIRROR in message
    assert "some-set/file.gz" in message
    assert "404" in message
    assert "403" in message
    assert [p for p in Path().rglob("*") if p.is_file()] == []


def test_no_source_at_all():
    with pytest.raises(UserError, match=MIRROR):
        get(remote())


def test_wrong_checksum_is_told_with_both_hashes(faulty, tmp_path, monkeypatch):
    (tmp_path / "m" / "some-set").mkdir(parents=True)
    (tmp_path / "m" / "some-set" / "file.gz").write_bytes(BAD)
    monkeypatch.setenv(MIRROR, str(tmp_path / "m"))
    for file in (remote(), remote(faulty.url("/page"))):
        with pytest.raises(UserError) as caught:
            get(file)
        assert file.sha256 in str(caught.value)
        assert hashlib.sha256(BAD).hexdigest() in str(caught.value)
    assert hashlib.sha256(faulty.replies["/page"][2]).hexdigest() in str(caught.value)


def mirror_folder(faulty, content):
    folder = Path("mirror", "some-set")
    folder.mkdir(parents=True)
    (folder / "file.gz").write_bytes(content)
    return str(folder.parent.absolute())


def mirror_url(faulty, content):
    faulty.replies["/mirror/some-set/file.gz"] = (200, {}, content)
    return faulty.url("/mirror")


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("mirror", [mirror_folder, mirror_url])
def test_mirror_comes_first(faulty, monkeypatch, mirror, slash):
    monkeypatch.setenv(MIRROR, mirror(faulty, GOOD) + slash)
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD
    assert "/good" not in faulty.asked


@pytest.mark.parametrize("mirror", [mirror_folder, mirror_url])
def test_mirror_with_other_bytes_is_passed_over(faulty, monkeypatch, mirror):
    monkeypatch.setenv(MIRROR, mirror(faulty, BAD))
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD
    assert faulty.asked[-1] == "/good"


@pytest.mark.parametrize("mirror", ["/nowhere/at/all", "http://127.0.0.1:1"])
def test_mirror_that_is_not_there_is_passed_over(faulty, monkeypatch, mirror):
    monkeypatch.setenv(MIRROR, mirror)
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD


@pytest.mark.parametrize("spelling", ["file://{}", "~/{}"])
def test_mirror_as_people_spell_it(faulty, monkeypatch, spelling):
    folder = Path(mirror_folder(faulty, GOOD))
    folder = folder.rename(folder.with_name("my mirror"))
    monkeypatch.setenv("HOME", str(folder.parent))
    named = folder.as_posix().replace(" ", "%20") if spelling.startswith("file") else folder.name
    monkeypatch.setenv(MIRROR, spelling.format(named))
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD
    assert faulty.asked == []


def test_mirror_in_a_home_that_is_not_known_is_passed_over(faulty, monkeypatch):
    monkeypatch.setenv(MIRROR, "~nobody-of-this-name/mirror")
    assert get(remote(faulty.url("/good"))).read_bytes() == GOOD


@pytest.mark.parametrize("content", [GOOD, BAD])
def test_secrets_of_a_mirror_are_told_nowhere(faulty, monkeypatch, caplog, capfd, content):
    """A password, and a signature in the query; the file's own URLs are in params.yaml, and no secret."""
    caplog.set_level(logging.INFO)
    faulty.replies["/mirror/some-set/file.gz?sig=s%2Fgnature&v=1"] = (200, {}, content)
    address = faulty.url("/mirror?sig=s%2Fgnature&v=1").replace("://", "://reader:p%40ssword@")
    monkeypatch.setenv(MIRROR, address)
    told = ""
    try:
        found = obtain("some-set", remote(faulty.url("/404")), CACHE, timeout=1)
        told = found.source
        assert told == faulty.url("/mirror/some-set/file.gz")
        assert obtain("some-set", remote(), CACHE).source == told, "as remembered beside the file"
    except UserError as error:
        assert content == BAD
        told = str(error)
        assert faulty.url("/mirror/some-set/file.gz: SHA256 hash") in told
    assert "/mirror/some-set/file.gz?sig=s%2Fgnature&v=1" in faulty.asked
    told += caplog.text + "".join(capfd.readouterr()) + "".join(p.read_text() for p in CACHE.glob("*.source"))
    for secret in ("reader", "p%40ssword", "p@ssword", "gnature", "sig="):
        assert secret not in told


def test_a_mirror_that_refuses_is_told_without_its_signature(faulty, monkeypatch):
    """requests names the URL in its errors."""
    faulty.replies["/mirror/some-set/file.gz?sig=signature"] = (403, {}, b"")
    monkeypatch.setenv(MIRROR, faulty.url("/mirror?sig=signature"))
    with pytest.raises(UserError, match="403") as error:
        get(remote())
    monkeypatch.setenv(MIRROR, "http://reader:password@127.0.0.1:1/x?sig=signature")
    with pytest.raises(UserError, match="refused") as other:
        get(remote())
    assert "signature" not in f"{error.value}{other.value}" and "password" not in str(other.value)


def test_what_a_killed_fetch_left_half_written_is_removed(faulty):
    CACHE.mkdir()
    (CACHE / ".file.gz.source.abc123").write_text("http://half")
    get(remote(faulty.url("/good")))
    assert sorted(p.name for p in CACHE.iterdir()) == ["file.gz", "file.gz.source"]


def test_dead_link_is_named_once_with_its_cause():
    """requests wraps the cause in two exceptions that each name the URL again."""
    with pytest.raises(UserError) as error:
        get(remote("http://127.0.0.1:1/dead-link"))
    assert "refused" in str(error.value)
    assert str(error.value).count("dead-link") == 1


# --- the stage ------------------------------------------------------------------------------------------


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny(n=40, n_test=10, labels=None, **changes):
    """Parameters with a dataset ``tiny`` whose image i has every pixel equal to i, and its files in a mirror."""
    content = {}
    for split, size, first in (("train", n, 0), ("test", n_test, 100)):
        numbers = np.arange(first, first + size, dtype=np.uint8)
        content[f"{split}_images"] = np.broadcast_to(numbers[:, None, None], (size, 8, 12)).copy()
        content[f"{split}_labels"] = numbers % 10 if labels is None else np.full(size, labels, np.uint8)
    raw = copy.deepcopy(RAW)
    entry = {
        "title": "Tiny",
        "format": "idx",
        "shape": [1, 8, 12],
        "resize": "none",
        "classes": 10,
        "split": {"validation": 15, "test": 0, "seed": 0},
        "licence": "none",
        "citation": "none",
        "files": {},
    }
    folder = Path("tiny-mirror", "tiny")
    folder.mkdir(parents=True, exist_ok=True)
    for role, array in content.items():
        packed = gzip.compress(idx(array), mtime=0)
        (folder / f"{role}.gz").write_bytes(packed)
        entry["files"][role] = {"name": f"{role}.gz", "urls": [], "sha256": hashlib.sha256(packed).hexdigest()}
    raw["datasets"]["tiny"] = entry | changes
    return check_params(raw)


@pytest.fixture
def mirrored(project, monkeypatch):
    monkeypatch.setenv(MIRROR, "tiny-mirror")


def digits(**split):
    raw = copy.deepcopy(RAW)
    raw["datasets"]["digits"]["split"] |= split
    return check_params(raw)


@pytest.mark.usefixtures("mirrored")
def test_splits_are_disjoint_complete_and_in_order():
    data = load_images(fetch(tiny(), "tiny"))
    numbers = {split: data.images[split][:, 0, 0, 0].tolist() for split in data.images}
    assert {split: len(n) for split, n in numbers.items()} == {"train": 25, "validation": 15, "test": 10}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(40))
    assert numbers["test"] == list(range(100, 110))
    for split, found in numbers.items():
        assert found == sorted(found)
        assert data.labels[split].tolist() == [n % 10 for n in found]
    assert data.images["train"].shape == (25, 1, 8, 12)


def test_digits_are_split_as_asked():
    data = load_images(fetch(digits(validation=180, test=360), "digits"))
    assert {split: len(x) for split, x in data.images.items()} == {"train": 1257, "validation": 180, "test": 360}
    assert data.shape == (1, 28, 28)
    assert all(set(y.tolist()) == set(range(10)) for y in data.labels.values())


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize("make", [digits, tiny])
def test_bytes_are_the_same_twice_and_differ_by_split_seed(make):
    params = make()
    name = make.__name__
    first = artifacts.sha256(fetch(params, name))
    paths.data_path(name).unlink()
    assert artifacts.sha256(fetch(params, name)) == first

    before = load_images(paths.data_path(name)).images["validation"]
    split = params.dataset(name).split.model_copy(update={"seed": 1})
    other = params.dataset(name).model_copy(update={"split": split})
    params = params.model_copy(update={"datasets": {**params.datasets, name: other}})
    after = load_images(fetch(params, name)).images["validation"]
    assert after.shape == before.shape
    assert not after.equal(before)


@pytest.mark.usefixtures("mirrored")
def test_settings_lie_beside():
    params = tiny()
    out = fetch(params, "tiny")
    settings = artifacts.read_json(paths.settings_path(out))
    assert settings.pop("outputs") == {
        str(path): artifacts.sha256(path) for path in (out, paths.card_path("tiny"), paths.sheet_path("tiny"))
    }
    assert settings == Job(params, "fetch", "tiny").record
    assert sorted(p.name for p in out.parent.iterdir()) == [
        *("tiny.card.json", "tiny.npz", "tiny.png", "tiny.settings.json")
    ]


@pytest.mark.usefixtures("mirrored")
def test_card():
    params = tiny()
    out = fetch(params, "tiny")
    card = artifacts.read_json(paths.card_path("tiny"))
    arrays = artifacts.read_npz(out)
    assert card["images"] == {
        split: {
            "total": len(arrays[f"{split}_labels"]),
            "by_class": [int((arrays[f"{split}_labels"] == label).sum()) for label in range(10)],
        }
        for split in ("train", "validation", "test")
    }
    train = arrays["train_images"] / 255
    for key, value in {"mean": train.mean(), "variance": train.var()}.items():
        assert card["pixels"][key] == pytest.approx(value)
        assert card["pixels"][f"channel_{key}"] == pytest.approx([value])
    assert card["pixels"]["variance"] == pytest.approx(load_images(out).variance(), abs=1e-12)
    assert card["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert card["files"]["train_images"] == {
        "source": "tiny-mirror/tiny/train_images.gz",
        "sha256": params.dataset("tiny").files["train_images"].sha256,
        "verified": True,
    }
    assert (card["title"], card["licence"], card["citation"]) == ("Tiny", "none", "none")


def test_source_on_the_card_is_the_url_also_when_the_cache_serves(server):
    params = tiny()
    entry = params.dataset("tiny").model_dump()
    for file in entry["files"].values():
        server.replies[f"/{file['name']}"] = (200, {}, Path("tiny-mirror", "tiny", file["name"]).read_bytes())
        file["urls"] = [server.url("/gone"), server.url(f"/{file['name']}")]
    params = tiny(**entry)
    fetch(params, "tiny")
    first = artifacts.read_json(paths.card_path("tiny"))
    assert first["files"]["test_labels"]["source"] == server.url("/test_labels.gz")
    asked = len(server.asked)
    fetch(params, "tiny")
    assert artifacts.read_json(paths.card_path("tiny")) == first
    assert len(server.asked) == asked


@pytest.mark.usefixtures("mirrored")
def test_contact_sheet_has_a_row_for_each_class():
    arrays = artifacts.read_npz(fetch(tiny(), "tiny"))
    with Image.open(paths.sheet_path("tiny")) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * (10 * 9 - 1), 2 * (10 * 13 - 1))
    for label in range(10):
        row = sheet[18 * label + 2, 2::26].tolist()  # a pixel of each place
        values = [int(i[0, 0, 0]) for i in arrays["train_images"][arrays["train_labels"] == label]][:10]
        assert row == values + [200] * (10 - len(values))


def test_contact_sheet_in_colour_and_without_classes():
    images = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 3, 8, 8))
    sheet = contact_sheet(images, np.zeros(30, np.uint8), 1)
    assert sheet.shape == (2 * (10 * 9 - 1), 2 * (10 * 9 - 1), 3)
    assert sheet[0, ::18, 2].tolist() == list(range(10))
    assert sheet[36, ::18, 0].tolist() == list(range(20, 30))
    assert sheet[-1, -1].tolist() == [200] * 3
    assert len(contact_sheet(images, np.zeros(30, np.uint8), 1000)) == 2 * (30 * 9 - 1)


@pytest.mark.usefixtures("mirrored")
def test_test_images_that_are_there_are_not_asked_for_again():
    with pytest.raises(UserError, match=r"tiny has 10 test images.* 5 .*datasets\.tiny\.split\.test to 0"):
        fetch(tiny(split={"validation": 15, "test": 5, "seed": 0}), "tiny")


@pytest.mark.usefixtures("mirrored")
def test_a_single_image_cannot_be_split():
    with pytest.raises(UserError, match=r"tiny has 1 image, .*datasets\.tiny\.split"):
        fetch(tiny(n=1), "tiny")
    assert len(load_images(fetch(tiny(n_test=1), "tiny")).images["test"]) == 1


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize("validation", [40, 41, 10**9])
def test_split_that_leaves_nothing_to_train_on(validation):
    with pytest.raises(UserError, match=r"tiny has 40 images.*datasets\.tiny\.split"):
        fetch(tiny(split={"validation": validation, "test": 0, "seed": 0}), "tiny")
    assert not Path("results").exists()


@pytest.mark.parametrize("split", [{"test": 0}, {"validation": 900, "test": 897}, {"validation": 1797}])
def test_impossible_split_of_a_dataset_without_test_images(split):
    with pytest.raises(UserError, match=r"1797 images.*datasets\.digits\.split"):
        fetch(digits(**split), "digits")


@pytest.mark.usefixtures("mirrored")
def test_labels_beyond_the_classes():
    with pytest.raises(UserError, match=r"a train label 10, params\.yaml says 10 classes, 0 to 9"):
        fetch(tiny(labels=10), "tiny")
    assert fetch(tiny(labels=9), "tiny").is_file()


@pytest.mark.usefixtures("mirrored")
def test_shape_that_is_not_the_files():
    with pytest.raises(UserError, match=r"\[1, 8, 12\].*\[1, 12, 8\]"):
        fetch(tiny(shape=[1, 12, 8]), "tiny")


def test_unknown_dataset():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        fetch(digits(), "digit")


def test_nothing_is_written_when_no_source_works():
    with pytest.raises(UserError, match=MIRROR):
        fetch(tiny(), "tiny")
    assert not Path("results").exists()


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason=f"needs MNIST's files in {REAL}/mnist")
def test_mnist_itself(monkeypatch):
    monkeypatch.setenv(MIRROR, str(REAL))
    data = load_images(fetch(check_params(RAW), "mnist"))
    assert {split: tuple(x.shape) for split, x in data.images.items()} == {
        "train": (55000, 1, 28, 28),
        "validation": (5000, 1, 28, 28),
        "test": (10000, 1, 28, 28),
    }
    first_ten = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.labels["test"][:10].tolist() == first_ten
    assert Counter(data.labels["test"].tolist())[1] == 1135
    assert data.variance() == pytest.approx(0.3081**2, rel=0.01)


def test_images_are_ready_in_less_than_three_seconds():
    """60,000 images as hard to pack as MNIST's: a fifth of the pixels is noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60_000, 1, 28, 28), np.uint8)
    images[:, :, 13:] = 0
    arrays = {}
    for split, size in (("train", 55_000), ("validation", 5_000), ("test", 10_000)):
        arrays |= {f"{split}_images": images[:size], f"{split}_labels": np.zeros(size, np.uint8)}
    artifacts.write_npz(Path("some.npz"), arrays)
    start = time.perf_counter()
    data = load_images(Path("some.npz"))
    seconds = time.perf_counter() - start
    assert sum(map(len, data.images.values())) == 70_000
    assert {x.dtype for x in data.images.values()} == {torch.uint8}
    assert seconds < 3


# --- reading it back ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a.pop("test_images"), id="images missing"),
        pytest.param(lambda a: a.pop("train_labels"), id="labels missing"),
        pytest.param(lambda a: a.update(train_images=a["train_images"].astype(np.float32)), id="floats"),
        pytest.param(lambda a: a.update(train_images=a["train_images"][:, 0]), id="no channel"),
        pytest.param(lambda a: a.update(test_labels=a["test_labels"][1:]), id="one label short"),
        pytest.param(
            lambda a: a.update(test_images=a["test_images"][:0], test_labels=a["test_labels"][:0]), id="no images"
        ),
    ],
)
def test_data_that_fetch_would_not_write(change):
    out = fetch(tiny(), "tiny")
    arrays = artifacts.read_npz(out)
    change(arrays)
    artifacts.write_npz(out, arrays)
    with pytest.raises(UserError, match=r"results/data/tiny\.npz is damaged"):
        load_images(out)
