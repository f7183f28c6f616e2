"""Settings small enough for a test, and NumPy references that go one time step after the other."""

import numpy as np
import pytest
import torch
from torch import nn

from spiking_diffusion import config


@pytest.fixture(autouse=True)
def seeded():
    """Weights and test data come from the global generator; the code under test must not need it."""
    torch.manual_seed(0)


@pytest.fixture
def rng():
    """``rng(seed)``: a generator to hand to the code under test."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def neuron():
    return config.Neuron(tau=2.0, v_threshold=1.0, v_reset=0.0, surrogate="atan", alpha=2.0, detach_reset=False)


@pytest.fixture(scope="session")
def train_settings():
    """No model reads them."""
    return config.Train.model_construct()


@pytest.fixture(scope="session")
def codebook_settings():
    """``codebook_settings(update="ema", ...)``."""
    base = {"size": 5, "init": "uniform", "update": "gradient", "decay": 0.9, "restart_dead": False}
    return lambda **changes: config.Codebook(**{**base, **changes})


@pytest.fixture(scope="session")
def vqsvae_settings(train_settings, codebook_settings):
    """``vqsvae_settings(straight_through="embedding", ...)``."""
    base = {
        "T": 5,
        "channels": [4, 6],
        "code_dim": 3,
        "readout": "psp",
        "tau_syn": 2.0,
        "k": "learned",
        "k_init": 0.5,
        "coding": "asg",
        "beta": 0.25,
    }
    base |= {"k_range": "free", "straight_through": "spikes", "output_decay": 0.8, "train": train_settings}
    return lambda **changes: config.VQSVAE(**{"codebook": codebook_settings(), **base, **changes})


@pytest.fixture(scope="session")
def lively():
    """Give a module's norms parameters and running statistics at which some neurons fire and some do not."""

    def randomise(module):
        for norm in module.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(norm.weight, 1, 2)
                nn.init.uniform_(norm.bias, 0, 1.5)
                norm.running_mean.uniform_(-0.1, 0.1)
                norm.running_var.uniform_(0.05, 0.2)
        return module

    return randomise


@pytest.fixture(scope="session")
def lif_reference():
    """Eq. 1-3: spikes and membranes H before the reset, (T, ...) each, for a current (T, ...)."""

    def lif(current, tau=2.0, v_threshold=1.0, v_reset=0.0):
        v = np.full(current.shape[1:], v_reset)
        spikes, charged = np.zeros_like(current), np.zeros_like(current)
        for t, x in enumerate(current):
            h = v + (x - (v - v_reset)) / tau
            s = (h >= v_threshold).astype(current.dtype)
            v = h * (1 - s) + v_reset * s
            spikes[t], charged[t] = s, h
        return spikes, charged

    return lif


@pytest.fixture(scope="session")
def psp_reference():
    """Eq. 5 as a recursion, (T, ...) -> (T, ...)."""

    def psp(spikes, tau_syn):
        trace, out = np.zeros(spikes.shape[1:]), []
        for s in spikes:
            trace = (1 - 1 / tau_syn) * trace + s / tau_syn
            out.append(trace)
        return np.stack(out)

    return psp
