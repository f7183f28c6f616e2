"""Measure docs/frontier.csv and draw docs/frontier.png: samplers of mnist-best in few and many steps.

`python docs/frontier.py`, after `snakemake --cores 2 results/classifiers/mnist.safetensors`. Rows that are in
docs/frontier.csv already are not measured again.
"""

import itertools
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import spiking_diffusion as sd
from spiking_diffusion.data.images import load_split
from spiking_diffusion.diffusion.sampler import SAMPLERS
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.energy import Counter, totals
from spiking_diffusion.metrics.features import ClassifierFeatures, Features
from spiking_diffusion.metrics.reading import Reader, legible
from spiking_diffusion.randomness import make_deterministic
from spiking_diffusion.reporting.style import STYLE, TWO_COLUMNS, save_figure, size, ticks_at

N = 2000
NAMES = {"fid": "FID", "recall": "recall", "legible": "legible"}
CPU, TABLE, KEYS = torch.device("cpu"), Path("docs/frontier.csv"), ["sampler", "guidance", "steps"]
WAYS = [
    *itertools.product(SAMPLERS, [0.5], [8]),
    *itertools.product(["ancestral"], [0.5], [16, 49]),
    *itertools.product(["cosine", "confidence"], [0.5], [4, 16]),
    *itertools.product(["ancestral", "cosine"], [0.25, 0.75], [8]),
    *itertools.product(["confidence"], [0.0, 0.25], [8]),
    ("ancestral", 0.0, 16),
]

make_deterministic(threads=1)
model = sd.load("mnist-best", device="cpu")
real = load_split(Path("results/data/mnist.npz"), "validation")
judges = Path("results/classifiers/mnist.safetensors")
embed, read = Features(ClassifierFeatures, judges, 250, CPU), Reader(judges, 250, CPU)
theirs = embed(real)
table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEYS)
for way in dict.fromkeys(WAYS):
    if (table[KEYS] == list(way)).all(axis=1).any():
        continue
    how = dict(zip(KEYS, way, strict=True))
    images, notes, classes = model.draw(N, "frontier", **how)
    ours, said, counter = embed(images), read(images), Counter()
    with counter.counting(50, sdid=model.sdid, asg=model.vqsvae.asg, decoder=model.vqsvae.decoder):
        model.draw(50, "energy", **how)
    precision, recall = np.mean([distances.precision_recall(a, b) for a, b in zip(ours, theirs, strict=True)], 0)
    row = {
        **how,
        "network_calls": notes["network_calls"],
        "fid": fmean(distances.fid(a, b) for a, b in zip(ours, theirs, strict=True)),
        "precision": precision,
        "recall": recall,
        "legible": legible(said),
        "class_accuracy": float((said.argmax(1) == classes).double().mean()),
        "mj": totals(counter.table())["mj"],
    }
    print(row, flush=True)
    table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
    table.to_csv(TABLE, index=False, float_format="%.6g", lineterminator="\n")

with plt.rc_context(STYLE):
    figure, axes = plt.subplots(1, 3, figsize=size(TWO_COLUMNS, 1, 2.6), layout="constrained")
    shown = table[table["guidance"] == 0.5].sort_values("network_calls")
    for axis, key, name in zip(axes, NAMES, NAMES.values(), strict=True):
        for sampler in SAMPLERS:
            rows = shown[shown["sampler"] == sampler]
            axis.plot(rows["network_calls"], rows[key], "o-", markersize=3, label=sampler)
        axis.set(xscale="log", xlabel="network calls per image", title=name)
        ticks_at(axis.xaxis, [8, 16, 32, 64])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save_figure(figure, Path("docs/frontier.png"))
for suffix in ("svg", "pdf"):
    Path("docs/frontier").with_suffix(f".{suffix}").unlink()
