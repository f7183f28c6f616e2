"""VQ-SVAE: shapes, what is hoisted out of time, straight-through gradients, the loss of Eq. 9."""

import copy

import pytest
import torch
from torch.nn import functional as F

from spiking_diffusion.snn import psp, set_precision, sfr, use_kernels
from spiking_diffusion.vqsvae import VQSVAE, VQSVAEOutput, vqsvae_loss

PARTS = ["encoder", "k", "codebook", "asg", "decoder"]


@pytest.fixture
def make(neuron, vqsvae_settings, lively):
    """A small VQ-SVAE on (1, 8, 8) images, in training mode."""

    def build(shape=(1, 8, 8), **changes):
        return lively(VQSVAE(vqsvae_settings(**changes), neuron, shape))

    return build


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8)


# --- shapes and state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "side"), [((1, 28, 28), 7), ((3, 32, 32), 8)])
def test_shapes_and_ranges(make, shape, side):
    model, images = make(shape), torch.rand(2, *shape)
    out = model(images)
    assert out.images.shape == images.shape
    assert out.encoder_spikes.shape == out.asg_spikes.shape == (5, 2, 3, side, side)
    assert out.z_e.shape == out.z_q.shape == (2, 3, side, side)
    for spikes in (out.encoder_spikes, out.asg_spikes):
        assert set(spikes.unique().tolist()) == {0.0, 1.0}

    tokens = model.encode(images)
    assert tokens.shape == out.tokens.shape == (2, side, side) == (2, *model.token_shape)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < 5
    decoded = model.decode(tokens)
    assert decoded.shape == images.shape
    assert 0 <= decoded.min() < decoded.max() <= 1


def test_same_images_same_tokens(make):
    """No state and no other image of the batch has a say in evaluation mode."""
    model, images = make().eval(), torch.rand(12, 1, 8, 8)
    tokens, order = model.encode(images), torch.randperm(12)
    assert len(tokens.unique()) > 1
    assert torch.equal(model.encode(images), tokens)
    assert torch.equal(model.encode(images[order]), tokens[order])
    assert torch.equal(torch.cat([model.encode(image[None]) for image in images]), tokens)


def test_initialisation_follows_the_global_seed_and_passes_are_deterministic(make, images):
    def run():
        torch.manual_seed(3)
        return make()(images)

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("straight_through", ["spikes", "embedding"])
def test_forward_shows_what_decode_makes_of_the_tokens(make, images, straight_through):
    """Straight-through changes gradients only: tokens alone determine the image."""
    model = make(straight_through=straight_through).eval()
    out = model(images)
    assert torch.equal(out.tokens, model.encode(images))
    assert torch.equal(out.z_q.movedim(1, -1), model.codebook.codes[out.tokens])
    torch.testing.assert_close(model.decode(out.tokens), out.images.clamp(0, 1))


# --- encoder and decoder --------------------------------------------------------------------------------


def test_encoder_sees_the_shifted_image_at_every_step(make, images, lif_reference):
    """Direct encoding, layer by layer in plain functions: image - 0.5, T times over."""
    encoder = make((1, 8, 8)).encoder.double().eval()
    x = (images.double() - 0.5).expand(5, *images.shape)
    for layer, stride, padding in ((encoder.first, 2, 1), (encoder.second, 2, 1), (encoder.third, 1, 0)):
        norm = layer.norm
        current = F.conv2d(x.flatten(0, 1), layer.synapse.weight, None, stride, padding)
        current = F.batch_norm(current, norm.running_mean, norm.running_var, norm.weight, norm.bias).detach()
        spikes, _ = lif_reference(current.unflatten(0, x.shape[:2]).numpy())
        assert 0.05 < spikes.mean() < 0.95
        x = torch.as_tensor(spikes)
    assert torch.equal(encoder(images.double()), x)


@pytest.mark.parametrize("decay", [0.8, 1.0])
def test_decoder_output_is_the_leaky_sum_of_every_step(make, decay):
    """tanh(sum_t decay^(T-1-t) ConvT(s_t)) + 0.5, once with the sum first and once step by step."""
    hoisted = make(output_decay=decay).decoder.double()
    torch.nn.init.constant_(hoisted.out.bias, -0.2)
    plain = copy.deepcopy(hoisted)
    spikes = (torch.rand(5, 4, 3, 2, 2) < 0.5).double()
    a, b = spikes.clone().requires_grad_(), spikes.clone().requires_grad_()

    leaky = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    for hidden in plain.second(plain.first(b)):
        leaky = decay * leaky + plain.out(hidden)
    expected, actual = torch.tanh(leaky) + 0.5, hoisted(a)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert actual.std() > 0.2

    upstream = torch.randn_like(actual)
    (actual * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    for p, q in zip(hoisted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)


def test_kernels_change_nothing(make, images):
    images = images.float()
    model = make().float()
    plain = copy.deepcopy(model)
    use_kernels(plain, False)
    losses = [vqsvae_loss(m(images), images, 0.1, m.settings)["loss"] for m in (model, plain)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", [False, True])
def test_bfloat16_synapses_keep_membranes_in_float32(make, images, kernels):
    images = images.float()
    exact = make().float()
    rounded = copy.deepcopy(exact)
    set_precision(rounded, "bfloat16")
    use_kernels(rounded, kernels)
    out = rounded(images)
    assert {x.dtype for x in out if x.is_floating_point()} == {torch.float32}
    for model in (exact, rounded):
        vqsvae_loss(model(images), images, 0.1, model.settings)["loss"].backward()
    pairs = [(p.grad, q.grad) for p, q in zip(exact.parameters(), rounded.parameters(), strict=True)]
    errors = [float((p - q).norm() / p.norm()) for p, q in pairs]
    assert max(errors) > 0, "nothing was rounded"
    if kernels:  # spikes are the same: only gradients are rounded, and to 8 bits
        assert max(errors) < 0.05


# --- gradients ------------------------------------------------------------------------------------------


def reached(model, loss):
    """The parts of the model in which ``loss`` has a gradient."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    with_gradient = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    return {name.split(".")[0].removesuffix("_parameter") for name in with_gradient}


@pytest.mark.parametrize(
    ("straight_through", "term", "expected"),
    [
        ("spikes", "reconstruction", {"encoder", "decoder"}),
        ("spikes", "codebook", {"codebook"}),
        ("spikes", "commitment", {"encoder", "k"}),
        ("spikes", "asg", {"asg", "codebook"}),
        ("spikes", "asg_commitment", {"encoder"}),
        ("spikes", "loss", set(PARTS)),
        ("spikes and k", "reconstruction", {"encoder", "k", "decoder"}),
        ("spikes and k", "commitment", {"encoder", "k"}),
        ("spikes and k", "asg", {"asg", "codebook"}),
        ("spikes and k", "loss", set(PARTS)),
        ("embedding", "reconstruction", {"encoder", "k", "asg", "decoder"}),
        ("embedding", "codebook", {"codebook"}),
        ("embedding", "commitment", {"encoder", "k"}),
        ("embedding", "asg_commitment", {"encoder"}),
        ("embedding", "loss", set(PARTS)),
    ],
)
def test_where_each_term_has_a_gradient(make, images, straight_through, term, expected):
    """Eq. 9's stop-gradients, the two straight-through estimators, and the decoder's gradient for k alone."""
    estimator, _, and_k = straight_through.partition(" and ")
    model = make(straight_through=estimator, k_gradient="reconstruction" if and_k else "straight-through")
    terms = vqsvae_loss(model(images), images, 0.1, model.settings)
    assert reached(model, terms[term]) == expected


def test_spikes_straight_through_hands_the_decoders_gradient_to_the_encoder(make, images):
    """Sec. 2.2, last paragraph: d/dz^E_1:T is what the decoder says about z^Q_1:T, unchanged."""
    model = make(straight_through="spikes")
    out, upstream = model(images), torch.randn_like(images)
    (grad,) = torch.autograd.grad((out.images * upstream).sum(), out.encoder_spikes)
    leaf = out.asg_spikes.detach().requires_grad_()
    (expected,) = torch.autograd.grad((model.decoder(leaf) * upstream).sum(), leaf)
    assert not torch.equal(out.encoder_spikes, out.asg_spikes)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("k_range", ["free", "unit"])
@pytest.mark.parametrize("coding", ["asg", "poisson"])
@pytest.mark.parametrize("kernels", [False, True])
def test_k_gradient_hands_the_gradient_at_the_embedding_to_k(make, images, k_range, coding, kernels, rng):
    """dL/dtheta = sum(dL/dz^Q (SFR - PSP)) dk/dtheta, with the generator's and the decoder's dL/dz^Q; 0 without it."""
    model = make(k_gradient="reconstruction", k_range=k_range, coding=coding)
    model, images = (model.float(), images.float()) if kernels else (model.double(), images.double())
    use_kernels(model, kernels)
    model.k_parameter.data.fill_(0.3)
    out, upstream = model(images, rng()), torch.randn_like(images)
    (grad,) = torch.autograd.grad((out.images * upstream).sum(), model.k_parameter)

    leaf, spikes = out.z_q.detach().requires_grad_(), out.encoder_spikes.detach()
    (of_embedding,) = torch.autograd.grad((model.decoder(model.generate_spikes(leaf, rng())) * upstream).sum(), leaf)
    slope = torch.sigmoid(torch.tensor(0.3)) * torch.sigmoid(torch.tensor(-0.3)) if k_range == "unit" else 1
    expected = (of_embedding * (sfr(spikes) - psp(spikes, 2.0)[-1])).sum() * slope
    assert abs(expected) > 1e-3
    torch.testing.assert_close(grad, expected.to(grad), rtol=1e-4, atol=1e-5)

    plain = make(k_gradient="straight-through", k_range=k_range, coding=coding)
    out = plain(images.float(), rng())
    assert torch.autograd.grad(out.images.sum(), plain.k_parameter, allow_unused=True) == (None,)


@pytest.mark.parametrize("coding", ["asg", "poisson"])
@pytest.mark.parametrize("straight_through", ["spikes", "embedding"])
def test_k_gradient_changes_nothing_but_the_gradient_of_k(make, images, straight_through, coding, rng):
    """Nor does it with straight_through: embedding, where the decoder's gradient comes by k anyway."""
    changes = {"straight_through": straight_through, "coding": coding}
    plain, images = make(k_gradient="straight-through", **changes).float(), images.float()
    other = make(k_gradient="reconstruction", **changes).float()
    other.load_state_dict(plain.state_dict())
    seen = []
    for model in (plain, other):
        noise = rng()
        out = model(images, noise)
        vqsvae_loss(out, images, 0.1, model.settings)["loss"].backward()
        seen.append([*out, noise.get_state(), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    for (name, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        same = torch.equal(p.grad, q.grad)
        assert same == (name != "k_parameter" or straight_through == "embedding"), name


def test_a_fixed_k_has_no_gradient_to_get(make, images):
    model = make(k=0.5, k_gradient="reconstruction")
    model(images).images.sum().backward()
    assert not model.k_parameter.requires_grad


def test_embedding_straight_through_hands_the_generators_gradient_to_the_readout(make, images):
    model, images = make(straight_through="embedding").double(), images.double()
    out, upstream = model(images), torch.randn_like(images)
    (grad,) = torch.autograd.grad((out.images * upstream).sum(), out.z_e)
    leaf = out.z_q.detach().requires_grad_()
    (expected,) = torch.autograd.grad((model.decoder(model.generate_spikes(leaf)) * upstream).sum(), leaf)
    torch.testing.assert_close(grad, expected)


# --- Eq. 9 ----------------------------------------------------------------------------------------------


@pytest.fixture
def leaves():
    """An output whose tensors are leaves, so that a term's gradient shows what it really depends on."""
    trains = [(torch.rand(4, 2, 3, 2, 2) < 0.5).double().requires_grad_() for _ in range(2)]
    features = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    return VQSVAEOutput(images, *trains, *features, torch.zeros(2, 2, 2, dtype=torch.int64))


def test_terms_of_eq_9(vqsvae_settings, leaves, psp_reference):
    images, variance, beta = torch.rand(2, 1, 8, 8, dtype=torch.float64), 0.07, 0.3
    terms = vqsvae_loss(leaves, images, variance, vqsvae_settings(beta=beta, tau_syn=3.0))
    x_hat, e_spikes, q_spikes, z_e, z_q = (tensor.detach().numpy() for tensor in leaves[:5])
    trains = ((psp_reference(e_spikes, 3.0) - psp_reference(q_spikes, 3.0)) ** 2).mean()
    features = ((z_e - z_q) ** 2).mean()
    expected = {
        "reconstruction": ((x_hat - images.numpy()) ** 2).mean() / variance,
        "codebook": features,
        "commitment": beta * features,
        "asg": trains,
        "asg_commitment": beta * trains,
    }
    expected["loss"] = sum(expected.values())
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("reconstruction", {"images"}),
        ("codebook", {"z_q"}),
        ("commitment", {"z_e"}),
        ("asg", {"asg_spikes"}),
        ("asg_commitment", {"encoder_spikes"}),
    ],
)
def test_stop_gradients_of_eq_9(vqsvae_settings, leaves, term, expected):
    vqsvae_loss(leaves, torch.zeros(2, 1, 8, 8), 0.1, vqsvae_settings())[term].backward()
    grads = {name: value.grad for name, value in leaves._asdict().items()}
    assert {name for name, grad in grads.items() if grad is not None and grad.abs().sum() > 0} == expected


def test_running_means_replace_the_codebook_term(vqsvae_settings, codebook_settings, leaves):
    images = torch.zeros(2, 1, 8, 8)
    terms = vqsvae_loss(leaves, images, 0.1, vqsvae_settings(codebook=codebook_settings(update="ema")))
    assert set(terms) == {"loss", "reconstruction", "commitment", "asg", "asg_commitment"}
    assert terms["loss"].item() == pytest.approx(sum(value.item() for name, value in terms.items() if name != "loss"))


def test_running_means_get_no_gradient(make, images, codebook_settings):
    model = make(codebook=codebook_settings(update="ema"))
    terms = vqsvae_loss(model(images), images, 0.1, model.settings)
    assert reached(model, terms["loss"]) == {"encoder", "k", "asg", "decoder"}


# --- Poisson coding in place of the generator -----------------------------------------------------------


@pytest.fixture
def poisson(make):
    return lambda **changes: make(coding="poisson", T=400, **changes)


def test_poisson_spikes_come_with_the_feature_as_their_probability(poisson, rng):
    """Independent draws at every step and place; a feature outside [0, 1] never or always spikes."""
    features = torch.tensor([-0.5, 0.0, 0.1, 0.5, 0.9, 1.0, 1.7]).repeat_interleave(30).view(7, 30, 1, 1)
    spikes = poisson().generate_spikes(features, rng()).squeeze()  # (T, 7, 30)
    assert spikes.shape == (400, 7, 30)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    for i, probability in enumerate([0, 0, 0.1, 0.5, 0.9, 1, 1]):
        counts = spikes[:, i].sum(0).numpy()
        if probability in (0, 1):
            assert (counts == 400 * probability).all()
        else:  # 30 binomial counts: mean and variance
            assert counts.mean() == pytest.approx(
                400 * probability, abs=5 * (400 * probability * (1 - probability) / 30) ** 0.5
            )
            assert counts.var() == pytest.approx(400 * probability * (1 - probability), rel=0.9)
    agreement = (spikes[1:, 3] == spikes[:-1, 3]).double().mean().item()
    assert agreement == pytest.approx(0.5, abs=0.03), "a step depends on the one before"


def test_poisson_coding_depends_on_its_generator_and_without_one_on_nothing(poisson, images, rng):
    model = poisson().eval()
    tokens = model.encode(images)
    with torch.no_grad():
        assert torch.equal(model.decode(tokens), model.decode(tokens))
        assert torch.equal(model.decode(tokens, rng(1)), model.decode(tokens, rng(1)))
        assert not torch.equal(model.decode(tokens, rng(1)), model.decode(tokens, rng(2)))
        out = model(images, rng(1))
        torch.testing.assert_close(model.decode(out.tokens, rng(1)), out.images.clamp(0, 1))


def test_gradient_of_poisson_coding_is_that_of_the_probability(poisson, rng):
    features = torch.tensor([-0.5, 0.2, 0.7, 1.5]).view(4, 1, 1, 1).requires_grad_()
    spikes = poisson().generate_spikes(features, rng())
    weights = torch.randn_like(spikes)
    (spikes * weights).sum().backward()
    inside = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(features.grad, weights.sum(0) * inside)


@pytest.mark.parametrize(
    ("straight_through", "expected"), [("spikes", {"encoder", "decoder"}), ("embedding", {"encoder", "k", "decoder"})]
)
def test_poisson_coding_learns_nothing_itself(poisson, images, straight_through, expected, vqsvae_settings):
    model = poisson(straight_through=straight_through)
    assert not hasattr(model, "asg")
    terms = vqsvae_loss(model(images), images, 0.1, model.settings)
    assert set(terms) == {"loss", "reconstruction", "commitment", "codebook"}
    assert reached(model, terms["reconstruction"]) == expected
