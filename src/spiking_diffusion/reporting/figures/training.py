"""What changes while models train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import FAMILIES
from spiking_diffusion.reporting.figures.images import by_dataset
from spiking_diffusion.reporting.groups import Group, legend, with_codes
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, at_most, legend_below, plain_log, shades, size

LINES = 5
"""Lines in a panel of ``dynamics``, at most."""
NAMES = {network: title for family in reversed(FAMILIES.values()) for network, title in family.networks.items()}
TERMS = {
    "loss": ("sum", "whole", "-"),
    "reconstruction": ("reconstruction", "", "-"),  # in the model's colour
    "codebook": ("codebook", "latent", "-"),
    "commitment": ("commitment", "encoder", "-"),
    "asg": ("spike generator", "generator", "-"),
    "asg_commitment": ("its commitment", "generator", "--"),
    "prior": ("prior", "latent", "-"),
}


def losses(groups: list[Group]) -> Figure:
    """A row for each dataset or setting: every term of the autoencoders' losses, their held-out error, SDID's bound."""
    present = {network for group in groups for network in group.networks}
    panels: list[tuple[str, Callable[[Axes, list[Group]], None]]] = [
        *(
            (f"{NAMES[network]}: loss", _terms(network))
            for network in NAMES
            if network in present and network != "sdid"
        ),
        ("Held-out images", _held_out),
        *([(f"{NAMES['sdid']}: bound", _bits)] if "sdid" in present else []),
    ]
    rows = _rows(groups)
    figure, axes = plt.subplots(
        len(rows), len(panels), figsize=size(TWO_COLUMNS, len(rows), 2.3), squeeze=False, layout="constrained"
    )
    for line, (title, row) in zip(axes, rows, strict=True):
        for axis, (_, draw) in zip(line, panels, strict=True):
            draw(axis, row)
            _by_epoch(axis)
            if not axis.lines:
                axis.set_axis_off()
        drawn = [axis for axis in line if axis.lines]
        if len(rows) > 1:
            drawn[0].set_ylabel("\n".join(filter(None, [title, drawn[0].get_ylabel()])))
    for column, (name, _) in zip(axes.T, panels, strict=True):
        drawn = [axis for axis in column if axis.lines]
        drawn[0].set_title(name)
        drawn[-1].set_xlabel("epoch")
        legend_below(column[-1], of=drawn)
    return figure


def _by_epoch(axis: Axes) -> None:
    """Whole epochs from 0, and a mark where a line is of one epoch alone."""
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axis.set_xlim(left=0)
    for line in axis.lines:
        if np.size(line.get_xdata()) == 1:
            line.set(marker="o", markerfacecolor="white" if line.get_linestyle() != "-" else line.get_color())


def _rows(groups: list[Group]) -> list[tuple[str, list[Group]]]:
    """Groups that are drawn side by side: those of a dataset, but only one of each model."""
    rows = []
    for here in by_dataset(groups).values():
        of_model = [[group for group in here if group.first.model == model] for model in FAMILIES]
        for row in itertools.zip_longest(*of_model):
            found = [group for group in row if group]
            label = next((group.label for group in found if group.label), "")
            rows.append((", ".join(filter(None, [here[0].first.dataset.title, label])), found))
    return rows


def _terms(model: str) -> Callable[[Axes, list[Group]], None]:
    def draw(axis: Axes, groups: list[Group]) -> None:
        for group in groups:
            if model in group.networks:
                history = read_history(group, model)
                for term, (title, colour, line) in TERMS.items():
                    if term in history:
                        colour = COLOURS[colour or group.first.model]
                        draw_spread(axis, history, term, title, color=colour, linestyle=line)
        axis.set_yscale("log")
        plain_log(axis.yaxis)

    return draw


def _held_out(axis: Axes, groups: list[Group]) -> None:
    for group in groups:
        model, colour = next(iter(group.networks)), COLOURS[group.first.model]
        draw_spread(axis, read_history(group, model, "validation_mse"), "validation_mse", NAMES[model], color=colour)
    axis.set(yscale="log", ylabel="MSE")
    plain_log(axis.yaxis)


def _bits(axis: Axes, groups: list[Group]) -> None:
    for group in groups:
        if "sdid" not in group.networks:
            continue
        history, colour = read_history(group, "sdid", "validation_bits_per_token"), COLOURS[group.first.model]
        draw_spread(axis, history, "validation_bits_per_token", "held out", color=colour)
        if group.first.recipe.sdid.loss == "elbo" and "loss" in history:  # the other loss is no number of bits
            bits = history.assign(loss=history["loss"] / math.log(2))
            draw_spread(axis, bits, "loss", "training", color=colour, linestyle=":")
    axis.set_ylabel("bits per token")


def dynamics(groups: list[Group]) -> Figure:
    """k, perplexity and the latent spikes' rate in all groups; below, for each dataset, firing rates layer by layer.

    Of more than ``LINES`` groups or layers, those at even distances.
    """
    shown = with_codes(groups)
    models = [model for model in NAMES if any(model in group.networks for group in groups)]
    datasets = by_dataset(groups)
    rows, columns = len(datasets) + bool(shown), max(len(models), 3 if shown else 1)
    figure, axes = plt.subplots(
        rows, columns, figsize=size(TWO_COLUMNS, rows, 2.5), squeeze=False, layout="constrained"
    )
    if shown:
        _compare(axes[0], shown)
    for line, here in zip(axes[bool(shown) :], datasets.values(), strict=True):
        for axis, model in itertools.zip_longest(line, models):
            group = next((group for group in here if model in group.networks), None)
            if model is None or group is None:
                axis.set_axis_off()
                continue
            history = read_history(group, model)
            layers = [column for column in map(str, history) if column.startswith("rate_")]
            drawn = at_most(layers, LINES)
            for column, colour in zip(drawn, shades(COLOURS[group.first.model], len(drawn)), strict=True):
                draw_spread(axis, history, column, layer_name(column), color=colour)
            title = f"{NAMES[model]}, {group.first.dataset.title}" if len(datasets) > 1 else NAMES[model]
            axis.set(title=f"{title}{_of(drawn, layers, ' layers')}", ylabel="firing rate")
            _from_zero(axis)
    for column in axes[bool(shown) :].T:
        _legends(column)
    return figure


def _legends(column: Sequence[Axes]) -> None:
    """A legend below the lowest axis, and below others whose layers have other names than those of the next one."""
    named: list[str] = []
    for axis in reversed([axis for axis in column if axis.lines]):
        if (labels := axis.get_legend_handles_labels()[1]) != named:
            axis.set_xlabel("epoch")
            legend_below(axis, 2)
            named = labels


def _compare(line: list[Axes], shown: list[Group]) -> None:
    columns = {
        "k": ("Weight of SFR", "$k$"),
        "perplexity": ("Codebook", "perplexity"),
        "rate_encoder.third": ("Encoder's last layer", "firing rate"),
    }
    drawn = at_most(shown, LINES)
    colours = shades(COLOURS[shown[0].first.model], len(drawn))
    for axis, (column, (title, unit)) in zip(line, columns.items(), strict=False):
        for group, colour in zip(drawn, colours, strict=True):
            history = read_history(group, "vqsvae", column)
            draw_spread(axis, history, column, legend(group, shown), color=colour)
        axis.set(title=f"{title}{_of(drawn, shown)}", xlabel="epoch", ylabel=unit)
        _from_zero(axis)
    if len(shown) > 1:
        legend_below(line[1])


def _of(drawn: list, there: list, what: str = "") -> str:
    return f" ({len(drawn)} of {len(there)}{what})" if len(drawn) < len(there) else ""


def _from_zero(axis: Axes) -> None:
    """Both axes from 0, unless a value is below it."""
    _by_epoch(axis)
    if all(np.min(line.get_ydata(), initial=0) >= 0 for line in axis.lines):
        axis.set_ylim(bottom=0)


def layer_name(column: str) -> str:
    """``rate_encoder.first`` -> ``encoder 1``; of SDID ``rate_rest.0`` -> ``block 2``, and of its other architecture
    ``rate_blocks.0.fire`` -> ``block 1``."""
    *module, last = column.removeprefix("rate_").removesuffix(".fire").split(".")
    number = {"first": "1", "second": "2", "third": "3"}.get(last, last)
    if last.isdigit():
        number = str(int(last) + (2 if module[-1] == "rest" else 1))
    named = [part for part in module if part not in ("rest", "layers", "inner", "blocks")]
    block = [] if named or not number.isdigit() else ["block"]
    return " ".join([*named, *block, number]).replace("asg", "generator").replace("_", " ")


def read_history(group: Group, model: str, *columns: str) -> pd.DataFrame:
    """Rows by epoch of every seed of a group. Raises UserError if one lacks ``epoch`` or one of ``columns``."""
    return pd.concat([_read(paths.history_path(paths.model_path(run.name, model)), columns) for run in group.runs])


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        history = pd.read_csv(artifacts.require(path)).astype(float)
        if history[["epoch", *columns]].empty:
            raise ValueError("no epoch in it")
    except (KeyError, ValueError) as error:
        raise artifacts.damaged(path, error) from error
    return history


def draw_spread(axis: Axes, history: pd.DataFrame, column: str, label: str, **style: Any) -> None:
    """Mean over seeds by epoch, with a band of one standard deviation where there are several."""
    by_epoch = history.groupby("epoch")[column]
    mean, deviation = by_epoch.mean(), by_epoch.std()
    (line,) = axis.plot(mean.index, mean, label=label, **style)
    if deviation.notna().any():
        axis.fill_between(
            mean.index, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, linewidth=0
        )
