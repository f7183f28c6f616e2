"""The stage that chooses the temperature: what it tries, what it takes, and that it looks at no test image."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_images, load_split
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.distances import fid
from spiking_diffusion.stages import make, tune
from spiking_diffusion.stages.tune import nearest_to_one

CPU = torch.device("cpu")


def tuned(params):
    path = make(Job(params, "tune", "digits"), "cpu")
    return artifacts.read_json(path), pd.read_csv(path.with_suffix(".csv"))


def test_choice_is_made_on_validation_images_alone(untrained):
    """It is made although not one test image can be read."""
    data = paths.data_path("digits")
    with pytest.raises(UserError, match="damaged"):
        load_images(data)
    with pytest.raises(UserError, match="damaged"):
        load_split(data, "test")
    chosen, _ = tuned(untrained)
    assert (chosen["real"], chosen["n_real"]) == ("validation", len(load_split(data, "validation")))


def test_every_temperature_is_tried_and_every_number_of_steps_at_the_best(untrained):
    chosen, table = tuned(untrained)
    assert list(table.columns) == ["sampler", "steps", "temperature", "fid", "kid", "network_calls", "chosen"]
    assert list(table["temperature"][:3]) == [0.3, 1.0, 3.0]
    rows = table[:3].to_dict("records")
    best = rows.index(nearest_to_one(rows, chosen["lowest_fid_error"]))
    assert chosen["lowest_fid"] == pytest.approx(table["fid"][:3].min(), rel=1e-5)
    assert list(table["chosen"]) == [int(temperature == chosen["temperature"]) for temperature in table["temperature"]]
    assert (table["steps"][:3] == 49).all()
    # 60 are more than there are tokens, and all of them were tried already
    assert list(table["steps"][3:]) == [1, 7]
    assert (table["temperature"][3:] == table["temperature"][best]).all()
    assert table["fid"].nunique() == 5
    assert (table["network_calls"] <= table["steps"]).all()
    assert table["network_calls"][3] == 1
    assert chosen["temperature"] == table["temperature"][best]
    assert chosen["fid"] == pytest.approx(table["fid"][best], rel=1e-5)


@pytest.mark.parametrize(
    ("fids", "error", "chosen"),
    [
        ([5.0, 9.0, 9.0, 9.0], 1.0, 0.5),
        ([5.0, 5.9, 9.0, 9.0], 1.0, 0.9),
        ([5.0, 5.9, 5.99, 9.0], 1.0, 1.0),
        ([9.0, 5.9, 9.0, 5.0], 1.0, 0.9),
        ([5.0, 6.1, 6.1, 6.1], 1.0, 0.5),
        ([5.0, 5.1, 5.2, 5.3], 0.0, 0.5),
    ],
)
def test_of_those_within_the_error_of_the_lowest_the_nearest_to_1(fids, error, chosen):
    rows = [{"temperature": at, "fid": fid} for at, fid in zip((0.5, 0.9, 1.0, 1.3), fids, strict=True)]
    assert nearest_to_one(rows, error)["temperature"] == chosen
    assert nearest_to_one(rows[::-1], error)["temperature"] == chosen


def test_standard_error_is_the_spread_of_other_draws(rng):
    """Of FIDs of many sets of the same size from the same distribution; it falls with the number of images."""
    draws, theirs = torch.Generator().manual_seed(1), torch.randn(2000, 4, generator=rng(9)) + 1

    def spread(size):
        return np.std([fid(torch.randn(size, 4, generator=draws), theirs) for _ in range(40)])

    found = [tune.standard_error(torch.randn(size, 4, generator=draws), theirs, rng()) for size in (100, 1600)]
    assert found[0] == pytest.approx(spread(100), rel=0.5) and found[1] == pytest.approx(spread(1600), rel=0.5)
    assert found[0] > 2.5 * found[1]


def test_too_few_validation_images(untrained, monkeypatch):
    """One alone has no covariance."""
    monkeypatch.setattr(tune, "load_split", lambda *args: load_split(*args)[:3])
    with pytest.raises(UserError, match=r"'digits' has 3: set its split\.validation to 4 or more"):
        tuned(untrained)


def test_the_same_twice(untrained):
    def files():
        tuned(untrained)
        return {path.name: path.read_bytes() for path in Path("results/tuning").iterdir()}

    first = files()
    assert set(first) == {"digits.json", "digits.csv", "digits.settings.json"}
    assert files() == first


def test_images_are_drawn_with_the_chosen_temperature(untrained, tiny_params):
    with pytest.raises(UserError, match=r"results/tuning/digits\.json is missing"):
        make(Job(untrained, "sample", "digits"), "cpu")
    chosen, _ = tuned(untrained)
    first = artifacts.read_npz(make(Job(untrained, "sample", "digits"), "cpu"))
    assert first["temperature"] == chosen["temperature"]
    assert first["steps"] == 49
    recorded = artifacts.read_json(paths.settings_path(paths.samples_path("digits")))["inputs"]
    assert "results/tuning/digits.json" in recorded

    artifacts.write_json(paths.tuning_path("digits"), {**chosen, "temperature": 2.5})
    other = artifacts.read_npz(make(Job(untrained, "sample", "digits"), "cpu"))
    assert other["temperature"] == 2.5
    assert not np.array_equal(first["images"], other["images"])

    fixed = tiny_params(temperature=2.5, steps=3)
    again = artifacts.read_npz(make(Job(fixed, "sample", "digits"), "cpu"))
    assert (again["temperature"], again["steps"]) == (2.5, 3)
    assert again["network_calls"] <= 3


def test_samplers_are_tuned_each_at_its_own_best(untrained, tiny_params):
    """A sampler's rows come together: its temperatures in all steps, then other numbers of steps at its choice."""
    params = tiny_params(sampler="tuned")
    assert params.resolve("digits").tuned and tiny_params(sampler="tuned", temperature=1.0).resolve("digits").tuned
    chosen, table = tuned(params)
    assert list(table["sampler"]) == ["margin"] * 5 + ["ancestral"] * 5
    choices = []
    for _, rows in table.groupby("sampler", sort=False):
        assert list(rows["steps"]) == [49, 49, 49, 1, 7]
        at = rows[rows["chosen"] > 0]
        assert at["temperature"].nunique() == 1 and list(at["steps"]) == [49, 1, 7]
        choices.append(at.iloc[0])
    best = min(choices, key=lambda row: row["fid"])
    assert (chosen["sampler"], chosen["temperature"]) == (best["sampler"], best["temperature"])
    drawn = artifacts.read_npz(make(Job(params, "sample", "digits"), "cpu"))
    assert drawn["sampler"] == chosen["sampler"]
    ancestral = table[table["sampler"] == "ancestral"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ancestral, tuned(untrained)[1])


def test_damaged_choice(untrained):
    artifacts.write_json(paths.tuning_path("digits"), {"fid": 1.0})
    with pytest.raises(UserError, match=r"results/tuning/digits\.json is damaged"):
        make(Job(untrained, "sample", "digits"), "cpu")
