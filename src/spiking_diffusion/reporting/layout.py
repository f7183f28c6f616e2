"""Where tables and figures lie and what they are made from, without drawing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts
from spiking_diffusion.config import Model, Params, RunSettings
from spiking_diffusion.reporting.rows import rows_of

FIGURES = (
    "samples",
    "reconstructions",
    "losses",
    "dynamics",
    "codebook",
    "trajectory",
    "spikes",
    "ablation",
    "temperature",
    "steps",
)
PAGES = {"table": "Tables", "animation": "Figures", "settings": "Settings", "provenance": "Provenance"}
"""Pages made for the report alone, and where they stand in it."""
MODELS: dict[Model, tuple[str, ...]] = {"spiking-diffusion": ("vqsvae", "sdid"), "fsvae": ("fsvae",)}
"""The networks that a run of each kind trains."""
TITLES: dict[Model, str] = {"spiking-diffusion": "Spiking-Diffusion", "fsvae": "FSVAE"}


def table_path(suite: str) -> Path:
    """The table of a suite; the same as Markdown lies beside it."""
    return Path("results/tables", f"{suite}.csv")


def energy_table_path(suite: str) -> Path:
    """What it takes to draw an image, in suites for which ``has_energy``."""
    return Path("results/tables", f"{suite}-energy.csv")


def has_energy(params: Params, suite: str) -> bool:
    """Whether a suite has a table of energies: those that compare with a baseline."""
    return any(run in params.baselines for run in params.suites[suite])


def figure_path(suite: str, kind: str) -> Path:
    """The PNG of a figure; SVG and PDF lie beside it, and of a trajectory a GIF."""
    return Path("results/figures", f"{suite}-{kind}.png")


def figure_paths(suite: str, kind: str) -> list[Path]:
    """A figure in every format, the PNG first."""
    png = figure_path(suite, kind)
    return [png.with_suffix(s) for s in (".png", ".svg", ".pdf", *([".gif"] if kind == "trajectory" else []))]


def page_path(suite: str, kind: str) -> Path:
    """A page of the report; no artefact, as it tells of times and of this machine."""
    return Path("work/report", suite, f"{kind}.html")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, the first of which stands for them where one is shown.

    ``settings`` are those in which the suite's groups of this model and dataset differ, ``label`` tells it from them.
    """

    runs: tuple[RunSettings, ...]
    settings: dict[str, Any]

    @property
    def first(self) -> RunSettings:
        return self.runs[0]

    @property
    def models(self) -> tuple[str, ...]:
        """The networks that each of them trained."""
        return MODELS[self.first.model]

    @property
    def label(self) -> str:
        """``k = 0.5``; the run's name where settings differ in more than one key, nothing where in none."""
        if len(self.settings) > 1:
            return self.first.name
        return "".join(f"{key.rpartition('.')[2]} = {value}" for key, value in self.settings.items())

    @property
    def title(self) -> str:
        """The model's name, and the label if there is one."""
        return ", ".join(filter(None, [TITLES[self.first.model], self.label]))


def groups(params: Params, suite: str) -> list[Group]:
    """The runs of a suite without their seeds, in the suite's order."""
    return [Group(tuple(map(params.resolve, row.runs)), row.settings) for row in rows_of(params, suite)]


def legend(group: Group, shown: list[Group]) -> str:
    """What tells a group from the others shown: its label, and its dataset where there are several."""
    several = len({other.first.dataset_name for other in shown}) > 1
    return ", ".join(filter(None, [group.first.dataset.title if several or not group.label else "", group.label]))


def ours(of_suite: list[Group]) -> list[Group]:
    """Those of Spiking-Diffusion."""
    return [group for group in of_suite if group.first.model == "spiking-diffusion"]


def ablated(of_suite: list[Group]) -> str | None:
    """The one key of the recipe in which Spiking-Diffusion's groups differ; None if there is none, or several."""
    keys = {key for group in ours(of_suite) for key in group.settings}
    return keys.pop() if len(keys) == 1 else None


def figures_of(params: Params, suite: str) -> list[str]:
    """The kinds of figures that a suite has."""
    of_suite = groups(params, suite)
    without = set()
    if not ours(of_suite):
        without |= {"codebook", "trajectory", "spikes"}
    if not any(group.settings for group in ours(of_suite)):
        without |= {"ablation"}
    if not any(group.first.tuned for group in ours(of_suite)):
        without |= {"temperature", "steps"}
    return [kind for kind in FIGURES if kind not in without]


def pages_of(params: Params, suite: str) -> list[str]:
    """The pages that the report has on a suite."""
    return [kind for kind in PAGES if kind != "animation" or "trajectory" in figures_of(params, suite)]


def figure_inputs(params: Params, suite: str, kind: str) -> list[Path]:
    """The files that a figure of a suite is drawn from."""
    of_suite = groups(params, suite)
    shown = [group.first for group in of_suite]
    runs = [run for group in of_suite for run in group.runs]
    diffusing = [group.first for group in ours(of_suite)]
    match kind:
        case "samples" | "reconstructions":
            datasets = dict.fromkeys(artifacts.data_path(run.dataset_name) for run in shown)
            path = artifacts.samples_path if kind == "samples" else artifacts.reconstructions_path
            return [*datasets, *(path(run.name) for run in shown)]
        case "losses" | "dynamics":
            return [
                artifacts.history_path(artifacts.model_path(run.name, model))
                for run in runs
                for model in MODELS[run.model]
            ]
        case "codebook":
            return [path(run.name) for run in diffusing for path in (artifacts.tokens_path, artifacts.traces_path)]
        case "ablation":
            return [artifacts.metrics_path(run.name) for group in ours(of_suite) for run in group.runs]
        case "temperature" | "steps":
            tuned = [run for group in ours(of_suite) for run in group.runs if run.tuned]
            return [artifacts.tuning_path(run.name).with_suffix(".csv") for run in tuned]
        case _:
            return [artifacts.traces_path(run.name) for run in diffusing]
