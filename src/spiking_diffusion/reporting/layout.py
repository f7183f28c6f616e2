"""Where tables and figures lie and what they are made from, without drawing anything."""

from __future__ import annotations

from pathlib import Path

from spiking_diffusion import artifacts
from spiking_diffusion.config import Model, Params

FIGURES = ("samples", "losses", "codebook")
MODELS: dict[Model, tuple[str, ...]] = {"spiking-diffusion": ("vqsvae", "sdid"), "fsvae": ("fsvae",)}
"""The networks that a run of each kind trains."""


def table_path(suite: str) -> Path:
    """The table of a suite; the same as Markdown lies beside it."""
    return Path("results/tables", f"{suite}.csv")


def figure_path(suite: str, kind: str) -> Path:
    """The PNG of a figure; SVG and PDF lie beside it."""
    return Path("results/figures", f"{suite}-{kind}.png")


def figure_inputs(params: Params, suite: str, kind: str) -> list[Path]:
    """The files that a figure of a suite is drawn from."""
    runs = [params.resolve(name) for name in params.suites[suite]]
    match kind:
        case "samples":
            datasets = dict.fromkeys(artifacts.data_path(run.dataset_name) for run in runs)
            return [
                *datasets,
                *(path(run.name) for run in runs for path in (artifacts.samples_path, artifacts.reconstructions_path)),
            ]
        case "losses":
            return [
                artifacts.history_path(artifacts.model_path(run.name, model))
                for run in runs
                for model in MODELS[run.model]
            ]
        case _:
            return [artifacts.tokens_path(run.name) for run in runs if run.model == "spiking-diffusion"]
