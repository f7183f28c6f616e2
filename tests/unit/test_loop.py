"""The training loop: an interrupted training ends where an uninterrupted one does, to the bit."""

import csv
import pickle
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import canonical_json
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import ImageSet
from spiking_diffusion.errors import UserError
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training import checkpoints as checkpoints_module
from spiking_diffusion.training import loop
from spiking_diffusion.training.loop import fit, learning_rate, save_history
from spiking_diffusion.weights import load_weights, save_weights, weight_shapes

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
TRAIN = check_params(RAW).recipes["quick"].sdid.train
CPU = torch.device("cpu")
EPOCHS, STEPS = 5, 3
SETTINGS = TRAIN.model_copy(update={"epochs": EPOCHS, "batch_size": 4, "lr": 0.01})
IDENTITY = {"stage": "toy", "name": "run", "settings": {"lr": 0.01}}


class Regression:
    """Linear regression on 10 noisy points; ``at(step)`` is called before each step, counted from 0."""

    size = 10

    def __init__(self, at=lambda step: None):
        torch.manual_seed(3)
        self.module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        draws = torch.Generator().manual_seed(1)
        self.x = torch.randn(self.size, 3, generator=draws)
        self.y = self.x.sum(1, keepdim=True)
        self.at, self.steps, self.progress, self.weights = at, 0, [], []

    def loss(self, index, noise, progress):
        assert self.module.training
        scale = self.at(self.steps)
        self.steps += 1
        self.progress.append(progress)
        x = self.x[index] + 0.1 * torch.randn(len(index), 3, generator=noise)
        error = ((self.module(x) - self.y[index]) ** 2).mean() * (1 if scale is None else scale)
        size = self.module[0].weight.square().sum() * 0.01
        return {"loss": error + size, "error": error, "size": size}

    def validate(self):
        assert not self.module.training
        self.weights.append(self.module[0].weight.numpy().tobytes())
        return {"validation": float((self.module(self.x) - self.y).square().mean())}


def train(work, at=lambda step: None, identity=IDENTITY, settings=SETTINGS, seed=0):
    task = Regression(at)
    history = fit(task, settings, seed, identity, work, CPU)
    return task, history


def interrupted_after(steps):
    def at(step):
        if step == steps:
            raise KeyboardInterrupt

    return at


def checkpoints(work):
    return sorted(work.glob("*.pt"))


def test_variants_of_a_seed_see_the_same_order_and_noise(tmp_path):
    """Seen to fail: a run's name went into both, so an ablation compared orders as well, and a copy under another name
    ended 40 % elsewhere."""
    _, one = train(tmp_path / "one")
    _, other = train(tmp_path / "other", identity=IDENTITY | {"name": "other"})
    assert other == one
    assert train(tmp_path / "seed", seed=1)[1] != one
    assert train(tmp_path / "stage", identity=IDENTITY | {"stage": "another"})[1] != one


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training that nothing interrupts, and its history."""
    task, history = train(tmp_path_factory.mktemp("straight"))
    assert task.steps == EPOCHS * STEPS
    return task, history


def assert_same(result, straight):
    (task, history), (expected_task, expected_history) = result, straight
    assert history == expected_history
    expected = expected_task.module.state_dict()
    for key, value in task.module.state_dict().items():
        assert torch.equal(value, expected[key]), key


def interrupt(work, steps):
    with pytest.raises(KeyboardInterrupt):
        train(work, interrupted_after(steps))


# --- resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, STEPS, STEPS + 1, 3 * STEPS, EPOCHS * STEPS - 1])
def test_interrupted_training_ends_the_same(tmp_path, straight, steps):
    interrupt(tmp_path, steps)
    again = train(tmp_path)
    assert_same(again, straight)
    assert again[0].steps == EPOCHS * STEPS - steps // STEPS * STEPS, "whole epochs are not made twice"


@pytest.mark.parametrize("steps", [0, 1, 2, STEPS, STEPS + 1, STEPS + 2, EPOCHS * STEPS - 1])
def test_interrupted_inside_a_long_epoch(tmp_path, straight, monkeypatch, steps):
    """A checkpoint after the second of three steps; fails if sums or the state of the noise are not kept in it."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    interrupt(tmp_path, steps)
    again = train(tmp_path)
    assert_same(again, straight)
    whole, inside = divmod(steps, STEPS)
    assert again[0].steps == EPOCHS * STEPS - whole * STEPS - inside // 2 * 2, (
        "no step before the checkpoint is made twice"
    )


def test_checkpoints_inside_an_epoch_make_no_difference(tmp_path, straight, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    assert_same(train(tmp_path), straight)


def test_temporary_files_of_a_killed_save_are_removed(tmp_path):
    (tmp_path / ".epoch-000001.pt.abc").touch()
    train(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_interrupted_twice(tmp_path, straight):
    interrupt(tmp_path, STEPS + 1)
    interrupt(tmp_path, STEPS + 1)
    assert_same(train(tmp_path), straight)


def test_finished_training_is_only_read(tmp_path, straight):
    train(tmp_path)
    again = train(tmp_path, interrupted_after(0))
    assert_same(again, straight)
    assert not again[0].module.training


def test_two_checkpoints_are_kept(tmp_path):
    train(tmp_path)
    assert [p.name for p in checkpoints(tmp_path)] == [f"epoch-{n:06d}.pt" for n in (EPOCHS - 1, EPOCHS)]


@pytest.mark.parametrize(
    "change", [{"settings": {"lr": 0.02}}, {"name": "other"}, {"stage": "other"}, {"inputs": {"x": "1"}}]
)
def test_checkpoints_of_another_training_are_not_used(tmp_path, straight, change):
    train(tmp_path, identity={**IDENTITY, **change})
    again = train(tmp_path)
    assert again[0].steps == EPOCHS * STEPS
    assert_same(again, straight)


def test_another_seed_is_another_training(tmp_path, straight):
    _, history = train(tmp_path, seed=1)
    assert history[0] != straight[1][0]


def test_progress_runs_from_0_to_just_below_1_also_when_resumed(tmp_path):
    interrupt(tmp_path, STEPS)
    task, _ = train(tmp_path)
    steps = range(STEPS, EPOCHS * STEPS)
    assert task.progress == pytest.approx([step / (EPOCHS * STEPS) for step in steps])


# --- damaged checkpoints --------------------------------------------------------------------------------


def cut(path, _=None):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path, _=None):
    path.write_bytes(b"")


def garbage(path, _=None):
    path.write_bytes(b"\x93" * 1000)


def flip(path, task):
    """One bit of one weight, which the file format's own checks may pass over."""
    raw = path.read_bytes()
    epoch = int(path.stem.removeprefix("epoch-"))
    place = raw.index(task.weights[epoch - 1]) + 2
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])


def half(path, task):
    """Weights that fit, and a state of the optimiser that does not."""
    weights = {key: torch.ones_like(value) for key, value in task.module.state_dict().items()}
    state = {"identity": canonical_json(IDENTITY), "module": weights, "optimiser": {}, "done": {"history": []}}
    torch.save(state, path)


DAMAGES = [cut, empty, garbage, flip, half]


@pytest.mark.parametrize("damage", DAMAGES)
def test_newest_checkpoint_damaged_the_one_before_is_used(tmp_path, straight, damage):
    interrupt(tmp_path, 3 * STEPS + 1)
    damage(checkpoints(tmp_path)[-1], straight[0])
    again = train(tmp_path)
    assert_same(again, straight)
    assert again[0].steps == (EPOCHS - 2) * STEPS


@pytest.mark.parametrize("damage", DAMAGES)
def test_both_checkpoints_damaged_training_stops(tmp_path, straight, damage):
    """And stops again, until they are deleted: it never begins anew unseen."""
    interrupt(tmp_path, 3 * STEPS + 1)
    for path in checkpoints(tmp_path):
        damage(path, straight[0])
    for _ in range(2):
        with pytest.raises(UserError, match="all checkpoints are damaged") as caught:
            train(tmp_path)
        assert "\n" not in str(caught.value) and f"delete {tmp_path}" in str(caught.value)
    for path in checkpoints(tmp_path):
        path.unlink()
    assert_same(train(tmp_path), straight)


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize(
    "write",
    [lambda canary, path: path.write_bytes(pickle.dumps(canary, protocol=2)), torch.save],
    ids=["pickle", "torch.save"],
)
def test_malicious_checkpoint_runs_nothing(tmp_path, straight, write):
    canary, path = tmp_path / "canary", tmp_path / "epoch-000009.pt"
    interrupt(tmp_path, STEPS)
    write({"identity": Canary(canary)} if write is torch.save else Canary(canary), path)
    if write is torch.save:
        torch.load(path, weights_only=False)  # the canary sings where pickles are trusted
        assert canary.exists()
        canary.unlink()
    assert_same(train(tmp_path), straight)
    assert not canary.exists()


# --- processor time -------------------------------------------------------------------------------------

SPIN = 0.03


def spinning(steps=-1):
    """Each step takes SPIN seconds of the processor more; the training is interrupted before step ``steps``."""

    def at(step):
        if step == steps:
            raise KeyboardInterrupt
        until = time.process_time() + SPIN
        while time.process_time() < until:
            pass

    return at


def seconds(work):
    return artifacts.read_json(paths.cost_path(work))["processor_seconds"]


@pytest.mark.parametrize(("every", "steps"), [(500, 3 * STEPS), (2, 3 * STEPS + 2)])
def test_processor_seconds_add_up_over_an_interruption(tmp_path, monkeypatch, every, steps):
    """Fails if a resumed training counts from its checkpoint, whole epoch or inside one."""
    monkeypatch.setattr(loop, "SAVE_EVERY", every)
    began = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, spinning(steps))
    assert not paths.cost_path(tmp_path).exists(), "of a whole training only"
    train(tmp_path, spinning())
    whole = seconds(tmp_path)
    assert EPOCHS * STEPS * SPIN <= whole <= time.process_time() - began
    train(tmp_path)  # finished: nothing is added
    assert seconds(tmp_path) == whole
    assert artifacts.read_json(paths.cost_path(tmp_path))["device"] == "cpu"


def test_processor_seconds_that_an_interruption_threw_away_do_not_count(tmp_path):
    """Two steps of three are made twice: the number is what the training takes undisturbed."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, spinning(2))
    before = time.process_time()
    train(tmp_path, spinning())
    assert EPOCHS * STEPS * SPIN <= seconds(tmp_path) <= time.process_time() - before


# --- losses that are no numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_before_the_update(tmp_path, value):
    seen = {}

    def at(step):
        if step == STEPS + 1:
            seen.update({k: v.clone() for k, v in task.module.state_dict().items()})
            return value
        return None

    task = Regression(at)
    with pytest.raises(UserError) as caught:
        fit(task, SETTINGS, 0, IDENTITY, tmp_path, CPU)
    message = str(caught.value)
    for fragment in ("toy run", str(value), "epoch 2", "step 1", "lr 0.008346", "at epoch 2, step 0"):
        assert fragment in message
    assert "\n" not in message
    for key, parameter in task.module.named_parameters():
        assert torch.equal(parameter, seen[key]), key


def test_gradient_that_is_not_finite_stops_before_the_update(tmp_path):
    """sqrt at 0: the loss is 0 and its gradient infinite."""
    task = Regression()
    before = {k: v.clone() for k, v in task.module.named_parameters()}
    inner = task.loss
    task.loss = lambda *args: {"loss": inner(*args)["loss"] + (task.module[0].weight[0, 0] * 0).sqrt()}
    with pytest.raises(UserError, match=r"its gradient (nan|inf)"):
        fit(task, SETTINGS, 0, IDENTITY, tmp_path, CPU)
    assert all(torch.equal(parameter, before[key]) for key, parameter in task.module.named_parameters())


def test_batch_larger_than_the_data(tmp_path):
    with pytest.raises(UserError, match=r"batch_size is 11, but there are only 10 training examples"):
        train(tmp_path, settings=SETTINGS.model_copy(update={"batch_size": 11}))


def test_training_goes_on_after_a_loss_that_was_not_finite(tmp_path, straight):
    with pytest.raises(UserError):
        train(tmp_path, lambda step: float("nan") if step == 2 * STEPS else None)
    assert_same(train(tmp_path), straight)


# --- what is recorded -----------------------------------------------------------------------------------


def test_history_is_the_mean_over_examples(tmp_path):
    """The last batch of an epoch is smaller: it counts for less."""
    terms = []
    task = Regression()
    inner = task.loss

    def loss(index, noise, progress):
        found = inner(index, noise, progress)
        terms.append((len(index), float(found["loss"].detach())))
        return found

    task.loss = loss
    history = fit(task, SETTINGS, 0, IDENTITY, tmp_path, CPU)
    assert [n for n, _ in terms[:STEPS]] == [4, 4, 2]
    for epoch, row in enumerate(history):
        part = terms[epoch * STEPS : (epoch + 1) * STEPS]
        assert row["loss"] == pytest.approx(sum(n * v for n, v in part) / 10, rel=1e-5)
        assert row["loss"] == pytest.approx(row["error"] + row["size"], rel=1e-5)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert list(history[0]) == ["epoch", "loss", "error", "size", "gradient_norm", "validation"]


def test_each_epoch_sees_every_example_once_in_another_order(tmp_path):
    seen = []
    task = Regression()
    inner = task.loss
    task.loss = lambda index, noise, progress: seen.append(index.tolist()) or inner(index, noise, progress)
    fit(task, SETTINGS, 0, IDENTITY, tmp_path, CPU)
    epochs = [[*chain(*seen[i : i + STEPS])] for i in range(0, len(seen), STEPS)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == EPOCHS


def test_every_step_has_noise_of_its_own(tmp_path):
    """Also the first step of each epoch."""
    drawn, task = [], Regression()
    inner = task.loss

    def loss(index, noise, progress):
        drawn.append(float(torch.rand((), generator=noise, dtype=torch.float64)))
        return inner(index, noise, progress)

    task.loss = loss
    fit(task, SETTINGS, 0, IDENTITY, tmp_path, CPU)
    assert len(set(drawn)) == EPOCHS * STEPS


@pytest.mark.parametrize(
    ("schedule", "lr", "betas", "weight_decay"),
    [
        ("constant", 0.01, [0.9, 0.999], 0.0),
        ("constant", 0.02, [0.5, 0.9], 0.3),
        ("cosine", 0.01, [0.8, 0.95], 0.1),
    ],
)
def test_weights_move_as_adamw_says(tmp_path, schedule, lr, betas, weight_decay):
    """Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2, by hand for one weight whose gradient changes each step."""
    task = Regression()
    weight = task.module[0].weight
    gradients, expected = (
        [float(1 + step % 3) * (-1) ** step for step in range(EPOCHS * STEPS)],
        weight.detach().double(),
    )
    task.loss = lambda index, noise, progress: {"loss": gradients[round(progress * EPOCHS * STEPS)] * weight.sum()}
    changed = {"schedule": schedule, "lr": lr, "betas": betas, "weight_decay": weight_decay}
    fit(task, SETTINGS.model_copy(update=changed), 0, IDENTITY, tmp_path, CPU)
    mean = square = 0.0
    for step, gradient in enumerate(gradients):
        rate = lr if schedule == "constant" else lr * (1 + np.cos(np.pi * step / len(gradients))) / 2
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        mean_hat, square_hat = mean / (1 - betas[0] ** (step + 1)), square / (1 - betas[1] ** (step + 1))
        expected = expected - rate * weight_decay * expected - rate * mean_hat / (square_hat**0.5 + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.01] * 3), ("cosine", [0.01, 0.005, 0.0])])
def test_learning_rate(schedule, rates):
    settings = SETTINGS.model_copy(update={"schedule": schedule})
    assert [learning_rate(settings, progress) for progress in (0, 0.5, 1)] == pytest.approx(rates)


def test_save_history(tmp_path):
    path = tmp_path / "a" / "x.csv"
    save_history(
        path, [{"epoch": 1, "loss": 1 / 3, "validation": 1e-9}, {"epoch": 2, "loss": 12345678.0, "validation": 0.0}]
    )
    assert path.read_bytes() == b"epoch,loss,validation\n1,0.333333,1e-09\n2,1.23457e+07,0\n"


def test_saved_history_reads_back(tmp_path, straight):
    save_history(tmp_path / "x.csv", straight[1])
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    found = [{key: float(value) for key, value in row.items()} for row in rows]
    assert found == [pytest.approx(row, rel=1e-5) for row in straight[1]]


# --- weights --------------------------------------------------------------------------------------------


def network(width=4):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def test_weights_round_trip(tmp_path):
    model, other = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    save_weights(tmp_path / "x.safetensors", model, "abc")
    assert load_weights(tmp_path / "x.safetensors", other, CPU) == "abc"
    assert not other.training
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert weight_shapes(tmp_path / "x.safetensors") == {k: list(v.shape) for k, v in model.state_dict().items()}


def test_weights_bytes_are_the_same_twice(tmp_path):
    for name in "xy":
        save_weights(tmp_path / name, network(), "abc")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def refusal(path, model):
    with pytest.raises(UserError) as caught:
        load_weights(path, model, CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    "other",
    [network(5), network()[:2], nn.Sequential(*network(), nn.Linear(1, 1))],
    ids=["wider", "too short", "too long"],
)
def test_weights_of_another_network(tmp_path, other):
    save_weights(tmp_path / "x", network())
    refusal(tmp_path / "x", other)


@pytest.mark.parametrize(
    "damage",
    [cut, empty, garbage, lambda path: path.write_bytes(pickle.dumps({}, protocol=2))],
    ids=["cut short", "empty", "garbage", "pickle"],
)
def test_damaged_weights(tmp_path, damage):
    save_weights(tmp_path / "x", network())
    damage(tmp_path / "x")
    assert "damaged" in refusal(tmp_path / "x", network())
    with pytest.raises(UserError, match="damaged"):
        weight_shapes(tmp_path / "x")


def test_missing_weights_name_the_command(tmp_path):
    assert "snakemake --cores all" in refusal(tmp_path / "x", network())


@pytest.mark.parametrize("level", [0, 77, 255])
def test_equal_images_are_refused_not_divided_by_their_variance(level):
    """Seen to fail: "the loss is inf ... lower train.lr", which no rate helps."""
    images = torch.full((64, 1, 28, 28), level, dtype=torch.uint8)
    data = ImageSet({"train": images, "validation": images}, {})
    with pytest.raises(UserError, match="training images are equal"):
        VQSVAETask(check_params(RAW).resolve("digits"), data, CPU)


def test_a_checkpoint_inside_an_epoch_goes_on_on_another_device(tmp_path, monkeypatch, caplog):
    """Seen to fail with a traceback, each time: a CUDA generator's state is 16 bytes, one of the CPU's 5056."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    monkeypatch.setattr(checkpoints_module.Done, "__init__", with_noise_of_cuda(checkpoints_module.Done.__init__))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupted_after(4))
    task, history = train(tmp_path)
    assert len(history) == EPOCHS and task.steps == EPOCHS * STEPS - 4
    assert "the checkpoint is of another device, noise of epoch 2 starts again" in caplog.text


def with_noise_of_cuda(init):
    def changed(self, history, step=0, sums=None, noise=None, seconds=0.0):
        init(self, history, step, sums or {}, None if noise is None else torch.zeros(16, dtype=torch.uint8), seconds)

    return changed


AVERAGED = SETTINGS.model_copy(update={"ema": 0.7})


def test_averages_are_validated_and_kept(tmp_path):
    """Against the weights after each step, averaged by hand: the first as they are, then 0.7 old + 0.3 new."""
    seen = []

    class Watched(Regression):
        def loss(self, index, noise, progress):
            if self.steps:
                seen.append(self.module[0].weight.detach().clone())
            return super().loss(index, noise, progress)

    task = Watched()
    fit(task, AVERAGED, 0, IDENTITY, tmp_path, CPU)
    plain, _ = train(tmp_path / "plain")
    last = plain.module[0].weight.detach()  # averages change nothing of the training itself
    average, expected = seen[0], {}
    for step, weight in enumerate([*seen[1:], last], 2):
        average = 0.7 * average + 0.3 * weight
        expected[step] = average
    torch.testing.assert_close(task.module[0].weight.detach(), average)
    for epoch, found in enumerate(task.weights, 1):
        wanted = expected[epoch * STEPS].numpy()
        assert np.allclose(np.frombuffer(found, np.float32).reshape(wanted.shape), wanted, atol=1e-6)


def test_averages_go_on_after_an_interruption(tmp_path):
    whole, history = train(tmp_path / "whole", settings=AVERAGED)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", interrupted_after(2 * STEPS + 1), settings=AVERAGED)
    resumed, again = train(tmp_path / "cut", settings=AVERAGED)
    assert again == history
    for one, other in zip(whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(one, other)
