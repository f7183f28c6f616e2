"""The two programs for a GPU that is there for minutes, here on the CPU; and the update that both use."""

import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
import yaml

from spiking_diffusion import artifacts, config, paths
from spiking_diffusion.benchmark import steps
from spiking_diffusion.benchmark.gpu import Session, jobs_of
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make

from .conftest import RAW

SMALL = {
    "vqsvae": {"channels": [4, 4], "code_dim": 4, "codebook": {"size": 6}, "train": {"epochs": 1, "batch_size": 300}},
    "sdid": {"channels": [8, 8], "train": {"epochs": 1, "batch_size": 300, "precision": "float32"}},
    "sample": {"n": 12, "guidance": 0.5},
}


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Two runs with one tokenizer; SDID differs in its condition."""
    raw = yaml.safe_load(yaml.safe_dump(RAW))
    raw["runs"]["a"] = {"dataset": "digits", "recipe": "best", **SMALL}
    raw["runs"]["b"] = raw["runs"]["a"] | {"recipe": "best-free", "tokenizer": "a", "condition": {"codes": 5}}
    del raw["runs"]["b"]["vqsvae"]
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return config.check_params(raw)


def test_two_runs_share_a_tokenizer_and_are_packed(params):
    """In one session, whichever is named first: the VQ-SVAE of one is trained, the other takes it."""
    assert jobs_of(params, "a") == []  # nothing to learn from yet
    make(Job(params, "fetch", "digits"))
    names = [job.stage for job in jobs_of(params, "a")]
    assert names == ["vqsvae", "tokens", "sdid", "sample"]  # no judges here
    command = [sys.executable, "-m", "spiking_diffusion.benchmark.gpu", "b", "a", "--device", "cpu", "--out", "out"]
    subprocess.run(command, check=True, capture_output=True)
    said = artifacts.read_json(Path("out/session.json"))
    assert {(row["run"], row["stage"]) for row in said["stages"] if row["code"] == 0} == {
        (run, stage) for run in "ab" for stage in ("vqsvae", "tokens", "sdid", "sample")
    }
    weights = [artifacts.sha256(paths.model_path(run, "vqsvae")) for run in "ab"]
    assert weights[0] == weights[1]
    assert artifacts.sha256(paths.model_path("a", "sdid")) != artifacts.sha256(paths.model_path("b", "sdid"))
    assert all(Job(params, "vqsvae", run).is_made() for run in "ab")
    assert [Path("work", run, "vqsvae/tensorboard").exists() for run in "ab"] == [True, False]
    costs = [paths.cost_path(paths.work_path(run, "vqsvae")).read_bytes() for run in "ab"]
    assert costs[0] == costs[1]
    with tarfile.open("out/b.tar.gz") as archive:
        packed = archive.getnames()
    assert "results/models/b/sdid.safetensors" in packed
    assert not any(name.endswith((".npz", ".pt")) for name in packed)
    with tarfile.open("out/b.samples.tar.gz") as archive:
        assert "results/samples/b.npz" in archive.getnames()


def test_a_session_ends_in_time_and_says_so(params, tmp_path):
    make(Job(params, "fetch", "digits"))
    session = Session(params, ["--device", "cpu"], ["a"], 0.0, tmp_path)
    session.take("a")
    (row,) = session.rows
    assert row["stage"] == "vqsvae" and row["code"] != 0


def test_runs_wait_for_a_tokenizer_and_for_nothing_else_of_another_run(params, tmp_path):
    """Seen to fail: SDID of the second run waited for that of the first."""
    make(Job(params, "fetch", "digits"))
    session = Session(params, ["--device", "cpu"], ["a", "b"], 0.05, tmp_path)
    for stage, waits in (("vqsvae", True), ("sdid", False)):
        for job in session.jobs["b"]:  # its own are over
            session.over[job].set()
        start = time.monotonic()
        session._wait(Job(params, stage, "b"))
        assert (time.monotonic() - start > 0.9) == waits


def test_steps_of_every_network(params):
    rows = steps.table(params, ["a", "b"], [8], torch.device("cpu"), 0.01).splitlines()
    assert rows[0].startswith("run,network,batch,precision,by_hand_ms,graph_ms,images_per_second")
    assert [row.split(",")[:3] for row in rows[1:]] == [[r, n, "8"] for r in "ab" for n in ("vqsvae", "sdid")]
    assert all(float(row.split(",")[4]) > 0 and row.split(",")[5] == "" for row in rows[1:])


def test_help_of_both():
    for name in ("gpu", "steps"):
        command = [sys.executable, "-m", f"spiking_diffusion.benchmark.{name}", "--help"]
        assert "usage:" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
