"""Where nothing can be written: a sentence, the old files as they were, and the same command works once it can."""

import os
import shutil
import subprocess

import pytest

WRITERS = ["fetch", "classifier", "vqsvae", "tokens", "evaluate", "table", "figure"]


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


@pytest.mark.parametrize("stage", WRITERS)
def test_full_disk(small_disk, stage):
    """Fails if files are written in place: the old ones end where the disk did."""
    project = small_disk
    before = project.results()
    if stage == "vqsvae":
        shutil.rmtree(project.work(stage))
    with (project.root / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    assert_sentence(*project.command(stage), "cannot write", "No space left on device", "free the space")
    assert project.results() == before
    (project.root / "filler").unlink()
    status, said = project.command(stage)
    assert status == 0, said
    project.assert_as_undisturbed()


@pytest.mark.parametrize("stage", WRITERS)
def test_read_only_folder(small_disk, stage):
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
    """With ever more handles the command gets ever further, until it ends well."""
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
