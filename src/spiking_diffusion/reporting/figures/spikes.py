"""Spike trains of encoder and adaptive spike generator for one image."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from spiking_diffusion import artifacts, paths
from spiking_diffusion.reporting.figures.images import show
from spiking_diffusion.reporting.groups import Group, legend, with_codes
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, legend_below, size

TRAINS = {"encoder": ("encoder $z^E$", 2.4, "-"), "asg": ("{} $z^Q$", 1.2, "--")}
"""Title, width and style of the lines of each train. The second is drawn over the first and hides nothing of it."""
COLOUR = {"encoder": COLOURS["encoder"], "asg": COLOURS["generator"]}
CODINGS = {"asg": "generator", "poisson": "Poisson"}
HIGHEST = 0.85
"""Height of the highest PSP, where neighbouring channels are 1 apart."""


def spikes(groups: list[Group]) -> Figure:
    """Image and reconstruction, rasters of both trains at the liveliest place, and their PSPs channel by channel."""
    shown = with_codes(groups)
    figure, axes = plt.subplots(
        len(shown),
        4,
        figsize=size(TWO_COLUMNS, len(shown), 2.9),
        width_ratios=[1.1, 1.5, 1.5, 2.2],
        squeeze=False,
        layout="constrained",
    )
    above: list[str] = []
    for line, group in zip(axes, shown, strict=True):
        picture, *rasters, potentials = line
        trace = artifacts.read_npz(paths.traces_path(group.first.name))
        trains = {name: trace[f"{name}_spikes"] for name in TRAINS}
        lively = trains["encoder"].var(0).sum(0) + 1e-6 * trains["encoder"].sum((0, 1))
        y, x = map(int, np.unravel_index(lively.argmax(), lively.shape))
        _mark(picture, trace["image"], trace["reconstruction"], (y, x), lively.shape)
        picture.set_title(legend(group, shown) if len(shown) > 1 else "")
        titles = {name: title.format(CODINGS[group.first.recipe.vqsvae.coding]) for name, (title, *_) in TRAINS.items()}
        for axis, (name, train) in zip(rasters, trains.items(), strict=True):
            _raster(axis, train[:, :, y, x], COLOUR[name], titles[name])
        rasters[0].set_ylabel("channel")
        rasters[1].tick_params(labelleft=False)
        _potentials(potentials, {name: trace[f"{name}_psp"][:, :, y, x] for name in TRAINS}, titles)
        if above == list(titles.values()):  # said once
            for axis in (*rasters, potentials):
                axis.set_title("")
        above = list(titles.values())
        potentials.tick_params(labelleft=False)
        potentials.set_xticks(rasters[0].get_xticks())
        potentials.set_yticks(rasters[0].get_yticks())
        if group is shown[-1]:
            picture.set_xlabel("test image,\nreconstruction")
            for axis in (*rasters, potentials):
                axis.set_xlabel("time step")
            legend_below(potentials, 2)
    return figure


def _mark(axis: Axes, image: np.ndarray, again: np.ndarray, at: tuple[int, int], of: tuple[int, ...]) -> None:
    """An image (C, H, W) above its reconstruction, with a frame around the token ``at`` of a grid of size ``of``."""
    down = image.shape[1] // of[0], image.shape[2] // of[1]
    both = np.concatenate([image, np.full((len(image), 2, image.shape[2]), 200, np.uint8), again], axis=1)
    show(axis, both.transpose(1, 2, 0)[..., 0] if len(both) == 1 else both.transpose(1, 2, 0))
    for top in (0, image.shape[1] + 2):
        corner = (at[1] * down[1] - 1, top + at[0] * down[0] - 1)  # around its pixels, not over them
        frame = plt.Rectangle(corner, down[1] + 1, down[0] + 1, fill=False, clip_on=False)
        frame.set(edgecolor=COLOURS["marked"], linewidth=1.8)
        frame.set_path_effects([withStroke(linewidth=3.4, foreground="black")])  # seen on white and on black
        axis.add_patch(frame)


def _raster(axis: Axes, train: np.ndarray, colour: str, title: str) -> None:
    """The spikes (T, C) of a train."""
    steps, channels = train.shape
    times = np.arange(1, steps + 1)
    fired = [times[spikes > 0] for spikes in train.T]
    axis.eventplot(fired, lineoffsets=list(range(channels)), linelengths=0.7, linewidths=2.5, colors=colour)
    axis.set(title=title, xlim=(0.5, steps + 0.5), ylim=(channels - 0.5, -1))
    axis.set_xticks(times if steps <= 8 else times[3::4])
    axis.set_yticks(range(0, channels, 5))


def _potentials(axis: Axes, psps: dict[str, np.ndarray], titles: dict[str, str]) -> None:
    """The PSPs (T, C) of both trains by channel, and a bar that is as high as a PSP of its number."""
    steps, channels = psps["encoder"].shape
    highest = max(float(psp.max()) for psp in psps.values()) or 1.0
    scale = HIGHEST / highest
    for name, psp in psps.items():
        _, width, style = TRAINS[name]
        for channel in range(channels):
            line = channel - scale * np.array([0, *psp[:, channel]])
            label = titles[name] if channel == 0 else None
            axis.plot(range(steps + 1), line, color=COLOUR[name], linestyle=style, linewidth=width, label=label)
    whole = float(f"{highest:.1g}")
    bar = whole if whole <= highest else highest
    end = steps * 1.06
    axis.plot([end, end], [0, -scale * bar], color="black", linewidth=2, solid_capstyle="butt", clip_on=False)
    axis.text(end + 0.04 * steps, -scale * bar / 2, f"{bar:.2g}", va="center")
    axis.set(title="PSP", xlim=(0, steps * 1.2), ylim=(channels - 0.5, -1))
