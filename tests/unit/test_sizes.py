"""Every network takes every image size that params.yaml lets through: sides of at least 8, divisible by 4."""

from pathlib import Path

import pytest
import torch

from spiking_diffusion.config import load_params
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion, sample_tokens
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.metrics.classifier import Classifier, cells_of
from spiking_diffusion.metrics.reconstruction import ssim_loss
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss

CPU = torch.device("cpu")
QUICK = load_params(Path(__file__).parents[2] / "params.yaml").recipes["quick"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 12, 20), (3, 40, 8), (3, 64, 64)], ids=str)
def test_images_of_this_shape_go_through_everything(shape, rng, lively):
    images, side = torch.rand(3, *shape), (shape[1] // 4, shape[2] // 4)
    settings, size, steps = QUICK.vqsvae, QUICK.vqsvae.codebook.size, side[0] * side[1]
    vqsvae = lively(VQSVAE(settings, QUICK.neuron, shape))
    out = vqsvae(images)
    assert out.images.shape == images.shape
    vqsvae_loss(out, images, 0.1, settings)["loss"].backward()
    tokens = vqsvae.eval().encode(images)
    assert tokens.shape == (3, *side)

    sdid, diffusion = SDID(QUICK.sdid, QUICK.neuron, size, steps).eval(), AbsorbingDiffusion(size, steps)
    assert sdid(tokens, torch.full((3,), steps)).shape == (3, size, *side)
    drawn, _ = sample_tokens(sdid, diffusion, (2, *side), 1.0, rng(), CPU)
    decoded = vqsvae.decode(drawn)
    assert decoded.shape == (2, *shape)

    fsvae = FSVAE(QUICK.fsvae, QUICK.neuron, shape)
    fsvae_loss(fsvae(images, 0.5, rng()), images, QUICK.fsvae)["loss"].backward()
    assert fsvae.eval().sample(2, rng(), CPU).shape == (2, *shape)

    for channels in ((4,), (4, 4), (4, 5, 6)):
        assert Classifier(shape[0], channels, cells_of(shape, channels), 8, 10)(images).shape == (3, 10)
    assert ssim_loss(images[:2], decoded.detach()).isfinite().all()
