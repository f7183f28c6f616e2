"""Weights that come along: a folder ``pretrained/NAME`` with all that is needed to draw from a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from spiking_diffusion import artifacts, families, paths
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.families import CONFIG, DRAWN, front_matter
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.weights import halved

NUMBERS = (
    *("classifier_fid", "classifier_fid_deviation", "classifier_train_test_fid", "classifier_perfect_prior_fid"),
    *("classifier_precision", "classifier_recall", "classifier_n_generated"),
    *("legible", "test_legible", "class_balance", "class_accuracy", "mse", "ssim", "bits_per_token"),
)
"""The metrics in a model card, next to how images were drawn."""


def export(params: Params, name: str, folder: Path, half: bool = False) -> Path:
    """Write weights, losses by epoch, metrics, ``config.json`` and a model card, ``README.md``, of an evaluated run.

    With ``half`` the weights are rounded to float16, after which the metrics are those of almost the same model.

    Raises UserError if the run has not been evaluated.
    """
    run, row = params.resolve(name), read_row(name)
    settings = families.load(run, torch.device("cpu")).settled()
    hashes: dict[str, str] = {}
    for network in run.family.networks:
        weights = paths.model_path(name, network)
        history = paths.history_path(weights)
        artifacts.write_bytes(folder / history.name, artifacts.require(history).read_bytes())
        made_from = next(iter(hashes.values()), "")  # SDID says which VQ-SVAE its tokens are of
        content = halved(weights, made_from) if half else artifacts.require(weights).read_bytes()
        artifacts.write_bytes(folder / weights.name, content)
        hashes[weights.name] = artifacts.sha256(folder / weights.name)
    artifacts.write_json(folder / "metrics.json", artifacts.read_json(paths.metrics_path(name)))
    artifacts.write_json(folder / CONFIG, settings.model_dump())
    artifacts.write_text(folder / "README.md", card(settings, row, hashes, _costs(run)))
    return folder


def _costs(run: RunSettings) -> dict[str, str]:
    """Processor minutes of each training, as far as they are known here; of one on a GPU they would say little."""
    files = {network: paths.cost_path(paths.work_path(run.name, network)) for network in run.family.networks}
    found = {network: artifacts.read_json(file) for network, file in files.items() if file.is_file()}
    return {
        network: "on a GPU" if cost["device"] == "cuda" else f"{float(cost['processor_seconds']) / 60:.0f} min"
        for network, cost in found.items()
    }


def card(run: RunSettings, row: dict[str, Any], hashes: dict[str, str], costs: dict[str, str]) -> str:
    """A model card: what the weights are, how they were made and measured, and what they are not good for."""
    numbers = {key: row[key] for key in NUMBERS if isinstance(row.get(key), int | float)}
    made = ", ".join(f"{run.family.networks[network]} {cost}" for network, cost in costs.items())
    command = f"snakemake --cores 2 results/metrics/{run.name}.json"
    if "on a GPU" in costs.values():
        command = f"python -m spiking_diffusion.benchmark.gpu {run.name}"
    lines = [
        front_matter(run, numbers),
        f"# {run.name}",
        "",
        f"{run.family.title} for {run.dataset.title}, recipe `{run.recipe_name}`, seed {run.recipe.seed}.",
        "",
        "```",
        f"spiking-diffusion sample --pretrained {run.name} -n 64 --out grid.png",
        "```",
        "",
        f"- **Data**: {run.dataset.title}, licence {run.dataset.licence}. {run.dataset.citation}.",
        f"- **Made by**: `{command}`, {row['images_seen']:,} images seen.",
        *[f"- **Processor time**, all threads together: {made}."] * bool(made),
        f"- **Drawn with**: {json.dumps({key: row[key] for key in (*DRAWN, 'network_calls') if key in row})}.",
        "- **Limits**: images are small, and of this dataset alone. Do not take them for new data of its source.",
        "",
        "| number ([docs/evaluation.md](../../docs/evaluation.md)) | value |",
        "|---|---|",
        *[f"| `{key}` | {value if isinstance(value, int) else f'{value:.4g}'} |" for key, value in numbers.items()],
        "",
        "| file | sha256 |",
        "|---|---|",
        *[f"| `{name}` | `{digest}` |" for name, digest in hashes.items()],
    ]
    return "\n".join(lines) + "\n"
