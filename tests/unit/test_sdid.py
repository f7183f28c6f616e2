"""SDID: its input current, what is hoisted out of time, state."""

import copy

import pytest
import torch

from spiking_diffusion.diffusion import SDID
from spiking_diffusion.snn import SpikingLayer, use_kernels

SIZE, STEPS, T = 5, 16, 6


@pytest.fixture
def make(neuron, sdid_settings, lively):
    def build(size=SIZE, steps=STEPS, kind="embedding"):
        settings = sdid_settings(T=T, channels=[6, 8, 7], input=kind)
        return lively(SDID(settings, neuron, size, steps))

    return build


@pytest.fixture
def batch():
    """Tokens with masks, and steps, the extreme ones among them."""
    tokens = torch.randint(SIZE + 1, (4, 4, 4))
    assert SIZE in tokens
    return tokens, torch.tensor([1, STEPS, 7, 7])


@pytest.mark.parametrize("side", [7, 8])
def test_logits_of_every_code_for_every_token(make, side):
    size = 128
    model = make(size, side * side)
    logits = model(torch.randint(size + 1, (2, side, side)), torch.tensor([1, side * side]))
    assert logits.shape == (2, size, side, side)


def per_step_logits(model, tokens, t):
    """The definition, one step at a time: the same current into block 1 T times, a convolution per step, the mean."""
    batch, height, width = tokens.shape
    current = torch.empty(batch, model.token_embedding.embedding_dim, height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                current[b, :, i, j] = model.token_embedding.weight[tokens[b, i, j]] + model.step_embedding.weight[t[b]]
    first, second, third = (module for module in model.modules() if isinstance(module, SpikingLayer))
    skipped = first(torch.stack([current] * T))
    last = third(second(skipped))
    return sum(model.out(torch.cat([a, b], 1)) for a, b in zip(skipped, last, strict=True)) / T


def test_hoisted_mean_equals_a_convolution_per_step(make, batch):
    """In training mode: logits, and gradients of all parameters."""
    hoisted = make().double()
    plain = copy.deepcopy(hoisted)
    actual, expected = hoisted(*batch), per_step_logits(plain, *batch)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)
    upstream = torch.randn_like(actual)
    (actual * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for (name, p), q in zip(hoisted.named_parameters(), plain.parameters(), strict=True):
        assert p.grad.abs().sum() > 0, name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-8)


def test_same_batch_same_logits(make, batch):
    """No state, and no other sample of the batch has a say in evaluation mode."""
    model, (tokens, t) = make().eval(), batch
    logits, order = model(tokens, t), torch.tensor([2, 0, 3, 1])
    assert torch.equal(model(tokens, t), logits)
    torch.testing.assert_close(model(tokens[order], t[order]), logits[order])


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3, 1])
def test_logits_at_some_positions_are_those_of_all(make, kernels, share):
    """On a grid so wide that hardly a block is computed everywhere; the first sample asks for corners."""
    model = make().eval()
    use_kernels(model, kernels)
    tokens, t = torch.randint(SIZE + 1, (4, 9, 12)), torch.tensor([1, STEPS, 7, 7])
    where = torch.rand(tokens.shape) < share
    where[0] = False
    where[0, [0, -1], [0, -1]] = True
    logits = model(tokens, t).movedim(1, -1)
    torch.testing.assert_close(model(tokens, t, where), logits[where], rtol=1e-5, atol=1e-6)
    assert logits[where].std() > 0.01


def test_logits_depend_on_the_step(make, batch):
    model, (tokens, t) = make().eval(), batch
    assert not torch.equal(model(tokens, t)[3], model(tokens, t + torch.tensor([0, 0, 0, 1]))[3])


def test_raw_input_is_the_numbers_of_token_and_step(make, batch):
    """The released code's input: two channels, h_t and t."""
    model, (tokens, t) = make(kind="raw").eval(), batch
    seen = []
    model.first.synapse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(tokens, t)
    assert seen[0].shape == (4, 2, 4, 4)
    assert torch.equal(seen[0][:, 0], tokens.float())
    assert torch.equal(seen[0][:, 1], t.float()[:, None, None].expand(4, 4, 4))
