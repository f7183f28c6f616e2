"""The ``ladder`` stage: the scores of sets of impostors, from real images down to noise."""

from __future__ import annotations

import pandas as pd
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_images
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.classifier import is_random
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.ladder import impostors
from spiking_diffusion.metrics.protocols import compare, compare_kid
from spiking_diffusion.metrics.reading import Reader, class_balance, legible
from spiking_diffusion.randomness import generator

MOST, SHOWN, BATCH = 10_000, 10, 250
"""The most images in a set, the number of stored examples of each, and the batch size."""
KID = (1000, 10)
"""Size and number of KID's subsets."""


@torch.no_grad()
def run(job: Job, device: torch.device) -> None:
    """Compare impostors with the test images. There are as many as training images, and at most MOST."""
    data, judges = load_images(paths.data_path(job.name)), paths.classifier_path(job.name)
    seed, test, labels = job.params.classifier.seed, data.images["test"], data.labels["train"]
    if min(len(labels), len(test)) < distances.LEAST:
        raise UserError(
            f"{job.name} has {len(labels)} training and {len(test)} test images, which are too few to measure: "
            f"correct datasets.{job.name}.split in params.yaml so that there are {distances.LEAST} or more of each"
        )
    noise = generator("cpu", seed, "ladder", job.name)
    sets = impostors(data.images["train"], labels, min(MOST, len(labels)), noise)
    embed = Features(ClassifierFeatures, judges, BATCH, device)
    reader = None if is_random(judges) else Reader(judges, BATCH, device)
    real = embed(test)
    rows = []
    for name, images in sets.items():
        ours, subset = embed(images), min(KID[0], len(images), len(test))
        read = reader(images) if reader else None
        rows.append(
            {
                "images": name,
                "n": len(images),
                **compare(ours, real, device),
                **compare_kid(ours, real, subset, KID[1], seed),
                "legible": None if read is None else legible(read),
                "class_balance": None if read is None else class_balance(read, labels),
            }
        )
    text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    artifacts.write_npz(job.outputs[1], {name: images[:SHOWN].numpy() for name, images in sets.items()})
    artifacts.write_text(job.out, text)
