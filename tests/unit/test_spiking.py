"""Every network of every recipe is spiking: synapses get 0 and 1, or a constant current that is declared here."""

import pytest
import torch
from torch import nn

from spiking_diffusion.diffusion.loading import make_sdid
from spiking_diffusion.fsvae import FSVAE
from spiking_diffusion.snn import LIF, use_kernels
from spiking_diffusion.snn.residual import PositionSynapse
from spiking_diffusion.vqsvae import VQSVAE

from .conftest import RAW, config

SYNAPSES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, PositionSynapse)
CURRENTS = {
    "encoder.first.synapse": "the image, the same at every step",
    "asg.synapse": "the code, the same at every step",
    "first.synapse": "the current of tokens and step, the same at every step",
}
SUMS = {
    "decoder.out": "the last map: spikes summed over time, to which it is linear",
    "out": "the last map of SDID",
}
MAY_BE = (*SYNAPSES, LIF, nn.BatchNorm1d, nn.BatchNorm2d, nn.Embedding, nn.Identity, nn.ModuleList, nn.Sequential)
RECIPES = list(RAW["recipes"])


@pytest.fixture(scope="module")
def params():
    return config.check_params(RAW)


def watched(model, call):
    """What entered the synapses of a model, by name."""
    use_kernels(model, False)
    seen = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0].detach()))
        for name, module in model.named_modules()
        if isinstance(module, SYNAPSES)
    ]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return seen


def assert_spiking(model, seen):
    assert seen
    for name, inputs in seen.items():
        if name in CURRENTS or name in SUMS:
            continue
        for x in inputs:
            assert ((x == 0) | (x == 1)).all(), name
    for name, module in model.named_modules():
        own = type(module).__module__.startswith("spiking_diffusion.")
        assert own or isinstance(module, MAY_BE), f"{name} is a {type(module).__name__}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_vqsvae(params, recipe, lively):
    settings = params.recipes[recipe]
    model = lively(VQSVAE(settings.vqsvae, settings.neuron, (1, 28, 28))).eval()
    seen = watched(model, lambda: model(torch.rand(2, 1, 28, 28)))
    assert_spiking(model, seen)
    assert any(len(x.unique()) == 2 for inputs in seen.values() for x in inputs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_sdid(params, recipe, lively):
    run = params.resolve("mnist").model_copy(update={"recipe": params.recipes[recipe]})
    model, _ = make_sdid(run, 16, run.token_shape)
    tokens = torch.randint(0, 17, (2, *run.token_shape))
    seen = watched(lively(model).eval(), lambda: model(tokens, torch.tensor([3, 20])))
    assert_spiking(model, seen)
    assert any(len(x.unique()) == 2 for inputs in seen.values() for x in inputs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fsvae(params, recipe, lively, rng):
    settings = params.recipes[recipe]
    model = lively(FSVAE(settings.fsvae, settings.neuron, (1, 28, 28))).eval()
    assert_spiking(model, watched(model, lambda: model.reconstruct(torch.rand(2, 1, 28, 28), rng())))
