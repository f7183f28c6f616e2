"""The files with a run's metrics: numbers, which DVC compares, and notes in words."""

from __future__ import annotations

from typing import Any

from spiking_diffusion import artifacts, paths

REQUIRED = ("dataset", "model", "run", "mse", "ssim")
COUNTS = (
    "seed",
    "images_seen",
    "n_generated",
    "n_real",
    "n_reconstructed",
    "n_perfect_prior",
    "n_train_test",
    "kid_subset_size",
)
"""Numbers that are settings, not results. If they belong to a protocol or a network, they begin with its name."""


def write_row(run: str, row: dict[str, Any]) -> None:
    """Write the results, which are numbers, to ``results/metrics/{run}.json``, and everything else to its notes.

    Missing numbers are None in the notes, with ``{protocol}_reason``.
    """
    results = {key for key, value in row.items() if isinstance(value, int | float) and not key.endswith(COUNTS)}
    artifacts.write_json(paths.notes_path(run), {key: row[key] for key in row.keys() - results})
    artifacts.write_json(paths.metrics_path(run), {key: row[key] for key in results})


def read_row(run: str) -> dict[str, Any]:
    """The content of both files. Raises UserError if a file is missing, damaged, or lacks a required column."""
    found: dict[str, Any] = {}
    for path in (paths.metrics_path(run), paths.notes_path(run)):
        part = artifacts.read_json(path)
        if not isinstance(part, dict):
            raise artifacts.damaged(path, "no mapping in it")
        found |= part
    if missing := [key for key in REQUIRED if key not in found]:
        raise artifacts.damaged(paths.metrics_path(run), f"no {', '.join(missing)} in it or its notes")
    return found
