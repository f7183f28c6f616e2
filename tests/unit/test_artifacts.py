"""Files are written whole or not at all, and read without trust."""

import errno
import hashlib
import io
import json
import os
import pickle
import stat
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spiking_diffusion import artifacts
from spiking_diffusion.artifacts import (
    canonical_json,
    content_hash,
    files_of,
    listed,
    read_array,
    read_json,
    read_npz,
    write_atomic,
    write_bytes,
    write_json,
    write_npz,
)
from spiking_diffusion.errors import UserError
from spiking_diffusion.vqsvae.loading import load_tokens


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- writing --------------------------------------------------------------------------------------------


def half_then(error):
    def write(file):
        file.write(b"half of the new")
        raise error

    return write


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_failed_write_keeps_the_old_content_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(type(error)):
        write_atomic(path, half_then(error))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_full_disk_is_a_sentence(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    message = refusal(write_atomic, path, half_then(OSError(errno.ENOSPC, "No space left on device")))
    assert str(path) in message
    assert "No space left on device" in message
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "get the permission"),
        (errno.EROFS, "mounted to be read only"),
        (errno.ENOLCK, "has no file locks"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "the disk or the network in between fails"),
        (errno.ENOANO, "fix the problem"),
    ],
)
def test_each_error_of_the_system_has_its_own_cure(tmp_path, number, cure):
    message = refusal(write_atomic, tmp_path / "file", half_then(OSError(number, os.strerror(number))))
    assert f"({os.strerror(number)}): " in message and cure in message


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_brought_to_disk(tmp_path, monkeypatch, number):
    """Some file systems cannot do it; the file is there all the same. A disk that fails is another matter."""
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        refusal(write_bytes, tmp_path / "file", b"new")
    else:
        write_bytes(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("look", [files_of, content_hash, lambda folder: listed(folder, "*")])
def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path, monkeypatch, look):
    """Seen: a class of images was missing, and a training with such a folder started from the beginning."""
    write_bytes(tmp_path / "cat" / "0.png", b"x")

    def refuse(path="."):
        if Path(path).name == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    real, closed = os.scandir, "cat" if look in (files_of, content_hash) else tmp_path.name
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", lambda path=".": [entry.name for entry in os.scandir(path)])
    with pytest.raises((PermissionError, UserError), match="Permission denied"):
        look(tmp_path)
    assert listed(tmp_path / "nowhere", "*") == []


def test_reader_sees_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomic(path, write)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"x")
        assert os.umask(umask) == umask, "the umask itself is put back"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("path", ["blocked/file", "blocked/deeper/file", "folder"])
def test_place_that_cannot_be_written(tmp_path, path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    assert str(tmp_path / path) in refusal(write_bytes, tmp_path / path, b"x")
    assert names(tmp_path) == ["blocked", "folder"]
    assert (tmp_path / "blocked").is_file()


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": [1, 2.5, None, True], "a": {"d": "ü", "c": 1}}) == canonical_json(
        {"a": {"c": 1, "d": "ü"}, "b": [1, 2.5, None, True]}
    )
    assert canonical_json({"b": 1, "a": "x"}) == '{"a":"x","b":1}'
    assert "\n" not in canonical_json({"a": "x\ny"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError):
        canonical_json({"a": value})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": value})
    assert names(tmp_path) == []


def test_json_round_trip(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": [0.1, "ü"]})
    assert read_json(path) == {"a": [0.1, "ü"], "b": 1}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    assert path.read_text().endswith("}\n")


ARRAYS = {"x": np.arange(1000, dtype=np.uint8).reshape(10, 1, 10, 10), "label": np.array("words"), "n": np.array(3.5)}


def test_npz_round_trip(tmp_path):
    write_npz(tmp_path / "x.npz", ARRAYS)
    back = read_npz(tmp_path / "x.npz")
    assert list(back) == list(ARRAYS)
    for key, array in ARRAYS.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)


def test_npz_bytes_do_not_know_the_time(tmp_path, monkeypatch):
    write_npz(tmp_path / "x.npz", ARRAYS)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_npz(tmp_path / "y.npz", ARRAYS)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


# --- reading --------------------------------------------------------------------------------------------


def test_sha256(tmp_path):
    write_bytes(tmp_path / "x", b"abc" * 100000)
    assert artifacts.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100000).hexdigest()


@pytest.mark.parametrize("call", [artifacts.sha256, artifacts.require, read_npz, read_json, load_tokens])
def test_missing_file_names_the_command_that_makes_it(tmp_path, call):
    path = tmp_path / "results" / "x.npz"
    assert f"snakemake --cores all {path}" in refusal(call, path)
    path.mkdir(parents=True)
    assert str(path) in refusal(call, path)


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def npz_with_objects(canary):
    file = io.BytesIO()
    np.savez(file, images=np.array([Canary(canary)], dtype=object))
    return file.getvalue()


def npy_with_objects(canary):
    file = io.BytesIO()
    np.save(file, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [npz_with_objects, npy_with_objects, lambda canary: pickle.dumps(Canary(canary))],
    ids=["npz", "npy", "pickle"],
)
def test_pickles_are_not_run(tmp_path, make):
    canary = tmp_path / "canary"
    path = tmp_path / "x.npz"
    path.write_bytes(make(canary))
    np.load(io.BytesIO(make(canary)), allow_pickle=True)  # the canary sings where pickles are trusted ...
    if make is npz_with_objects:
        np.load(path, allow_pickle=True)["images"]
    assert canary.exists()
    canary.unlink()
    assert str(path) in refusal(read_npz, path)  # ... and is silent here
    assert not canary.exists()


def cut(raw):
    return raw[: len(raw) // 2]


def flipped(raw):
    middle = len(raw) // 3
    return raw[:middle] + bytes([raw[middle] ^ 0xFF]) + raw[middle + 1 :]


DAMAGE = [cut, flipped, lambda raw: b"", lambda raw: b"\x80\x02garbage" * 9, lambda raw: raw[len(raw) // 2 :]]
KINDS = ["cut short", "flipped byte", "empty", "garbage", "second half"]


@pytest.mark.parametrize("damage", DAMAGE, ids=KINDS)
def test_damaged_npz(tmp_path, damage):
    path = tmp_path / "x.npz"
    write_npz(path, {"x": np.random.default_rng(0).integers(0, 255, 3000, np.uint8)})
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(read_npz, path)
    assert f"{path} is damaged" in message
    assert "delete it" in message


def test_npz_with_something_else_in_it(tmp_path):
    """For a member that is no array, numpy returns bytes."""
    path = tmp_path / "x.npz"
    write_npz(path, {"a": np.arange(3)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("b.npy", b"text")
    assert "damaged" in refusal(read_npz, path)
    assert "damaged" in refusal(lambda p: read_array(p, "b"), path)
    assert read_array(path, "a").tolist() == [0, 1, 2], "another array was read along"


@pytest.mark.parametrize(
    "damage",
    [cut, lambda raw: b"", lambda raw: b"\xff\xfe" + raw, lambda raw: raw + b"}"],
    ids=["cut short", "empty", "not UTF-8", "too much"],
)
def test_damaged_json(tmp_path, damage):
    path = tmp_path / "x.json"
    path.write_bytes(damage(json.dumps({"fid": 1.5}).encode()))
    assert f"{path} is damaged" in refusal(read_json, path)


TOKENS = {
    "size": np.array(4),
    "vqsvae": np.array("0" * 64),
    "stamp": np.array("1" * 64),
    **{split: np.arange(8, dtype=np.uint16).reshape(2, 2, 2) % 4 for split in ("train", "validation", "test")},
}


def test_tokens_round_trip(tmp_path):
    write_npz(tmp_path / "x.npz", TOKENS)
    tokens = load_tokens(tmp_path / "x.npz")
    assert (tokens.size, tokens.vqsvae, tokens.stamp) == (4, "0" * 64, "1" * 64)
    assert tokens.splits["test"].tolist() == [[[0, 1], [2, 3]], [[0, 1], [2, 3]]]


@pytest.mark.parametrize(
    "change",
    [
        {"size": np.array(3)},
        {"size": np.array([4, 4])},
        {"train": TOKENS["train"].astype(np.int64)},
        {"test": TOKENS["test"][0]},
        {"test": TOKENS["test"][:0]},
        {"validation": None},
        {"vqsvae": None},
        {"stamp": None},
    ],
    ids=["out of range", "two sizes", "other type", "other rank", "empty", "split missing", "no hash", "no stamp"],
)
def test_tokens_that_are_none(tmp_path, change):
    write_npz(tmp_path / "x.npz", {k: v for k, v in {**TOKENS, **change}.items() if v is not None})
    assert "x.npz is damaged" in refusal(load_tokens, tmp_path / "x.npz")
