"""The ``tokens`` stage: a trained VQ-SVAE turns images into tokens."""

from __future__ import annotations

import numpy as np
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.vqsvae.loading import load_vqsvae


@torch.no_grad()
def run(job: Job, device: torch.device) -> None:
    """Encode all images of a run's dataset, and note the condition that each of them stands for.

    A global code is the nearest of as many centres (k-means) of training images' features z^E.
    """
    settings, condition, seed = job.run.recipe.vqsvae, job.run.recipe.condition, job.run.recipe.seed
    data = load_images(paths.data_path(job.run.dataset_name))
    model = load_vqsvae(job.run, device)
    weights = artifacts.sha256(paths.model_path(job.name, "vqsvae"))
    content = {"size": np.array(settings.codebook.size), "vqsvae": np.array(weights), "stamp": np.array(job.stamp)}
    features: dict[str, np.ndarray] = {}
    for split in SPLITS:
        found = [
            model.readout(model.encoder(to_unit(part)))
            for part in batches(data.images[split], settings.train.batch_size, device)
        ]
        content[split] = torch.cat([model.codebook.nearest(part).cpu() for part in found]).numpy().astype(np.uint16)
        if condition.by == "code":
            features[split] = torch.cat([part.flatten(1).cpu() for part in found]).numpy()
    if condition.by == "label":
        content |= {f"{split}_condition": data.labels[split].numpy().astype(np.uint16) for split in SPLITS}
    if condition.by == "code":
        content |= {
            f"{split}_condition": codes for split, codes in global_codes(features, condition.codes, seed).items()
        }
    artifacts.write_npz(job.out, content)


def global_codes(features: dict[str, np.ndarray], codes: int, seed: int) -> dict[str, np.ndarray]:
    """Features (N, F) by split -> of each the nearest of ``codes`` centres of the training images', (N,) uint16."""
    from sklearn.cluster import MiniBatchKMeans  # slow to import
    from threadpoolctl import threadpool_limits

    if len(features["train"]) < codes:
        raise UserError(f"condition.codes is {codes}, but there are only {len(features['train'])} training images")
    with threadpool_limits(1):  # the last bits of the centres must not depend on the number of threads
        centres = MiniBatchKMeans(codes, batch_size=4096, n_init=1, random_state=seed).fit(features["train"])
        return {split: centres.predict(part).astype(np.uint16) for split, part in features.items()}
