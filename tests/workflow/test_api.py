"""The front door for Python: models of a finished project, loaded in its folder and from elsewhere."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import spiking_diffusion as sd
from spiking_diffusion import api, families
from spiking_diffusion.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished tiny project as the working directory."""
    monkeypatch.chdir(finished.root)
    return finished


@pytest.mark.parametrize("module", [sd, api, families])
def test_examples_in_docstrings(here: Any, module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_what_is_imported_when_asked_for() -> None:
    code = (
        "import sys, spiking_diffusion as sd; a = 'torch' in sys.modules; sd.VQSVAE; print(a, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
    assert {"load", "SDID", "__version__"} <= set(dir(sd))
    for name in sd.__all__:
        assert callable(getattr(sd, name))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        sd.lod  # noqa: B018


@pytest.mark.parametrize("name", ["digits", "digits-fsvae"])
def test_a_model_is_the_same_by_name_and_by_path(here: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sd.load(name)
    images = model.sample(5, seed=3)
    assert images.shape == (5, 1, 28, 28) and images.dtype == torch.float32
    assert torch.equal(model.sample(5, seed=3), images)
    codes = model.encode(images)
    assert model.decode(codes).shape == images.shape
    assert torch.equal(model.reconstruct(images), model.decode(model.encode(images)))
    monkeypatch.chdir("/")
    elsewhere = sd.load(here.root / "results/models" / name)
    assert torch.equal(elsewhere.sample(5, seed=3), images)
    assert elsewhere.config == model.config and repr(elsewhere).endswith(f"({name!r}, cpu)")


def test_a_seed_and_a_temperature_pick_the_tokens(here: Any) -> None:
    def tokens(**how: Any) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        sd.load("digits").sample(20, callback=lambda state, t: seen.append(state), **how)
        return seen[-1]

    assert torch.equal(tokens(seed=3), tokens(seed=3)) and not torch.equal(tokens(seed=3), tokens(seed=4))
    assert not torch.equal(tokens(temperature=0.1), tokens(temperature=10.0))


def test_a_model_draws_what_the_stage_drew(here: Any) -> None:
    images, notes, _ = sd.load("digits").draw(40)
    drawn = families.inputs.load_samples(sd.load_params(), sd.load("digits").config)
    assert torch.equal(images, torch.from_numpy(drawn["images"])) and notes["network_calls"] == drawn["network_calls"]


def test_what_the_user_can_fix(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sd.load("digits")
    images = torch.zeros(2, 1, 28, 28)
    for call, said in [
        (lambda: sd.load("digit"), "did you mean 'digits'"),
        (lambda: sd.load(tmp_path / "digits"), "is not the path of a run's weights"),
        (lambda: sd.load(tmp_path / "results/models/digits"), "params.yaml cannot be read"),
        (lambda: model.sample(0), "n is 0: ask for 1 image or more"),
        (lambda: model.encode(images[:, :, 1:]), r"images have shape \(2, 1, 27, 28\), digits takes"),
        (lambda: model.encode(images.to(torch.uint8)), "give floats in"),
    ]:
        with pytest.raises(UserError, match=said):
            call()
    changed = here.clone(tmp_path / "changed")
    changed.edit(recipes__quick__vqsvae__tau_syn=3.0)
    monkeypatch.chdir(changed.root)
    with pytest.raises(UserError, match=r"vqsvae\.safetensors was trained with other settings than params\.yaml"):
        sd.load("digits")


def test_the_tour_runs(here: Any) -> None:
    """docs/tour.py, the notebook, from its first cell to its last."""
    here.environment = here.environment | {"MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
    here.run(sys.executable, str(ROOT / "docs/tour.py"))
