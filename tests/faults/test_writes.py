"""Where nothing can be written: a sentence, the old files as they were, and the same command works once it can."""

import contextlib
import os
import shutil
import subprocess

import pytest

WRITERS = ["fetch", "classifier", "vqsvae", "tokens", "evaluate", "table", "samples_figure"]


@pytest.fixture
def small_disk(project, tmp_path):
    """The project on a file system of its own, 16 MB large."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk]).returncode:
        pytest.skip("only root can mount a small disk, and not in every container")
    try:
        shutil.copytree(project.root, disk, dirs_exist_ok=True)
        project.root = disk
        yield project
    finally:
        subprocess.run(["umount", disk], check=True)


def assert_sentence(status, said, *fragments):
    assert status == 2, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0] == said.splitlines()[-1], said
    for fragment in fragments:
        assert fragment in lines[0]


def fill(disk, pages):
    """Leave so many pages of 4 KiB free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - pages * 4096)


@pytest.mark.parametrize("stage", WRITERS)
def test_full_disk(small_disk, stage):
    """With ever more room the command gets ever further; each file is the old one, or all of the new.

    Seen to fail with files written in place.
    """
    project = small_disk
    for name in project.made_by(stage):
        (project.root / "results" / name).write_text("old")
    if stage == "vqsvae":
        shutil.rmtree(project.work(stage))
    refused, said = 0, ""
    for pages in (0, *(2**n for n in range(12))):
        fill(project.root, pages)
        status, said = project.command(stage)
        if status == 0:
            break
        assert_sentence(status, said, "cannot ", "No space left on device", "run the same command again")
        found = project.results()
        assert found.keys() == project.expected.keys()
        assert all(content in (b"old", project.expected[name]) for name, content in found.items())
        assert not project.leftovers()
        refused += 1
    assert status == 0 and refused > 1, said
    project.assert_as_undisturbed()


@pytest.mark.parametrize("stage", WRITERS)
def test_read_only_folder(small_disk, stage):
    """Seen to fail where the lock lets an OSError through."""
    project = small_disk
    before = project.results()
    subprocess.run(["mount", "-o", "remount,ro", project.root], check=True)
    assert_sentence(*project.command(stage), "cannot write", "Read-only file system")
    assert project.results() == before
    subprocess.run(["mount", "-o", "remount,rw", project.root], check=True)
    status, said = project.command(stage)
    assert status == 0, said
    project.assert_as_undisturbed()


@pytest.mark.parametrize("stage", WRITERS)
def test_out_of_file_handles(project, stage):
    """With ever more handles the command gets ever further, until it ends well.

    Seen to fail where the command line catches no OSError.
    """
    before = project.results()
    refused = 0
    for more in range(1, 40):
        status, said = project.command(stage, ["handles", "", more])
        if status == 0:
            break
        assert_sentence(status, said, "Too many open files")
        assert project.results() == before
        refused += 1
    assert status == 0 and refused
    project.assert_as_undisturbed()
