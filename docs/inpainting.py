"""Draw docs/inpainting.png: the first test image of each class, its upper half, and eight completions of that.

`python docs/inpainting.py`, after `snakemake --cores 2 results/data/mnist.npz results/data/fmnist.npz`.
"""

from pathlib import Path

import numpy as np
import torch

import spiking_diffusion as sd
from spiking_diffusion.pictures import grid, write_png
from spiking_diffusion.randomness import make_deterministic

make_deterministic(threads=1)
columns = []
for name in ("mnist", "fmnist"):
    model, data = sd.load(f"{name}-best", device="cpu"), np.load(f"results/data/{name}.npz")
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[14:] = True
    rows = []
    for label in range(10):
        first = np.flatnonzero(data["test_labels"] == label)[0]
        image = torch.from_numpy(data["test_images"][first : first + 1]) / 255
        rows += [image, torch.where(mask, torch.tensor(0.5), image), model.inpaint(image, mask, 8, seed=label)]
    columns.append(torch.cat(rows).mul(255).round().to(torch.uint8).numpy())
pictures = [grid(each, columns=10).repeat(2, 0).repeat(2, 1) for each in columns]
gap = np.full((len(pictures[0]), 24), 255, np.uint8)
write_png(Path("docs/inpainting.png"), np.concatenate([pictures[0], gap, pictures[1]], 1))
