"""What a model cost in training: the images that its networks saw, in its metrics."""

import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.stages import make
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask

EPOCHS = {"vqsvae": 2, "sdid": 3, "fsvae": 1}
IMAGES = 1257
"""Of digits, in training."""


def test_images_seen_are_those_that_the_trainings_were_shown(untrained, monkeypatch):
    """1,257 images, in batches of 400 with a smaller last one."""
    shown = dict.fromkeys(EPOCHS, 0)
    for network, task in {"vqsvae": VQSVAETask, "sdid": SDIDTask, "fsvae": FSVAETask}.items():

        def counted(self, index, *rest, inner=task.loss, network=network):
            shown[network] += len(index)
            return inner(self, index, *rest)

        monkeypatch.setattr(task, "loss", counted)
    raw = untrained.model_dump()
    quick = raw["recipes"]["quick"]
    for network, epochs in EPOCHS.items():
        quick[network]["train"] |= {"epochs": epochs, "batch_size": 400, "threads": torch.get_num_threads()}
    quick["sample"]["temperature"] = 1.0
    params = check_params(raw)
    paths.data_path("digits").unlink()
    make(Job(params, "fetch", "digits"))  # with its test images
    for stage in ("vqsvae", "tokens", "sdid", "sample", "evaluate"):
        make(Job(params, stage, "digits"), "cpu")
    for stage in ("fsvae", "fsvae_sample", "fsvae_evaluate"):
        make(Job(params, stage, "digits-fsvae"), "cpu")
    assert shown == {network: epochs * IMAGES for network, epochs in EPOCHS.items()}
    ours, fsvae = read_row("digits"), read_row("digits-fsvae")
    assert (ours["vqsvae_images_seen"], ours["sdid_images_seen"], ours["images_seen"]) == (2514, 3771, 6285)
    assert fsvae["images_seen"] == 1257 and "fsvae_images_seen" not in fsvae
    assert "images_seen" not in artifacts.read_json(paths.metrics_path("digits")), "a setting, no result"
    for run, network in (("digits", "vqsvae"), ("digits", "sdid"), ("digits-fsvae", "fsvae")):
        assert artifacts.read_json(paths.cost_path(paths.work_path(run, network)))["processor_seconds"] > 0
