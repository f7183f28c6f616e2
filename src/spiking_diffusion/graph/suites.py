"""What a suite consists of: the rows of its table, its figures and its pages, and the files these are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiking_diffusion import paths
from spiking_diffusion.config import FAMILIES, Model, Params, RunSettings

PAGES = {"table": "1 Tables", "animation": "2 Figures", "settings": "3 Settings", "provenance": "4 Provenance"}
"""Pages made for the report alone, and their category in it: Snakemake sorts categories by name."""


@dataclass(frozen=True)
class Row:
    """``runs`` by name, one for each seed; ``settings`` are those in which the suite's runs of this model on this
    dataset differ: ``recipe`` where there are several, and what differs between runs of one recipe."""

    dataset: str
    model: Model
    runs: list[str]
    settings: dict[str, Any]

    def trains(self, network: str) -> bool:
        """Whether its runs have a network of this name."""
        return network in FAMILIES[self.model].networks


def rows_of(params: Params, suite: str) -> list[Row]:
    """The rows of a suite, in the order of their first runs. Runs that differ only in their seed are one row."""
    kept: dict[str, list[Row]] = params.derived.setdefault("rows", {})
    if suite not in kept:
        kept[suite] = _rows_of(params, suite)
    return kept[suite]


def _rows_of(params: Params, suite: str) -> list[Row]:
    found: list[tuple[RunSettings, dict[str, Any], dict[int, str]]] = []
    for name in params.suites[suite]:
        run = params.resolve(name)
        unused = run.family.unused | {"seed"}
        settings = {k: v for k, v in leaves(run.recipe.model_dump()) if k.split(".")[0] not in unused}
        seed = run.recipe.seed
        for first, other, names in found:  # the same run under another name is no second seed
            if _comparable(first, run) and other == settings and seed not in names:
                names[seed] = name
                break
        else:
            found.append((run, settings, {seed: name}))

    rows = []
    for run, settings, names in found:
        alike = [(each.recipe_name, other) for each, other, _ in found if _comparable(each, run)]
        shown = {"recipe": run.recipe_name} if len({recipe for recipe, _ in alike}) > 1 else {}
        of_recipe = [other for recipe, other in alike if recipe == run.recipe_name]
        shown |= {key: value for key, value in settings.items() if any(value != other[key] for other in of_recipe)}
        rows.append(Row(run.dataset_name, run.model, list(names.values()), shown))
    return rows


def _comparable(one: RunSettings, other: RunSettings) -> bool:
    return (one.dataset_name, one.model) == (other.dataset_name, other.model)


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below ``section``, by its dotted key."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def has_energy(params: Params, suite: str) -> bool:
    """Whether a suite has a table of energies: suites that compare with a baseline do."""
    return any(params.family_of(run).section == "baselines" for run in params.suites[suite])


def with_energy(params: Params) -> set[str]:
    """The runs of suites that have a table of energies."""
    return {run for suite, runs in params.suites.items() if has_energy(params, suite) for run in runs}


def shown(params: Params) -> set[str]:
    """The first run of every row of every suite: figures show what goes on inside it."""
    return {row.runs[0] for suite in params.suites for row in rows_of(params, suite)}


def of_all(params: Params) -> list[str]:
    """Suites that the target ``all`` makes: those without ``quick`` or ``small`` in their name."""
    return [suite for suite in params.suites if not {"quick", "small"}.intersection(suite.split("-"))]


def tuned(params: Params) -> list[str]:
    """The runs for which the stage ``tune`` chooses the temperature."""
    return [run for run in params.all_runs if params.resolve(run).tuned]


def metrics(runs: Iterable[str]) -> list[Path]:
    """The files with the metrics of runs."""
    return [path(run) for run in runs for path in (paths.metrics_path, paths.notes_path)]


# --- figures --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A kind of figure. ``module`` of ``reporting.figures`` has the function of the same name that draws it.

    ``inputs`` are the files that it is drawn from, given ``params`` and the suite's rows; a suite without any has no
    such figure.
    """

    module: str
    inputs: Callable[[Params, list[Row]], list[Path]]
    formats: tuple[str, ...] = (".png", ".svg", ".pdf")


def _firsts(params: Params, rows: list[Row], network: str = "") -> list[RunSettings]:
    """The first run of each row, or of each row whose runs have ``network``."""
    return [params.resolve(row.runs[0]) for row in rows if not network or row.trains(network)]


def _images(of_run: Callable[[str], Path]) -> Callable[[Params, list[Row]], list[Path]]:
    def inputs(params: Params, rows: list[Row]) -> list[Path]:
        shown = _firsts(params, rows)
        datasets = dict.fromkeys(paths.data_path(run.dataset_name) for run in shown)
        return [*datasets, *(of_run(run.name) for run in shown)]

    return inputs


def _ladder(params: Params, rows: list[Row]) -> list[Path]:
    datasets = dict.fromkeys(row.dataset for row in rows)
    scores = [
        path for name in datasets for path in (paths.ladder_path(name), paths.ladder_path(name).with_suffix(".npz"))
    ]
    samples = [paths.samples_path(row.runs[0]) for row in rows]
    return [*scores, *samples, *metrics(name for row in rows for name in row.runs)]


def _histories(params: Params, rows: list[Row]) -> list[Path]:
    runs = [params.resolve(name) for row in rows for name in row.runs]
    return [paths.history_path(paths.model_path(run.name, model)) for run in runs for model in run.family.networks]


def _of_codes(*of_run: Callable[[str], Path]) -> Callable[[Params, list[Row]], list[Path]]:
    return lambda params, rows: [path(run.name) for run in _firsts(params, rows, "vqsvae") for path in of_run]


def _ablated(params: Params, rows: list[Row]) -> list[Path]:
    varied = [row for row in rows if row.trains("vqsvae")]
    if not any(row.settings for row in varied) or any("recipe" in row.settings for row in varied):
        return []
    return metrics([name for row in varied for name in row.runs])


def _tuned(params: Params, rows: list[Row]) -> list[Path]:
    if not any(run.tuned for run in _firsts(params, rows)):
        return []
    return [
        paths.tuning_path(name).with_suffix(".csv") for row in rows for name in row.runs if params.resolve(name).tuned
    ]


FIGURES: dict[str, Figure] = {
    "samples": Figure("images", _images(paths.samples_path)),
    "reconstructions": Figure("images", _images(paths.reconstructions_path)),
    "ladder": Figure("ladder", _ladder),
    "losses": Figure("training", _histories),
    "dynamics": Figure("training", _histories),
    "codebook": Figure("codes", _of_codes(paths.tokens_path, paths.traces_path)),
    "trajectory": Figure("trajectory", _of_codes(paths.traces_path), (".png", ".svg", ".pdf", ".gif")),
    "spikes": Figure("spikes", _of_codes(paths.traces_path)),
    "ablation": Figure("curves", _ablated),
    "temperature": Figure("curves", _tuned),
    "steps": Figure("curves", _tuned),
}


def figure_inputs(params: Params, suite: str, kind: str) -> list[Path]:
    """The files that a figure of a suite is drawn from; none where the suite has no such figure."""
    return FIGURES[kind].inputs(params, rows_of(params, suite))


def figures_of(params: Params, suite: str) -> list[str]:
    """The kinds of figures that a suite has."""
    return [kind for kind in FIGURES if figure_inputs(params, suite, kind)]


def figure_paths(suite: str, kind: str) -> list[Path]:
    """A figure in every format, the PNG first."""
    return [paths.figure_path(suite, kind).with_suffix(suffix) for suffix in FIGURES[kind].formats]


def pages_of(params: Params, suite: str) -> list[str]:
    """The pages that the report has on a suite."""
    return [kind for kind in PAGES if kind != "animation" or "trajectory" in figures_of(params, suite)]
