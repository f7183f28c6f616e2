"""Tables and figures: what is in them, and that the same input gives the same bytes."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import grid
from spiking_diffusion.errors import UserError
from spiking_diffusion.reporting.figures import make_figure
from spiking_diffusion.reporting.layout import FIGURES, MODELS, figure_inputs, figure_path
from spiking_diffusion.reporting.tables import make_table, to_markdown

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
RAW["suites"] |= {
    "both": ["digits-fsvae", "digits"],
    "two-alike": ["mnist", "mnist-k-0"],
    "two-datasets": ["cifar10", "digits", "digits-fsvae"],
    "baselines-only": ["digits-fsvae"],
}
PARAMS = check_params(RAW)
SUITES = ["both", "two-alike", "two-datasets", "baselines-only"]


# --- pictures of many images ----------------------------------------------------------------------------


def test_grid_by_hand():
    images = np.array([[[[1, 2]]], [[[3, 4]]], [[[5, 6]]]], np.uint8)  # three of 1x2 pixels
    expected = [
        [1, 2, 200, 3, 4],
        [200, 200, 200, 200, 200],
        [5, 6, 200, 200, 200],
    ]
    picture = grid(images, columns=2)
    assert picture.dtype == np.uint8
    assert picture.tolist() == expected
    assert grid(images, columns=3, gap=0).tolist() == [[1, 2, 3, 4, 5, 6]]
    assert grid(images[:1], columns=1).tolist() == [[1, 2]]


def test_grid_of_colours():
    images = np.array([[[[1]], [[2]], [[3]]], [[[4]], [[5]], [[6]]]], np.uint8)  # two of one pixel
    assert grid(images, columns=1).tolist() == [[[1, 2, 3]], [[200, 200, 200]], [[4, 5, 6]]]


# --- a project with finished runs -----------------------------------------------------------------------


def fill(params, suite):
    """Write small valid inputs for the table and all figures of a suite below the current folder."""
    draws = np.random.default_rng(0)
    for name in params.suites[suite]:
        run = params.resolve(name)
        shape = tuple(run.dataset.shape)
        images = draws.integers(0, 256, (40, *shape), np.uint8)
        artifacts.write_npz(artifacts.data_path(run.dataset_name), {"test_images": images})
        artifacts.write_npz(artifacts.reconstructions_path(name), {"images": images})
        artifacts.write_npz(artifacts.samples_path(name), {"images": images[::-1], "network_calls": np.array(1.0)})
        for model in MODELS[run.model]:
            column = "validation_bits_per_token" if model == "sdid" else "validation_mse"
            rows = "".join(f"{epoch},{draws.random():.6g}\n" for epoch in (1, 2, 3))
            artifacts.write_text(artifacts.history_path(artifacts.model_path(name, model)), f"epoch,{column}\n{rows}")
        row = {"dataset": run.dataset_name, "model": run.model, "run": name, "recipe": run.recipe_name, "seed": 0}
        row |= {key: draws.random() for key in ("mse", "ssim", "kid", "fid", "train_test_fid")}
        row |= {"features": "classifier", "n_generated": 500, "n_real": 360, "kid_subset_size": 360}
        if run.model == "spiking-diffusion":
            tokens = {s: draws.integers(0, 20, (30, 7, 7)).astype(np.uint16) for s in ("train", "validation", "test")}
            tokens |= {"size": np.array(32), "vqsvae": np.array("0" * 64)}
            artifacts.write_npz(artifacts.tokens_path(name), tokens)
            row |= {"bits_per_token": draws.random(), "codes_used": 20, "k": 0.5, "sampler": "ancestral"}
        artifacts.write_json(artifacts.metrics_path(name), row)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder):
    return {p.name: p.read_bytes() for p in Path("results", folder).iterdir()}


# --- tables ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("suite", SUITES)
def test_table_has_the_suites_rows_and_the_metrics_numbers(suite):
    fill(PARAMS, suite)
    out = make_table(PARAMS, suite)
    assert out == Path("results/tables", f"{suite}.csv")
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["dataset", "model", "run", "mse", "ssim", "kid", "fid"]
    assert [row["run"] for row in rows] == PARAMS.suites[suite]
    for row in rows:
        metrics = artifacts.read_json(artifacts.metrics_path(row["run"]))
        for key, cell in row.items():
            value = metrics.get(key, "")
            if isinstance(value, float):
                assert float(cell) == pytest.approx(value, rel=1e-5)
            else:
                assert cell == str(value), f"{key} of {row['run']}: counts stay whole, what is missing is empty"


@pytest.mark.usefixtures("project")
def test_table_is_the_same_twice_and_its_settings_lie_beside():
    fill(PARAMS, "both")
    out = make_table(PARAMS, "both")
    first = written("tables")
    assert sorted(first) == ["both.csv", "both.md", "both.settings.json"]
    inputs = [artifacts.metrics_path(run) for run in PARAMS.suites["both"]]
    expected = pipeline.record(PARAMS, "table", "both", inputs)
    assert artifacts.read_json(artifacts.settings_path(out)) == expected
    make_table(PARAMS, "both")
    assert written("tables") == first


def test_to_markdown():
    table = pd.DataFrame(
        {"run": ["a", "b"], "fid": [37.5012, 0.000123456], "n": pd.array([10000, None], "Int64"), "x": [float("nan"), 1.0]}
    )
    assert to_markdown(table) == (
        "| run | fid | n | x |\n"
        "| --- | --- | --- | --- |\n"
        "| a | 37.5 | 10000 |  |\n"
        "| b | 0.0001235 |  | 1 |\n"
    )


# --- figures --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("suite", SUITES)
def test_figure_is_the_same_twice(suite, kind):
    fill(PARAMS, suite)
    out = make_figure(PARAMS, suite, kind)
    assert out == figure_path(suite, kind)
    first = written("figures")
    assert sorted(first) == [f"{suite}-{kind}.{end}" for end in ("pdf", "png", "settings.json", "svg")]
    assert first[f"{suite}-{kind}.pdf"].startswith(b"%PDF")
    assert b"<svg" in first[f"{suite}-{kind}.svg"]
    shutil.rmtree("results/figures")
    make_figure(PARAMS, suite, kind)
    assert written("figures") == first


@pytest.mark.parametrize("kind", FIGURES)
def test_figure_is_the_same_in_another_process(project, kind):
    """Another process: other hashes of strings, another second."""
    (project / "params.yaml").write_text(yaml.safe_dump(RAW))
    fill(PARAMS, "both")
    make_figure(PARAMS, "both", kind)
    first = written("figures")
    shutil.rmtree("results/figures")
    command = [sys.executable, "-m", "spiking_diffusion.cli", "figure", "--suite", "both", kind]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert written("figures") == first


@pytest.mark.usefixtures("project")
def test_figures_differ_with_their_content():
    fill(PARAMS, "both")
    for kind in FIGURES:
        make_figure(PARAMS, "both", kind)
    before = written("figures")
    images = artifacts.read_npz(artifacts.samples_path("digits"))["images"]
    artifacts.write_npz(artifacts.samples_path("digits"), {"images": 255 - images})
    make_figure(PARAMS, "both", "samples")
    assert written("figures")["both-samples.png"] != before["both-samples.png"]
    make_figure(PARAMS, "both", "losses")
    assert written("figures")["both-losses.png"] == before["both-losses.png"]


@pytest.mark.usefixtures("project")
def test_figure_shows_titles_and_runs():
    fill(PARAMS, "both")
    texts = {kind: make_figure(PARAMS, "both", kind).with_suffix(".svg").read_text() for kind in FIGURES}
    for fragment in ("Digits: real", "reconstructed", "FSVAE", "Spiking-Diffusion"):
        assert fragment in texts["samples"]
    for fragment in ("FSVAE, digits-fsvae", "VQ-SVAE, digits", "SDID, digits", "epoch", "bits per token"):
        assert fragment in texts["losses"]
    assert "digits: 20 of 32 codes used" in texts["codebook"]


@pytest.mark.usefixtures("project")
def test_png_is_a_picture_with_the_samples_pixels_in_it():
    fill(PARAMS, "both")
    artifacts.write_npz(artifacts.samples_path("digits"), {"images": np.full((40, 1, 28, 28), 77, np.uint8)})
    with Image.open(make_figure(PARAMS, "both", "samples")) as picture:
        grey = np.asarray(picture.convert("L"))
    # four panels of near-equal area; one of them is all 77 but for its gaps
    assert 0.1 < (grey == 77).mean() < 0.3


# --- inputs that are missing or damaged -----------------------------------------------------------------


def inputs_of(kind):
    return [artifacts.metrics_path(r) for r in PARAMS.suites["both"]] if kind == "table" else figure_inputs(PARAMS, "both", kind)


def make(kind):
    return make_table(PARAMS, "both") if kind == "table" else make_figure(PARAMS, "both", kind)


CASES = [(kind, path) for kind in ("table", *FIGURES) for path in inputs_of(kind)]


def refusal(kind):
    with pytest.raises(UserError) as caught:
        make(kind)
    assert "\n" not in str(caught.value)
    assert not Path("results", "tables" if kind == "table" else "figures").exists()
    return str(caught.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("kind", "path"), CASES, ids=str)
def test_missing_input_is_named_with_the_command_that_makes_it(kind, path):
    fill(PARAMS, "both")
    path.unlink()
    assert f"snakemake --cores all {path}" in refusal(kind)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("kind", "path"), CASES, ids=str)
def test_damaged_input_is_named(kind, path):
    fill(PARAMS, "both")
    if path == artifacts.reconstructions_path("digits-fsvae"):
        pytest.skip("an output that is declared beside the samples, but not drawn")
    path.write_bytes(path.read_bytes()[:15])
    assert str(path) in refusal(kind)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("kind", "path", "write"),
    [
        ("table", artifacts.metrics_path("digits"), lambda path: artifacts.write_json(path, {"fid": 1.0})),
        ("table", artifacts.metrics_path("digits"), lambda path: artifacts.write_json(path, [1.0])),
        ("samples", artifacts.samples_path("digits"), lambda path: artifacts.write_npz(path, {"other": np.zeros(3)})),
        ("codebook", artifacts.tokens_path("digits"), lambda path: artifacts.write_npz(path, {"size": np.array(3)})),
        ("losses", inputs_of("losses")[0], lambda path: path.write_text("epoch,loss\n1,2\n")),
    ],
    ids=["metrics without numbers", "metrics as list", "samples without images", "no tokens", "no losses"],
)
def test_input_of_another_kind_is_named(kind, path, write):
    fill(PARAMS, "both")
    write(path)
    assert str(path) in refusal(kind)
