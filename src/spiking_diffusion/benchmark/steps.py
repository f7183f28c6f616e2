"""``python -m spiking_diffusion.benchmark.steps``: milliseconds of a training step, by hand and by CUDA graph.

It uses random data, so nothing has to be downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.benchmark.measure import mean_seconds
from spiking_diffusion.config import Params, RunSettings, load_params
from spiking_diffusion.data.images import ImageSet
from spiking_diffusion.devices import pick_device
from spiking_diffusion.randomness import generator, make_deterministic, seed_initialisation
from spiking_diffusion.snn import set_precision
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training.step import EAGER, Step, Task
from spiking_diffusion.vqsvae.loading import TokenSet

EXAMPLES = 2048


def task_of(run: RunSettings, network: str, device: torch.device) -> Task:
    """A network of a run, untrained, and random images or tokens to train it on."""
    noise = generator("cpu", 0, "steps")
    labels = dict.fromkeys(SPLITS, torch.arange(EXAMPLES) % max(1, run.conditions or run.dataset.classes))
    seed_initialisation(0, "steps")
    task: Task
    if network == "sdid":
        size = run.recipe.vqsvae.codebook.size
        tokens = torch.randint(size, (EXAMPLES, *run.token_shape), generator=noise)
        told = labels if run.conditions else {}
        task = SDIDTask(run, TokenSet(dict.fromkeys(SPLITS, tokens), size, "", conditions=told), device)
    else:
        pixels = torch.randint(256, (EXAMPLES, *run.dataset.shape), generator=noise, dtype=torch.uint8)
        make: Callable[..., Task] = VQSVAETask if network == "vqsvae" else FSVAETask
        task = make(run, ImageSet(dict.fromkeys(SPLITS, pixels), labels), device)
    task.module.to(device).train()
    return task


def measure(run: RunSettings, network: str, batch: int, device: torch.device, seconds: float = 1.0) -> dict[str, Any]:
    """Milliseconds of a step by hand and by graph, or None without a graph."""
    task = task_of(run, network, device)
    settings = getattr(run.recipe, network).train.model_copy(update={"batch_size": batch})
    set_precision(task.module, settings.precision)
    step, index = Step(task, settings, generator(device, 0, "steps"), device), torch.arange(batch, device=device)

    def by_hand() -> None:
        step.backward(index, 0.5)
        step.update()

    for _ in range(EAGER):
        by_hand()
    eager = mean_seconds(by_hand, seconds, device)
    graph = mean_seconds(lambda: step.replay(index), seconds, device) if step.replay(index) else None
    fastest = graph or eager
    return {
        **{"run": run.name, "network": network, "batch": batch, "precision": settings.precision},
        **{"by_hand_ms": 1e3 * eager, "graph_ms": graph and 1e3 * graph, "images_per_second": batch / fastest},
    }


def table(params: Params, names: list[str], batches: list[int], device: torch.device, seconds: float) -> str:
    """Rows of ``measure`` as CSV, for every network of each run and every batch."""
    rows = [
        measure(params.resolve(name), network, batch, device, seconds)
        for name in names
        for network in params.resolve(name).family.networks
        for batch in batches
    ]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.4g", lineterminator="\n").rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs of params.yaml")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], metavar="N", help="(default: 64 256)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of each measurement (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="settings (default: params.yaml)")
    given = parser.parse_args()
    make_deterministic(1)
    print(table(load_params(given.params), given.runs, given.batches, pick_device(given.device), given.seconds))


if __name__ == "__main__":
    main()
