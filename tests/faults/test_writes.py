"""Where nothing can be written: a sentence, the old files as they were, and the same command works once it can."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spiking_diffusion.snn import kernels

ROOT = Path(__file__).parents[2]

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
        assert_sentence(status, said, "No space left on device", "free some space", "run the same command again")
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
    assert_sentence(*project.command(stage), "Read-only file system", "take another folder")
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


def by_command(project, *command, before=(), **environment):
    """Exit code and output of a command in the project's folder; ``before`` starts it."""
    done = subprocess.run(
        [*before, str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=project.root,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def as_any_user():
    """What starts a command without the right of root to ignore permissions. Root's own files are still its own."""
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        start = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
        if not shutil.which("setpriv") or subprocess.run([*start, "true"]).returncode:
            pytest.skip("root may write everywhere, and there is no setpriv that drops this right")
        return start
    return []


@pytest.mark.parametrize("stage", ["table", "vqsvae"])
def test_no_permission(project, stage):
    """Seen to advise to free the space."""
    project.undo(stage)
    folder = (project.root / "results" / project.made_by(stage)[0]).parent
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    command = {"table": "table --suite quick", "vqsvae": "train vqsvae --run digits"}[stage].split()
    try:
        status, said = by_command(project, "spiking-diffusion", *command, before=as_any_user())
    finally:
        folder.chmod(mode)
    assert_sentence(status, said, "cannot write results/", "(Permission denied): get the permission")
    status, said = project.command(stage)
    assert status == 0, said
    project.assert_as_undisturbed()


NO_CHMOD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
static int refuses(const char *path) {
    char real[PATH_MAX];
    return realpath(path, real) && !strncmp(real, getenv("NO_CHMOD"), strlen(getenv("NO_CHMOD"))) ? (errno = EPERM) : 0;
}
int chmod(const char *path, mode_t mode) {
    return refuses(path) ? -1 : ((int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "chmod"))(path, mode);
}
int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    int (*real)(int, const char *, mode_t, int) = dlsym(RTLD_NEXT, "fchmodat");
    return refuses(path) ? -1 : real(folder, path, mode, flags);
}
int fchmod(int file, mode_t mode) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return refuses(path) ? -1 : ((int (*)(int, mode_t))dlsym(RTLD_NEXT, "fchmod"))(file, mode);
}
"""
"""A library that makes the system refuse to change the mode of what is below the folder NO_CHMOD."""


@pytest.mark.skipif(kernels.library() is None, reason="no compiler")
def test_a_disk_that_refuses_chmod(project, tmp_path):
    """CIFS, exFAT, S3. Our files are written; Snakemake, which needs it, is stopped before anything runs."""
    source, library = tmp_path / "no_chmod.c", tmp_path / "no_chmod.so"
    source.write_text(NO_CHMOD)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    refusing = {"LD_PRELOAD": str(library), "NO_CHMOD": str(project.root)}
    change = "import os; open('probe', 'w').close(); os.chmod('probe', 0o600)"
    assert "PermissionError" in by_command(project, "python", "-c", change, **refusing)[1]
    (project.root / "probe").unlink()
    for stage, command in (("fetch", "fetch --dataset digits"), ("table", "table --suite quick")):
        project.undo(stage)
        status, said = by_command(project, "spiking-diffusion", *command.split(), **refusing)
        assert status == 0, said
    for name in ("Snakefile", "workflow", "profiles", "src"):
        (project.root / name).symlink_to(ROOT / name)
    assert by_command(project, "spiking-diffusion", "sync")[0] == 0
    project.undo("table")
    snakemake = ("snakemake", "--cores", "1", "--", "results/tables/quick.csv")
    status, said = by_command(project, *snakemake, **refusing)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and "`ln -s FOLDER .snakemake`" in lines[0]
    shutil.move(project.root / ".snakemake", tmp_path / "notes")
    (project.root / ".snakemake").symlink_to(tmp_path / "notes")
    status, said = by_command(project, *snakemake, **refusing)
    assert status == 0, said
    project.assert_as_undisturbed()
