"""The ``figure`` stage: pictures of a suite."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.reporting.layout import MODELS, figure_inputs, figure_path
from spiking_diffusion.reporting.picture import grid
from spiking_diffusion.reporting.style import FORMATS, STYLE, save_figure

SIDE = 6
"""Images along each side of a panel of samples."""


def make_figure(params: Params, suite: str, kind: str) -> Path:
    """Draw ``samples``, ``losses`` or ``codebook`` of a suite. Returns the path of the PNG."""
    out = figure_path(suite, kind)
    inputs = figure_inputs(params, suite, kind)
    runs = [params.resolve(name) for name in params.suites[suite]]
    with plt.rc_context(STYLE):
        figure = DRAW[kind](runs)
        record = pipeline.record(params, "figure", suite, inputs)
        save_figure(figure, out)
    pipeline.seal(record, *(out.with_suffix(f".{end}") for end in FORMATS))
    return out


# --- samples, in the manner of Fig. 2 -------------------------------------------------------------------


def _samples(runs: list[RunSettings]) -> plt.Figure:
    """One row per dataset: real test images, their reconstructions, and each run's samples."""
    rows: list[list[tuple[str, np.ndarray]]] = []
    for dataset in dict.fromkeys(run.dataset_name for run in runs):
        title = next(run.dataset.title for run in runs if run.dataset_name == dataset)
        row = [(f"{title}: real", artifacts.read_array(artifacts.data_path(dataset), "test_images"))]
        here = sorted((run for run in runs if run.dataset_name == dataset), key=lambda run: run.model)  # FSVAE first
        ours = [run for run in here if run.model == "spiking-diffusion"]
        if ours:
            row.append(
                (
                    _label("reconstructed", ours[0], ours),
                    artifacts.read_array(artifacts.reconstructions_path(ours[0].name), "images"),
                )
            )
        for run in here:
            same = [other for other in here if other.model == run.model]
            name = "FSVAE" if run.model == "fsvae" else "Spiking-Diffusion"
            row.append((_label(name, run, same), artifacts.read_array(artifacts.samples_path(run.name), "images")))
        rows.append(row)
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.3 * columns, 2.5 * len(rows)), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, images) in zip(line, row, strict=False):
            _show(axis, images, title)
    return figure


def _label(name: str, run: RunSettings, alike: list[RunSettings]) -> str:
    return f"{name} ({run.name})" if len(alike) > 1 else name


def _show(axis: Axes, images: np.ndarray, title: str) -> None:
    """The first SIDE x SIDE images as one picture with thin gaps."""
    axis.imshow(grid(images[: SIDE * SIDE], SIDE), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title)


# --- losses ---------------------------------------------------------------------------------------------


def _losses(runs: list[RunSettings]) -> plt.Figure:
    """Held-out MSE of the two autoencoders and held-out bits per token of SDID, by epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    for run in runs:
        for model in MODELS[run.model]:
            axis, column = (right, "validation_bits_per_token") if model == "sdid" else (left, "validation_mse")
            history = _read_history(artifacts.history_path(artifacts.model_path(run.name, model)), column)
            name = {"vqsvae": "VQ-SVAE", "fsvae": "FSVAE", "sdid": "SDID"}[model]
            axis.plot(
                history["epoch"],
                history[column],
                label=f"{name}, {run.name}",
                linestyle="--" if model == "fsvae" else "-",
            )
    left.set(title="Reconstruction", xlabel="epoch", ylabel="MSE on validation images", yscale="log")
    right.set(title="Token model", xlabel="epoch", ylabel="bits per token (upper bound)")
    for axis in (left, right):
        if axis.lines:
            axis.legend(fontsize=7)
    return figure


def _read_history(path: Path, column: str) -> pd.DataFrame:
    try:
        history = pd.read_csv(artifacts.require(path))
        return history[["epoch", column]].astype(float)
    except (KeyError, ValueError) as error:
        raise artifacts.damaged(path, error) from error


# --- codebook -------------------------------------------------------------------------------------------


def _codebook(runs: list[RunSettings]) -> plt.Figure:
    """How often each code occurs in the training tokens, most frequent first."""
    ours = [run for run in runs if run.model == "spiking-diffusion"]
    figure, axes = plt.subplots(
        max(1, len(ours)), 1, figsize=(6, 2.2 * max(1, len(ours))), squeeze=False, layout="constrained"
    )
    for axis, run in zip(axes[:, 0], ours, strict=False):
        path = artifacts.tokens_path(run.name)
        tokens, size = artifacts.read_array(path, "train"), int(artifacts.read_array(path, "size"))
        counts = np.sort(np.bincount(tokens.ravel(), minlength=size))[::-1]
        share = counts / counts.sum()
        used = share[share > 0]
        spread = float(np.exp(-(used * np.log(used)).sum()))
        axis.bar(np.arange(len(share)) + 1, share, width=1.0, linewidth=0)
        axis.axhline(1 / len(share), color="#444444", linewidth=0.8, linestyle=":")
        axis.set(xlim=(0.5, len(share) + 0.5), xlabel="code, by frequency", ylabel="share of tokens")
        axis.set_title(
            f"{run.name}: {len(used)} of {len(share)} codes used, perplexity {spread:.1f} (dotted: even use)"
        )
    return figure


DRAW = {"samples": _samples, "losses": _losses, "codebook": _codebook}
