"""The CPU kernels of a spiking layer against the layers of PyTorch and SpikingJelly that they replace."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from spiking_diffusion.snn import events, kernels, layers, use_kernels

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")

LAYERS = {
    "3x3": (lambda n: layers.conv(n, 6, 20, 3), (6, 7, 7)),
    "3x3, stride 2": (lambda n: layers.conv(n, 6, 33, 3, stride=2), (6, 8, 8)),
    "3x3, stride 2, odd size": (lambda n: layers.conv(n, 6, 5, 3, stride=2), (6, 7, 5)),
    "1x1": (lambda n: layers.conv(n, 5, 16, 1), (5, 7, 7)),
    "transposed": (lambda n: layers.conv_transpose(n, 7, 64), (7, 7, 6)),
    "wide": (lambda n: layers.conv(n, 300, 130, 3), (300, 3, 3)),
    "linear": (lambda n: layers.linear(n, 6, 20), (6,)),
}
DYNAMICS = [
    {},
    {"tau": 3.5, "v_reset": -0.5},
    {"v_threshold": 0.6, "alpha": 5.0},
    {"detach_reset": True},
    {"tau": 1.25, "v_threshold": 0.7},
]


@pytest.fixture(params=LAYERS)
def pair(request, neuron):
    """A layer that uses the kernels, the same without, and spikes for both."""
    build, shape = LAYERS[request.param]
    layer = build(neuron)
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    nn.init.uniform_(layer.norm.bias, 0, 1.5)
    plain = copy.deepcopy(layer)
    use_kernels(plain, False)
    return layer, plain, (torch.rand(4, 3, *shape) < 0.3).float()


def gradients(layer, x, upstream, **options):
    leaf = x.clone().requires_grad_()
    out = layer(leaf, **options)
    (out * upstream).sum().backward()
    return out.detach(), [leaf.grad, *(p.grad for p in layer.parameters())]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def test_layer_is_that_of_pytorch_and_spikingjelly(pair):
    layer, plain, spikes = pair
    upstream = torch.randn_like(plain(spikes))
    plain.load_state_dict(layer.state_dict())
    out, found = gradients(layer, spikes, upstream)
    expected_out, expected = gradients(plain, spikes, upstream)
    assert torch.equal(out, expected_out) and 0.1 < out.mean() < 0.9
    assert_same(found, expected)
    for a, b in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [True, False])
def test_tdbn_is_the_same(neuron, training):
    """Of the settings that kernels have, alpha and V_th are those that scale the norm."""
    layer = layers.linear(neuron.model_copy(update={"v_threshold": 0.5}), 6, 20, alpha=2.5).train(training)
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    layer.norm.running_var.uniform_(0.05, 0.2)
    plain = copy.deepcopy(layer)
    use_kernels(plain, False)
    spikes, upstream = (torch.rand(6, 4, 6) < 0.3).float(), torch.randn(6, 4, 20)
    (out, found), (expected_out, expected) = (gradients(m, spikes, upstream) for m in (layer, plain))
    assert torch.equal(out, expected_out) and 0.05 < out.mean() < 0.9
    assert_same(found, expected)


UNCOVERED = [{"decay_input": False}, {"surrogate": "rectangular", "alpha": 1.0}]


@pytest.mark.parametrize("changes", UNCOVERED)
def test_settings_without_a_kernel_take_the_plain_path(neuron, monkeypatch, changes):
    """Seen to fail without the check: kernels ignored the setting and computed Eq. 1-3 with ATan."""
    build, shape = LAYERS["3x3"]
    layer = build(neuron.model_copy(update=changes))
    plain = copy.deepcopy(layer)
    use_kernels(plain, False)
    spikes = (torch.rand(4, 3, *shape) < 0.3).float()
    upstream = torch.randn(4, 3, 20, 7, 7)
    (out, found), (expected_out, expected) = (gradients(m, spikes, upstream) for m in (layer, plain))
    assert torch.equal(out, expected_out) and 0 < out.mean() < 0.9
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    used = []
    monkeypatch.setattr(events, "norm_lif", lambda *args: used.append(args) or torch.zeros(1))
    layer(spikes)
    assert not used
    build(neuron)(spikes)
    assert used


def test_a_layer_without_a_norm_takes_the_plain_path(neuron, monkeypatch):
    layer = layers.linear(neuron, 6, 20, norm="none")
    monkeypatch.setattr(events, "norm_lif", None)
    assert layer((torch.rand(4, 3, 6) < 0.5).float()).shape == (4, 3, 20)


def test_outputs_that_nobody_looks_at_are_not_computed(neuron, monkeypatch):
    """Logits at one position need a part of every map: the rest of it keeps what was in memory."""
    synapse, empty = layers.conv(neuron, 6, 20, 3).synapse, torch.empty
    spikes, where = (torch.rand(4, 3, 6, 7, 7) < 0.3).float(), torch.rand(3, 7, 7) < 0.2
    monkeypatch.setattr(torch, "empty", lambda *shape, **kind: empty(*shape, **kind).fill_(9))
    out = events.apply_synapse(spikes.flatten(0, 1), synapse, where=where).view(4, 3, 20, 7, 7).movedim(2, -1)
    assert (out[:, ~where] == 9).all()
    expected = synapse(spikes.flatten(0, 1)).view(4, 3, 20, 7, 7).movedim(2, -1)
    torch.testing.assert_close(out[:, where], expected[:, where])


def test_evaluation_mode(pair, lively):
    layer, plain, spikes = pair
    layer.norm.running_var.uniform_(0.05, 0.2)
    plain.load_state_dict(layer.state_dict())
    layer.eval(), plain.eval()
    upstream = torch.randn_like(plain(spikes))
    out, found = gradients(layer, spikes, upstream)
    expected_out, expected = gradients(plain, spikes, upstream)
    assert torch.equal(out, expected_out) and out.mean() > 0.05
    assert_same(found, expected)
    assert torch.equal(layer.norm.running_var, plain.norm.running_var)


def test_readout_is_the_weighted_sum_of_the_spikes(pair):
    layer, plain, spikes = pair
    weights = torch.tensor([0.1, 0.7, -0.3, 1.0])
    upstream = torch.randn_like(plain(spikes)[0])
    plain.load_state_dict(layer.state_dict())
    out, found = gradients(layer, spikes, upstream, readout=weights)
    expected_out, expected = gradients(plain, spikes, upstream, readout=weights)
    torch.testing.assert_close(out, expected_out)
    assert_same(found, expected)


def test_constant_current(pair):
    layer, plain, spikes = pair
    x = torch.randn_like(spikes[0])
    upstream = torch.randn_like(plain(x, steps=5))
    plain.load_state_dict(layer.state_dict())
    out, found = gradients(layer, x, upstream, steps=5)
    expected_out, expected = gradients(plain, x, upstream, steps=5)
    assert torch.equal(out, expected_out) and len(out) == 5 and 0.1 < out.mean() < 0.9
    assert_same(found, expected)


@pytest.mark.parametrize("changes", DYNAMICS)
def test_neurons_follow_eq_1_to_3(neuron, lif_reference, changes):
    """Against NumPy: the layer's norm is the identity here, up to its eps."""
    settings = neuron.model_copy(update=changes)
    norm = nn.BatchNorm1d(7, eps=0.0).eval()
    current = torch.randn(12, 5, 7) * 2 + 1
    spikes = events.norm_lif(current.flatten(0, 1), norm, settings, 12)
    dynamics = {key: getattr(settings, key) for key in ("tau", "v_threshold", "v_reset")}
    expected, _ = lif_reference(current.numpy(), **dynamics)
    np.testing.assert_array_equal(spikes.detach().numpy(), expected)
    assert 0.05 < expected.mean() < 0.9


@pytest.mark.parametrize("changes", DYNAMICS)
def test_neurons_have_spikingjellys_gradient(neuron, changes):
    layer = layers.conv(neuron.model_copy(update=changes), 6, 20, 3)
    plain = copy.deepcopy(layer)
    use_kernels(plain, False)
    spikes = (torch.rand(6, 3, 6, 5, 5) < 0.3).float()
    upstream = torch.randn(6, 3, 20, 5, 5)
    (out, found), (expected_out, expected) = (gradients(m, spikes, upstream) for m in (layer, plain))
    assert torch.equal(out, expected_out) and 0 < out.mean() < 0.9
    assert_same(found, expected)


def test_results_do_not_depend_on_the_number_of_threads(pair):
    layer, _, spikes = pair
    if isinstance(layer.synapse, nn.Linear):
        pytest.skip("PyTorch's own matrix product")
    upstream = torch.randn_like(layer(spikes))
    state, before = copy.deepcopy(layer.state_dict()), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            layer.load_state_dict(state)
            layer.zero_grad()
            out, grads = gradients(layer, spikes, upstream)
            found.append([out, *grads[1:], *(b.clone() for b in layer.buffers())])  # grads[0] is PyTorch's
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_variance_under_a_large_mean(neuron):
    norm = nn.BatchNorm1d(3).train()
    x = torch.randn(4000, 3) * 0.01 + torch.tensor([1000.0, -50.0, 0.0])
    expected = nn.BatchNorm1d(3).double().train()
    expected(x.double())
    events.norm_lif(x, norm, neuron, 4)
    torch.testing.assert_close(norm.running_mean.double(), expected.running_mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(norm.running_var.double(), expected.running_var, rtol=1e-4, atol=0)


def test_no_spikes_at_all(neuron):
    layer = layers.conv(neuron, 6, 20, 3)
    out, grads = gradients(layer, torch.zeros(4, 3, 6, 7, 7), torch.ones(4, 3, 20, 7, 7))
    assert out.sum() == 0 and torch.equal(grads[1], torch.zeros_like(grads[1]))


def test_other_layouts_are_taken_too(pair):
    """A tensor that is not channels last, and a slice of a larger one."""
    layer, plain, spikes = pair
    wide = torch.stack([spikes, 1 - spikes], -1)[..., 0]
    assert torch.equal(layer(wide), plain(spikes.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_pytorch(dtype):
    assert not kernels.usable(torch.zeros(1, dtype=dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels.usable(torch.zeros(1))


PROGRAM = """
import logging, torch
logging.basicConfig(format="%(message)s")
from spiking_diffusion.config import load_params
from spiking_diffusion.snn import layers
neuron = load_params("params.yaml").recipes["quick"].neuron
torch.manual_seed(0)
layer = layers.conv(neuron, 3, 16, 3)
spikes = layer((torch.rand(4, 2, 3, 5, 5) < 0.3).float())
print(int(spikes.sum()), layer.kernels)
"""


def spikes_in_another_process(root, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, done.stderr


def test_without_a_compiler_pytorch_does_the_same_and_a_warning_says_so(request, tmp_path):
    root = request.config.rootpath
    expected, quiet = spikes_in_another_process(root, XDG_CACHE_HOME=str(tmp_path))
    assert "kernels" not in quiet and len(list((tmp_path / "spiking-diffusion").glob("*.so"))) == 1
    for compiler in ("no-such-compiler", "false"):
        found, warning = spikes_in_another_process(root, XDG_CACHE_HOME=str(tmp_path), CXX=compiler)
        assert found == expected
        assert warning.count("no CPU kernels, training and sampling will be slower") == 1


def test_compiled_only_once(request, tmp_path):
    root = request.config.rootpath
    spikes_in_another_process(root, XDG_CACHE_HOME=str(tmp_path))
    (built,) = tmp_path.glob("spiking-diffusion/*")
    before = built.stat().st_mtime_ns
    spikes_in_another_process(root, XDG_CACHE_HOME=str(tmp_path))
    assert [p.stat().st_mtime_ns for p in tmp_path.glob("spiking-diffusion/*")] == [before]


def test_cache_that_cannot_be_written_to(request, tmp_path):
    """A file where the folder should be."""
    (tmp_path / "spiking-diffusion").touch()
    _, warning = spikes_in_another_process(request.config.rootpath, XDG_CACHE_HOME=str(tmp_path))
    assert "kernels" not in warning
