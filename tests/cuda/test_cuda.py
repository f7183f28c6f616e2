"""On a GPU: the same results as on the CPU, as far as that can be, the same again, and no waiting."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional

from spiking_diffusion.config import load_params
from spiking_diffusion.data.images import ImageSet
from spiking_diffusion.diffusion import AbsorbingDiffusion, sample_tokens
from spiking_diffusion.randomness import make_deterministic, seed_initialisation
from spiking_diffusion.snn import set_precision
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training import loop
from spiking_diffusion.training.step import Step
from spiking_diffusion.vqsvae import vqsvae_loss
from spiking_diffusion.vqsvae.loading import TokenSet

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
TASKS = {
    "vqsvae": ("mnist-quick", "vqsvae"),
    "vqsvae of best": ("mnist-best", "vqsvae"),
    "sdid": ("mnist-quick", "sdid"),
    "sdid of best": ("mnist-best", "sdid"),
    "fsvae": ("mnist-quick-fsvae", "fsvae"),
}
N, BATCH = 88, 16
"""Numbers of examples and of a batch. The last batch is not full."""


@pytest.fixture(autouse=True)
def deterministic():
    make_deterministic(1)


def images():
    """Blots that differ in place and size."""
    draws = torch.Generator().manual_seed(0)
    at, width = torch.rand(2, N, 1, 1, generator=draws) * 28, 2 + 6 * torch.rand(N, 1, 1, generator=draws)
    grid = torch.arange(28.0)
    blots = torch.exp(-((grid[:, None] - at[0]) ** 2 + (grid - at[1]) ** 2) / width**2)
    pictures = (255 * blots).byte()[:, None]
    splits = ("train", "validation", "test")
    labels = torch.arange(N) % 10
    return ImageSet(dict.fromkeys(splits, pictures), dict.fromkeys(splits, labels))


def tokens():
    draws = torch.Generator().manual_seed(0)
    found = torch.randint(0, 128, (N, 7, 7), generator=draws) // torch.arange(1, 8)
    labels = torch.arange(N) % 10
    splits = ("train", "validation", "test")
    return TokenSet(dict.fromkeys(splits, found), 128, "", conditions=dict.fromkeys(splits, labels))


def task_of(name, device):
    run_name, kind = TASKS[name]
    run = PARAMS.resolve(run_name)
    seed_initialisation(0, "test")
    if kind == "sdid":
        given = tokens() if run.recipe.condition.by != "none" else replace(tokens(), conditions={})
        task = SDIDTask(run, given, device)
    else:
        task = {"vqsvae": VQSVAETask, "fsvae": FSVAETask}[kind](run, images(), device)
    task.module.to(device)
    return task, getattr(run.recipe, kind).train


def fit(name, device, work, **changes):
    task, settings = task_of(name, device)
    settings = settings.model_copy(update={"epochs": 3, "batch_size": BATCH, "lr": 0.002} | changes)
    history = loop.fit(task, settings, 0, {"stage": name, "name": "test"}, work, device)
    return history, {key: value.cpu() for key, value in task.module.state_dict().items()}


def assert_same(first, second):
    assert json.dumps(first[0]) == json.dumps(second[0])
    for key, value in first[1].items():
        assert torch.equal(value, second[1][key]), key


def test_neurons_are_those_of_triton():
    assert functional.neuron_implementation("lif", CUDA)["implementation"] == "triton"


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_that_of_the_cpu(name):
    """Loss and gradient of one batch, with noise of the CPU. A spike may flip where a sum rounds otherwise."""
    found = {}
    for device in (CPU, CUDA):
        task, _ = task_of(name, device)
        set_precision(task.module, "float32")
        if isinstance(task, SDIDTask):
            clean, t = tokens().splits["train"][:BATCH], torch.arange(BATCH) * 3 + 1
            noisy = task.diffusion.q_sample(clean, t, torch.Generator().manual_seed(0)).to(device)
            clean, t = clean.to(device), t.to(device)
            told = {"condition": torch.arange(BATCH, device=device) % 10} if task.conditions else {}
            loss = task.diffusion.bound(task.module(noisy, t, **told), clean, noisy, t).mean()
        elif isinstance(task, VQSVAETask):
            x = images().images["train"][:BATCH].to(device) / 255
            loss = vqsvae_loss(task.module(x), x, task.variance, task.settings)["loss"]
        else:
            x = images().images["train"][:BATCH].to(device) / 255
            loss = (task.module.reconstruct(x, torch.Generator(device).manual_seed(0)) - x).square().mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu().double() for p in task.module.parameters() if p.grad is not None])
        found[device.type] = float(loss.detach()), gradient
    (ours, mine), (theirs, yours) = found["cpu"], found["cuda"]
    room = 0.2 if name == "fsvae" else 1e-3  # latents are drawn by each device's own generator
    assert theirs == pytest.approx(ours, rel=room)
    difference = float((mine - yours).norm() / mine.norm())
    print(f"{name}: loss {ours} and {theirs}, gradients differ by {difference:.2e}")
    assert name == "fsvae" or difference < 0.02


@pytest.mark.parametrize("name", TASKS)
def test_a_training_can_be_repeated(name, tmp_path):
    assert_same(fit(name, CUDA, tmp_path / "a"), fit(name, CUDA, tmp_path / "b"))


@pytest.mark.parametrize("name", [name for name in TASKS if name != "fsvae"])
def test_a_graph_gives_the_same_weights(name, tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        by_graph = fit(name, CUDA, tmp_path / "graph")
    assert not caplog.records, caplog.text
    monkeypatch.setattr(Step, "replay", lambda self, index: None)
    assert_same(by_graph, fit(name, CUDA, tmp_path / "eager"))


@pytest.mark.parametrize("name", ["vqsvae of best", "sdid of best"])
def test_a_training_goes_on_after_an_interruption(name, tmp_path, monkeypatch):
    """Also inside an epoch, and a CPU can take over."""
    whole = fit(name, CUDA, tmp_path / "whole")
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    task, settings = task_of(name, CUDA)
    settings = settings.model_copy(update={"epochs": 3, "batch_size": BATCH, "lr": 0.002})
    inner, left = task.loss, [9]

    def loss(index, noise, progress):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return inner(index, noise, progress)

    monkeypatch.setattr(task, "loss", loss)
    monkeypatch.setattr(Step, "replay", lambda self, index: None)
    identity = {"stage": name, "name": "test"}
    with pytest.raises(KeyboardInterrupt):
        loop.fit(task, settings, 0, identity, tmp_path / "part", CUDA)
    monkeypatch.undo()
    make_deterministic(1)
    assert_same(whole, fit(name, CUDA, tmp_path / "part"))
    history, weights = fit(name, CPU, tmp_path / "part")
    assert len(history) == 3 and all(torch.isfinite(value.float()).all() for value in weights.values())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(name, precision):
    """PyTorch raises an error at each synchronisation."""
    task, settings = task_of(name, CUDA)
    set_precision(task.module, precision)
    task.module.train()
    step = Step(task, settings.model_copy(update={"batch_size": BATCH}), torch.Generator(CUDA), CUDA)
    index = torch.arange(BATCH, device=CUDA)
    for _ in range(2):
        step.backward(index, 0.5)
        step.update()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.set_rate(0.001)
        step.backward(index, 0.5)
        step.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "fsvae"])
def test_bfloat16_learns(name, tmp_path):
    history, _ = fit(name, CUDA, tmp_path, precision="bfloat16", epochs=12)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("steps", [None, 8])
def test_samples_are_of_the_distribution(steps):
    """A denoiser that knows the probabilities: 3 of 4 tokens are 1."""
    diffusion = AbsorbingDiffusion(2, 16)

    def denoiser(tokens, t, where):
        return torch.tensor([0.25, 0.75], device=CUDA).log().expand(int(where.sum()), 2)

    drawn, _ = sample_tokens(
        denoiser, diffusion, (500, 4, 4), 1.0, torch.Generator(CUDA).manual_seed(0), CUDA, steps=steps
    )
    assert float((drawn == 1).float().mean()) == pytest.approx(0.75, abs=0.02)
