"""LIF (Eq. 1-3) against NumPy and SpikingJelly, and the layer made of synapse, norm and LIF."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, surrogate
from torch import nn

from spiking_diffusion.snn import LIF, SpikingLayer, layers, use_kernels

DYNAMICS = [
    {},
    {"tau": 3.5},
    {"tau": 1.25, "v_threshold": 0.7},
    {"v_reset": -0.5},
    {"tau": 4.0, "v_threshold": 0.6, "v_reset": 0.2},
    {"tau": 4 / 3, "v_threshold": 0.2, "decay_input": False},
]
RECTANGULAR = {"surrogate": "rectangular", "alpha": 0.5}


@pytest.fixture
def make_lif(neuron):
    """A LIF with some settings changed."""
    return lambda **changes: LIF(neuron.model_copy(update=changes))


def random_current(steps=12, shape=(3, 4, 5)):
    return torch.randn(steps, *shape, dtype=torch.float64) * 2 + 0.7


def backward_reference(
    charged,
    upstream,
    tau=2.0,
    v_threshold=1.0,
    v_reset=0.0,
    decay_input=True,
    surrogate="atan",
    alpha=2.0,
    detach_reset=False,
):
    """Gradient of the current: the chain rule through Eq. 1-3, from the last step to the first."""
    grad_x, grad_v = np.zeros_like(charged), np.zeros(charged.shape[1:])
    for t in reversed(range(len(charged))):
        h = charged[t]
        fired = h >= v_threshold
        if surrogate == "atan":
            ds_dh = alpha / (2 * (1 + (math.pi / 2 * alpha * (h - v_threshold)) ** 2))
        else:
            ds_dh = alpha * (np.abs(h - v_threshold) < 1 / (2 * alpha))
        dv_dh = 1 - fired + (0 if detach_reset else (v_reset - h) * ds_dh)
        grad_h = upstream[t] * ds_dh + grad_v * dv_dh
        grad_x[t] = grad_h / tau if decay_input else grad_h
        grad_v = grad_h * (1 - 1 / tau)
    return grad_x


# --- LIF ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", DYNAMICS)
def test_spikes_follow_eq_1_to_3(make_lif, lif_reference, changes):
    current = random_current()
    expected, _ = lif_reference(current.numpy(), **changes)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(make_lif(**changes)(current).numpy(), expected)


def test_threshold_itself_is_a_spike(make_lif):
    """Eq. 2: Theta(0) = 1. A current of 2 charges to exactly 1, the next smaller float to just below."""
    below = np.nextafter(np.float32(2), np.float32(0))
    assert make_lif()(torch.tensor([[2.0, below]])).tolist() == [[1.0, 0.0]]
    assert make_lif()(torch.tensor([[1.0], [1.5]])).tolist() == [[0.0], [1.0]]  # 0.5, then 0.5 + (1.5 - 0.5) / 2


def test_reset_is_hard(make_lif):
    """Eq. 3: an overshoot of 4 is forgotten; 1.9 then charges from rest to 0.95 only."""
    assert make_lif()(torch.tensor([[10.0], [1.9], [1.9]])).flatten().tolist() == [1.0, 0.0, 1.0]


def test_decay_of_a_quarter_without_input_decay_by_hand(make_lif):
    """Kamata et al. (2022): H = V / 4 + X and V_th = 0.2. tau = 4/3, because 1 - 1/tau is what is left of V."""
    lif = make_lif(tau=4 / 3, decay_input=False, v_threshold=0.2)
    current = torch.tensor([0.1, 0.15, 0.1, 0.19, 0.16, -0.4, 0.3]).double()
    membranes = [0.1, 0.175, 0.14375, 0.0, 0.16, -0.36, 0.0]  # 0.2259375 at the first spike, 0.21 at the second
    expected = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert lif(current[:, None]).flatten().tolist() == expected
    v = torch.zeros(1).double()
    for x, spike, membrane in zip(current, expected, membranes, strict=True):
        s, v = lif.step(x[None], v)
        assert s.item() == spike and v.item() == pytest.approx(membrane)
    assert make_lif(tau=4 / 3, v_threshold=0.2)(current[:, None]).flatten().tolist() != expected


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_rectangular_gradient_is_alpha_within_half_a_width_of_the_threshold(make_lif, alpha):
    """The rectangle is alpha high and 1 / alpha wide: its area is 1."""
    lif = make_lif(surrogate="rectangular", alpha=alpha, v_threshold=0.2, decay_input=False)
    x = (0.2 + torch.tensor([-0.51, -0.49, 0.0, 0.49, 0.51]).double() / alpha).requires_grad_()
    lif(x[None]).sum().backward()
    assert x.grad.tolist() == [0.0, alpha, alpha, alpha, 0.0]


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("changes", [*DYNAMICS, {"alpha": 5.0}, RECTANGULAR, {**DYNAMICS[-1], **RECTANGULAR}])
def test_gradient_is_backpropagation_through_time(make_lif, lif_reference, changes, detach_reset):
    current = random_current().requires_grad_()
    upstream = torch.randn_like(current)
    (make_lif(**changes, detach_reset=detach_reset)(current) * upstream).sum().backward()

    dynamics = {key: value for key, value in changes.items() if key not in RECTANGULAR}
    _, charged = lif_reference(current.detach().numpy(), **dynamics)
    expected = backward_reference(charged, upstream.numpy(), **changes, detach_reset=detach_reset)
    other = backward_reference(charged, upstream.numpy(), **changes, detach_reset=not detach_reset)
    np.testing.assert_allclose(current.grad.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(expected, other, rtol=1e-2)  # the switch is visible in these data


def spikingjelly(current, settings):
    spikes, _, _ = functional.lif_multi_step(
        current,
        torch.full_like(current[0], settings.v_reset).detach(),
        tau=settings.tau,
        decay_input=settings.decay_input,
        v_threshold=settings.v_threshold,
        v_reset=settings.v_reset,
        surrogate_function=surrogate.ATan(alpha=settings.alpha),
        detach_reset=settings.detach_reset,
    )
    return spikes


def spikes_and_gradient(function, current, upstream):
    leaf = current.clone().requires_grad_()
    spikes = function(leaf)
    return spikes.detach(), torch.autograd.grad((spikes * upstream).sum(), leaf)[0]


@pytest.mark.parametrize("changes", [*DYNAMICS, {"detach_reset": True}])
def test_equals_spikingjelly(make_lif, changes):
    lif, current, upstream = make_lif(**changes), random_current(), random_current()
    spikes, grad = spikes_and_gradient(lif, current, upstream)
    expected_spikes, expected_grad = spikes_and_gradient(
        partial(spikingjelly, settings=lif.settings), current, upstream
    )
    assert torch.equal(spikes, expected_spikes)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("changes", DYNAMICS)
def test_steps_by_hand_equal_forward(make_lif, lif_reference, changes):
    lif, current = make_lif(**changes), random_current()
    v, spikes = lif.rest(current[0]), []
    assert (v == changes.get("v_reset", 0.0)).all()
    for x in current:
        s, v = lif.step(x, v)
        spikes.append(s)
    assert torch.equal(torch.stack(spikes), lif(current))
    expected, charged = lif_reference(current.numpy(), **changes)
    membranes = np.where(expected[-1] == 1, changes.get("v_reset", 0.0), charged[-1])
    np.testing.assert_allclose(v.numpy(), membranes, rtol=1e-12)


def test_nothing_is_remembered_between_calls(make_lif):
    lif, current = make_lif(), random_current()
    first = lif(current)
    lif(random_current(shape=(2, 2)) + 5)  # another batch, of another shape, in between
    assert torch.equal(lif(current), first)


def test_constant_currents_give_only_17_spike_trains(make_lif):
    """tau = 2, T = 16: a train is silent or has a fixed period of 1..16, so an ASG cannot be lossless."""
    currents = torch.cat([1 + torch.logspace(-8, 1, 20_001, dtype=torch.float64), torch.linspace(-5, 1, 101)])
    trains = make_lif()(currents.expand(16, -1)).T
    periodic = [[float((t + 1) % period == 0) for t in range(16)] for period in range(1, 17)]
    expected = {tuple(train) for train in [[0.0] * 16, *periodic]}
    assert len(expected) == 17
    assert set(map(tuple, trains.tolist())) == expected


# --- layers ---------------------------------------------------------------------------------------------


def test_norm_takes_statistics_over_time_and_batch(neuron, lif_reference):
    layer = layers.linear(neuron, 3, 4).double()
    nn.init.uniform_(layer.norm.bias, 0, 2)
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    current = x.numpy() @ layer.synapse.weight.detach().numpy().T
    current = (current - current.mean((0, 1))) / np.sqrt(current.var((0, 1)) + layer.norm.eps)
    expected, _ = lif_reference(current + layer.norm.bias.detach().numpy())
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)


def currents(layer, x):
    """What arrives at the neurons of a layer, in training mode: (T, B, C)."""
    seen = []
    hook = layer.lif.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    use_kernels(layer, False)
    layer(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("threshold", "alpha"), [(1.0, 1.0), (0.2, 1.0), (0.2, 2.0), (0.6, 0.5)])
def test_tdbn_normalises_to_alpha_times_the_threshold(neuron, threshold, alpha):
    """Zheng et al. (2021): alpha V_th (x - mean) / std, times a weight that starts at 1, plus a bias at 0."""
    layer = layers.linear(neuron.model_copy(update={"v_threshold": threshold}), 8, 3, alpha=alpha)
    x = torch.randn(20, 30, 8)
    current = currents(layer, x)
    torch.testing.assert_close(current.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    expected = torch.full((3,), alpha * threshold)
    torch.testing.assert_close(current.std((0, 1), correction=0), expected, rtol=1e-3, atol=0)
    nn.init.constant_(layer.norm.weight, 3.0)
    nn.init.constant_(layer.norm.bias, 0.7)
    torch.testing.assert_close(currents(layer, x), 3 * current + 0.7)


def test_tdbn_keeps_the_statistics_of_batch_normalisation(neuron):
    """And its weight, from which the factor is kept apart, has alpha V_th times the gradient of the current."""
    layer, norm = layers.linear(neuron.model_copy(update={"v_threshold": 0.2}), 8, 3, alpha=2.0), nn.BatchNorm1d(3)
    x = torch.randn(20, 30, 8)
    current = layer.synapse(x.flatten(0, 1))
    norm(current)
    upstream = torch.randn_like(current)
    grad = torch.autograd.grad((layer.normalise(current) * upstream).sum(), layer.norm.weight)[0]
    for a, b in zip(layer.norm.buffers(), norm.buffers(), strict=True):
        assert torch.equal(a, b)
    normal = (current - current.mean(0)) / (current.var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(grad, 0.4 * (normal * upstream).sum(0))


def test_without_a_norm_the_synapse_has_a_bias(neuron, lif_reference):
    layer = layers.linear(neuron, 8, 3, norm="none").double()
    assert layer.norm is None and [name for name, _ in layer.named_parameters()] == ["synapse.weight", "synapse.bias"]
    x = 4 * torch.randn(6, 5, 8).double()
    expected, _ = lif_reference(layer.synapse(x).detach().numpy())
    assert 0 < expected.mean() < 0.9
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)
    first, _ = layer.step(x[0], None)
    np.testing.assert_array_equal(first.detach().numpy(), expected[0])


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda neuron: layers.conv(neuron, 3, 4, 3, stride=2), (2, 3, 8, 8)),
        (lambda neuron: layers.conv_transpose(neuron, 3, 4), (2, 3, 4, 4)),
        (lambda neuron: layers.linear(neuron, 3, 4), (6, 3)),
    ],
)
def test_constant_input_equals_repeated_input(neuron, build, shape):
    """In training mode; only the running variance differs, as n values and T copies of them are divided by n - 1."""
    steps, momentum = 5, 0.1
    once: SpikingLayer = build(neuron).double()
    nn.init.uniform_(once.norm.bias, 0, 2)
    repeated: SpikingLayer = build(neuron).double()
    repeated.load_state_dict(once.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    a, b = once(x, steps=steps), repeated(x.expand(steps, *shape))
    assert torch.equal(a, b)
    assert 0.1 < a.mean() < 0.9

    upstream = torch.randn_like(a)
    (a * upstream).sum().backward()
    (b * upstream).sum().backward()
    for p, q in zip(once.parameters(), repeated.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-8)

    torch.testing.assert_close(once.norm.running_mean, repeated.norm.running_mean)
    n = a[0].numel() // a.shape[2]  # values per channel
    factor = (n / (n - 1)) / (steps * n / (steps * n - 1))
    initial = 1 - momentum  # what is left of the initial running variance of 1
    torch.testing.assert_close(once.norm.running_var - initial, factor * (repeated.norm.running_var - initial))


def test_layer_steps_equal_its_forward(neuron, lively):
    layer = lively(layers.conv(neuron, 3, 4, 3)).double().eval()
    x = torch.randn(5, 2, 3, 6, 6, dtype=torch.float64)
    v, spikes = None, []
    for frame in x:
        s, v = layer.step(frame, v)
        spikes.append(s)
    expected = layer(x)
    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(torch.stack(spikes), expected)
