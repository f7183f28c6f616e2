"""FSVAE: autoregressive drawing against its O(T^2) definition, scheduled sampling, loss."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from spiking_diffusion import config, paths
from spiking_diffusion.config import load_params
from spiking_diffusion.families import load
from spiking_diffusion.fsvae import FSVAE, FSVAEOutput, Posterior, Prior, fsvae_loss
from spiking_diffusion.fsvae.latent import draw_picks, majority, pick
from spiking_diffusion.fsvae.model import resized
from spiking_diffusion.snn import SpikingLayer

T, BATCH, UNITS, K = 7, 6, 4, 5
CPU = torch.device("cpu")


@pytest.fixture
def settings(train_settings):
    schedule = config.ScheduledSampling(start=0.1, end=0.3, from_step=2, guess="pick")
    base = {"T": T, "channels": [4, 6], "code_dim": 3, "latent_dim": UNITS, "latent_norm": "batch", "k": K}
    base |= {"architecture": "shared", "tau_syn": 2.0, "output_decay": 0.8}
    return config.FSVAE(**base, scheduled_sampling=schedule, train=train_settings)


@pytest.fixture
def model(settings, neuron, lively):
    return lively(FSVAE(settings, neuron, (1, 8, 8)))


@pytest.fixture
def prior(neuron, lively):
    return lively(Prior(neuron, UNITS, K))


@pytest.fixture
def posterior(neuron, lively):
    return lively(Posterior(neuron, UNITS, K))


@pytest.fixture
def candidates(lif_reference):
    """``candidates(module, x)``: (T, B, c, k) of a whole train (T, B, n) from rest, in NumPy."""

    def run(module, x, training=False):
        x = np.asarray(x, dtype=np.float64)
        for layer in module.layers:
            norm = layer.norm
            current = x @ layer.synapse.weight.detach().double().numpy().T
            mean, var = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
            if training:
                mean, var = current.mean((0, 1)), current.var((0, 1))
            current = (current - mean) / np.sqrt(var + norm.eps)
            x, _ = lif_reference(current * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy())
        return x.reshape(*x.shape[:2], module.units, module.k)

    return run


def pick_reference(candidate_spikes, picks):
    return np.take_along_axis(candidate_spikes, np.asarray(picks)[..., None], -1)[..., 0]


def shifted(z):
    """What is seen of a train z (T, B, c) when each step is shown the one before: zeros, z_0, ..., z_{T-2}."""
    return np.concatenate([np.zeros_like(z[:1]), z[:-1]])


def random_train(steps=T, units=UNITS):
    return (torch.rand(steps, BATCH, units) < 0.5).float()


# --- picking --------------------------------------------------------------------------------------------


def test_pick_takes_one_candidate_per_unit():
    spikes, picks = torch.rand(3, 2, 4, 5), torch.randint(5, (3, 2, 4))
    picked = pick(spikes, picks)
    assert picked.shape == (3, 2, 4)
    for index in np.ndindex(3, 2, 4):
        assert picked[index] == spikes[index][picks[index]]


def test_picks_are_uniform_and_from_the_generator(rng):
    picks = draw_picks((10, 20, 30), 4, rng(), CPU)
    counts = torch.bincount(picks.flatten(), minlength=4)
    assert picks.shape == (10, 20, 30)
    assert counts.sum() == 6000
    assert (counts - 1500).abs().max() < 5 * np.sqrt(6000 * 0.25 * 0.75)
    assert torch.equal(picks, draw_picks((10, 20, 30), 4, rng(), CPU))


# --- drawing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_prior_samples_what_the_growing_prefix_gives(prior, candidates, rng, training):
    """O(T) with membranes = O(T^2) from rest, in evaluation mode whatever the mode was."""
    prior.train(training)
    picks = draw_picks((T, BATCH, UNITS), K, rng(3), CPU)
    seen = [np.zeros((BATCH, UNITS))]
    for t in range(T):
        seen.append(pick_reference(candidates(prior, np.stack(seen)), picks[: t + 1])[-1])
    drawn = prior.sample(BATCH, T, rng(3), CPU)
    np.testing.assert_array_equal(drawn.numpy(), np.stack(seen[1:]))
    assert 0.1 < drawn.mean() < 0.9
    assert prior.training == training


@pytest.mark.parametrize("training", [False, True])
def test_posterior_draws_what_the_growing_prefix_gives(posterior, candidates, rng, training):
    """z is drawn in evaluation mode; the candidates then come from one pass over it, normalised as the mode says."""
    posterior.train(training)
    x, picks = random_train(), draw_picks((T, BATCH, UNITS), K, rng(4), CPU)
    seen = [np.zeros((BATCH, UNITS))]
    for t in range(T - 1):
        prefix = np.concatenate([x[: t + 1].numpy(), np.stack(seen)], -1)
        seen.append(pick_reference(candidates(posterior, prefix), picks[: t + 1])[-1])
    expected = candidates(posterior, np.concatenate([x.numpy(), np.stack(seen)], -1), training)

    z, q = posterior(x, rng(4))
    assert q.shape == (T, BATCH, UNITS, K)
    np.testing.assert_array_equal(q.detach().numpy(), expected)
    np.testing.assert_array_equal(z.detach().numpy(), pick_reference(expected, picks))
    assert 0.1 < z.mean() < 0.9
    if not training:
        np.testing.assert_array_equal(z[:-1].detach().numpy(), np.stack(seen[1:]))


@pytest.mark.parametrize(("what", "passes"), [("sample", 0), ("prior", 1), ("posterior", 1)])
def test_drawing_leaves_no_trace(prior, posterior, rng, what, passes):
    """The mode is restored; running statistics see the one training pass and never the drawing."""
    module = posterior if what == "posterior" else prior
    run = {
        "sample": lambda: prior.sample(BATCH, T, rng(), CPU),
        "prior": lambda: prior(random_train(), 1.0, 0, rng()),
        "posterior": lambda: posterior(random_train(), rng()),
    }[what]
    run()
    assert all(m.training for m in module.modules())
    assert {layer.norm.num_batches_tracked.item() for layer in module.layers} == {passes}

    module.eval()
    kept = {name: value.clone() for name, value in module.named_buffers()}
    run()
    assert not any(m.training for m in module.modules())
    assert all(torch.equal(value, kept[name]) for name, value in module.named_buffers())


def test_running_mean_is_that_of_the_training_pass(prior, rng):
    before, z = prior.layers[0].norm.running_mean.clone(), random_train()
    prior(z, 0.0, 0, rng())
    mean = (torch.as_tensor(shifted(z.numpy())) @ prior.layers[0].synapse.weight.T).mean((0, 1)).detach()
    torch.testing.assert_close(prior.layers[0].norm.running_mean, 0.9 * before + 0.1 * mean)


def test_training_mode_is_restored_after_an_error(prior, rng):
    with pytest.raises(RuntimeError):
        prior(torch.zeros(T, BATCH, UNITS + 1), 0.0, 0, rng())
    assert all(m.training for m in prior.modules())


# --- scheduled sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_without_scheduled_sampling_the_prior_is_teacher_forced(prior, candidates, rng, training):
    prior.train(training)
    z = random_train()
    expected = candidates(prior, shifted(z.numpy()), training)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(prior(z, 0.0, 0, rng()).detach().numpy(), expected)


@pytest.mark.parametrize("training", [False, True])
def test_with_probability_1_the_prior_never_sees_the_posterior(prior, rng, training):
    def shown(p):
        """Two trains to the same prior: in training mode a pass changes running statistics."""
        return [copy.deepcopy(prior).train(training)(random_train(), p, 0, rng()) for _ in range(2)]

    assert torch.equal(*shown(1.0))
    assert not torch.equal(*shown(0.0))


def test_with_probability_1_the_prior_sees_its_own_samples(neuron, lively, rng):
    """With k = 1 there is nothing to pick: the candidates are the train that ``sample`` draws."""
    prior = lively(Prior(neuron, UNITS, 1)).eval()
    own = prior(random_train(), 1.0, 0, rng()).squeeze(-1)
    assert torch.equal(own, prior.sample(BATCH, T, rng(), CPU))
    assert 0.1 < own.mean() < 0.9


@pytest.mark.parametrize("from_step", [1, 3, 5])
def test_guesses_are_shown_from_step_on(prior, rng, from_step):
    """Guesses of steps before ``from_step`` are never shown, those from it on always (p = 1)."""
    prior.eval()
    z = random_train()
    later, last = z.clone(), z.clone()
    later[from_step:] = 1 - z[from_step:]
    last[from_step - 1] = 1 - z[from_step - 1]
    shown = prior(z, 1.0, from_step, rng())
    assert torch.equal(prior(later, 1.0, from_step, rng()), shown)
    changed = prior(last, 1.0, from_step, rng())
    assert torch.equal(changed[:from_step], shown[:from_step])
    assert not torch.equal(changed[from_step], shown[from_step])


def test_each_sample_and_step_is_scheduled_by_itself(neuron, lively, candidates, rng):
    """p = 0.3: what the prior was shown is read off a train of sevens, which is no guess of its own (k = 1)."""
    batch, p, from_step, shown = 400, 0.3, 2, []
    prior = lively(Prior(neuron, UNITS, 1)).eval()
    prior.layers[0].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    prior(torch.full((T, batch, UNITS), 7.0), p, from_step, rng())
    seen = shown[-1].numpy()
    assert seen.shape == (T, batch, UNITS)
    assert (seen[0] == 0).all()
    own = (seen[1:] != 7).all(-1)
    assert (own == (seen[1:] != 7).any(-1)).all()  # all units of a sample together
    assert not own[:from_step].any()
    per_step = own[from_step:].mean(1)
    assert np.abs(per_step - p).max() < 5 * np.sqrt(p * (1 - p) / batch)
    shown_all = own[from_step:].all(0).mean()  # rare if steps are independent
    assert shown_all == pytest.approx(p ** len(per_step), abs=5 * np.sqrt(p ** len(per_step) / batch))
    guesses = candidates(prior, seen)[:-1, ..., 0]
    np.testing.assert_array_equal(seen[1:][own], guesses[own])


def test_majority_is_that_of_the_candidates_and_a_tie_is_a_coin(rng):
    counts = torch.arange(5).repeat(1000, 1)  # of 4 candidates so many fire
    candidates = (torch.arange(4) < counts[..., None]).float()
    votes = majority(candidates, rng())
    assert votes.shape == counts.shape and set(votes.unique().tolist()) == {0.0, 1.0}
    assert votes[:, [0, 1]].sum() == 0 and votes[:, [3, 4]].all()
    assert abs(votes[:, 2].mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_majority_guesses_come_for_the_whole_batch_at_once(neuron, lively, rng):
    """One coin a step, as published: what is shown is the majority at that step, or the posterior's spikes (sevens)."""
    steps, p, from_step, shown = 400, 0.3, 5, []
    prior = lively(Prior(neuron, UNITS, 3)).eval()
    prior.layers[0].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    z = torch.full((steps, BATCH, UNITS), 7.0)
    candidates = prior(z, p, from_step, rng(), guess="majority")
    own = shown[-1][1:] != 7
    assert (own == own[:, :1, :1]).all(), "samples of a batch got different coins"
    coins = own[:, 0, 0]
    assert not coins[:from_step].any()
    assert abs(coins[from_step:].float().mean() - p) < 5 * np.sqrt(p * (1 - p) / (steps - from_step))
    expected = (candidates.mean(-1) > 0.5).float()[:-1]  # three candidates have no tie
    assert torch.equal(shown[-1][1:][own], expected[own])


def test_the_model_guesses_as_its_settings_say(settings, neuron, monkeypatch, rng):
    guess = settings.scheduled_sampling.model_copy(update={"guess": "majority"})
    model, calls = FSVAE(settings.model_copy(update={"scheduled_sampling": guess}), neuron, (1, 8, 8)), []
    forward = model.prior.forward
    monkeypatch.setattr(model.prior, "forward", lambda *a, guess: calls.append(guess) or forward(*a, guess=guess))
    model(torch.rand(2, 1, 8, 8), 0.5, rng())
    assert calls == ["majority"]


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.1), (0.25, 0.15), (1.0, 0.3)])
def test_scheduled_probability_rises_linearly(model, monkeypatch, rng, progress, expected):
    """And it is what the prior is run with."""
    assert model.scheduled_probability(progress) == pytest.approx(expected)
    calls, forward = [], model.prior.forward
    monkeypatch.setattr(
        model.prior, "forward", lambda z, p, step, *a, **o: calls.append((p, step)) or forward(z, p, step, *a, **o)
    )
    model(torch.rand(2, 1, 8, 8), progress, rng())
    assert calls == [(pytest.approx(expected), 2)]


# --- the model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_shapes_and_ranges(settings, neuron, lively, rng, shape):
    model, images = lively(FSVAE(settings, neuron, shape)), torch.rand(2, *shape)
    out = model(images, 0.5, rng())
    assert out.images.shape == images.shape
    assert out.z.shape == (T, 2, UNITS)
    assert out.q.shape == out.p.shape == (T, 2, UNITS, K)
    for spikes in (out.z, out.q, out.p):
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
    for made in (model.reconstruct(images, rng()), model.sample(2, rng(), CPU)):
        assert made.shape == images.shape
        assert 0 <= made.min() < made.max() <= 1


LATENT = ("into_latent", "posterior", "prior", "out_of_latent")


def test_released_code_has_biases_in_place_of_norms_around_the_latent_train(settings, neuron, rng):
    """Encoder and decoder keep theirs. Everything is trained, and drawing is still the training pass, step by step."""
    model = FSVAE(settings.model_copy(update={"latent_norm": "none"}), neuron, (1, 8, 8))
    for name in LATENT:
        for layer in getattr(model, name).modules():
            if isinstance(layer, SpikingLayer):
                assert layer.norm is None and layer.synapse.bias is not None
                nn.init.uniform_(layer.synapse.bias, 0, 3)
    for part in (model.encoder, model.decoder):
        assert all(layer.norm is not None for layer in part.modules() if isinstance(layer, SpikingLayer))
    images = torch.rand(BATCH, 1, 8, 8)
    out = model(images, 0.5, rng())
    fsvae_loss(out, images, settings)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    own = model.prior.sample(BATCH, T, rng(2), CPU)
    candidates = model.prior(own, 0.0, 0, rng(2))  # no norm has another mode: the same membranes
    assert torch.equal(pick(candidates, draw_picks(own.shape, K, rng(2), CPU)), own) and 0.1 < own.mean() < 0.9


@pytest.fixture
def original(settings):
    """The network of Kamata et al. (2022), narrower."""
    return settings.model_copy(update={"architecture": "original", "channels": [4, 5, 6, 7]})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 20, 12)])
def test_original_architecture(original, neuron, lively, rng, shape):
    """Four stages of stride 2: 28x28 is resized to 32x32 and becomes 2x2. Drawn images are resized back."""
    model = lively(FSVAE(original, neuron, shape)).train()
    images, sides = torch.rand(3, *shape), [-(-side // 16) * 16 for side in shape[1:]]
    out = model(images, 0.5, rng())
    assert model.encoder(images).shape == (T, 3, 7, sides[0] // 16, sides[1] // 16)
    assert out.images.shape == (3, shape[0], *sides) and out.images.std() > 0.05
    fsvae_loss(out, images, original)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for made in (model.sample(2, rng(), CPU), model.reconstruct(images[:2], rng())):
        assert made.shape == (2, *shape) and made.min() >= 0 and made.max() <= 1


def test_images_are_resized_as_published_loaders_do():
    """Pillow's bilinear filter, up to its rounding to 8 bits in each direction; and equal sizes are left alone."""
    pixels = torch.randint(256, (28, 28), dtype=torch.uint8)
    expected = np.asarray(Image.fromarray(pixels.numpy()).resize((32, 32), Image.Resampling.BILINEAR))
    images = (pixels / 255)[None, None]
    found = 255 * resized(images, (32, 32))[0, 0].numpy()
    assert np.abs(found - expected).max() <= 1.01
    back = resized(resized(images, (32, 32)), (28, 28))
    assert back.shape == images.shape and back.min() >= 0 and back.max() <= 1
    assert resized(images, (28, 28)) is images


def test_original_network_works_on_images_from_minus_1_to_1(original, neuron, lively, rng):
    """Its input current is 2 x - 1, its output tanh; an image in [0, 1] is half of that and a half."""
    model = lively(FSVAE(original, neuron, (1, 32, 32))).eval()
    currents, images = [], torch.rand(2, 1, 32, 32)
    model.encoder.first.register_forward_pre_hook(lambda _, args: currents.append(args[0]))
    model.encoder(images)
    assert torch.equal(currents[0], 2 * images - 1)

    spikes = (torch.rand(T, 2, 7, 2, 2) < 0.5).float()
    weights = 0.8 ** torch.arange(T - 1, -1, -1)
    steps = [model.decoder.out(step) for step in model.decoder.last(model.decoder.inner(spikes))]
    expected = torch.tanh(sum(w * step for w, step in zip(weights, steps, strict=True)))
    torch.testing.assert_close(2 * model.decoder(spikes) - 1, expected, rtol=1e-5, atol=1e-5)
    assert expected.min() < -0.1


def test_original_loss_is_taken_at_32_in_minus_1_to_1(original, neuron, lively, rng):
    images = torch.rand(2, 1, 28, 28)
    out = lively(FSVAE(original, neuron, (1, 28, 28)))(images, 0.5, rng())
    error = (2 * out.images - 1) - (2 * resized(images, (32, 32)) - 1)
    torch.testing.assert_close(fsvae_loss(out, images, original)["reconstruction"], (error**2).mean())


def test_original_prior_and_posterior_normalise_to_twice_the_threshold(original, settings, neuron):
    """tdBN's alpha is 2 in them, as published, and 1 in all other layers and in ``shared``."""

    def scales(settings):
        model = FSVAE(settings, neuron.model_copy(update={"v_threshold": 0.2}), (1, 16, 16))
        return {
            name: {layer.scale for layer in part.modules() if isinstance(layer, SpikingLayer)}
            for name, part in model.named_children()
        }

    parts = ("encoder", *LATENT, "decoder")
    assert scales(original) == {part: {0.4 if part in ("posterior", "prior") else 0.2} for part in parts}
    assert scales(settings) == {part: {0.2} for part in parts}


def test_recipe_of_kamata_is_complete():
    """Against the published settings; nothing of it may come from ``paper`` unseen."""
    recipe = load_params(Path(__file__).parents[2] / "params.yaml").recipes["fsvae-original"]
    neuron, fsvae, train = recipe.neuron, recipe.fsvae, recipe.fsvae.train
    assert 1 - 1 / neuron.tau == pytest.approx(0.25, rel=1e-12) and not neuron.decay_input
    assert (neuron.v_threshold, neuron.v_reset, neuron.surrogate, neuron.alpha) == (0.2, 0.0, "rectangular", 1.0)
    assert not neuron.detach_reset
    assert (fsvae.architecture, fsvae.channels, fsvae.latent_dim) == ("original", [32, 64, 128, 256], 128)
    assert (fsvae.T, fsvae.k, fsvae.tau_syn, fsvae.output_decay, fsvae.latent_norm) == (16, 20, 2.0, 0.8, "batch")
    schedule = fsvae.scheduled_sampling
    assert (schedule.start, schedule.end, schedule.from_step, schedule.guess) == (0.1, 0.3, 5, "majority")
    assert (train.epochs, train.batch_size, train.lr, train.schedule) == (150, 250, 0.001, "constant")
    assert (train.betas, train.weight_decay) == ([0.9, 0.999], 0.001)


def test_latent_train_is_decoded_by_the_whole_network(model, rng):
    """Reconstructions show the posterior's z and samples the prior's, by the same decoder."""
    model.eval()
    images = torch.rand(BATCH, 1, 8, 8)
    out = model(images, 0.0, rng(1))
    torch.testing.assert_close(model.reconstruct(images, rng(1)), out.images.clamp(0, 1))

    def decoded(z):
        return model.decoder(model.out_of_latent(z).view(T, BATCH, 3, 2, 2)).clamp(0, 1)

    torch.testing.assert_close(model.reconstruct(images, rng(1)), decoded(out.z))
    torch.testing.assert_close(model.sample(BATCH, rng(2), CPU), decoded(model.prior.sample(BATCH, T, rng(2), CPU)))


def test_samples_need_the_prior_and_the_decoder_alone(untrained):
    """Not what turns images into codes."""
    run = untrained.resolve("digits-fsvae")
    path = paths.model_path(run.name, "fsvae")

    def drawn():
        return load(run, CPU).draw(10)[0]

    first, weights = drawn(), load_file(path)
    for part, same in (("posterior", True), ("encoder", True), ("into_latent", True), ("prior", False)):
        save_file({key: -x if key.startswith(part) and x.dim() > 1 else x for key, x in weights.items()}, path)
        assert torch.equal(drawn(), first) == same, part


def test_draws_depend_on_the_generator_alone(model, rng):
    model.eval()
    images = torch.rand(BATCH, 1, 8, 8)

    def draw(seed):
        torch.rand(3)  # the global generator moves on
        return model.sample(BATCH, rng(seed), CPU), *model(images, 0.5, rng(seed))

    for a, b in zip(draw(1), draw(1), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(draw(1)[:2], draw(2)[:2], strict=True):
        assert not torch.equal(a, b)


# --- loss -----------------------------------------------------------------------------------------------


def test_loss_terms_by_hand(settings, psp_reference):
    out = FSVAEOutput(torch.rand(2, 1, 4, 4), torch.zeros(T, 2, 3), *(torch.rand(2, T, 2, 3, K) < 0.5).float())
    images = torch.rand(2, 1, 4, 4)
    terms = fsvae_loss(out, images, settings)
    traces = [psp_reference(spikes.double().numpy().mean(-1), 2.0) for spikes in (out.q, out.p)]
    expected = {
        "reconstruction": ((out.images - images) ** 2).double().numpy().mean(),
        "prior": ((traces[0] - traces[1]) ** 2).mean(),
    }
    expected["loss"] = sum(expected.values())
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("reconstruction", {"encoder", "into_latent", "posterior", "out_of_latent", "decoder"}),
        ("prior", {"encoder", "into_latent", "posterior", "prior"}),
    ],
)
def test_where_each_term_has_a_gradient(model, settings, rng, term, expected):
    images = torch.rand(BATCH, 1, 8, 8)
    fsvae_loss(model(images, 0.5, rng()), images, settings)[term].backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == expected


def test_prior_does_not_train_the_posterior_through_z(model, rng):
    """Teacher forcing shows the prior a detached z."""
    model(torch.rand(BATCH, 1, 8, 8), 0.0, rng()).p.mean().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"prior"}
