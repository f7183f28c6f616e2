"""Pages of the report: tables for reading, samples in the making, settings, and where it all came from.

They are made at report time, below ``work/``: they tell of this machine and of run times, which no file below
``results/`` does.
"""

from __future__ import annotations

import base64
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.reporting.layout import TITLES, figure_path, page_path, table_path
from spiking_diffusion.reporting.rows import UNUSED, leaves

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1c2733; margin: 2rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #1c2733; } tbody tr + tr { border-top: 1px solid #dfe5ea; }
td { font-variant-numeric: tabular-nums; } tbody th { font-weight: normal; color: #4b5b6b; }
tr.differs th, tr.differs td { background: #fff4d6; } p { max-width: 50rem; } img { max-width: 100%; }
"""
LIBRARIES = ("torch", "spikingjelly", "torch-fidelity", "torchmetrics", "numpy", "snakemake", "dvc")


def make_page(params: Params, suite: str, kind: str) -> Path:
    """Write ``work/report/{suite}/{kind}.html``, of one of ``layout.PAGES``."""
    title, body = {"table": _table, "animation": _animation, "settings": _settings, "provenance": _provenance}[kind](
        params, suite
    )
    out = page_path(suite, kind)
    artifacts.write_text(
        out,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>{body}</html>\n",
    )
    return out


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], differs: bool = False) -> str:
    """The first cell of each row is its heading; with ``differs`` rows of unequal cells stand out."""

    def line(cells: Sequence[str]) -> str:
        mark = ' class="differs"' if differs and len(set(cells[1:])) > 1 else ""
        return f"<tr{mark}><th>{escape(cells[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells[1:])}</tr>"

    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(map(line, rows))}</tbody></table>"


# --- table and animation --------------------------------------------------------------------------------


def _table(params: Params, suite: str) -> tuple[str, str]:
    """The suite's table on its side, a column for each run and mean and deviation in one cell."""
    path = table_path(suite)
    table = pd.read_csv(artifacts.require(path), dtype=str, keep_default_na=False)
    rows = [
        [column, *(_cell(row.get(column, ""), row.get(f"{column}_std", "")) for row in table.to_dict("records"))]
        for column in table.columns
        if not column.endswith(("_std", "_reason")) and column not in ("dataset", "model", "run")
    ]
    titles = [" · ".join(filter(None, [row["dataset"], row["model"], row["run"]])) for row in table.to_dict("records")]
    why = {
        f"{column.removesuffix('_reason')}: {reason}"
        for column in table.columns
        if column.endswith("_reason")
        for reason in table[column]
        if reason
    }
    note = "".join(f"<li>{escape(reason)}</li>" for reason in sorted(why))
    missing = f"<h2>Cells that are empty</h2><ul>{note}</ul>" if why else ""
    return f"Table of {suite}", _html_table(["", *titles], [row for row in rows if any(row[1:])]) + missing


def _cell(value: str, deviation: str) -> str:
    """Four digits of a number, with its standard deviation if it has one."""
    try:
        shown = f"{float(value):.4g}" if "." in value or "e" in value else value
        return f"{shown} ± {float(deviation):.2g}" if deviation else shown
    except ValueError:
        return value


def _animation(params: Params, suite: str) -> tuple[str, str]:
    path = artifacts.require(figure_path(suite, "trajectory").with_suffix(".gif"))
    data = base64.b64encode(path.read_bytes()).decode()
    text = "The first samples of each run, from all tokens masked (orange) to none."
    return (
        f"Samples of {suite} in the making",
        f'<p>{text}</p><img alt="{text}" src="data:image/gif;base64,{data}">',
    )


# --- settings and provenance ----------------------------------------------------------------------------


def _settings(params: Params, suite: str) -> tuple[str, str]:
    """The complete recipe of each run, model by model."""
    body = ""
    for model, title in TITLES.items():
        runs = [run for run in map(params.resolve, params.suites[suite]) if run.model == model]
        if runs:
            recipes = [dict(leaves(run.recipe.model_dump(exclude=UNUSED[model]))) for run in runs]
            rows = [[key, *(_plain(recipe[key]) for recipe in recipes)] for key in recipes[0]]
            own = [["dataset", *(run.dataset_name for run in runs)], ["recipe", *(run.recipe_name for run in runs)]]
            body += f"<h2>{title}</h2>" + _html_table(["", *(run.name for run in runs)], own + rows, differs=True)
    return f"Settings of {suite}", f"<p>Every key that the runs read; where they differ it is marked.</p>{body}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _provenance(params: Params, suite: str) -> tuple[str, str]:
    """Commit, lock file, machine and libraries, and how long each job took when Snakemake last ran it here."""
    facts = _html_table(["", ""], [[name, value] for name, value in provenance(params).items()])
    measured = times(params, suite)
    jobs = [[f"{stage} {name}", f"{seconds:.1f}", f"{memory:.0f}"] for stage, name, seconds, memory in measured]
    minutes = sum(seconds for _, _, seconds, _ in measured) / 60
    text = f"{len(jobs)} jobs, {minutes:.1f} minutes in all; what DVC fetched from its cache is not among them."
    table = _html_table(["job", "seconds", "memory, MB"], jobs)
    return f"How {suite} was made", f"{facts}<h2>Wall time</h2><p>{text}</p>{table}"


def provenance(params: Params) -> dict[str, str]:
    """What the numbers depend on apart from ``params.yaml``."""
    lock = Path("requirements.lock")
    return {
        "Commit": _commit(),
        "params.yaml": f"SHA-256 {artifacts.sha256(Path('params.yaml'))}",
        "requirements.lock": f"SHA-256 {artifacts.sha256(lock)}" if lock.is_file() else "none here",
        "Processor": _processor(),
        "Device": _gpu() if pipeline.wants_gpu(params) else "CPU",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "Libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "Report made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def times(params: Params, suite: str) -> list[tuple[str, str, float, float]]:
    """Stage, name, wall seconds and peak memory (MB) of the suite's jobs, from Snakemake's ``benchmarks/``."""
    runs = [params.resolve(run) for run in params.suites[suite]]
    names = {suite, *(run.name for run in runs), *(run.dataset_name for run in runs)}
    found = []
    for path in sorted(Path("benchmarks").glob("*/*.tsv")):
        if path.stem in names or (path.parent.name == "figure" and path.stem.startswith(f"{suite}-")):
            measured = pd.read_csv(path, sep="\t").iloc[-1]
            memory = pd.to_numeric(measured["max_rss"], errors="coerce")
            found.append((path.parent.name, path.stem, float(measured["s"]), 0.0 if pd.isna(memory) else float(memory)))
    return found


def _commit() -> str:
    try:
        head = _output("git", "rev-parse", "HEAD")
        changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "not in a git repository"
    return f"{head}{' and changes that are not committed' if changed else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _gpu() -> str:
    try:
        return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").replace("\n", "; ")
    except (OSError, subprocess.SubprocessError):
        return "CUDA"


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
