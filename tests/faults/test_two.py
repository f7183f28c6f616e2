"""Two at once: one works, the others wait and say for whom; a lock dies with its holder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(project):
    """Starts commands in the project's folder, each a process group of its own, and ends those left."""
    begun = []

    def start(*command):
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=project.root,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if not process.stdout.closed:
            process.communicate()


def ended(process):
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return said


def wait_for(condition, process):
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


SDID = ("spiking-diffusion", "train", "sdid", "--run", "digits")


def stopped_in_the_middle(project, start):
    """A training with a checkpoint behind it and more before it, that does not go on."""
    project.undo("sdid")
    first = start(*SDID)
    wait_for(lambda: list(project.work("sdid").glob("*.pt")), first)
    os.killpg(first.pid, signal.SIGSTOP)
    assert not (project.root / "results/models/digits/sdid.safetensors").exists()
    return first


def test_the_second_waits_and_trains_nothing(project, start):
    """Seen to fail without the lock: both train."""
    first = stopped_in_the_middle(project, start)
    second = start(*SDID)
    line = second.stdout.readline()
    assert "models/digits/sdid.safetensors is locked by process" in line and f"process {first.pid} on" in line
    assert "spiking-diffusion train sdid --run digits" in line and "waiting" in line
    os.killpg(first.pid, signal.SIGCONT)
    ended(first)
    said = ended(second)
    assert "is there now, made with the same settings from the same files" in said and "loss" not in said
    project.assert_as_undisturbed()


def test_a_lock_dies_with_its_holder(project, start):
    """The second goes on from the checkpoint of the first, which was killed. Seen to fail without the lock."""
    first = stopped_in_the_middle(project, start)
    second = start(*SDID)
    assert "waiting" in second.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    assert "continuing after epoch" in ended(second)
    project.assert_as_undisturbed()


# --- Snakemake ------------------------------------------------------------------------------------------


@pytest.fixture
def workflow(project, start):
    """The project with the workflow's files in it, and its own files known to Snakemake."""
    for name in ("Snakefile", "workflow", "profiles", "src"):
        (project.root / name).symlink_to(ROOT / name)
    ended(start("spiking-diffusion", "sync"))
    return project


def test_three_snakemakes(workflow, start):
    """One ends early, having had little to do; the others still take turns. The last is as DVC calls it.

    Seen to fail without the Snakefile's lock.
    """
    for stage in ("classifier", "table"):
        workflow.undo(stage)
    snakemake = ("snakemake", "--cores", "1", "--quiet", "all", "--")
    first = start(*snakemake, "results/classifiers/digits.safetensors")
    wait_for((workflow.root / "work/locks/snakemake.holder").exists, first)
    second = start(*snakemake, "results/tables/quick.csv")
    third = start("snakemake", "results/tables/quick.csv", "--cores", "1", "--allowed-rules", "table", "--quiet", "all")
    said = [ended(process) for process in (first, second, third)]
    assert sum("this folder's pipeline is locked by process" in text for text in said) >= 1
    workflow.assert_as_undisturbed()


def test_snakemake_killed_and_called_again(workflow, start):
    """No `--unlock` is asked for. Seen to fail where the profile leaves Snakemake's own lock on."""
    workflow.undo("classifier")
    snakemake = ("snakemake", "--cores", "1", "--", "results/classifiers/digits.safetensors")
    first = start(*snakemake)
    wait_for((workflow.root / "work/locks/classifiers-digits.holder").exists, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    ended(start(*snakemake))
    workflow.assert_as_undisturbed()
