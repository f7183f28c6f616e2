"""What changes while models train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import FAMILIES
from spiking_diffusion.reporting.figures.images import by_dataset
from spiking_diffusion.reporting.groups import Group, legend, with_codes

NAMES = {network: title for family in reversed(FAMILIES.values()) for network, title in family.networks.items()}
TERMS = {
    "loss": "sum",
    "reconstruction": "reconstruction",
    "codebook": "codebook",
    "commitment": "commitment",
    "asg": "spike generator",
    "asg_commitment": "its commitment",
    "prior": "prior",
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
        *([(NAMES["sdid"], _bits)] if "sdid" in present else []),
    ]
    rows = _rows(groups)
    figure, axes = plt.subplots(
        len(rows),
        len(panels),
        figsize=(2.5 * len(panels), 2.4 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for line, (title, row) in zip(axes, rows, strict=True):
        for axis, (name, draw) in zip(line, panels, strict=True):
            draw(axis, row)
            if not axis.lines:
                axis.set_axis_off()
            elif row is rows[0][1]:
                axis.set_title(name)
        if len(rows) > 1:
            line[0].annotate(title, (0, 0.5), (-50, 0), "axes fraction", "offset points", rotation=90, va="center")
    for column in axes.T:
        lowest = [axis for axis in column if axis.lines][-1]
        lowest.set_xlabel("epoch")
        legend_below(lowest)
    return figure


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
                for term in [term for term in TERMS if term in history]:
                    draw_spread(axis, history, term, TERMS[term])
        axis.set_yscale("log")

    return draw


def _held_out(axis: Axes, groups: list[Group]) -> None:
    for group in groups:
        model = next(iter(group.networks))
        draw_spread(axis, read_history(group, model, "validation_mse"), "validation_mse", NAMES[model])
    axis.set(yscale="log", ylabel="MSE")


def _bits(axis: Axes, groups: list[Group]) -> None:
    for group in groups:
        if "sdid" not in group.networks:
            continue
        history = read_history(group, "sdid", "validation_bits_per_token")
        draw_spread(axis, history, "validation_bits_per_token", "held out")
        if group.first.recipe.sdid.loss == "elbo" and "loss" in history:  # the other loss is no number of bits
            draw_spread(axis, history.assign(loss=history["loss"] / math.log(2)), "loss", "training")
    axis.set_ylabel("bits per token (bound)")


def dynamics(groups: list[Group]) -> Figure:
    """k, perplexity and the latent spikes' rate in all groups; below, for each dataset, firing rates layer by layer."""
    shown = with_codes(groups)
    models = [model for model in NAMES if any(model in group.networks for group in groups)]
    datasets = by_dataset(groups)
    rows, columns = len(datasets) + bool(shown), max(len(models), 3 if shown else 1)
    figure, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    if shown:
        _compare(axes[0], shown)
    for line, here in zip(axes[bool(shown) :], datasets.values(), strict=True):
        for axis, model in itertools.zip_longest(line, models):
            group = next((group for group in here if model in group.networks), None)
            if model is None or group is None:
                axis.set_axis_off()
                continue
            history = read_history(group, model)
            for column in [column for column in map(str, history) if column.startswith("rate_")]:
                draw_spread(axis, history, column, layer_name(column))
            title = f"{NAMES[model]}, {group.first.dataset.title}" if len(datasets) > 1 else NAMES[model]
            axis.set(title=title, xlabel="epoch", ylabel="firing rate")
            legend_below(axis)
    return figure


def _compare(line: list[Axes], shown: list[Group]) -> None:
    columns = {
        "k": ("Weight of SFR", "$k$"),
        "perplexity": ("Codebook", "perplexity"),
        "rate_encoder.third": ("Spikes to be quantised", "firing rate"),
    }
    for axis, (column, (title, unit)) in zip(line, columns.items(), strict=False):
        for group in shown:
            draw_spread(axis, read_history(group, "vqsvae", column), column, legend(group, shown))
        axis.set(title=title, xlabel="epoch", ylabel=unit)
        if len(shown) > 1:
            legend_below(axis)


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


def draw_spread(axis: Axes, history: pd.DataFrame, column: str, label: str) -> None:
    """Mean over seeds by epoch, with a band of one standard deviation where there are several."""
    by_epoch = history.groupby("epoch")[column]
    mean, deviation = by_epoch.mean(), by_epoch.std()
    (line,) = axis.plot(mean.index, mean, label=label)
    if deviation.notna().any():
        axis.fill_between(
            mean.index, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, linewidth=0
        )


def legend_below(axis: Axes) -> None:
    """A legend that hides no line."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, fontsize=6.5, columnspacing=1)
