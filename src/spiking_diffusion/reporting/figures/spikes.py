"""Spike trains of encoder and adaptive spike generator for one image."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from spiking_diffusion import artifacts, paths
from spiking_diffusion.reporting.figures.images import show
from spiking_diffusion.reporting.groups import Group, with_codes

TRAINS = (("encoder", "encoder $z^E$", "C0", "-"), ("asg", "{} $z^Q$", "C1", "--"))
CODINGS = {"asg": "spike generator", "poisson": "Poisson coding"}


def spikes(groups: list[Group]) -> Figure:
    """Image and reconstruction, rasters of both trains at the liveliest place, and their PSPs channel by channel."""
    shown = with_codes(groups)
    figure, axes = plt.subplots(
        len(shown),
        4,
        figsize=(7.2, 2.9 * len(shown)),
        width_ratios=[1, 1.5, 1.5, 2.2],
        squeeze=False,
        layout="constrained",
    )
    for (picture, *rasters, potentials), group in zip(axes, shown, strict=True):
        trace = artifacts.read_npz(paths.traces_path(group.first.name))
        trains = {name: trace[f"{name}_spikes"] for name, *_ in TRAINS}
        steps, channels, height, width = trains["encoder"].shape
        lively = trains["encoder"].var(0).sum(0) + 1e-6 * trains["encoder"].sum((0, 1))
        y, x = np.unravel_index(lively.argmax(), (height, width))
        image, again = trace["image"], trace["reconstruction"]
        down = image.shape[1] // height, image.shape[2] // width
        both = np.concatenate([image, np.full((len(image), 2, image.shape[2]), 200, np.uint8), again], axis=1)
        show(picture, both.transpose(1, 2, 0)[..., 0] if len(both) == 1 else both.transpose(1, 2, 0), group.label)
        for top in (0, image.shape[1] + 2):
            corner = (x * down[1] - 0.5, top + y * down[0] - 0.5)
            picture.add_patch(plt.Rectangle(corner, down[1], down[0], fill=False, edgecolor="C4", linewidth=1.2))
        picture.set_xlabel("image (top) and\nreconstruction")
        coding = CODINGS[group.first.recipe.vqsvae.coding]
        times = np.arange(1, steps + 1)
        for axis, (name, title, colour, _) in zip(rasters, TRAINS, strict=True):
            fired = [times[train > 0] for train in trains[name][:, :, y, x].T]
            axis.eventplot(fired, lineoffsets=np.arange(channels), linelengths=0.7, linewidths=2.5, colors=colour)
            axis.set(
                title=title.format(coding), xlabel="time step", xlim=(0.5, steps + 0.5), ylim=(channels - 0.5, -0.5)
            )
            axis.set_xticks(times if steps <= 8 else times[3::4])
            axis.set_yticks(range(0, channels, 5))
        rasters[0].set_ylabel("channel")
        rasters[1].tick_params(labelleft=False)
        for name, title, colour, line in TRAINS:
            for channel in range(channels):
                psp = trace[f"{name}_psp"][:, channel, y, x]
                potentials.plot(
                    [0, *times],
                    channel - 0.8 * np.array([0, *psp]),
                    color=colour,
                    linestyle=line,
                    linewidth=1.2,
                    label=title.format(coding) if channel == 0 else None,
                )
        potentials.set(title="PSP", xlabel="time step", ylim=(channels - 0.5, -1))
        potentials.tick_params(labelleft=False)
        potentials.set_yticks(rasters[0].get_yticks())
        potentials.set_xticks(rasters[0].get_xticks())
        potentials.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7)
    return figure
