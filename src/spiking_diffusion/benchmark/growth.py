"""How the cost of each stage grows with batch, time steps, codes and tokens.

    python -m spiking_diffusion.benchmark.growth > docs/growth.csv

CPU seconds of one thread, so that other work on the machine matters little. Each is the median of several steps from
fresh weights, with recipe ``paper`` and one value changed at a time. Sampling an image takes its number of network
calls, about 1 - 1/e of its tokens, times ``sdid call``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from spiking_diffusion.config import Params, RunSettings, load_params
from spiking_diffusion.data.images import ImageSet
from spiking_diffusion.randomness import generator, make_deterministic, seed_initialisation
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training.loop import Task
from spiking_diffusion.vqsvae.loading import TokenSet

BASE = {"N": 32, "T": 16, "K": 128, "side": 28}
VALUES = {"N": (8, 16, 32, 64), "T": (4, 8, 16, 32), "K": (32, 128, 512, 2048), "side": (16, 28, 40, 56)}
CPU = torch.device("cpu")


def _settings(params: Params, at: dict[str, int]) -> RunSettings:
    run = params.resolve("mnist")
    recipe = run.recipe
    codebook = recipe.vqsvae.codebook.model_copy(update={"size": at["K"]})
    recipe = recipe.model_copy(
        update={
            "vqsvae": recipe.vqsvae.model_copy(update={"T": at["T"], "codebook": codebook}),
            "sdid": recipe.sdid.model_copy(update={"T": at["T"]}),
        }
    )
    return run.model_copy(update={"recipe": recipe})


def _step(task: Task, n: int) -> Callable[[], Any]:
    task.module.train()
    optimiser = torch.optim.AdamW(task.module.parameters())
    noise = generator("cpu", 0, "growth")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        task.loss(torch.arange(n), noise, 0.5)["loss"].backward()
        optimiser.step()

    return step


def _stages(params: Params, at: dict[str, int]) -> dict[str, Callable[[], Any]]:
    run, n, side = _settings(params, at), at["N"], at["side"]
    seed_initialisation(0, "growth")
    images = torch.randint(256, (n, 1, side, side), dtype=torch.uint8)
    data = ImageSet({"train": images, "validation": images, "test": images}, {})
    vqsvae = VQSVAETask(run, data, CPU)
    encoder = VQSVAETask(run, data, CPU).module.eval()
    shape = (n, side // 4, side // 4)
    tokens = TokenSet(dict.fromkeys(("train", "validation"), torch.randint(at["K"], shape)), at["K"], "")
    sdid = SDIDTask(run, tokens, CPU)
    denoiser = SDIDTask(run, tokens, CPU).module.eval()
    masked, t = torch.full(shape, at["K"]), torch.ones(n, dtype=torch.int64)
    return {
        "vqsvae step": _step(vqsvae, n),
        "encode": lambda: encoder.encode(images / 255),
        "sdid step": _step(sdid, n),
        "sdid call": lambda: denoiser(masked, t),
    }


def growth(params: Params, rounds: int = 3) -> pd.DataFrame:
    """CPU milliseconds per image of each stage, for each value of each quantity; ``tokens`` depend on the image's
    side."""
    make_deterministic(1)
    rows = []
    for what, values in VALUES.items():
        for value in values:
            at = BASE | {what: value}
            for stage, step in _stages(params, at).items():
                with torch.set_grad_enabled(stage.endswith("step")):
                    step()
                    taken = []
                    for _ in range(rounds):
                        start = time.process_time()
                        step()
                        taken.append(time.process_time() - start)
                    ms = 1000 * statistics.median(taken) / at["N"]
                tokens = (at["side"] // 4) ** 2
                rows.append({**at, "tokens": tokens, "varied": what, "stage": stage, "cpu_ms_per_image": ms})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    growth(load_params()).to_csv(sys.stdout, index=False, float_format="%.4g", lineterminator="\n")
