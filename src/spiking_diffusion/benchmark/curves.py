"""Whole trainings on ``digits`` with the plain networks and with ours, in float32 and bfloat16.

    python -m spiking_diffusion.benchmark.curves --epochs 20 --seeds 3 --nudges 2 --out docs/curves

Recipe ``quick``. All ways start with the same weights, order and noise. Spikes amplify rounding, so curves differ after
some steps, and only their ends can be compared. ``nudged`` shows the effect of rounding alone: ours in float32, from
weights changed by a factor of 1 + 1e-7 g, g normal. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.benchmark import plain
from spiking_diffusion.config import Params, RunSettings, load_params
from spiking_diffusion.data.images import ImageSet, load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.randomness import make_deterministic, seed_initialisation
from spiking_diffusion.reporting.style import STYLE
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.training.loop import Task, fit
from spiking_diffusion.vqsvae.loading import TokenSet

WAYS = ("plain", "float32", "bfloat16", "nudged")
LABELS = {
    "plain": "plain SpikingJelly, float32",
    "float32": "ours, float32",
    "bfloat16": "ours, bfloat16",
    "nudged": "ours, float32, weights nudged by 1e-7",
}
TITLES = {"vqsvae": "VQ-SVAE", "sdid": "SDID", "fsvae": "FSVAE"}


AnyTask = VQSVAETask | SDIDTask | FSVAETask


def make_task(run: RunSettings, model: str, data: ImageSet, tokens: TokenSet | None, device: torch.device) -> AnyTask:
    """The task of training ``model`` from weights that the run's seed gives; SDID's needs ``tokens``."""
    seed_initialisation(run.recipe.seed, model)
    if model == "sdid":
        assert tokens
        return SDIDTask(run, tokens, device)
    return (VQSVAETask if model == "vqsvae" else FSVAETask)(run, data, device)


class _Plain:
    """A task with its network in plain SpikingJelly code."""

    def __init__(self, ours: AnyTask) -> None:
        self.ours = ours
        self.uniform = ours.uniform
        self.size = ours.size
        self.module: nn.Module = (
            plain.PlainVQSVAE(ours.module)
            if isinstance(ours, VQSVAETask)
            else plain.PlainSDID(ours.module)  # type: ignore[arg-type]
            if isinstance(ours, SDIDTask)
            else plain.PlainFSVAE(ours.module)
        )

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        task, module = self.ours, self.module
        if isinstance(task, SDIDTask):
            tokens = task.tokens[index]
            t = task.diffusion.draw_t(len(tokens), noise, task.device)
            noisy = task.diffusion.q_sample(tokens, t, noise)
            return {"loss": task.diffusion.bound(module(noisy, t), tokens, noisy, t).mean()}
        images = to_unit(task.images[index])
        if isinstance(task, FSVAETask):
            return {"loss": plain.plain_fsvae_loss(module(images, progress, noise), images, task.settings)}
        assert isinstance(module, plain.PlainVQSVAE)
        out = module(images)
        module.codebook.update(out.z_e, out.tokens, noise)
        return {"loss": plain.plain_vqsvae_loss(out, images, task.variance, task.settings)}

    def validate(self) -> dict[str, float]:
        return {}


def train_all(params: Params, epochs: int, seeds: int, nudges: int, work: Path) -> pd.DataFrame:
    """Losses by (model, way, nudge, seed, epoch) on the CPU with one thread.

    SDID learns the tokens of our float32 VQ-SVAE of the seed. It is not nudged, because it is not chaotic.
    """
    make_deterministic(1)
    device = torch.device("cpu")
    base = params.resolve("digits")
    data = load_images(paths.data_path(base.dataset_name))
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        run = base.model_copy(update={"recipe": base.recipe.model_copy(update={"seed": seed})})
        tokens: TokenSet | None = None
        for model in TITLES:
            again = [("nudged", nudge) for nudge in range(1, nudges + 1) if model != "sdid"]
            for way, nudge in [("float32", 0), ("plain", 0), ("bfloat16", 0), *again]:
                ours = make_task(run, model, data, tokens, device)
                if nudge:
                    _nudge(ours.module, nudge)
                task: Task = _Plain(ours) if way == "plain" else ours
                settings = getattr(run.recipe, model).train.model_copy(
                    update={"epochs": epochs, "precision": "bfloat16" if way == "bfloat16" else "float32"}
                )
                here = {"model": model, "way": way, "nudge": nudge, "seed": seed}
                identity = {"stage": "curves", "name": model, "epochs": epochs, **here}
                history = fit(task, settings, seed, identity, work / f"{model}-{way}-{nudge}-{seed}", device)
                rows += [{**here, "epoch": row["epoch"], "loss": row["loss"]} for row in history]
                if isinstance(ours, VQSVAETask) and way == "float32":
                    tokens = encode(ours, data.images, device)
    return pd.DataFrame(rows)


@torch.no_grad()
def _nudge(module: nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=draws))


@torch.no_grad()
def encode(task: VQSVAETask, images: dict[str, Tensor], device: torch.device) -> TokenSet:
    """Tokens of the training and validation images (N, C, H, W), uint8, by split."""
    size = task.settings.codebook.size
    splits = {
        split: torch.cat([task.module.encode(to_unit(part)) for part in batches(images[split], 100, device)])
        for split in ("train", "validation")
    }
    return TokenSet(splits, size, "")


def summary(losses: pd.DataFrame) -> pd.DataFrame:
    """The last epoch's loss over the seeds, and how far each way's mean is from the plain one's, in percent."""
    last = losses[losses["epoch"] == losses["epoch"].max()]
    table = (
        last.groupby(["model", "way"])["loss"]
        .agg(["mean", "std", "count"])
        .reindex(pd.MultiIndex.from_product([TITLES, WAYS], names=["model", "way"]))
        .dropna(subset="mean")
    )
    plainly = table.xs("plain", level="way")["mean"].reindex(table.index.get_level_values("model")).to_numpy()
    table["percent_off_plain"] = 100 * (table["mean"] / plainly - 1)
    return table.reset_index()


def draw(losses: pd.DataFrame, out: Path) -> None:
    """Curves of all seeds, one panel for each model."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.8), layout="constrained")
        for axis, (model, title) in zip(axes, TITLES.items(), strict=True):
            for way, style in zip(WAYS[:3], ("-", "--", ":"), strict=True):
                here = losses[(losses["model"] == model) & (losses["way"] == way)]
                for seed, one in here.groupby("seed"):
                    axis.plot(
                        one["epoch"],
                        one["loss"],
                        style,
                        color=f"C{WAYS.index(way)}",
                        label=LABELS[way] if seed == 0 else None,
                    )
            axis.set(title=title, xlabel="epoch", ylabel="training loss", yscale="log")
        axes[0].legend(fontsize=7)
        figure.savefig(out, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    """Train, and write OUT.csv (every epoch), OUT.md (the last epoch) and OUT.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nudges", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    losses = train_all(load_params(), args.epochs, args.seeds, args.nudges, Path("work/curves"))
    artifacts.write_text(
        args.out.with_suffix(".csv"), losses.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    )
    draw(losses, args.out.with_suffix(".png"))
    lines = summary(losses)
    print(lines.to_string(index=False, float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
