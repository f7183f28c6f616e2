"""Runs whose images are drawn under a condition, through every stage, on untrained networks."""

import numpy as np
import pandas as pd
import pytest
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import load_images
from spiking_diffusion.diffusion.loading import make_sdid
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.reading import Reader
from spiking_diffusion.stages import make
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.tokens import global_codes
from spiking_diffusion.vqsvae import VQSVAE
from spiking_diffusion.vqsvae.loading import load_tokens
from spiking_diffusion.weights import save_weights

CPU = torch.device("cpu")
GUIDANCES = [0.0, 2.0]


@pytest.fixture(params=["label", "code"])
def conditional(request, tmp_path, monkeypatch, tiny_params, strong_judges, lively):
    """The parameters of a project whose run ``digits`` has conditions; its networks are not trained."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    raw = tiny_params(n=40, guidance="tuned", temperature=1.0).model_dump()
    quick = raw["recipes"]["quick"]
    quick["condition"] = {"by": request.param, "codes": 7, "dropped": 0.5}
    quick["sdid"] |= {"architecture": "residual", "positions": 2, "masks": "counted"}
    quick["sdid"]["train"] |= {"epochs": 1, "batch_size": 400, "ema": 0.9, "threads": 1}
    quick["tune"] |= {"guidances": GUIDANCES, "steps": [7]}
    params = check_params(raw)
    run = params.resolve("digits")
    make(Job(params, "fetch", "digits"))
    save_weights(paths.classifier_path("digits"), strong_judges())
    save_weights(
        paths.model_path("digits", "vqsvae"), lively(VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (1, 28, 28)))
    )
    make(Job(params, "tokens", "digits"), "cpu")
    yield params
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def drawing(conditional, lively):
    """The same with an SDID whose condition matters."""
    run = conditional.resolve("digits")
    sdid, _ = make_sdid(run, 6, (7, 7))
    torch.nn.init.normal_(sdid.out.weight, std=0.5)
    torch.nn.init.normal_(sdid.condition.weight, std=2)
    sdid.learn_shares(load_tokens(paths.tokens_path("digits")).conditions["train"])
    save_weights(
        paths.model_path("digits", "sdid"), lively(sdid), artifacts.sha256(paths.model_path("digits", "vqsvae"))
    )
    return conditional


def test_tokens_note_the_condition_of_each_image(conditional):
    run, data = conditional.resolve("digits"), load_images(paths.data_path("digits"))
    tokens = load_tokens(paths.tokens_path("digits"))
    assert {split: len(part) for split, part in tokens.conditions.items()} == {
        split: len(part) for split, part in tokens.splits.items()
    }
    if run.recipe.condition.by == "label":
        assert run.conditions == 10
        assert all(torch.equal(part, data.labels[split]) for split, part in tokens.conditions.items())
    else:
        assert run.conditions == 7
        assert set(tokens.conditions["train"].tolist()) == set(range(7))
        again = artifacts.sha256(paths.tokens_path("digits"))
        make(Job(conditional, "tokens", "digits"), "cpu")
        assert artifacts.sha256(paths.tokens_path("digits")) == again


def test_training_learns_shares_and_leaves_conditions_out(conditional):
    make(Job(conditional, "sdid", "digits"), "cpu")
    model = load(conditional.resolve("digits"), CPU)
    train = load_tokens(paths.tokens_path("digits")).conditions["train"]
    counts = torch.bincount(train, minlength=model.sdid.conditions)
    torch.testing.assert_close(model.sdid.shares, counts / counts.sum())


def test_each_image_is_learnt_under_its_own_condition_or_none(conditional):
    """Of each image of a batch its own, but for the share ``dropped``, here a half, which has none."""
    run, tokens = conditional.resolve("digits"), load_tokens(paths.tokens_path("digits"))
    task, seen = SDIDTask(run, tokens, CPU), []
    hook = task.module.register_forward_pre_hook(
        lambda _, args, options: seen.append(options["condition"]), with_kwargs=True
    )
    index = torch.randperm(len(tokens.splits["train"]))[:1000]
    task.loss(index, torch.Generator().manual_seed(0), 0.0)
    hook.remove()
    none = seen[0] == run.conditions
    assert float(none.double().mean()) == pytest.approx(0.5, abs=0.06)
    assert torch.equal(seen[0][~none], tokens.conditions["train"][index][~none])


def test_guidance_is_tuned_and_drawn_with(drawing):
    table = pd.read_csv(make(Job(drawing, "tune", "digits"), "cpu").with_suffix(".csv"))
    assert list(table["guidance"][:2]) == GUIDANCES
    assert list(table["temperature"].unique()) == [1.0]
    chosen = artifacts.read_json(paths.tuning_path("digits"))
    assert list(table["chosen"]) == [int(guidance == chosen["guidance"]) for guidance in table["guidance"]]
    calls = dict(zip(table["guidance"][:2], table["network_calls"][:2], strict=True))
    assert calls[2.0] == pytest.approx(2 * calls[0.0])  # the same noise
    samples = artifacts.read_npz(make(Job(drawing, "sample", "digits"), "cpu"))
    assert samples["guidance"] == chosen["guidance"]
    assert samples["conditions"].shape == (40,)
    assert samples["conditions"].max() < drawing.resolve("digits").conditions


def test_evaluation_inspection_and_energy(drawing):
    run = drawing.resolve("digits")
    for stage in ("tune", "sample", "inspect", "energy", "evaluate"):
        make(Job(drawing, stage, "digits"), "cpu")
    row, samples = (
        artifacts.read_json(paths.metrics_path("digits")),
        artifacts.read_npz(paths.samples_path("digits")),
    )
    assert row["guidance"] == samples["guidance"]
    read = Reader(paths.classifier_path("digits"), 100, CPU)(torch.from_numpy(samples["images"]))
    if run.recipe.condition.by == "label":
        accuracy = float((read.argmax(1).numpy() == samples["conditions"]).mean())
        assert row["class_accuracy"] == pytest.approx(accuracy)
    else:
        assert "class_accuracy" not in row
    energy = pd.read_csv(paths.energy_path("digits").with_suffix(".csv")).set_index("layer")
    assert {"blocks.0.fire", "blocks.0.synapse", "blocks.1.mix", "last", "out"} <= set(energy.index)
    assert (energy.loc[["blocks.0.fire", "last"], "synops"] == 0).all()
    assert (energy.loc[["blocks.0.synapse", "blocks.1.mix"], "synops"] > 0).all()
    first = artifacts.read_npz(paths.traces_path("digits"))["trajectory_tokens"]
    assert (first[-1] == 6).all() and first[0].max() < 6


def test_a_condition_by_number(drawing, rng):
    model = load(drawing.resolve("digits"), CPU)
    how = {"temperature": 1.0, "guidance": 1.0, "steps": 3}
    assert model.draw(30, condition=3, **how).conditions.tolist() == [3] * 30
    three, four, again = (model.draw_tokens(30, rng(), condition=number, **how)[0] for number in (3, 4, 3))
    assert not torch.equal(three, four)
    assert torch.equal(three, again)
    with pytest.raises(UserError, match="condition is 10: digits has"):
        model.sample(2, condition=10, **how)


def test_a_completion_has_a_condition_that_fits_what_shows(drawing, monkeypatch):
    """Half of what the model itself drew under a condition tells which. With nothing to see, shares decide."""
    model, mask = load(drawing.resolve("digits"), CPU), torch.zeros(28, 28, dtype=torch.bool)
    how = {"temperature": 0.2, "guidance": 1.0, "steps": 49}
    noise = torch.Generator().manual_seed(0)
    right = []
    for condition in range(5):
        tokens, _, _ = model.draw_tokens(1, noise, condition=condition, **how)
        tokens[:, 4:] = 6
        told = model._conditions_of(200, None, noise, tokens)
        right.append(float((told == condition).double().mean()))
    assert np.mean(right) > 3 / model.sdid.conditions
    told = model._conditions_of(20_000, None, noise, torch.full((1, 7, 7), 6))
    counts = torch.bincount(told, minlength=model.sdid.conditions) / 20_000
    assert torch.allclose(counts, model.sdid.shares, atol=0.02)
    mask[14:] = True
    image = torch.rand(1, 1, 28, 28)
    drawn, decode = [], model.vqsvae.decode
    monkeypatch.setattr(model.vqsvae, "decode", lambda tokens, noise: drawn.append(tokens) or decode(tokens, noise))
    for number in (2, 3):
        model.inpaint(image, mask, 20, condition=number, **how)
    seen = model.vqsvae.covered(mask[None])[0]
    one, other = drawn
    assert torch.equal(one[:, ~seen], other[:, ~seen]) and not torch.equal(one[:, seen], other[:, seen])
    with pytest.raises(UserError, match="condition is 99"):
        model.inpaint(image, mask, condition=99, **how)


def test_global_codes_are_the_nearest_centres():
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(4, 5)) * 10
    of = draws.integers(4, size=200)
    features = (centres[of] + draws.normal(size=(200, 5))).astype(np.float32)
    found = global_codes({"train": features, "test": centres.astype(np.float32)}, 4, 0)
    pairs = set(zip(of.tolist(), found["train"].tolist(), strict=True))
    assert len(pairs) == 4  # one code for each cluster
    assert set(enumerate(found["test"].tolist())) == pairs
    with pytest.raises(UserError, match=r"condition\.codes is 300, but there are only 200 training images"):
        global_codes({"train": features}, 300, 0)
