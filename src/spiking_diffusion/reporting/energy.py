"""The ``energy_table`` stage: what it takes a suite's models to draw an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.reporting.layout import energy_table_path

FIRST = ("dataset", "model", "run", "T", "network_calls", "firing_rate", "macs", "synops", "mj", "ann_mj", "ann_ratio")


def make_energy_table(params: Params, suite: str) -> Path:
    """Write ``results/tables/{suite}-energy.csv``, one row per run."""
    inputs = [artifacts.energy_path(run) for run in params.suites[suite]]
    rows = [_read(path) for path in inputs]
    others = dict.fromkeys(key for row in rows for key in row if key not in FIRST)
    table = pd.DataFrame(rows, columns=[*FIRST, *others])
    out = energy_table_path(suite)
    artifacts.write_text(out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    pipeline.seal(pipeline.record(params, "energy_table", suite, inputs), out)
    return out


def _read(path: Path) -> dict[str, Any]:
    row = artifacts.read_json(path)
    if missing := [key for key in FIRST if not isinstance(row, dict) or key not in row]:
        raise artifacts.damaged(path, f"no {', '.join(missing)} in it")
    return row
