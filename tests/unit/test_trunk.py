"""Blocks in encoder and decoder, and tokens of 2x2 pixels."""

import copy

import pytest
import torch

from spiking_diffusion.metrics.energy import Counter, fan_out
from spiking_diffusion.snn import set_precision, use_kernels
from spiking_diffusion.snn.layers import EventConvolution
from spiking_diffusion.snn.residual import Trunk
from spiking_diffusion.vqsvae import VQSVAE


@pytest.mark.parametrize(("scale", "side"), [(4, 7), (2, 14)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_shapes_and_kernels(neuron, vqsvae_settings, lively, scale, side, blocks):
    """The kernels of this package and PyTorch give the same images, and the same gradients."""
    fast = lively(VQSVAE(vqsvae_settings(scale=scale, blocks=blocks), neuron, (1, 28, 28)))
    plain = copy.deepcopy(fast)
    use_kernels(plain, False)
    images = torch.rand(3, 1, 28, 28)
    found, expected = fast(images), plain(images)
    assert found.tokens.shape == (3, side, side) and found.images.shape == images.shape
    torch.testing.assert_close(found.images, expected.images, rtol=1e-4, atol=1e-5)
    (found.images.square().mean() + found.z_e.square().mean()).backward()
    (expected.images.square().mean() + expected.z_e.square().mean()).backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            room = 1e-4 * float(other.grad.abs().max()) + 1e-9
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=room, msg=name)


def test_a_trunk_passes_currents_by(neuron, lively):
    """Without blocks' synapses it is convolution, norm and LIF."""
    trunk = lively(Trunk(neuron, 3, 4, 2)).eval()
    spikes = (torch.rand(5, 2, 3, 6, 6) < 0.4).float()
    for block in trunk.blocks:
        torch.nn.init.zeros_(block.synapse.weight)
    with torch.no_grad():
        current = trunk.enter(spikes.flatten(0, 1)).unflatten(0, (5, 2))
        assert torch.equal(trunk(spikes), trunk.last(current))
        trunk.blocks[1].synapse.weight[0, 0, 1, 1] = 1.0
        change = trunk.blocks[1].fire(current)[:, :, 0]
        current[:, :, 0] += change
        assert torch.equal(trunk(spikes), trunk.last(current)) and change.any()


def test_synapses_of_a_trunk_count_in_energy(neuron, vqsvae_settings, lively):
    """By what each convolution was seen to get."""
    model = lively(VQSVAE(vqsvae_settings(blocks=2), neuron, (1, 28, 28))).eval()
    images, counter, expected = torch.rand(3, 1, 28, 28), Counter(), {}

    def note(name):
        def hook(module, args):
            expected[name] = fan_out(module, args[0].double().sum(0)) / len(images)

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.decoder.named_modules()
        if isinstance(module, EventConvolution)
    ]
    tokens = model.encode(images)
    with torch.no_grad(), counter.counting(len(images), decoder=model.decoder):
        model.decode(tokens)
    for hook in hooks:
        hook.remove()
    table = counter.table().set_index("layer")
    assert list(expected) == ["trunk.enter", "trunk.blocks.0.synapse", "trunk.blocks.1.synapse"]
    for name, accumulates in expected.items():
        assert table.loc[name, "accumulates"] == pytest.approx(accumulates) and accumulates > 0


@pytest.mark.parametrize(
    ("precision", "convolutions", "layers"),
    [("float32", "ieee", "float32"), ("tf32", "tf32", "float32"), ("bfloat16", "ieee", "bfloat16")],
)
def test_precision_of_a_gpu(neuron, precision, convolutions, layers):
    """TF32 is for cuDNN to know, which would use it for float32 otherwise; layers know of bfloat16 alone."""
    trunk = Trunk(neuron, 3, 4, 1)
    try:
        set_precision(trunk, precision)
        assert torch.backends.cudnn.conv.fp32_precision == convolutions
        assert trunk.enter.precision == trunk.last.precision == layers
    finally:
        set_precision(trunk, "float32")
