"""Samples in the making, from masks to images: a strip for paper and an animation for screens."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from spiking_diffusion import artifacts, paths
from spiking_diffusion.pictures import grid
from spiking_diffusion.reporting.figures.images import show
from spiking_diffusion.reporting.groups import Group, legend, with_codes
from spiking_diffusion.reporting.style import COLOURS, TWO_COLUMNS, size

MASK = tuple(round(255 * part) for part in to_rgb(COLOURS["marked"]))
"""The colour of a token that is still masked; no grey image has it."""
COLUMNS, SIDE, FRAMES = 9, 4, 50


def trajectory(groups: list[Group]) -> Figure:
    """A row for each sample, a column for each of some steps, from h_T_d, all masks, to h_0."""
    shown = with_codes(groups)
    samples = 5 if len(shown) == 1 else 2
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=size(TWO_COLUMNS, len(shown), 0.75 * samples + 0.45),
        squeeze=False,
        layout="constrained",
    )
    for axis, group in zip(axes[:, 0], shown, strict=True):
        states = read_states(group)  # (T_d+1, N, 3, H, W)
        steps = np.linspace(len(states) - 1, 0, COLUMNS).round().astype(int)
        chosen = states[steps, :samples].swapaxes(0, 1)
        show(
            axis,
            grid(chosen.reshape(-1, *states.shape[2:]), COLUMNS, gap=2),
            legend(group, shown) if len(shown) > 1 else "",
        )
        width = states.shape[-1] + 2
        axis.set_xticks([width * i + (width - 3) / 2 for i in range(COLUMNS)], [f"$t$ = {t}" for t in steps])
        axis.tick_params(length=0)
    return figure


def write_gif(groups: list[Group], path: Path) -> None:
    """The same as an animation, all groups beside each other, which pauses at the images."""
    shown = [read_states(group) for group in with_codes(groups)]
    steps = max(map(len, shown))
    scale = max(1, 480 // (len(shown) * SIDE * shown[0].shape[-1]))
    frames = []
    for part in np.linspace(1, 0, min(FRAMES, steps)):
        panels = [grid(states[round(part * (len(states) - 1)), : SIDE**2], SIDE, gap=2) for states in shown]
        height = max(len(panel) for panel in panels)
        padded = [np.pad(p, ((0, height - len(p)), (4, 4), (0, 0)), constant_values=200) for p in panels]
        picture = np.concatenate(padded, axis=1).repeat(scale, 0).repeat(scale, 1)
        frames.append(Image.fromarray(picture).quantize(dither=Image.Dither.NONE))
    durations = [80] * (len(frames) - 1) + [2000]
    artifacts.write_atomic(
        path,
        lambda file: frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
        ),
    )


def read_states(group: Group) -> np.ndarray:
    """h_0, ..., h_T_d as colour images (T_d+1, N, 3, H, W) uint8, with masked tokens painted over."""
    path = paths.traces_path(group.first.name)
    tokens, images = (artifacts.read_array(path, f"trajectory_{part}") for part in ("tokens", "images"))
    size = len(artifacts.read_array(path, "codes"))
    *_, height, width = tokens.shape
    down = images.shape[-2] // height, images.shape[-1] // width
    masked = (tokens == size).repeat(down[0], -2).repeat(down[1], -1)[:, :, None]
    colours = np.array(MASK, np.uint8)[:, None, None]
    return np.where(masked, colours, np.broadcast_to(images, (*images.shape[:2], 3, *images.shape[3:])))
