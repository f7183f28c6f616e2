"""Every network takes every image size that params.yaml lets through: sides of at least 8, divisible by 4."""

import pytest
import torch

from spiking_diffusion import config
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion, sample_ancestral
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.metrics.classifier import Classifier
from spiking_diffusion.metrics.reconstruction import ssim_loss
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 12, 20), (3, 40, 8), (3, 64, 64)], ids=str)
def test_images_of_this_shape_go_through_everything(shape, neuron, vqsvae_settings, train_settings, rng, lively):
    images, side = torch.rand(3, *shape), (shape[1] // 4, shape[2] // 4)
    vqsvae = lively(VQSVAE(vqsvae_settings(), neuron, shape))
    out = vqsvae(images)
    assert out.images.shape == images.shape
    vqsvae_loss(out, images, 0.1, vqsvae_settings())["loss"].backward()
    tokens = vqsvae.eval().encode(images)
    assert tokens.shape == (3, *side)

    steps = side[0] * side[1]
    settings = config.SDID(T=2, channels=[4, 4], input="embedding", embed_dim=4, loss="elbo", train=train_settings)
    sdid, diffusion = SDID(settings, neuron, 5, steps).eval(), AbsorbingDiffusion(5, steps)
    assert sdid(tokens, torch.full((3,), steps)).shape == (3, 5, *side)
    drawn, _ = sample_ancestral(sdid, diffusion, (2, *side), 1.0, rng(), CPU)
    decoded = vqsvae.decode(drawn)
    assert decoded.shape == (2, *shape)

    schedule = config.ScheduledSampling(start=0.1, end=0.3, from_step=2)
    settings = config.FSVAE(
        **{
            "T": 3,
            "architecture": "shared",
            "channels": [4, 6],
            "code_dim": 3,
            "latent_dim": 6,
            "k": 4,
            "tau_syn": 2.0,
            "output_decay": 0.8,
        },
        scheduled_sampling=schedule,
        train=train_settings,
    )
    fsvae = FSVAE(settings, neuron, shape)
    fsvae_loss(fsvae(images, 0.5, rng()), images, settings)["loss"].backward()
    assert fsvae.eval().sample(2, rng(), CPU).shape == (2, *shape)

    assert Classifier(shape[0], (4, 4), steps, 8, 10)(images).shape == (3, 10)
    assert ssim_loss(images[:2], decoded.detach()).isfinite().all()
