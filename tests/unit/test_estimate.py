"""Estimates of time, next to what was measured and is documented."""

from pathlib import Path

import pytest
import yaml

from spiking_diffusion import artifacts, environment, paths
from spiking_diffusion.config import check_params, load_params
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.rows import write_row
from spiking_diffusion.provenance import estimate, status

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | {"device": "cpu"}
RAW["suites"] |= {
    "mnist-of-table1-small": ["mnist-small-fsvae", "mnist-small"],
    "one-ablation": ["mnist-ablation-k-0"],
}


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "cores", lambda: 2)
    return check_params(RAW)


def minutes(params, *jobs):
    return 60 * estimate.hours(params, [Job(params, stage, run) for stage, run in jobs])


@pytest.mark.parametrize(
    ("jobs", "documented"),
    [
        ([("vqsvae", "mnist-best"), ("sdid", "mnist-best")], 45),  # docs/best.md
        ([("sdid", "mnist-best-free")], 26),
        ([("vqsvae", "digits"), ("sdid", "digits")], (80 + 91) / 60),
        (
            [("vqsvae", "mnist-ablation"), ("sdid", "mnist-ablation"), ("evaluate", "mnist-ablation")],
            5.5,
        ),  # ablations.md
        ([("fsvae", "mnist-fsvae")], 55_000 * 100 / 118 * 2 / 60),  # speed.md: 118 images/s of two cores
        ([("vqsvae", "mnist")], 55_000 * 100 * 0.0092 / 60),
        ([("sdid", "mnist")], 55_000 * 200 * 0.058 / 60),
    ],
)
def test_estimates_are_within_a_factor_of_three_of_what_is_documented(params, jobs, documented):
    assert documented / 3 < minutes(params, *jobs) < documented * 3


def test_table_1_without_a_gpu_takes_what_its_page_says(params):
    """102 processor minutes for MNIST, docs/table1-small.md."""
    whole = 60 * estimate.hours(params, status.of_suite(params, "mnist-of-table1-small"))
    assert 70 < whole < 150
    assert f"took {102} processor minutes" in (ROOT / "docs/table1-small.md").read_text(encoding="utf-8")


def test_a_long_suite_names_a_smaller_one(params):
    *_, hours, smaller = status.status(params, "table1")
    assert hours.startswith("estimate: ") and hours.endswith(" hours on this machine's 2 cores")
    assert smaller.startswith("try first: snakemake --cores 2 table1-small (")
    assert status.status(params, "table1-small")[-1].startswith("estimate: ")
    assert status.status(params, "quick")[-1].endswith(" minutes on this machine's 2 cores")


def test_only_a_run_of_more_than_a_day_is_warned_of(params):
    for targets in (["table1"], ["all"], []):
        assert len(status.warning(params, targets)) == 2
    assert status.warning(params, ["quick"]) == status.warning(params, ["results/data/mnist.npz"]) == []


def test_no_estimate_for_a_gpu(params, monkeypatch):
    monkeypatch.setattr(estimate, "wants_gpu", lambda _: True)
    assert status.warning(params, ["table1"]) == []
    assert not [line for line in status.status(params, "table1") if line.startswith("estimate")]


def test_trainings_of_this_machine_correct_the_estimate(params):
    job = Job(params, "sdid", "mnist-small")
    for path in job.outputs:
        artifacts.write_text(path, "")
    cost = paths.cost_path(paths.work_path("mnist-small", "sdid"))
    artifacts.write_json(cost, {"device": "cpu", "processor_seconds": 2.5 * estimate.seconds(job)})
    assert estimate.speed(params) == pytest.approx(2.5)
    artifacts.write_json(cost, {"device": "cuda", "processor_seconds": 1.0})
    assert estimate.speed(params) == 1


def test_all_is_what_the_rule_all_makes():
    found = status.suites_of(load_params(ROOT / "params.yaml"), [])
    assert "table1" in found and not [suite for suite in found if "quick" in suite or "small" in suite]


def test_a_finished_run_says_its_numbers_and_paths(params):
    write_row("digits", {"classifier_fid": 18.04, "legible": 0.24})
    lines = status.summary(params, ["quick"])
    assert lines == [
        "quick: results/tables/quick.md and results/figures/quick-samples.png",
        "  digits: FID (classifier) 18, legible 0.24",
    ]
    for run in params.suites["ablation-k-small"]:
        write_row(run, {"classifier_fid": 1.0})
    assert len(status.summary(params, ["ablation-k-small", "quick"])) == status.LINES
