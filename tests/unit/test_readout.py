"""Firing rate, postsynaptic potential and z^E (Eq. 4-6)."""

import numpy as np
import pytest
import torch

from spiking_diffusion.snn import psp, psp_distance, sfr, weighted_sum
from spiking_diffusion.vqsvae import VQSVAE

TAU_SYN = [1.0, 1.5, 2.0, 8.0]


def random_spikes(*shape):
    return (torch.rand(shape) < 0.4).double()


def test_sfr_is_the_mean_over_time():
    """Eq. 4."""
    assert sfr(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])).tolist() == [0.75, 0.25]


def test_psp_by_hand():
    """Eq. 5 with tau_syn = 2: half of the trace is kept, half of a spike is added."""
    assert psp(torch.tensor([1.0, 0.0, 1.0])[:, None], 2.0).flatten().tolist() == [0.5, 0.25, 0.625]


@pytest.mark.parametrize("tau_syn", TAU_SYN)
def test_psp_is_the_recursion_of_eq_5(psp_reference, tau_syn):
    spikes = random_spikes(16, 2, 3, 4)
    np.testing.assert_allclose(psp(spikes, tau_syn).numpy(), psp_reference(spikes.numpy(), tau_syn), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.8, 1.0])
def test_weighted_sum_is_a_leaky_sum(decay):
    spikes = random_spikes(16, 2, 3)
    leaky = np.zeros((2, 3))
    for s in spikes.numpy():
        leaky = decay * leaky + s
    np.testing.assert_allclose(weighted_sum(spikes, decay).numpy(), leaky, rtol=1e-6)


def test_psp_distance_by_hand():
    """Filtered difference 0.5, 0.25; mean of squares (0.25 + 0.0625) / 2; half of it over two units."""
    a, b = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert float(psp_distance(a, b, 2.0)) == float(psp_distance(b, a, 2.0)) == 0.078125


@pytest.mark.parametrize("tau_syn", TAU_SYN)
def test_psp_distance_is_the_distance_of_the_traces(psp_reference, tau_syn):
    a, b = random_spikes(8, 3, 4), random_spikes(8, 3, 4)
    expected = ((psp_reference(a.numpy(), tau_syn) - psp_reference(b.numpy(), tau_syn)) ** 2).mean()
    assert float(psp_distance(a, b, tau_syn)) == pytest.approx(expected, rel=1e-6)


# --- z^E ------------------------------------------------------------------------------------------------


@pytest.fixture
def make(neuron, vqsvae_settings):
    return lambda **changes: VQSVAE(vqsvae_settings(**changes), neuron, (1, 8, 8))


@pytest.mark.parametrize("tau_syn", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("k_range", ["free", "unit"])
@pytest.mark.parametrize("k", [0.0, 0.25, 1.0, "learned"])
def test_readout_is_eq_6(make, psp_reference, k, k_range, tau_syn):
    """A learned k starts at ``k_init``, a fixed one is what the settings say, whatever ``k_range``."""
    spikes, weight = random_spikes(5, 2, 3, 2, 2), 0.7 if k == "learned" else k
    z_e = make(k=k, k_init=0.7, k_range=k_range, tau_syn=tau_syn).readout(spikes).detach()
    expected = weight * spikes.numpy().mean(0) + (1 - weight) * psp_reference(spikes.numpy(), tau_syn)[-1]
    np.testing.assert_allclose(z_e.numpy(), expected, rtol=1e-6, atol=1e-7)


def k_parameters(model):
    return [p for name, p in model.named_parameters() if name.startswith("k")]


@pytest.mark.parametrize(("k_range", "slope"), [("free", 1.0), ("unit", 0.7 * 0.3)])
def test_learned_k_has_the_gradient_of_eq_6(make, psp_reference, k_range, slope):
    """``slope``: of k in its parameter, k (1 - k) for the sigmoid that keeps it in (0, 1)."""
    model, spikes = make(k_init=0.7, k_range=k_range), random_spikes(5, 2, 3, 2, 2)
    model.readout(spikes).sum().backward()
    expected = slope * (spikes.numpy().mean(0) - psp_reference(spikes.numpy(), 2.0)[-1]).sum()
    (parameter,) = k_parameters(model)
    assert float(parameter.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("direction", [-5.0, 5.0])
def test_only_a_free_k_leaves_the_unit_interval(make, direction):
    for k_range, inside in (("unit", True), ("free", False)):
        model = make(k_range=k_range)
        with torch.no_grad():
            k_parameters(model)[0].add_(direction)
        assert (0 < float(model.k.detach()) < 1) == inside


def test_fixed_k_is_saved_but_not_trained(make):
    model = make(k=0.25)
    assert not k_parameters(model)
    assert not model.k.requires_grad
    assert [float(value) for name, value in model.state_dict().items() if name.startswith("k")] == [0.25]


@pytest.mark.parametrize("k", [0.0, 0.25, 1.0])
def test_leaky_sum_stands_in_for_psp(make, k):
    """The released code's readout: sum of 0.8^(T-1-t) s_t where Eq. 6 has PSP."""
    spikes = random_spikes(5, 2, 3, 2, 2)
    z_e = make(k=k, readout="leaky-sum").readout(spikes).numpy()
    leaky = sum(0.8 ** (4 - t) * spikes[t].numpy() for t in range(5))
    np.testing.assert_allclose(z_e, k * spikes.numpy().mean(0) + (1 - k) * leaky, rtol=1e-6)
