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
    """Encode all images of a run's dataset, and store the condition of each.

    A global code is the index of the nearest centre (k-means) of the training images' features z^E.
    """
    settings, condition, seed = job.run.recipe.vqsvae, job.run.recipe.condition, job.run.recipe.seed
    data = load_images(paths.data_path(job.run.dataset_name))
    model = load_vqsvae(job.run, device)
    weights = artifacts.sha256(paths.model_path(job.name, "vqsvae"))
    content = {"size": np.array(settings.codebook.size), "vqsvae": np.array(weights), "stamp": np.array(job.stamp)}
    features: dict[str, np.ndarray] = {}
    for split in SPLITS:
        tokens, kept = [], []
        what = f"tokens {job.name}, {split}"
        for part in batches(data.images[split], settings.train.batch_size, device, what):
            z_e = model.readout(model.encoder(to_unit(part)))
            tokens.append(model.codebook.nearest(z_e).cpu())
            if condition.by == "code":
                kept.append(z_e.flatten(1).cpu())
        content[split] = torch.cat(tokens).numpy().astype(np.uint16)
        if condition.by == "code":
            features[split] = torch.cat(kept).numpy()
        elif condition.by == "label":
            content[f"{split}_condition"] = data.labels[split].numpy().astype(np.uint16)
    if features:
        codes = global_codes(features, condition.codes, seed)
        content |= {f"{split}_condition": each for split, each in codes.items()}
    artifacts.write_npz(job.out, content)


def global_codes(features: dict[str, np.ndarray], codes: int, seed: int) -> dict[str, np.ndarray]:
    """Features (N, F) by split -> the index of the nearest of ``codes`` centres of the training images' features, (N,)
    uint16."""
    from sklearn.cluster import MiniBatchKMeans  # slow to import
    from threadpoolctl import threadpool_limits

    if len(features["train"]) < codes:
        raise UserError(f"condition.codes is {codes}, but there are only {len(features['train'])} training images")
    with threadpool_limits(1):  # so that the last bits of the centres do not depend on the number of threads
        centres = MiniBatchKMeans(codes, batch_size=4096, n_init=1, random_state=seed).fit(features["train"])
        return {split: centres.predict(part).astype(np.uint16) for split, part in features.items()}
