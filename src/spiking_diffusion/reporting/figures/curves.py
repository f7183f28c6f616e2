"""Metrics against a setting that was varied, and FID against how images are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Protocol
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.reporting.groups import Group, ablated, legend, with_codes
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, shades, size, ticks_at

NAMES = {"mse": "MSE", "ssim": "1 - SSIM"}
OF_CODEBOOK, OF_TOKENS = {"perplexity": "perplexity"}, {"bits_per_token": "bits per token"}
BAND = 0.15
"""How opaque the band of one standard deviation is."""
TRIED = ["steps", "temperature", "guidance", "fid", "kid", "network_calls", "chosen"]


def ablation(groups: list[Group]) -> Figure:
    """Metrics against the one key in which the runs differ, or by run where it is several: mean and standard
    deviation over seeds.

    Numbers are placed on the axis; a word beside numbers, as a learned k, is a line across it. The FID is that of the
    first protocol which all runs have.
    """
    key = ablated(groups)
    shown = [group for group in with_codes(groups) if group.settings and (not key or key in group.settings)]
    # bits of tokens compare where all have the same ones
    of_sdid = all(setting.startswith("sdid.") for group in shown for setting in group.settings)
    wanted = NAMES | (OF_TOKENS if of_sdid else OF_CODEBOOK)
    rows = [[read_row(run.name) for run in group.runs] for group in shown]
    common = set.intersection(*({k for k, v in row.items() if v is not None} for seeds in rows for row in seeds))
    protocols = [protocol for protocol in get_args(Protocol) if f"{protocol}_fid" in common]
    names = {metric: name for metric, name in wanted.items() if metric in common}
    names |= {f"{protocol}_fid": f"FID ({protocol})" for protocol in protocols[:1]}
    numbers = sorted({v for group in shown if key and _is_number(v := group.settings[key])})
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=size(TWO_COLUMNS, 1, 2.1 if numbers else 0.75 + 0.22 * len(shown)),
        sharey=not numbers,
        squeeze=False,
        layout="constrained",
    )
    datasets = list(dict.fromkeys(group.first.dataset.title for group in shown))
    for axis, (metric, name) in zip(axes[0], names.items(), strict=True):
        for dataset, colour in zip(datasets, shades(COLOURS[shown[0].first.model], len(datasets)), strict=True):
            found = {
                _place(group, key): np.array([row[metric] for row in seeds], float)
                for group, seeds in zip(shown, rows, strict=True)
                if group.first.dataset.title == dataset
            }
            _draw(axis, found, dataset, colour)
        if numbers:
            axis.set(title=name, xlabel=key.rpartition(".")[2] if key else "")
            doublings = numbers[0] > 0 and numbers[-1] >= 4 * numbers[0]  # as of tau_syn
            axis.set_xscale("log" if doublings else "linear")
            ticks_at(axis.xaxis, numbers)
        else:
            axis.set_xlabel(name)
            axis.xaxis.set_major_locator(MaxNLocator(3))
    if not numbers:  # words are long, so they are on the axis that all panels share
        axes[0, 0].invert_yaxis()
        axes[0, 0].margins(y=0.1)
    _legend_below(figure, datasets, max(len(seeds) for seeds in rows))
    return figure


def _draw(axis: Axes, found: Mapping[Any, np.ndarray], title: str, colour: str) -> None:
    numbers = sorted(value for value in found if _is_number(value))
    words = [value for value in found if not _is_number(value)]
    if not numbers:
        means, deviations = zip(*(mean_and_deviation(found[word]) for word in words), strict=True)
        _points(axis, words, means, deviations, across=True, label=title, linestyle="none", color=colour)
        return
    means, deviations = zip(*(mean_and_deviation(found[number]) for number in numbers), strict=True)
    _points(axis, numbers, means, deviations, label=title, color=colour)
    for word in words:
        mean, deviation = mean_and_deviation(found[word])
        axis.axhline(mean, linestyle="--", color=colour, linewidth=1, label=f"{title}, {word}")
        axis.axhspan(mean - deviation, mean + deviation, color=colour, alpha=BAND, linewidth=0)


def _place(group: Group, key: str | None) -> float | str:
    """Where a group stands on the axis: a number as it is, whatever else in words."""
    value = group.settings[key] if key else group.label
    return value if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Over seeds; the deviation of one is 0."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def temperature(groups: list[Group]) -> Figure:
    """FID and KID on validation images against the temperature, at the run's number of steps.

    Where one temperature was tried with several guidances, they are against the guidance. Of several samplers it is the
    best one.
    """
    figure, axes = plt.subplots(1, 2, figsize=size(TWO_COLUMNS, 1, 2.4), layout="constrained")
    shown, keys = _tuned(groups), []
    values: set[float] = set()
    for group, colour in zip(shown, shades(COLOURS[shown[0].first.model], len(shown)), strict=True):
        tried = _read_tried(group)
        tried = tried[tried["steps"] == tried["steps"].iloc[0]]
        fids = tried[tried["chosen"] > 0].groupby("sampler")["fid"].mean()
        tried = tried[tried["sampler"] == fids.idxmin()]
        key, other = "temperature", "guidance"
        if tried[key].nunique() == 1 < tried[other].nunique():
            key, other = other, key
        tried = tried.merge(tried.loc[tried["chosen"] > 0, ["seed", other]])  # each seed at its own choice
        keys.append(key)
        values |= set(tried[key])
        for axis, column in zip(axes, ("fid", "kid"), strict=True):
            spread = tried.groupby(key)[column].agg(["mean", "std"])
            best = tried.groupby(key)["chosen"].mean().idxmax()
            label = legend(group, shown)
            _points(axis, spread.index, spread["mean"], spread["std"].fillna(0), label=label, color=colour)
            axis.plot(best, spread["mean"][best], "*", color=colour, markersize=12)
    for axis, name in zip(axes, ("FID", "KID"), strict=True):
        axis.set(xlabel=" or ".join(dict.fromkeys(keys)), ylabel=f"{name}, validation images")
        _ticks_apart(axis, values)
    chosen = f"chosen {keys[0] if len(set(keys)) == 1 else 'value'}"
    star = Line2D([], [], color=COLOURS["reference"], marker="*", markersize=10, linestyle="none")
    _legend_below(figure, [legend(group, shown) for group in shown], _seeds(shown), {chosen: star})
    return figure


def steps(groups: list[Group]) -> Figure:
    """FID on validation images against the number of steps and against the network calls these take, at the chosen
    temperature and guidance; a line for each sampler that was tried."""
    figure, axes = plt.subplots(1, 2, figsize=size(TWO_COLUMNS, 1, 2.4), sharey=True, layout="constrained")
    shown = _tuned(groups)
    lines: dict[str, pd.DataFrame] = {}
    for group in shown:
        tried = _read_tried(group)
        several = tried["sampler"].nunique() > 1
        for sampler, rows in tried[tried["chosen"] > 0].groupby("sampler", sort=False):
            lines[f"{legend(group, shown)}, {sampler}" if several else legend(group, shown)] = rows
    values: list[set[float]] = [set(), set()]
    for (label, rows), colour in zip(lines.items(), shades(COLOURS[shown[0].first.model], len(lines)), strict=True):
        spread = rows.groupby("steps")[["fid", "network_calls"]].agg(["mean", "std"]).fillna(0)
        for axis, x, ticks in zip(axes, (spread.index, spread["network_calls"]["mean"]), values, strict=True):
            _points(axis, x, spread["fid"]["mean"], spread["fid"]["std"], label=label, color=colour)
            ticks |= set(x)
    for axis, name, ticks in zip(axes, ("steps", "network calls per image"), values, strict=True):
        axis.set(xscale="log", xlabel=name)
        _ticks_apart(axis, ticks)
    axes[0].set_ylabel("FID, validation images")
    _legend_below(figure, list(lines), _seeds(shown))
    return figure


def _points(
    axis: Axes, x: ArrayLike, means: ArrayLike, deviations: ArrayLike, across: bool = False, **style: Any
) -> None:
    """Means with error bars, joined; no bars where each is of one seed alone. With ``across`` x is the upright axis."""
    bars = deviations if np.any(deviations) else None
    places: dict[str, Any] = {"x": means, "y": x, "xerr": bars} if across else {"x": x, "y": means, "yerr": bars}
    axis.errorbar(**places, marker="o", markersize=4, capsize=3, **style)


def _ticks_apart(axis: Axes, values: Iterable[float]) -> None:
    """Ticks at the values that were tried, but for those whose numbers would overlap the one before."""
    there = sorted(values)
    low, high = axis.transData.transform([(there[0], 1), (there[-1], 1)])[:, 0]
    kept: list[float] = []
    for value in there:
        at = axis.transData.transform((value, 1))[0]
        if not kept or at - axis.transData.transform((kept[-1], 1))[0] > 0.08 * (high - low):
            kept.append(value)
    ticks_at(axis.xaxis, kept)


def _seeds(groups: list[Group]) -> int:
    return max(len(group.runs) for group in groups)


def _legend_below(figure: Figure, names: list[str], seeds: int, others: Mapping[str, Any] | None = None) -> None:
    """One legend for all axes, where it hides no error bar, and a title that says what bars and bands are.

    The name of the only one that is shown needs no entry: it is in the title.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True)) | dict(others or {})
    alone = names[0] if len(names) == 1 else ""
    entries.pop(alone, None)
    for label, line in entries.items():
        if isinstance(line, Line2D) and line.get_linestyle() == "--":  # the line of a word, in its band
            entries[label] = (Patch(color=line.get_color(), alpha=BAND, linewidth=0), line)
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    spread = f"mean and standard deviation over {seeds} seeds" if seeds > 1 else ""
    if alone or spread:
        figure.suptitle(": ".join(filter(None, [alone, spread])))


def _tuned(groups: list[Group]) -> list[Group]:
    return [group for group in with_codes(groups) if group.first.tuned]


def _read_tried(group: Group) -> pd.DataFrame:
    """What the stage ``tune`` tried for every seed of a group, the temperatures first."""
    tables = []
    for run in group.runs:
        path = paths.tuning_path(run.name).with_suffix(".csv")
        try:
            table = pd.read_csv(artifacts.require(path))
            tried = table.assign(guidance=table.get("guidance", 0.0))[TRIED].astype(float)
            tried = tried.assign(sampler=table["sampler"])
            if tried.empty:
                raise ValueError("nothing was tried")
        except (KeyError, ValueError) as error:
            raise artifacts.damaged(path, error) from error
        tables.append(tried.assign(seed=run.recipe.seed))
    return pd.concat(tables, ignore_index=True)
