"""Weights that come along: what `export` writes, and that each folder draws what its model card says."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from spiking_diffusion import Model, artifacts, families, load, paths
from spiking_diffusion.cli import main
from spiking_diffusion.config import RunSettings
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import load_pretrained
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.rows import write_row
from spiking_diffusion.pretrained import NUMBERS, export
from spiking_diffusion.stages import make

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("pretrained/*/config.json"))
LIMIT = 12_000_000
"""Bytes of all weights in git."""


@pytest.fixture
def exported(untrained):
    """The run ``digits`` in ``pretrained/digits``, with a temperature that was tuned."""
    make(Job(untrained, "tune", "digits"), "cpu")
    for network in ("vqsvae", "sdid"):
        artifacts.write_text(paths.history_path(paths.model_path("digits", network)), "epoch,loss\n1,0.5\n")
    row = {"dataset": "digits", "model": "spiking-diffusion", "run": "digits", "recipe": "quick", "seed": 0}
    write_row("digits", row | {"mse": 0.25, "ssim": 0.5, "images_seen": 1234, "classifier_fid": 12.5, "legible": 0.75})
    return export(untrained, "digits", paths.pretrained_path("digits"))


def test_a_folder_is_enough_to_draw_from(exported, untrained, tmp_path, monkeypatch):
    expected = families.load(untrained.resolve("digits"), CPU).sample(6, seed=2)
    chosen = artifacts.read_json(paths.tuning_path("digits"))["temperature"]
    monkeypatch.chdir("/")
    for model in (load(tmp_path / exported), load_pretrained(tmp_path / exported, CPU)):
        assert torch.equal(model.sample(6, seed=2), expected)
        assert model.config.recipe.sample.temperature == chosen
    card = (tmp_path / exported / "README.md").read_text()
    for words in (
        "12.5",
        "0.75",
        "1,234 images",
        "CC BY 4.0",
        artifacts.sha256(tmp_path / exported / "sdid.safetensors"),
    ):
        assert words in card


def test_half_the_size(exported, untrained, tmp_path):
    """Weights are rounded to float16, and SDID still knows its VQ-SVAE."""
    folder = export(untrained, "digits", tmp_path / "small", half=True)
    for network in ("vqsvae", "sdid"):
        whole, half = (paths.weights_path(place, network) for place in (exported, folder))
        assert half.stat().st_size < 0.9 * whole.stat().st_size
        rounded, full = load_file(half), load_file(whole)
        for key, value in full.items():
            torch.testing.assert_close(rounded[key].to(value.dtype), value, rtol=1e-3, atol=1e-6, msg=key)
        assert artifacts.sha256(half) in (folder / "README.md").read_text()
    images = load_pretrained(folder, CPU).sample(4, seed=2)
    assert images.dtype == torch.float32 and torch.isfinite(images).all()
    path = paths.model_path("digits", "sdid")
    weights = load_file(path)
    weights["out.bias"] += 1e6
    save_file(weights, path, {"made_from": artifacts.sha256(paths.model_path("digits", "vqsvae"))})
    with pytest.raises(UserError, match="too large for float16"):
        export(untrained, "digits", tmp_path / "large", half=True)


def test_a_card_says_where_it_was_trained(untrained, exported):
    for network, cost in (("vqsvae", {"device": "cpu", "processor_seconds": 180.0}), ("sdid", {"device": "cuda"})):
        artifacts.write_json(paths.cost_path(paths.work_path("digits", network)), cost)
    card = (export(untrained, "digits", exported) / "README.md").read_text()
    assert "VQ-SVAE 3 min, SDID on a GPU" in card and "benchmark.gpu digits`" in card


def test_the_command_line_draws_and_exports(exported, untrained, capsys):
    Path("params.yaml").write_text(yaml.safe_dump(untrained.model_dump()), encoding="utf-8")
    draw = ["sample", "--device", "cpu", "--pretrained"]
    assert main([*draw, "digits", "-n", "4", "--out", "grid.png"]) == 0
    assert main(["sample", "--device", "cpu", "--run", "digits", "-n", "4", "--out", "run.png"]) == 0
    assert Path("grid.png").read_bytes() == Path("run.png").read_bytes()
    assert main(["export", "--run", "digits", "--folder", "again"]) == 0
    assert contents("again") == contents(exported)
    assert main(["export", "--run", "digits", "--nir", "one"]) == 0
    assert main(["export", "--pretrained", "digits", "--nir", "two"]) == 0
    assert contents("one") == contents("two") and set(contents("one")) == {"encoder.nir", "sdid.nir"}
    capsys.readouterr()
    for arguments, words in (
        ([*draw, "digist", "--out", "x.png"], "pretrained/digist/config.json is missing: did you mean 'digits'?"),
        ([*draw, "digits"], "--pretrained draws a picture: add --out FILE.png"),
        ([*draw, "digits", "--out", "x.jpg"], "--out is 'x.jpg': give a name that ends in .png"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_name_means_the_trained_run_first(exported, untrained):
    Path("params.yaml").write_text(yaml.safe_dump(untrained.model_dump()), encoding="utf-8")
    for network in ("vqsvae", "sdid"):
        job = Job(untrained, network, "digits")
        artifacts.write_json(job.settings_file, {"settings": job.settings})
    assert load("digits").config == untrained.resolve("digits")
    paths.models_path("digits").rename("elsewhere")
    assert load("digits").config.recipe.sample.temperature != "tuned"


@pytest.mark.parametrize("name", ["digits", "digits-fsvae"])
def test_what_is_saved_is_loaded(name, untrained, tmp_path, monkeypatch):
    """By the names of Hugging Face's ModelHubMixin. The tuned temperature goes along."""
    make(Job(untrained, "tune", "digits"), "cpu")
    model = families.load(untrained.resolve(name), CPU)
    expected = model.sample(5, seed=3)
    model.save_pretrained(tmp_path / "saved")
    networks = {f"{network}.safetensors" for network in model.config.family.networks}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "README.md", *networks}
    assert metadata(tmp_path / "saved")["tags"][0] == "spiking-neural-network"
    monkeypatch.chdir("/")
    again = Model.from_pretrained(tmp_path / "saved", device="cpu")
    assert type(again) is type(model) and torch.equal(again.sample(5, seed=3), expected)
    with pytest.raises(UserError, match=r"config\.json is missing: did you mean 'saved'"):
        Model.from_pretrained(str(tmp_path / "save"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="something of that name is in the way"):
        again.save_pretrained(tmp_path / "file")


def metadata(folder):
    """The YAML at the beginning of a model card."""
    empty, block, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert not empty
    return yaml.safe_load(block)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_metadata_of_a_card_are_those_of_its_files(folder):
    run = RunSettings.model_validate(artifacts.read_json(folder / "config.json"))
    row, found = artifacts.read_json(folder / "metrics.json"), metadata(folder)
    assert found["license"] == "mit" and found["datasets"] == [families.HUB[run.dataset_name]]
    (index,) = found["model-index"]
    (result,) = index["results"]
    told = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert index["name"] == folder.name and found["metrics"] == list(told) == [key for key in NUMBERS if key in told]
    assert told["classifier_fid"] == pytest.approx(row["classifier_fid"], rel=1e-3)
    assert all(told[key] == pytest.approx(row[key], rel=1e-3) for key in told if key in row)


def test_a_damaged_folder(exported):
    config = exported / "config.json"
    config.write_text(config.read_text().replace('"code_dim"', '"code_dime"'))
    with pytest.raises(UserError, match=r"pretrained/digits/config\.json is damaged"):
        load_pretrained(exported, CPU)


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in ROOT.glob("pretrained/*/*.safetensors")) < LIMIT


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_are_those_of_the_model_card(folder):
    settings = RunSettings.model_validate(artifacts.read_json(folder / "config.json"))
    card = (folder / "README.md").read_text()
    for network in settings.family.networks:
        assert f"`{artifacts.sha256(paths.weights_path(folder, network))}`" in card


def test_pretrained_digits_are_those_asked_for():
    """By their nearest neighbours among scikit-learn's digits, which come from elsewhere and need no download.

    Of MNIST's first 1,000 test images 55 % are recognised so, of halves of any two glued together 23 %.
    """
    small, labels = load_digits(return_X_y=True)
    judge = KNeighborsClassifier(5).fit(small / small.max(), labels)
    model = load_pretrained(ROOT / "pretrained/mnist-best", CPU)
    asked = torch.arange(10).repeat_interleave(10)
    images = torch.cat([model.sample(10, condition=digit, seed=digit, steps=16) for digit in range(10)])
    seen = judge.predict(cropped(images).flatten(1).numpy())
    assert np.mean(seen == asked.numpy()) > 0.45


def test_digits_of_one_global_code_are_alike():
    """Without labels: pixels of two draws differ less under one code than under two."""
    model = load_pretrained(ROOT / "pretrained/mnist-best-free", CPU)
    drawn = torch.stack([model.sample(5, condition=code, seed=code, steps=16).flatten(1) for code in range(0, 256, 16)])
    within = torch.cdist(drawn, drawn).square().sum() / (len(drawn) * 5 * 4)
    every = torch.cdist(drawn.flatten(0, 1), drawn.flatten(0, 1)).square().mean()
    assert within < 0.8 * every


def cropped(images):
    """Images (N, 1, 28, 28) cut to what is not black and shrunk to 8x8, as scikit-learn's digits are."""
    found = []
    for image in images:
        rows, columns = ((image[0] > 0.3).any(axis).nonzero() for axis in (1, 0))
        part = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        found.append(F.interpolate(part[None], (8, 8), mode="area")[0, 0])
    return torch.stack(found)
