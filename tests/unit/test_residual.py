"""SDID with membrane shortcuts: spikes at every synapse, synapses over positions, conditions."""

import copy

import pytest
import torch

from spiking_diffusion.diffusion import ResidualSDID
from spiking_diffusion.snn import SpikingLayer, use_kernels
from spiking_diffusion.snn.layers import EventConvolution
from spiking_diffusion.snn.residual import PositionSynapse

SIZE, SHAPE, T, CONDITIONS = 5, (4, 3), 4, 3
SETTINGS = {"T": T, "architecture": "residual", "channels": [8, 8, 8], "positions": 2}


@pytest.fixture
def make(neuron, sdid_settings, lively):
    def build(conditions=CONDITIONS, **changes):
        return lively(ResidualSDID(sdid_settings(**SETTINGS | changes), neuron, SIZE, SHAPE, conditions))

    return build


@pytest.fixture
def batch():
    """Tokens with masks, steps, and conditions with `none` among them."""
    return torch.randint(SIZE + 1, (6, *SHAPE)), torch.arange(1, 7), torch.tensor([0, 1, 2, 3, 3, 0])


def logits_of(model, tokens, t, condition):
    return model(tokens, t, condition=condition)


@pytest.mark.parametrize("positions", [0, 1, 2, 8])
def test_kernels_and_plain_code_agree(make, batch, positions):
    fast = make(positions=positions).train()
    plain = copy.deepcopy(fast)
    use_kernels(plain, False)
    found, expected = logits_of(fast, *batch), logits_of(plain, *batch)
    assert found.shape == (6, SIZE, *SHAPE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-4 * scale, msg=name)


def test_every_synapse_sees_spikes_alone(make, batch):
    model = make().eval()
    use_kernels(model, False)
    seen = []

    def note(module, args):
        seen.append((type(module).__name__, args[0]))

    for module in model.modules():
        if isinstance(module, (EventConvolution, PositionSynapse)):
            module.register_forward_pre_hook(note)
    logits_of(model, *batch)
    assert [name for name, _ in seen] == ["EventConvolution", "PositionSynapse"] * 3
    for _, spikes in seen:
        assert set(spikes.detach().unique().tolist()) == {0.0, 1.0}
        assert 0.02 < float(spikes.detach().mean()) < 0.9
    # what else has weights: the learned input currents, the norms before neurons, and the declared readout of rates
    others = {
        type(module)
        for module in model.modules()
        if list(module.parameters(recurse=False)) and not isinstance(module, (EventConvolution, PositionSynapse))
    }
    assert others == {ResidualSDID, torch.nn.Embedding, torch.nn.BatchNorm2d, torch.nn.Conv2d}
    assert all(isinstance(block.fire, SpikingLayer) for block in model.blocks)


def test_position_synapse_is_a_matrix_for_each_group():
    synapse = PositionSynapse(2, 12)
    spikes = (torch.rand(3, 8, *SHAPE) < 0.3).float()
    expected = torch.empty_like(spikes)
    for channel in range(8):
        flat = spikes[:, channel].flatten(1)
        expected[:, channel] = (flat @ synapse.weight[channel // 4].T).view(3, *SHAPE)
    torch.testing.assert_close(synapse(spikes), expected)


def test_every_token_reaches_every_position(make):
    """Here in two blocks; the convolutions alone would reach two tokens far."""
    torch.manual_seed(3)
    model = make(channels=[8, 8], positions=8).eval()
    tokens, t = torch.randint(SIZE, (40, *SHAPE)), torch.ones(40, dtype=torch.int64)
    before = model(tokens, t)
    changed = tokens.clone()
    changed[:, 0, 0] = (tokens[:, 0, 0] + 1) % SIZE
    moved = (model(changed, t) - before).abs().amax((0, 1))
    assert (moved > 0).all()


def test_logits_of_some_positions_are_those_of_all(make, batch):
    model = make().eval()
    where = torch.rand(6, *SHAPE) < 0.4
    tokens, t, condition = batch
    some = model(tokens, t, where, condition)
    torch.testing.assert_close(some, model(tokens, t, condition=condition).movedim(1, -1)[where])


def test_no_condition_is_the_last_one_and_steps_are_not_read(make, batch):
    model = make().eval()
    tokens, t, condition = batch
    none = torch.full_like(condition, CONDITIONS)
    assert torch.equal(model(tokens, t), model(tokens, t.flip(0), condition=none))
    told = model(tokens, t, condition=condition)
    assert not torch.allclose(told, model(tokens, t))
    assert torch.equal(told[3:5], model(tokens, t)[3:5])


def test_conditions_are_drawn_by_their_shares(make, rng):
    model = make()
    model.learn_shares(torch.tensor([0, 2, 2, 2]))
    assert model.shares.tolist() == [0.25, 0.0, 0.75]
    counts = torch.bincount(model.draw_conditions(4000, rng()), minlength=3)
    assert counts[1] == 0
    assert float(counts[0]) / 4000 == pytest.approx(0.25, abs=0.03)
    assert make(conditions=0).draw_conditions(10, rng()) is None
