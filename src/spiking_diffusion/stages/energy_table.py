"""The ``energy_table`` stage: the cost of drawing an image in each run of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spiking_diffusion import artifacts
from spiking_diffusion.graph.jobs import Job

FIRST = (
    *("dataset", "model", "run", "T", "network_calls", "firing_rate"),
    *("macs", "synops", "mj", "ann_mj", "ann_ratio", "strict_mj", "strict_ann_mj", "strict_ann_ratio"),
)


def run(job: Job) -> None:
    """Write ``results/tables/{suite}-energy.csv``, one row per run."""
    rows = [_read(path) for path in job.inputs]
    others = dict.fromkeys(key for row in rows for key in row if key not in FIRST)
    table = pd.DataFrame(rows, columns=[*FIRST, *others])
    artifacts.write_text(job.out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _read(path: Path) -> dict[str, Any]:
    row = artifacts.read_json(path)
    if missing := [key for key in FIRST if not isinstance(row, dict) or key not in row]:
        raise artifacts.damaged(path, f"no {', '.join(missing)} in it")
    return row
