"""The stage that chooses the temperature: what it tries, what it takes, and that it looks at no test image."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from spiking_diffusion import artifacts
from spiking_diffusion.config import check_params
from spiking_diffusion.data.fetch import fetch
from spiking_diffusion.data.images import load_images, load_split
from spiking_diffusion.errors import UserError
from spiking_diffusion.metrics.classifier import Classifier
from spiking_diffusion.training.sample import sample_run
from spiking_diffusion.training.sdid import make_sdid
from spiking_diffusion.training.tune import tune_run
from spiking_diffusion.training.weights import save_weights
from spiking_diffusion.vqsvae import VQSVAE

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
CPU = torch.device("cpu")


def settings(**sample):
    raw = yaml.safe_load(yaml.safe_dump(RAW))
    quick = raw["recipes"]["quick"]
    quick["vqsvae"] |= {"channels": [4, 4], "code_dim": 4}
    quick["vqsvae"]["codebook"]["size"] = 6
    quick["sdid"] |= {"T": 2, "channels": [8, 8], "embed_dim": 4}
    quick["sample"] |= {"n": 30, "batch_size": 20, "threads": torch.get_num_threads(), "temperature": "tuned"} | sample
    quick["tune"] = {"n": 25, "temperatures": [0.3, 1.0, 3.0], "steps": [60, 1, 7]}
    quick["evaluate"] |= {"kid_subsets": 3, "protocols": ["classifier"]}
    return check_params(raw)


@pytest.fixture
def project(tmp_path, monkeypatch, lively):
    """Digits without a readable test set, a classifier, and the models of the run ``digits``, all untrained."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    params = settings()
    run = params.resolve("digits")
    fetch(params, "digits")
    path = artifacts.data_path("digits")
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            new.writestr(name, b"not to be read" if name.startswith("test") else data)
    save_weights(artifacts.classifier_path("digits"), Classifier(1, (4, 4), 49, 8, 10))
    vqsvae = lively(VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (1, 28, 28)))
    save_weights(artifacts.model_path("digits", "vqsvae"), vqsvae)
    sdid, _ = make_sdid(run, 6, (7, 7))
    torch.nn.init.normal_(sdid.out.weight, std=0.5)
    made_from = artifacts.sha256(artifacts.model_path("digits", "vqsvae"))
    save_weights(artifacts.model_path("digits", "sdid"), lively(sdid), made_from)
    yield params
    torch.use_deterministic_algorithms(deterministic)


def tuned(params):
    path = tune_run(params, params.resolve("digits"), CPU)
    return artifacts.read_json(path), pd.read_csv(path.with_suffix(".csv"))


def test_choice_is_made_on_validation_images_alone(project):
    """It is made although not one test image can be read."""
    data = artifacts.data_path("digits")
    with pytest.raises(UserError, match="damaged"):
        load_images(data)
    with pytest.raises(UserError, match="damaged"):
        load_split(data, "test")
    chosen, _ = tuned(project)
    assert (chosen["real"], chosen["n_real"]) == ("validation", len(load_split(data, "validation")))


def test_every_temperature_is_tried_and_every_number_of_steps_at_the_best(project):
    chosen, table = tuned(project)
    assert list(table.columns) == ["sampler", "steps", "temperature", "fid", "kid", "network_calls"]
    best = table["fid"][:3].idxmin()
    assert list(table["temperature"][:3]) == [0.3, 1.0, 3.0]
    assert (table["steps"][:3] == 49).all()
    # 60 are more than there are tokens, and all of them were tried already
    assert list(table["steps"][3:]) == [1, 7]
    assert (table["temperature"][3:] == table["temperature"][best]).all()
    assert table["fid"].nunique() == 5
    assert (table["network_calls"] <= table["steps"]).all()
    assert table["network_calls"][3] == 1
    assert chosen["temperature"] == table["temperature"][best]
    assert chosen["fid"] == pytest.approx(table["fid"][best], rel=1e-5)


def test_the_same_twice(project):
    def files():
        tuned(project)
        return {path.name: path.read_bytes() for path in Path("results/tuning").iterdir()}

    first = files()
    assert set(first) == {"digits.json", "digits.csv", "digits.settings.json"}
    assert files() == first


def test_images_are_drawn_with_the_chosen_temperature(project):
    run = project.resolve("digits")
    with pytest.raises(UserError, match=r"results/tuning/digits\.json is missing"):
        sample_run(project, run, CPU)
    chosen, _ = tuned(project)
    first = artifacts.read_npz(sample_run(project, run, CPU))
    assert first["temperature"] == chosen["temperature"]
    assert first["steps"] == 49
    recorded = artifacts.read_json(artifacts.settings_path(artifacts.samples_path("digits")))["inputs"]
    assert "results/tuning/digits.json" in recorded

    artifacts.write_json(artifacts.tuning_path("digits"), {**chosen, "temperature": 2.5})
    other = artifacts.read_npz(sample_run(project, run, CPU))
    assert other["temperature"] == 2.5
    assert not np.array_equal(first["images"], other["images"])

    fixed = settings(temperature=2.5, steps=3)
    again = artifacts.read_npz(sample_run(fixed, fixed.resolve("digits"), CPU))
    assert (again["temperature"], again["steps"]) == (2.5, 3)
    assert again["network_calls"] <= 3


def test_damaged_choice(project):
    artifacts.write_json(artifacts.tuning_path("digits"), {"fid": 1.0})
    with pytest.raises(UserError, match=r"results/tuning/digits\.json is damaged"):
        sample_run(project, project.resolve("digits"), CPU)
