"""Tables and figures: what is in them, and that the same input gives the same bytes."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from PIL import Image

from spiking_diffusion import artifacts
from spiking_diffusion.config import check_params
from spiking_diffusion.errors import UserError
from spiking_diffusion.reporting.figures import make_figure
from spiking_diffusion.reporting.layout import FIGURES, MODELS, figure_inputs, figure_path
from spiking_diffusion.reporting.picture import grid
from spiking_diffusion.reporting.tables import make_table

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
        row |= {key: draws.random() for key in ("mse", "ssim", "classifier_kid", "classifier_fid")}
        if run.model == "spiking-diffusion":
            tokens = {s: draws.integers(0, 20, (30, 7, 7)).astype(np.uint16) for s in ("train", "validation", "test")}
            tokens |= {"size": np.array(32), "vqsvae": np.array("0" * 64)}
            artifacts.write_npz(artifacts.tokens_path(name), tokens)
            row |= {"bits_per_token": draws.random(), "codes_used": 20, "k": 0.5, "sampler": "ancestral"}
        artifacts.write_json(artifacts.metrics_path(name), row)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")  # those that a test left half drawn


def written(folder):
    return {p.name: p.read_bytes() for p in Path("results", folder).iterdir()}


# --- figures --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project folder with all figures of a suite, and the bytes of each."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        Path("params.yaml").write_text(yaml.safe_dump(RAW))
        fill(PARAMS, "both")
        artifacts.write_npz(artifacts.samples_path("digits"), {"images": np.full((40, 1, 28, 28), 77, np.uint8)})
        for kind in FIGURES:
            assert make_figure(PARAMS, "both", kind) == figure_path("both", kind)
        return folder, written("figures")


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of the finished project without its figures, as current folder; their bytes."""
    folder, figures = finished
    shutil.copytree(folder, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    shutil.rmtree("results/figures")
    return figures


def test_figures_are_png_svg_and_pdf_with_settings_beside(finished):
    _, figures = finished
    ends = ("pdf", "png", "settings.json", "svg")
    assert sorted(figures) == sorted(f"both-{kind}.{end}" for kind in FIGURES for end in ends)
    for kind in FIGURES:
        assert figures[f"both-{kind}.pdf"].startswith(b"%PDF")
        assert b"<svg" in figures[f"both-{kind}.svg"]


def test_figures_are_the_same_twice(again):
    for kind in reversed(FIGURES):
        make_figure(PARAMS, "both", kind)
    assert written("figures") == again


def test_figures_are_the_same_in_another_process(again):
    """Another process: other hashes of strings, another second."""
    draw = "".join(f"main(['figure', '--suite', 'both', '{kind}']);" for kind in FIGURES)
    command = [sys.executable, "-c", f"from spiking_diffusion.cli import main;{draw}"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert written("figures") == again


def test_figure_changes_with_its_content(again):
    images = artifacts.read_npz(artifacts.samples_path("digits"))["images"]
    artifacts.write_npz(artifacts.samples_path("digits"), {"images": 255 - images})
    make_figure(PARAMS, "both", "samples")
    for end in ("png", "svg", "pdf", "settings.json"):
        assert written("figures")[f"both-samples.{end}"] != again[f"both-samples.{end}"]


def test_figures_name_what_they_show(finished):
    texts = {kind: finished[1][f"both-{kind}.svg"].decode() for kind in FIGURES}
    for fragment in ("Digits: real", "reconstructed", "FSVAE", "Spiking-Diffusion"):
        assert fragment in texts["samples"]
    for fragment in ("FSVAE, digits-fsvae", "VQ-SVAE, digits", "SDID, digits", "epoch", "bits per token"):
        assert fragment in texts["losses"]
    assert "digits: 20 of 32 codes used" in texts["codebook"]


def test_png_has_the_samples_pixels_in_it(finished):
    with Image.open(io.BytesIO(finished[1]["both-samples.png"])) as picture:
        grey = np.asarray(picture.convert("L"))
    # four panels of near-equal area; one of them is all 77 but for its gaps
    assert 0.1 < (grey == 77).mean() < 0.3


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("suite", "kind", "fragments"),
    [
        ("two-alike", "samples", ["Spiking-Diffusion (mnist)", "Spiking-Diffusion (mnist-k-0)"]),
        ("two-datasets", "samples", ["CIFAR-10: real", "Digits: real"]),
        ("baselines-only", "samples", ["Digits: real", "FSVAE"]),
        ("baselines-only", "losses", ["FSVAE, digits-fsvae"]),
        ("baselines-only", "codebook", []),
    ],
)
def test_figures_of_other_suites(suite, kind, fragments):
    fill(PARAMS, suite)
    text = make_figure(PARAMS, suite, kind).with_suffix(".svg").read_text()
    assert [fragment for fragment in fragments if fragment not in text] == []


# --- inputs that are missing or damaged -----------------------------------------------------------------


def inputs_of(kind):
    if kind == "table":
        return [artifacts.metrics_path(run) for run in PARAMS.suites["both"]]
    return figure_inputs(PARAMS, "both", kind)


def make(kind):
    return make_table(PARAMS, "both") if kind == "table" else make_figure(PARAMS, "both", kind)


CASES = [(kind, path) for kind in ("table", *FIGURES) for path in inputs_of(kind)]
NOT_DRAWN = ("samples", artifacts.reconstructions_path("digits-fsvae"))


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
@pytest.mark.parametrize(("kind", "path"), [case for case in CASES if case != NOT_DRAWN], ids=str)
def test_damaged_input_is_named(kind, path):
    fill(PARAMS, "both")
    path.write_bytes(path.read_bytes()[:15])
    assert str(path) in refusal(kind)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("kind", "path", "write"),
    [
        ("table", artifacts.metrics_path("digits"), lambda path: artifacts.write_json(path, {"classifier_fid": 1.0})),
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
