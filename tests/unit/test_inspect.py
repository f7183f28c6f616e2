"""What figures are drawn from: samples in the making, codes in their places, firing rates."""

import numpy as np
import pytest
import torch

from spiking_diffusion.diffusion import AbsorbingDiffusion, sample_tokens
from spiking_diffusion.snn import layers
from spiking_diffusion.snn.layers import record_rates
from spiking_diffusion.stages.inspect import codes_in_context, trajectory
from spiking_diffusion.vqsvae import VQSVAE


@pytest.mark.parametrize("steps", [12, 3])
def test_trajectory_loses_masks_with_t_and_never_changes_a_token(rng, steps):
    diffusion = AbsorbingDiffusion(5, 12)
    shape = 50, 3, 4

    def draw(note):
        def denoiser(tokens, t, where):
            return torch.zeros(int(where.sum()), 5)

        sample_tokens(denoiser, diffusion, shape, 1.0, rng(), torch.device("cpu"), note, steps=steps)

    states = trajectory(draw, diffusion, shape)
    masked = states == diffusion.mask
    assert states.shape == (13, 50, 3, 4)
    assert masked[12].all() and not masked[0].any()
    for before, after, was in zip(states[1:], states[:-1], masked[1:], strict=True):
        assert torch.equal(before[~was], after[~was])
    share = masked.float().mean((1, 2, 3))
    if steps == 12:  # h_t is masked with probability t / T_d
        assert torch.allclose(share, torch.arange(13) / 12, atol=0.08)
    else:  # tokens come at t = 12, 8 and 4 alone
        assert [len(part.unique()) for part in (share[:4], share[4:8], share[8:12])] == [1, 1, 1]


def test_codes_in_context_by_hand():
    tokens = np.array([[[0, 1], [1, 1]]])  # one image of 2x2 cells of one pixel
    images = np.array([[[[10, 20], [30, 50]]]], np.uint8)
    mean, occurrences = codes_in_context(tokens, images, 3)
    assert occurrences.tolist() == [1, 3, 0]
    assert mean[0, 0].tolist() == [[0, 0, 0], [0, 10, 20], [0, 30, 50]]  # nothing lies above and left of it
    # code 1 stands at 20, 30 and 50; each neighbour is the mean over those places where it is in the image
    assert mean[1, 0].tolist() == [[10, 15, 20], [20, 33, 50], [30, 50, 0]]
    assert not mean[2].any()


def test_masks_let_no_current_flow(vqsvae_settings, neuron, lively):
    model = lively(VQSVAE(vqsvae_settings(), neuron, (1, 8, 8))).eval()
    tokens = torch.randint(5, (2, 2, 2))
    with torch.no_grad():
        decoded = model.decoder(model.generate_spikes(model.codebook(tokens))).clamp(0, 1)
        assert torch.equal(model.decode(tokens), decoded)
        empty = model.decode(torch.full((1, 2, 2), 5))
        silent = model.decoder(model.generate_spikes(torch.zeros(1, 3, 2, 2))).clamp(0, 1)
    assert torch.equal(empty, silent)


@pytest.mark.parametrize("kernels", [True, False])
def test_rates_are_those_of_the_spikes(neuron, lively, kernels):
    """Also of a layer that is read out, whose spikes never come to be; and the output is not touched."""
    net = lively(torch.nn.ModuleDict({"a": layers.conv(neuron, 2, 3, 3), "b": layers.conv(neuron, 3, 4, 3)})).eval()
    layers.use_kernels(net, kernels)
    x, weights = torch.randn(5, 2, 6, 6), torch.tensor([0.5, 0.25, 0.25])
    with torch.no_grad():
        first = net["a"](x, steps=3)
        second = net["b"](first)
        with record_rates(net) as rates:
            out = net["b"](net["a"](x, steps=3), readout=weights)
        again = net["b"](first, readout=weights)
    assert 0 < second.mean() < 1
    assert rates == {"a": float(first.mean()), "b": float(second.mean())}
    assert torch.equal(out, again)
    assert not net["b"]._forward_hooks
