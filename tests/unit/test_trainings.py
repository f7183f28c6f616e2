"""The three trainings, and the tokens between two of them: which images each learns from, and what it minimises."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.data.images import load_images
from spiking_diffusion.diffusion.absorbing import bits_per_token
from spiking_diffusion.diffusion.loading import load_sdid
from spiking_diffusion.families.inputs import tokens_of
from spiking_diffusion.fsvae.loading import load_fsvae
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.vqsvae import VQSVAE
from spiking_diffusion.vqsvae.loading import load_tokens, load_vqsvae
from spiking_diffusion.weights import save_weights

CPU = torch.device("cpu")
COUNTS = {"train": 24, "validation": 40, "test": 30}
SIZE, STEPS = 6, 49
"""Codes, and tokens of an image."""
TRAININGS = {"vqsvae": "digits", "sdid": "digits", "fsvae": "digits-fsvae"}
"""Stages, and a run of each."""
INDEX = torch.tensor([5, 0, 23, 11, 11, 8])
"""Examples of a batch."""


@pytest.fixture
def params(tmp_path, monkeypatch, tiny_params):
    """Those of a project folder with a VQ-SVAE, images and tokens; validation is unlike the other splits."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    params, draws = tiny_params(train={"lr": 0.03}), np.random.default_rng(0)
    images, tokens = {}, {}
    for i, (split, n) in enumerate(COUNTS.items()):
        images[f"{split}_images"] = draws.integers(0, 250 // (i + 1), (n, 1, 28, 28)).astype(np.uint8)
        images[f"{split}_labels"] = draws.integers(0, 10, n)
        tokens[split] = (draws.integers(0, 2, (n, 7, 7)) + 2 * (split == "validation")).astype(np.uint16)
    artifacts.write_npz(paths.data_path("digits"), images)
    run = params.resolve("digits")
    save_weights(paths.model_path("digits", "vqsvae"), VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (1, 28, 28)))
    write_tokens(params, tokens)
    yield params
    torch.use_deterministic_algorithms(deterministic)


def write_tokens(params, tokens):
    """Tokens by split, as if the stage had made them."""
    made_by = artifacts.sha256(paths.model_path("digits", "vqsvae"))
    notes = {"size": SIZE, "vqsvae": made_by, "stamp": Job(params, "tokens", "digits").stamp}
    artifacts.write_npz(paths.tokens_path("digits"), tokens | {key: np.array(value) for key, value in notes.items()})


def examples(stage):
    """What the stage learns from, by split: pixels in [0, 1] or tokens."""
    if stage == "sdid":
        return load_tokens(paths.tokens_path("digits")).splits
    return {split: part / 255 for split, part in load_images(paths.data_path("digits")).images.items()}


def trained(params, stage):
    """The file of weights."""
    return make(Job(params, stage, TRAININGS[stage]), "cpu")


# --- which images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", TRAININGS)
def test_every_training_image_counts_and_no_other(params, stage):
    """Images, or tokens, of the other splits change, and then the last ones of the training."""
    first = trained(params, stage).read_bytes()
    path = paths.tokens_path("digits") if stage == "sdid" else paths.data_path("digits")
    for split, same in (("validation", True), ("test", True), ("train", False)):
        arrays = artifacts.read_npz(path)
        key = split if stage == "sdid" else f"{split}_images"
        arrays[key][-2:] = arrays[key][:2]
        artifacts.write_npz(path, arrays)
        assert (trained(params, stage).read_bytes() == first) == same, split


def validation_numbers(run, stage, part, rng):
    """The number that the stage watches, computed again for the examples, and its tolerance for chance."""
    with torch.no_grad():
        if stage == "sdid":
            model, diffusion = load_sdid(run, CPU)
            bits, error = bits_per_token(model, diffusion, part, len(part), rng(5), CPU)
            return bits, 6 * error
        if stage == "vqsvae":
            model = load_vqsvae(run, CPU)
            return float((model.decode(model.encode(part)) - part).square().mean()), 1e-6
        found = [float((load_fsvae(run, CPU).reconstruct(part, rng(i)) - part).square().mean()) for i in range(20)]
        return np.mean(found), 6 * np.std(found)


@pytest.mark.parametrize("stage", TRAININGS)
def test_validation_images_are_watched(params, stage, rng):
    """The last row of the history is of the weights that are kept."""
    rows = list(csv.DictReader(paths.history_path(trained(params, stage)).read_text().splitlines()))
    found = float(rows[-1]["validation_bits_per_token" if stage == "sdid" else "validation_mse"])
    run = params.resolve(TRAININGS[stage])
    numbers = {s: validation_numbers(run, stage, part, rng) for s, part in examples(stage).items()}
    for split, (number, room) in numbers.items():
        assert (abs(found - number) < room + 1e-5) == (split == "validation"), f"{split}: {number} not {found}"


def test_tokens_are_those_of_each_split(params):
    make(Job(params, "tokens", "digits"), "cpu")
    model, tokens = load_vqsvae(params.resolve("digits"), CPU), tokens_of(params, params.resolve("digits"))
    for split, images in examples("vqsvae").items():
        with torch.no_grad():
            assert torch.equal(tokens.splits[split], model.encode(images)), split
    assert tokens.splits.keys() == set(SPLITS)


@pytest.mark.parametrize("stage", TRAININGS)
def test_first_weights_come_from_the_seed(params, tiny_params, stage):
    """With a rate so small that no weight moves; batch statistics and running means of codes do."""
    made, tokens = [], examples("sdid")
    for seed in (0, 1, 0):
        changed = tiny_params(seed=seed, train={"epochs": 1, "lr": 1e-30})
        write_tokens(changed, {split: part.numpy().astype(np.uint16) for split, part in tokens.items()})
        weights = load_file(trained(changed, stage))
        made.append({key: value for key, value in weights.items() if key.endswith("synapse.weight")})
    first, other, again = made
    assert len(first) > 1
    for key, value in first.items():
        assert torch.equal(value, again[key]) and not torch.equal(value, other[key]), key


# --- what is minimised ----------------------------------------------------------------------------------


def watched(task, rng, progress=0.5):
    """The terms of a loss, what the network was shown, and what came out of it."""
    seen = []
    handle = task.module.register_forward_hook(lambda module, args, out: seen.append((args, out)))
    terms = task.loss(INDEX, rng(), progress)
    handle.remove()
    ((args, out),) = seen
    return {key: float(value.detach()) for key, value in terms.items()}, args, out


def test_reconstruction_loss_is_over_the_variance_of_training_images(params, rng):
    task = VQSVAETask(params.resolve("digits"), load_images(paths.data_path("digits")), CPU)
    train = examples("vqsvae")["train"].double().numpy()
    terms, (shown, *_), out = watched(task, rng)
    np.testing.assert_allclose(shown, train[INDEX], atol=1e-6)
    error = np.square(out.images.detach().double().numpy() - train[INDEX]).mean()
    assert terms["reconstruction"] == pytest.approx(error / np.var(train), rel=1e-5)
    assert terms["loss"] == pytest.approx(sum(value for key, value in terms.items() if key != "loss"), rel=1e-5)


def test_a_step_moves_codes_to_the_mean_of_their_features(params, rng):
    """By hand: all codes count as used evenly before, and ``decay`` of that is left."""
    run = params.resolve("digits")
    task = VQSVAETask(run, load_images(paths.data_path("digits")), CPU)
    codes, decay = task.module.codebook.codes.double().numpy().copy(), run.recipe.vqsvae.codebook.decay
    _, _, out = watched(task, rng)
    features = out.z_e.detach().double().movedim(1, -1).flatten(0, -2).numpy()
    index, even = out.tokens.flatten().numpy(), len(INDEX) * STEPS / SIZE
    for code in range(SIZE):
        own = features[index == code]
        mean = (decay * even * codes[code] + (1 - decay) * own.sum(0)) / (decay * even + (1 - decay) * len(own))
        np.testing.assert_allclose(task.module.codebook.codes[code], mean, rtol=1e-5)
    assert abs(task.module.codebook.codes.numpy() - codes).max() > 1e-3


def test_codes_are_placed_in_the_first_batch_alone(params, rng):
    """Features are in [0, 1], and a running mean takes long to come there from 100."""
    for progress, placed in ((0.0, True), (0.01, False)):
        task = VQSVAETask(params.resolve("digits"), load_images(paths.data_path("digits")), CPU)
        task.module.codebook.codes.fill_(100.0)
        task.loss(INDEX, rng(), progress)
        assert (float(task.module.codebook.codes.max()) < 2) == placed


@pytest.mark.parametrize("loss", ["elbo", "reweighted"])
def test_loss_of_sdid_by_hand(params, rng, loss):
    """Eq. 14, or the released code's weights, of masked tokens that the network is not shown."""
    run = params.resolve("digits")
    sdid = run.recipe.sdid.model_copy(update={"loss": loss})
    run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"sdid": sdid})})
    task = SDIDTask(run, load_tokens(paths.tokens_path("digits")), CPU)
    terms, (shown, t, *_), logits = watched(task, rng)
    tokens, masked = examples("sdid")["train"][INDEX], shown == SIZE
    assert torch.equal(shown[~masked], tokens[~masked]) and 0 < masked.float().mean() < 1
    assert t.min() >= 1 and t.max() <= STEPS
    p = torch.softmax(logits.detach().double(), 1).numpy()
    expected = 0.0
    for b, i, j in masked.nonzero().tolist():
        weight = 1 / int(t[b]) if loss == "elbo" else (1 - int(t[b]) / STEPS) / STEPS
        expected -= weight * np.log(p[b, tokens[b, i, j], i, j]) / len(INDEX)
    assert terms == {"loss": pytest.approx(expected, rel=1e-5)}


def test_loss_of_fsvae_is_of_training_images_and_knows_the_progress(params, rng):
    task = FSVAETask(params.resolve("digits-fsvae"), load_images(paths.data_path("digits")), CPU)
    train = examples("fsvae")["train"].double().numpy()
    terms, (shown, progress, *_), out = watched(task, rng, 0.25)
    np.testing.assert_allclose(shown, train[INDEX], atol=1e-6)
    assert progress == 0.25
    error = np.square(out.images.detach().double().numpy() - train[INDEX]).mean()
    assert terms["reconstruction"] == pytest.approx(error, rel=1e-5)
    assert terms["loss"] == pytest.approx(terms["reconstruction"] + terms["prior"], rel=1e-5)
