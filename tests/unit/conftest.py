"""Settings small enough for a test, and NumPy references that go one time step after the other."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from spiking_diffusion import artifacts, config, paths
from spiking_diffusion.diffusion.loading import make_sdid
from spiking_diffusion.fsvae import FSVAE
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import Judges, cells_of
from spiking_diffusion.stages import make
from spiking_diffusion.vqsvae import VQSVAE
from spiking_diffusion.weights import save_weights

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))


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
    dynamics = {"tau": 2.0, "decay_input": True, "v_threshold": 1.0, "v_reset": 0.0, "detach_reset": False}
    return config.Neuron(**dynamics, surrogate="atan", alpha=2.0)


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
def sdid_settings(train_settings):
    """``sdid_settings(input="raw", ...)``."""
    base = {"T": 4, "architecture": "stack", "channels": [6, 8, 7], "positions": 0, "input": "embedding"}
    base |= {"embed_dim": 4, "masks": "random", "loss": "elbo", "train": train_settings}
    return lambda **changes: config.SDID(**{**base, **changes})


@pytest.fixture(scope="session")
def vqsvae_settings(train_settings, codebook_settings):
    """``vqsvae_settings(straight_through="embedding", ...)``."""
    base = {
        "T": 5,
        "channels": [4, 6],
        "scale": 4,
        "blocks": 0,
        "code_dim": 3,
        "readout": "psp",
        "tau_syn": 2.0,
        "k": "learned",
        "k_init": 0.5,
        "k_gradient": "straight-through",
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
    """Eq. 1-3: spikes and membranes H before the reset, (T, ...) each, for a current (T, ...).

    With ``decay_input`` off the current is not divided by tau.
    """

    def lif(current, tau=2.0, v_threshold=1.0, v_reset=0.0, decay_input=True):
        v = np.full(current.shape[1:], v_reset)
        spikes, charged = np.zeros_like(current), np.zeros_like(current)
        for t, x in enumerate(current):
            h = v - (v - v_reset) / tau + (x / tau if decay_input else x)
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


@pytest.fixture(scope="session")
def strong_judges():
    """``strong_judges(channels=1, features=16)``: two networks with random weights that react strongly to images of
    28x28, unlike one another, and their reader."""

    def build(channels=1, features=16):
        torch.manual_seed(0)
        judges = Judges(2, channels, (8, 12), cells_of((channels, 28, 28), (8, 12)), features, 10)
        for number, network in enumerate([*judges.networks, judges.reader]):
            linear, norm, _ = network.features[-3:]
            nn.init.normal_(linear.weight, std=0.1)
            nn.init.ones_(norm.bias)
            network.scale.fill_(0.3 + 0.1 * number)
        return judges.eval()

    return build


@pytest.fixture(scope="session")
def tiny_params():
    """``tiny_params(temperature=0.5, ...)``: small networks and short trainings in ``quick``. Keys of ``train`` are of
    its three trainings, all others of its ``sample``."""

    def build(seed=0, train=None, **sample):
        raw = yaml.safe_load(yaml.safe_dump(RAW))
        quick = raw["recipes"]["quick"]
        quick["seed"] = seed
        for model in ("vqsvae", "sdid", "fsvae"):
            short = {"epochs": 2, "batch_size": 8, "threads": torch.get_num_threads()}
            quick[model]["train"] |= short | (train or {})
        quick["vqsvae"] |= {"channels": [4, 4], "code_dim": 4}
        quick["vqsvae"]["codebook"]["size"] = 6
        quick["sdid"] |= {"T": 2, "channels": [8, 8], "embed_dim": 4}
        quick["fsvae"] |= {"channels": [4, 4], "code_dim": 4, "latent_dim": 6, "k": 3}
        quick["sample"] |= {"n": 30, "batch_size": 20, "threads": torch.get_num_threads(), "temperature": "tuned"}
        quick["sample"] |= sample
        quick["tune"] = {
            **{"n": 25, "samplers": ["margin", "ancestral"], "temperatures": [0.3, 1.0, 3.0]},
            **{"guidances": [0.0], "steps": [60, 1, 7]},
        }
        quick["evaluate"] |= {"kid_subsets": 3, "protocols": ["classifier"]}
        quick["energy"] = {"n": 30}
        return config.check_params(raw)

    return build


@pytest.fixture
def untrained(tmp_path, monkeypatch, lively, tiny_params):
    """A project folder with digits, whose test set cannot be read, a classifier, and the models of the runs ``digits``
    and ``digits-fsvae``, none of them trained; returns its parameters."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    params = tiny_params()
    run = params.resolve("digits")
    make(Job(params, "fetch", "digits"))
    path = paths.data_path("digits")
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            new.writestr(name, b"not to be read" if name.startswith("test") else data)
    save_weights(paths.classifier_path("digits"), Judges(2, 1, (4, 4), cells_of((1, 28, 28), (4, 4)), 8, 10))
    vqsvae = lively(VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (1, 28, 28)))
    save_weights(paths.model_path("digits", "vqsvae"), vqsvae)
    sdid, _ = make_sdid(run, 6, (7, 7))
    torch.nn.init.normal_(sdid.out.weight, std=0.5)
    made_from = artifacts.sha256(paths.model_path("digits", "vqsvae"))
    save_weights(paths.model_path("digits", "sdid"), lively(sdid), made_from)
    fsvae = lively(FSVAE(run.recipe.fsvae, run.recipe.neuron, (1, 28, 28)))
    save_weights(paths.model_path("digits-fsvae", "fsvae"), fsvae)
    yield params
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def joint():
    """A law over 2x2 grids of 3 codes in which tokens depend on each other."""
    return np.random.default_rng(0).dirichlet(np.full(81, 2.0)).reshape(3, 3, 3, 3)
