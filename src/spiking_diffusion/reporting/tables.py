"""The ``table`` stage: the metrics of a suite's runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.reporting.layout import table_path

FIRST = ["dataset", "model", "run", "mse", "ssim", "kid", "fid", "features", "n_generated", "n_real", "kid_subset_size"]


def make_table(params: Params, suite: str) -> Path:
    """Write ``results/tables/{suite}.csv`` and ``.md``, one row per run in the suite's order.

    A cell is empty where a number does not exist for that model.
    """
    inputs = [artifacts.metrics_path(run) for run in params.suites[suite]]
    table = pd.DataFrame([_read_row(path) for path in inputs])
    table = table[FIRST + sorted(set(table.columns) - set(FIRST))]
    for column in table.select_dtypes("float").columns:
        whole = table[column].dropna()
        if len(whole) and (whole % 1 == 0).all():  # counts that became floats beside an empty cell
            table[column] = table[column].astype("Int64")
    out = table_path(suite)
    artifacts.write_text(out.with_suffix(".md"), to_markdown(table))
    artifacts.write_text(out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    pipeline.seal(pipeline.record(params, "table", suite, inputs), out, out.with_suffix(".md"))
    return out


def _read_row(path: Path) -> dict[str, Any]:
    row = artifacts.read_json(path)
    missing = [key for key in FIRST if not isinstance(row, dict) or key not in row]
    if missing:
        raise artifacts.damaged(path, f"no {', '.join(missing)} in it")
    return row


def to_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with four significant digits."""

    def cell(value: Any) -> str:
        if value is None or pd.isna(value):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(object).values.tolist()]
    return "".join("| " + " | ".join(map(cell, line)) + " |\n" for line in lines)
