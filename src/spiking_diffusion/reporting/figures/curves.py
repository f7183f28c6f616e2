"""Metrics against a setting that was varied, and FID against how images are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import ArrayLike

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Protocol
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.reporting.groups import Group, ablated, legend, with_codes

NAMES = {"mse": "MSE", "ssim": "1 - SSIM"}
OF_CODEBOOK, OF_TOKENS = {"perplexity": "perplexity"}, {"bits_per_token": "bits per token"}
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
    figure, axes = plt.subplots(1, len(names), figsize=(2.4 * len(names), 2.5), squeeze=False, layout="constrained")
    for axis, (metric, name) in zip(axes[0], names.items(), strict=True):
        for dataset in dict.fromkeys(group.first.dataset.title for group in shown):
            found = {
                _place(group, key): np.array([row[metric] for row in seeds], float)
                for group, seeds in zip(shown, rows, strict=True)
                if group.first.dataset.title == dataset
            }
            _draw(axis, found, dataset)
        axis.set(title=name, xlabel=key.rpartition(".")[2] if key else "")
        if numbers:
            doublings = numbers[0] > 0 and numbers[-1] >= 4 * numbers[0]  # as of tau_syn
            axis.set_xscale("log" if doublings else "linear")
            _ticks_at(axis, numbers)
        if not key:  # names are long
            plt.setp(axis.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    _legend_below(figure)
    return figure


def _draw(axis: Axes, found: Mapping[Any, np.ndarray], title: str) -> None:
    numbers = sorted(value for value in found if _is_number(value))
    words = [value for value in found if not _is_number(value)]
    if not numbers:
        means, deviations = zip(*(mean_and_deviation(found[word]) for word in words), strict=True)
        _points(axis, words, means, deviations, label=title, linestyle="none")
        axis.margins(x=0.3)
        return
    means, deviations = zip(*(mean_and_deviation(found[number]) for number in numbers), strict=True)
    colour = _points(axis, numbers, means, deviations, label=title)
    for word in words:
        mean, deviation = mean_and_deviation(found[word])
        axis.axhline(mean, linestyle="--", color=colour, linewidth=1, label=f"{title}, {word}")
        axis.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)


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

    Where one temperature was tried with several guidances, they are against the guidance.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.8), layout="constrained")
    shown, keys = _tuned(groups), []
    for group in shown:
        tried = _read_tried(group)
        tried = tried[tried["steps"] == tried["steps"].iloc[0]]
        key, other = "temperature", "guidance"
        if tried[key].nunique() == 1 < tried[other].nunique():
            key, other = other, key
        tried = tried.merge(tried.loc[tried["chosen"] > 0, ["seed", other]])  # each seed at its own choice
        keys.append(key)
        for axis, column in zip(axes, ("fid", "kid"), strict=True):
            spread = tried.groupby(key)[column].agg(["mean", "std"])
            best = tried.groupby(key)["chosen"].mean().idxmax()
            label = legend(group, shown)
            colour = _points(axis, spread.index, spread["mean"], spread["std"].fillna(0), label=label)
            axis.plot(best, spread["mean"][best], "*", color=colour, markersize=12)
    for axis, name in zip(axes, ("FID", "KID"), strict=True):
        axis.set(xlabel=" or ".join(dict.fromkeys(keys)), ylabel=f"{name}, validation images")
    _legend_below(figure)
    return figure


def steps(groups: list[Group]) -> Figure:
    """FID on validation images against the number of steps and against the network calls these take, at the chosen
    temperature and guidance."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.8), sharey=True, layout="constrained")
    shown = _tuned(groups)
    for group in shown:
        tried = _read_tried(group)
        spread = tried[tried["chosen"] > 0].groupby("steps")[["fid", "network_calls"]].agg(["mean", "std"]).fillna(0)
        label = legend(group, shown)
        for axis, x in zip(axes, (spread.index, spread["network_calls"]["mean"]), strict=True):
            _points(axis, x, spread["fid"]["mean"], spread["fid"]["std"], label=label)
    for axis, name in zip(axes, ("steps", "network calls per image"), strict=True):
        low, high = axis.get_xlim()
        axis.set(xscale="log", xlabel=name)
        _ticks_at(axis, [2**i for i in range(12) if low <= 2**i <= high])
    axes[0].set_ylabel("FID, validation images")
    _legend_below(figure)
    return figure


def _points(axis: Axes, x: ArrayLike, means: ArrayLike, deviations: ArrayLike, **style: Any) -> Any:
    """Means with error bars, joined; no bars where each is of one seed alone. The colour."""
    bars = deviations if np.any(deviations) else None
    return axis.errorbar(x, means, bars, marker="o", markersize=4, capsize=3, **style)[0].get_color()


def _ticks_at(axis: Axes, values: Sequence[float]) -> None:
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")


def _legend_below(figure: Figure) -> None:
    """One legend for all axes, where it hides no error bar."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)


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
            if tried.empty:
                raise ValueError("nothing was tried")
        except (KeyError, ValueError) as error:
            raise artifacts.damaged(path, error) from error
        tables.append(tried.assign(seed=run.recipe.seed))
    return pd.concat(tables, ignore_index=True)
