"""Errors of reconstructions in a run's metrics: exact over the test set, and by the released code's rules."""

import pytest
import torch

from spiking_diffusion import paths
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.reconstruction import released_ssim_loss, ssim_loss
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.randomness import generator
from spiking_diffusion.stages import make

CPU = torch.device("cpu")


@pytest.mark.parametrize("run", ["digits", "digits-fsvae"])
def test_released_errors_are_of_what_the_decoder_gives(untrained, run):
    """The stage's last batch is smaller than the others. Fails if reconstructions are clamped first."""
    raw = untrained.model_dump()
    raw["recipes"]["quick"]["evaluate"]["batch_size"] = 100
    untrained = check_params(raw)
    paths.data_path("digits").unlink()
    make(Job(untrained, "fetch", "digits"))  # with its test images
    stages = {"digits": ("tune", "tokens", "sample", "evaluate"), "digits-fsvae": ("fsvae_sample", "fsvae_evaluate")}
    for stage in stages[run]:
        make(Job(untrained, stage, run), "cpu")
    row, model = read_row(run), load(untrained.resolve(run), CPU)
    real = to_unit(load_images(paths.data_path("digits")).images["test"])
    assert len(real) == 360
    with torch.no_grad():
        # in the same batches, because another order of a sum can move a neuron over its threshold
        if run == "digits":
            parts = [model.vqsvae(part).images for part in real.split(100)]  # as in training
        else:
            noise = generator(CPU, 0, "evaluate", "posterior")
            parts = [model.fsvae.decode(model.fsvae.encode(part, noise)) for part in real.split(100)]
    again = torch.cat(parts)
    assert again.min() < -0.05 and again.max() > 0.1
    shown = again.clamp(0, 1)
    assert row["mse"] == pytest.approx(float((shown - real).double().square().mean()), rel=1e-4)
    assert row["ssim"] == pytest.approx(float(ssim_loss(shown, real).double().mean()), rel=1e-4)
    assert row["released_mse"] == pytest.approx(float((again - real).double().square().mean()), rel=1e-4)
    assert row["released_ssim"] == pytest.approx(float(released_ssim_loss(again, real).mean()), rel=1e-4)
    assert row["released_mse"] > 1.01 * row["mse"], "the difference can be seen"
    assert "released_fid" not in row or row["released_fid"] is None
