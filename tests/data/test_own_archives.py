"""Archives of images that attack, or are none."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from own import FOUR, GREY, PNG, npy, npz, refusal

pytestmark = pytest.mark.usefixtures("project")


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
    assert "cat/x.png unpacks to 104857600 bytes, the limit is 67108864" in message


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
