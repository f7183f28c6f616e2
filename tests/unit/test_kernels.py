"""Where the compiled kernels are kept."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spiking_diffusion.snn import kernels

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_in_the_cache_of_the_user(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels._build()
    assert [path.suffix for path in (tmp_path / "cache/spiking-diffusion").iterdir()] == [".so"]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("home", ["none", "a file"])
def test_without_a_home_once_among_the_temporary_files(tmp_path, temporary, monkeypatch, home):
    """Seen to end in a traceback without a home, and to leave a folder for each process where it cannot be written."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "home").write_text("")
    monkeypatch.setattr(Path, "home", no_home if home == "none" else lambda: tmp_path / "home")
    kernels._build()
    (folder,) = temporary.iterdir()
    assert folder.name == f"spiking-diffusion-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    (library,) = folder.iterdir()
    before = library.stat().st_mtime_ns
    kernels._build()
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [before] and len(list(temporary.iterdir())) == 1


def test_a_folder_in_which_others_can_write_is_not_trusted(temporary, monkeypatch):
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    theirs = temporary / f"spiking-diffusion-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    kernels._build()
    assert not list(theirs.iterdir()) and len(list(temporary.iterdir())) == 2


def as_nobody(*command):
    """A user id without an entry, and no HOME: docker run --user 12345. It may read whatever root may."""
    rights = ("--reuid=12345", "--regid=12345", "--clear-groups")
    rights += ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    without = [f"--unset={name}" for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")]
    return ["setpriv", *rights, "env", *without, *command]


def test_a_user_without_an_entry(tmp_path):
    """Two processes leave one library, and a training's other needs of a home are met too."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become a user without an entry")
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    code = "import torch; from spiking_diffusion.snn.kernels import library; assert library(); print('fine')"
    code += "; torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())"
    for _ in range(2):
        done = subprocess.run(
            as_nobody(f"TMPDIR={tmp_path}", sys.executable, "-c", code), capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0 and done.stdout == "fine\n", done.stderr
        ours = [path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_")]
        assert ours == ["spiking-diffusion-12345"]
