"""The pipeline run for real, small: by Snakemake, by DVC, again, and after changes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from browser import Browser

from spiking_diffusion.config import load_params
from spiking_diffusion.environment import DROPPED
from spiking_diffusion.graph.jobs import jobs
from spiking_diffusion.graph.suites import figures_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def and_what_follows(stage: str) -> set[str]:
    """A stage of the suite ``quick`` and those that its outputs lead to, by the declared inputs."""
    found, made = {stage, "quick"}, set()
    for job in jobs(PARAMS):
        if job.name in ("quick", *PARAMS.suites["quick"]) and (job.stage == stage or made & set(job.inputs)):
            found.add(job.stage)
            made |= set(job.outputs)
    return found


def test_quick_makes_its_table_and_figures(finished: Any) -> None:
    table = pd.read_csv(finished.root / "results/tables/quick.csv")
    numbers = ["mse", "ssim", "classifier_kid", "classifier_fid"]
    assert list(table.columns[:6]) == ["dataset", "model", "run", "seeds", "mse", "ssim"]
    assert list(table["model"]) == ["fsvae", "spiking-diffusion"]
    assert table[numbers].notna().all(axis=None)
    assert table["standard_fid"].isna().all() and table["standard_reason"].str.contains("could not be downloaded").all()
    assert "[1] standard: weights" in (finished.root / "results/tables/quick.md").read_text()
    for kind in ("samples", "reconstructions", "losses", "dynamics", "codebook", "trajectory", "spikes"):
        assert (finished.root / f"results/figures/quick-{kind}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("qick", "there is no suite 'qick': did you mean 'quick'?"),
        ("table-1", "there is no suite 'table-1': did you mean 'table1'?"),
        (
            "results/metrics/minst.json",
            "no job makes results/metrics/minst.json: did you mean results/metrics/mnist.json?",
        ),
        ("results/metrics/zzz/zzzzzzzzzzzz", "`spiking-diffusion list` has all names"),
    ],
)
def test_a_target_that_is_almost_one(pristine: Any, target: str, said: str) -> None:
    """Snakemake's "No rule to produce" names none that is meant."""
    done = pristine.run("snakemake", "-n", target, ok=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and said in errors[0]


@pytest.mark.parametrize(
    "target", ["quick", "ablations-quick", "results/metrics/mnist.json", "sdid", "--quiet rules all"]
)
def test_targets_and_options_that_are_right_are_left_alone(pristine: Any, target: str) -> None:
    done = pristine.run("snakemake", "-n", *target.split(), ok=False)
    assert "error: " not in done.stderr and (done.returncode == 0) == (target != "sdid")


def test_how_long_sampling_took_is_noted_outside_results(finished: Any) -> None:
    for run in ("digits", "digits-fsvae"):
        noted = json.loads((finished.root / "work" / run / "sampling.json").read_text())
        assert noted["images"] == 40 and noted["seconds"] > 0 and noted["network_calls"] >= 1


def test_settings_lie_beside_every_output(finished: Any) -> None:
    made = [
        n
        for n in finished.results()
        if n.endswith((".npz", ".safetensors", ".csv", ".png")) and "history" not in n and "reconstructions" not in n
    ]
    assert made
    for name in made:
        assert f"{name.rpartition('.')[0]}.settings.json" in finished.results(), name


def test_nothing_is_left_half_written_or_outside(finished: Any) -> None:
    assert not [
        path
        for path in finished.root.rglob("*")
        if path.name.startswith(".")
        and path.suffix not in ("", ".gitignore")
        and ".snakemake" not in path.parts
        and path.name != ".dvcignore"
    ]


def test_a_second_run_does_nothing(finished: Any) -> None:
    assert finished.planned("quick") == set()


def test_a_learning_rate_reruns_what_depends_on_it(finished: Any) -> None:
    params = (finished.root / "params.yaml").read_text()
    content = yaml.safe_load(params)
    content["recipes"]["quick"]["sdid"]["train"]["lr"] = 0.123
    try:
        (finished.root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        planned = finished.planned("quick")
        assert planned == and_what_follows("sdid")
        assert {"evaluate", "losses_figure"} <= planned and not {"vqsvae", "fsvae_sample"} & planned
    finally:
        (finished.root / "params.yaml").write_text(params)


def test_a_change_of_code_reruns_what_runs_it(finished: Any) -> None:
    module = finished.root / "src/spiking_diffusion/fsvae/model.py"
    text = module.read_text()
    try:
        module.write_text(text + "# changed\n")
        planned = finished.planned("quick")
        assert planned == and_what_follows("fsvae")
        assert {"fsvae_energy", "losses_figure"} <= planned and not {"sdid", "codebook_figure"} & planned
    finally:
        module.write_text(text)


@pytest.fixture
def report(finished: Any) -> Iterator[Path]:
    before = finished.results()
    finished.run("spiking-diffusion", "report", "--suite", "quick")
    after = finished.results()
    assert after.pop("report.html")
    assert after == before, "the report leaves every artefact as it is"
    path = finished.root / "results/report.html"
    yield path
    path.unlink()


def test_report_in_a_browser(report: Path, finished: Any, tmp_path: Path) -> None:
    text_of_all = report.read_text(encoding="utf-8")
    assert "quick-samples.png" in text_of_all and "quick.csv" in text_of_all
    if CHROMIUM is None:
        pytest.skip("no Chromium here to open the report in")
    with Browser(CHROMIUM, tmp_path / "profile") as page:
        page.open(report.as_uri())
        page.wait("document.querySelector('#app').textContent.includes('Provenance')")
        first = page.evaluate("document.querySelector('#app').textContent")
        for part in ("Figures", "Tables", "Settings", "Provenance", "Workflow", "vector-quantised discrete diffusion"):
            assert part in first
        page.screenshot(tmp_path / "first.png")
        assert "Spiking-Diffusion" in page.evaluate("document.querySelector('#app .opening table').innerText")
        page.wait("document.querySelector('#app .opening img').naturalWidth > 500")
        assert first.index("Tables") < first.index("2 Figures") < first.index("Settings") < first.index("Provenance")

        results = page.evaluate("Object.fromEntries(Object.entries(results).map(([k, v]) => [k, v.mime_type]))")
        pictures = {path for path, kind in results.items() if kind == "image/png"}
        assert pictures == {f"results/figures/quick-{kind}.png" for kind in figures_of(PARAMS, "quick")}
        assert all(page.evaluate(f"results[{json.dumps(path)}].caption") for path in results)
        for path in pictures:
            show(page, path, "img")
            uri = f"results[{json.dumps(path)}].data_uri"
            page.wait(f"[...document.images].some(image => image.src === {uri} && image.naturalWidth > 500)")

        pages = {Path(path).stem: path for path, kind in results.items() if kind == "text/html"}
        assert pages.keys() == {"table", "animation", "settings", "provenance"}
        there = {
            "table": "document.querySelector('table') !== null",
            "animation": "document.images.length > 0 && document.images[0].naturalWidth > 100",
            "settings": "document.body.innerText.includes('sdid.train.lr')",
            "provenance": "document.body.innerText.includes('requirements.lock')",
        }
        text = {}
        for kind, path in pages.items():
            show(page, path, "html")
            frame = page.wait_in_frame(f"document.readyState === 'complete' && {there[kind]}")
            text[kind] = page.evaluate("document.body.innerText", frame)
            page.screenshot(tmp_path / f"{kind}.png")
        table = pd.read_csv(finished.root / "results/tables/quick.csv")
        for fid in table["classifier_fid"]:
            assert f"{fid:.4g}" in text["table"]
        assert "seconds per sample" in text["table"] and "root in FID: eigenvalues" in text["table"]
        assert "classifier_fid" in text["table"] and "sdid.train.lr" in text["settings"]
        for fact in ("Commit", "Processor", "requirements.lock", "torch 2", "GPU"):
            assert fact in text["provenance"]
        for job in ("vqsvae digits", "fsvae digits-fsvae", "evaluate digits", "fetch digits", "figure quick-samples"):
            assert job in text["provenance"]
        assert page.errors == []
        gone = [url for url in page.requests if not url.startswith(("data:", "blob:", "about:", report.as_uri()))]
        assert gone == []


def show(page: Any, path: str, kind: str) -> None:
    """What a click on the eye beside a result does."""
    quoted = json.dumps(path)
    page.evaluate(f"app.setView({{content: '{kind}', contentPath: results[{quoted}].data_uri, resultPath: {quoted}}})")


def test_report_of_what_is_not_there_says_how_to_make_it(tiny_project: Any) -> None:
    done = tiny_project.run("spiking-diffusion", "report", "--suite", "quick", ok=False)
    assert done.returncode == 2 and "run `snakemake --cores all quick` first" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line]) == 1


def test_dvc_makes_the_same_bytes(finished: Any, by_dvc: Any) -> None:
    """Nor does anything else make a difference in which the two runs differ: see their fixtures."""
    ours, theirs = by_dvc.results(), finished.results()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_variables_that_must_not_count_were_set(finished: Any) -> None:
    """For the one of the two runs; the list is complete."""
    assert set(DROPPED) <= finished.environment.keys()


def test_a_run_takes_the_tokenizer_of_another(finished: Any, by_dvc: Any, tmp_path: Path) -> None:
    """Both tools copy the VQ-SVAE; Snakemake trains SDID on it, and again when the other run's VQ-SVAE changes."""
    ours, theirs = finished.clone(tmp_path / "snakemake"), by_dvc.clone(tmp_path / "dvc")
    metrics = "results/metrics/digits-best.json"
    ours.run("snakemake", "--cores", "2", "--quiet", "all", "--", metrics)
    theirs.run("dvc", "repro", "-q", "vqsvae-shared@digits-best")
    for project in (ours, theirs):
        found = project.results()
        for name in ("vqsvae.safetensors", "vqsvae.history.csv"):
            assert found[f"models/digits-best/{name}"] == found[f"models/digits/{name}"]
    assert "class_accuracy" in json.loads((ours.root / metrics).read_text())
    assert ours.planned(metrics) == set()
    ours.edit(recipes__quick__vqsvae__k=0.5)
    assert ours.planned(metrics) == {"vqsvae", "tokens", "sdid", "sample", "evaluate"}


def test_both_umasks_are_heeded(finished: Any, by_dvc: Any) -> None:
    for project, mode in ((finished, 0o600), (by_dvc, 0o644)):
        assert {path.stat().st_mode & 0o777 for path in project.root.glob("results/m*/**/*.*")} == {mode}


def test_the_whole_pipeline_runs_without_a_network(finished: Any, offline: list[str]) -> None:
    """The fixture ran in a network namespace of its own, in which a packet goes nowhere."""
    if not offline:
        pytest.skip("this system forbids network namespaces: the run of `finished` had a network")
    assert finished.results()
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    done = finished.run(*offline, sys.executable, "-c", probe, ok=False)
    assert done.returncode and "Network is unreachable" in done.stderr


def test_dvc_sees_what_is_stale(by_dvc: Any, tmp_path: Path) -> None:
    project = by_dvc.clone(tmp_path)
    assert "up to date" in project.run("dvc", "status", "suite-quick").stdout
    assert "mse" in project.run("dvc", "metrics", "show").stdout
    project.edit(recipes__quick__sdid__train__lr=0.123)
    stale = {
        line.rstrip(":") for line in project.run("dvc", "status").stdout.splitlines() if line and not line[0].isspace()
    }
    assert stale >= {"sdid@digits", "sample-tuned@digits", "evaluate@digits"} and not stale & {
        "vqsvae@digits",
        "tokens@digits",
        "fsvae@digits-fsvae",
    }


@pytest.mark.parametrize(
    ("key", "value", "clue"),
    [
        ("recipes__quick__vqsvae__k", 2, "recipes.quick.vqsvae.k"),
        ("recipes__quick__vqsvae__tau_syn", 0.5, "tau_syn is 0.5"),
        ("recipes__quick__sdid__T", 0, "sdid.T is 0"),
        ("recipes__quick__speed", 1, "recipes.quick.speed"),
        ("runs__digits__dataset", "digit", "did you mean 'digits'"),
        ("runs__../x", {"dataset": "digits", "recipe": "quick"}, "../x"),
    ],
)
def test_snakemake_refuses_bad_settings_in_one_sentence(project: Any, key: str, value: object, clue: str) -> None:
    project.edit(**{key: value})
    done = project.run("snakemake", "--cores", "1", "--workflow-profile", "none", "quick", ok=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("error: params.yaml: ") and clue in errors[0]
    assert not (project.root / "results").exists()
