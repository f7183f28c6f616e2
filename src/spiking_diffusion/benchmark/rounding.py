"""The effect of bfloat16 on the gradient of a training step, compared with the effect of another batch.

    python -m spiking_diffusion.benchmark.rounding --epochs 20 --batches 40 > docs/rounding.csv

On the CPU bfloat16 rounds only the gradients that go to a layer's input. Spikes, losses and the last layer's gradient
are equal bit by bit. Whole trainings are too chaotic to show so small an effect (``curves``). This module measures
single steps of ``digits``, recipe ``quick``, for fresh weights and for weights trained in float32.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spiking_diffusion import paths
from spiking_diffusion.benchmark.curves import TITLES, AnyTask, encode, make_task
from spiking_diffusion.config import Params, load_params
from spiking_diffusion.data.images import load_images
from spiking_diffusion.randomness import generator, make_deterministic
from spiking_diffusion.snn import set_precision
from spiking_diffusion.snn.layers import Precision
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training.loop import fit
from spiking_diffusion.vqsvae.loading import TokenSet


def gradient(task: AnyTask, index: Tensor, seed: int, precision: Precision) -> tuple[float, Tensor]:
    """Loss and gradient (all parameters in one vector) of a batch; the task stays unchanged."""
    before = copy.deepcopy(task.module.state_dict())  # running statistics and codes change in a forward pass
    task.module.train()
    task.module.zero_grad(set_to_none=True)
    set_precision(task.module, precision)
    loss = task.loss(index, generator("cpu", seed, "rounding"), 0.5)["loss"]
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None])
    task.module.load_state_dict(before)
    return float(loss.detach()), found


def compare(task: AnyTask, batch_size: int, batches: int) -> dict[str, float]:
    """Over ``batches`` batches: the error of bfloat16's gradient, and the differences between batches.

    ``loss_differs`` is the largest difference of the losses. ``rounding`` is the root of the mean of |g16 - g32|^2
    divided by the mean of |g32|^2. ``bias`` is the same for the two means over all batches. ``between_batches`` is the
    same for |g32 - mean|^2.
    """
    exact, rounded, differs = [], [], 0.0
    for n in range(batches):
        order = torch.randperm(task.size, generator=generator("cpu", n, "rounding", "order"))
        loss, g = gradient(task, order[:batch_size], n, "float32")
        loss_rounded, g_rounded = gradient(task, order[:batch_size], n, "bfloat16")
        differs = max(differs, abs(loss - loss_rounded))
        exact.append(g.double())
        rounded.append(g_rounded.double())
    g32, g16 = torch.stack(exact), torch.stack(rounded)
    return {
        "loss_differs": differs,
        "rounding": float((g16 - g32).norm() / g32.norm()),
        "least_cosine": float(torch.cosine_similarity(g16, g32).min()),
        "bias": float((g16.mean(0) - g32.mean(0)).norm() / g32.mean(0).norm()),
        "between_batches": float((g32 - g32.mean(0)).norm() / g32.norm()),
    }


def rounding(params: Params, epochs: int, batches: int, work: Path) -> Iterator[dict[str, Any]]:
    """One row for each model, with fresh weights and after ``epochs`` epochs in float32, on the CPU with one thread."""
    make_deterministic(1)
    device = torch.device("cpu")
    run = params.resolve("digits")
    data = load_images(paths.data_path(run.dataset_name))
    tokens: TokenSet | None = None
    for model in TITLES:
        task = make_task(run, model, data, tokens, device)
        settings = getattr(run.recipe, model).train.model_copy(update={"epochs": epochs, "precision": "float32"})
        yield {"model": model, "epochs": 0, **compare(task, settings.batch_size, batches)}
        identity = {"stage": "rounding", "name": model, "epochs": epochs}
        fit(task, settings, run.recipe.seed, identity, work / model, device)
        yield {"model": model, "epochs": epochs, **compare(task, settings.batch_size, batches)}
        if isinstance(task, VQSVAETask):
            tokens = encode(task, data.images, device)


def main() -> None:
    """Print the rows as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batches", type=int, default=40)
    args = parser.parse_args()
    rows = pd.DataFrame(rounding(load_params(), args.epochs, args.batches, Path("work/rounding")))
    rows.to_csv(sys.stdout, index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()
