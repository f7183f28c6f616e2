"""A tiny project whose every stage has been run without disturbance, and the means to disturb it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from spiking_diffusion.config import check_params
from spiking_diffusion.graph.jobs import jobs

ROOT = Path(__file__).parents[2]
MANY = "KILLS" in os.environ
"""Whether this is `make faults`."""
KILLED = Counter()
"""Processes killed so far, by stage."""


def tiny_params():
    """The project's own settings with networks and trainings as small as they get."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    recipe = params["recipes"]["quick"]
    train = {"epochs": 3, "batch_size": 256, "threads": 1}
    for model in ("vqsvae", "sdid", "fsvae"):
        recipe[model] |= {"T": 2, "train": recipe[model]["train"] | train}
    recipe["vqsvae"] |= {"channels": [4, 4], "code_dim": 4}
    recipe["vqsvae"]["codebook"]["size"] = 8
    recipe["sdid"] |= {"channels": [8, 8], "embed_dim": 4}
    recipe["fsvae"] |= {"channels": [4, 4], "code_dim": 4, "latent_dim": 4, "k": 2}
    recipe["sample"] |= {"n": 40, "batch_size": 20, "threads": 1}
    recipe["tune"] |= {"n": 20, "temperatures": [0.7, 1.0], "steps": [4]}
    recipe["evaluate"] |= {"kid_subsets": 2, "threads": 1}
    params["classifier"] |= {"networks": 2, "channels": [4, 4], "features": 8}
    params["classifier"] |= {"epochs": 1, "least_steps": 5, "threads": 1}
    params["device"] = "cpu"
    runs = {name: params["runs"][name] for name in ("digits",)}
    baselines = {name: params["baselines"][name] for name in ("digits-fsvae",)}
    of_digits = {"datasets": {"digits": params["datasets"]["digits"]}, "runs": runs, "baselines": baselines}
    return params | of_digits | {"suites": {"quick": ["digits-fsvae", "digits"]}}


JOBS = {job.stage: job for job in jobs(check_params(tiny_params()))}
"""Each stage's job in the tiny project."""
STAGES = [stage for stage, job in JOBS.items() if job.spec.command != "figure" or stage == "samples_figure"]
"""One figure stands for all: they differ in what is drawn alone."""
TRAININGS = [stage for stage, job in JOBS.items() if job.spec.curve]


def pytest_generate_tests(metafunc):
    """``stage`` is each stage; ``stage_renaming`` some of them in `make test`."""
    if "stage" in metafunc.fixturenames and not metafunc.definition.get_closest_marker("parametrize"):
        metafunc.parametrize("stage", STAGES)
    if "stage_renaming" in metafunc.fixturenames:
        metafunc.parametrize("stage_renaming", STAGES if MANY else ["vqsvae", "sdid", "evaluate"])


@pytest.fixture
def killed():
    """Counts the processes killed, for the summary."""
    return KILLED


class Launcher:
    """Starts commands in processes that can be killed; one at a time."""

    def __init__(self, log):
        """What the commands say goes to ``log``."""
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("launch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder, command, die=None):
        """The id of a new process, and of its group, which runs ``command`` in ``folder``."""
        request = {"argv": command.split(), "cwd": str(folder), "log": str(self.log), "die": die}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self):
        """Exit code of the process started last, minus the signal's number if one ended it."""
        self.process.stdin.write("wait\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, folder, command, die=None):
        """Exit code and output."""
        self.start(folder, command, die)
        return self.wait(), self.log.read_text()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    launcher = Launcher(tmp_path_factory.mktemp("launcher") / "log")
    yield launcher
    launcher.process.communicate()


class Project:
    """A project folder with all results of the suite ``quick`` and the checkpoints that led there."""

    def __init__(self, root, launcher, expected, seconds):
        self.root, self.launcher, self.expected, self.seconds = root, launcher, expected, seconds

    def start(self, stage):
        """The id of a new process, and of its group, that runs a stage."""
        return self.launcher.start(self.root, " ".join(JOBS[stage].command))

    def command(self, stage, die=None):
        """Run a stage; its exit code and what it said."""
        return self.launcher.run(self.root, " ".join(JOBS[stage].command), die)

    def made_by(self, stage):
        """Names of the stage's outputs."""
        return [path.relative_to("results").as_posix() for path in (*JOBS[stage].outputs, JOBS[stage].settings_file)]

    def undo(self, stage):
        """Remove what a stage made, checkpoints too."""
        for name in self.made_by(stage):
            (self.root / "results" / name).unlink(missing_ok=True)
        if stage in TRAININGS:
            shutil.rmtree(self.work(stage))

    def work(self, stage):
        """Folder of a training's checkpoints."""
        return self.root / "work" / JOBS[stage].name / stage

    def results(self):
        """Every file below results/, hidden ones too, by name."""
        return files(self.root / "results")

    def leftovers(self):
        return [str(path) for path in self.root.rglob(".*") if ".snakemake" not in path.parts]

    def assert_as_undisturbed(self):
        found = self.results()
        assert found.keys() == self.expected.keys()
        assert [name for name in found if found[name] != self.expected[name]] == []
        assert not self.leftovers()


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, launcher):
    """A finished project, its results by name, and how long each stage took."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False))
    seconds = {}
    for stage in [*STAGES, "losses_figure", "codebook_figure"]:
        begin = time.monotonic()
        status, said = launcher.run(root, " ".join(JOBS[stage].command))
        assert status == 0, said
        seconds[stage] = time.monotonic() - begin
    return root, files(root / "results"), seconds


@pytest.fixture
def project(undisturbed, launcher, tmp_path):
    """A copy of the finished project, to be disturbed."""
    source, expected, seconds = undisturbed
    shutil.copytree(source, tmp_path / "project")
    return Project(tmp_path / "project", launcher, expected, seconds)


def pytest_terminal_summary(terminalreporter):
    if KILLED:
        terminalreporter.section("processes killed, by stage")
        for stage, n in KILLED.items():
            terminalreporter.line(f"{stage:16}{n:5}")
        terminalreporter.line(f"{'all':16}{KILLED.total():5}")
