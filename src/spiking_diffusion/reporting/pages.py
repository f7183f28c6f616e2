"""Pages of the report: tables for reading, samples in the making, settings, and where it all came from.

They are made at report time, below ``work/``: they tell of this machine and of run times, which no file below
``results/`` does.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import FAMILIES, Params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import jobs
from spiking_diffusion.graph.maker import MADE, made_by, time
from spiking_diffusion.graph.suites import FIGURES, leaves
from spiking_diffusion.paths import figure_path, page_path, table_path
from spiking_diffusion.reporting.latex import main_columns, main_rows, settings_in
from spiking_diffusion.reporting.tables import FIRST, without_counterpart

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1c2733; margin: 2rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #1c2733; } tbody tr + tr { border-top: 1px solid #dfe5ea; }
td { font-variant-numeric: tabular-nums; } tbody th { font-weight: normal; color: #4b5b6b; }
tr.differs th, tr.differs td { background: #fff4d6; } p { max-width: 50rem; } img { max-width: 100%; }
"""


def make_page(params: Params, suite: str, kind: str, source: Path = Path("params.yaml")) -> Path:
    """Write ``work/report/{suite}/{kind}.html``, one of ``graph.suites.PAGES``; with the table, ``opening.html``.

    The file ``source`` has ``params``.
    """
    make: dict[str, Callable[[Params, str], tuple[str, str]]] = {
        "table": _table,
        "animation": _animation,
        "settings": _settings,
        "provenance": partial(_provenance, source),
    }
    title, body = make[kind](params, suite)
    out = page_path(suite, kind)
    if kind == "table":  # workflow/report/workflow.rst takes it in
        artifacts.write_text(out.with_name("opening.html"), _opening(params, suite))
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


def _opening(params: Params, suite: str) -> str:
    """What the report opens on: the main numbers and the samples of a suite."""
    read = pd.read_csv(artifacts.require(table_path(suite)), dtype=str, keep_default_na=False)
    table: list[dict[str, Any]] = [
        {str(key): _value(str(key), text) for key, text in row.items() if text} for row in read.to_dict("records")
    ]
    shown = main_columns(table, settings_in(list(read.columns)))
    titles = {name: dataset.title for name, dataset in params.datasets.items()}
    arrows = {"lower": " ↓", "higher": " ↑", "": ""}
    heads = [" ".join(filter(None, [each.protocol, each.title])) + arrows[each.better] for each in shown]
    lines = [
        [f"<b>{escape(text)}</b>" if best else escape(text) for text, best in row]
        for row in main_rows(table, shown, titles)
    ]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    samples = figure_path(suite, "samples")
    data = base64.b64encode(samples.read_bytes()).decode() if samples.is_file() else ""
    return (
        f'<div class="opening"><h2>{escape(suite)}</h2>'
        f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{body}</table>"
        f'<img alt="Samples of {escape(suite)}" src="data:image/png;base64,{data}"></div>\n'
    )


def _value(key: str, text: str) -> str | float:
    """What a cell of a CSV file holds."""
    try:
        return text if key in FIRST else float(text)
    except ValueError:
        return text


# --- table and animation --------------------------------------------------------------------------------


def _table(params: Params, suite: str) -> tuple[str, str]:
    """The suite's table on its side, a column for each run and mean and deviation in one cell."""
    path = table_path(suite)
    table = pd.read_csv(artifacts.require(path), dtype=str, keep_default_na=False)
    rows = [
        [
            column,
            *(
                _cell(row.get(column, ""), row.get(f"{column}_std") or row.get(f"{column}_deviation", ""))
                for row in table.to_dict("records")
            ),
        ]
        for column in table.columns
        if not column.endswith(("_std", "_deviation", "_reason", "_settings"))
        and column not in ("dataset", "model", "run")
    ]
    runs = [row["run"] for row in table.to_dict("records")]
    rows += [["seconds per sample, here", *map(_seconds_per_sample, runs)]]
    rows += [["processor seconds of training, here", *(_training_seconds(params, run) for run in runs)]]
    titles = [" · ".join(filter(None, [row["dataset"], row["model"], row["run"]])) for row in table.to_dict("records")]
    alone = without_counterpart(table.to_dict("records"))
    notes = _list("Numbers without a counterpart", alone) + _notes(table, "_reason", "Cells that are empty")
    notes += _notes(table, "_settings", "Protocols")
    return f"Table of {suite}", _html_table(["", *titles], [row for row in rows if any(row[1:])]) + notes


def _notes(table: pd.DataFrame, suffix: str, title: str) -> str:
    """What the columns that end in ``suffix`` say, each thing once."""
    columns = [column for column in table.columns if column.endswith(suffix)]
    said = {f"{column.removesuffix(suffix)}: {text}" for column in columns for text in table[column] if text}
    return _list(title, sorted(said))


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _seconds_per_sample(run: str) -> str:
    """Of a run's samples, if they were drawn here, and on what; the first seed's where a row has several."""
    if made_by(paths.settings_path(paths.samples_path(run))) is None:
        return ""
    try:
        noted = artifacts.read_json(paths.sampling_path(run))
        return f"{noted['seconds'] / noted['images']:.3g} ({noted['device']})"
    except (UserError, LookupError, TypeError):
        return ""


def _training_seconds(params: Params, run: str) -> str:
    """Of all networks of a run, if all were trained here, and on what; the first seed's where a row has several."""
    networks = params.family_of(run).networks if run else {}
    noted = {}
    for network in networks:
        if made_by(paths.settings_path(paths.model_path(run, network))) is not None:
            with contextlib.suppress(UserError, LookupError, TypeError):
                found = artifacts.read_json(paths.cost_path(paths.work_path(run, network)))
                noted[network] = float(found["processor_seconds"]), found["device"]
    if not networks or noted.keys() != networks.keys():
        return ""
    if len(noted) == 1:
        return "".join(f"{seconds:.1f} ({device})" for seconds, device in noted.values())
    each = ", ".join(f"{network} {seconds:.1f} ({device})" for network, (seconds, device) in noted.items())
    return f"{sum(seconds for seconds, _ in noted.values()):.1f}: {each}"


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
    for family in FAMILIES.values():
        runs = [run for run in map(params.resolve, params.suites[suite]) if run.family == family]
        if runs:
            recipes = [dict(leaves(run.recipe.model_dump(exclude=set(family.unused)))) for run in runs]
            rows = [[key, *(_plain(recipe[key]) for recipe in recipes)] for key in recipes[0]]
            own = [["dataset", *(run.dataset_name for run in runs)], ["recipe", *(run.recipe_name for run in runs)]]
            if any(run.tokenizer for run in runs):
                own.append(["tokenizer", *(run.tokenizer or "its own" for run in runs)])
            body += f"<h2>{family.title}</h2>" + _html_table(
                ["", *(run.name for run in runs)], own + rows, differs=True
            )
    return f"Settings of {suite}", f"<p>Every key that the runs read; where they differ it is marked.</p>{body}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _provenance(source: Path, params: Params, suite: str) -> tuple[str, str]:
    """What made the files of each job, and how long each took when Snakemake last ran it here."""
    runs = [params.resolve(run) for run in params.suites[suite]]
    names = {suite, *(run.name for run in runs), *(run.dataset_name for run in runs)}
    makers: dict[str, list[str]] = defaultdict(list)
    for job in jobs(params):
        if job.name in names and job.settings_file.is_file():
            facts = made_by(job.settings_file)
            known = {key: fact for key, fact in facts.items() if key != MADE} if facts else {}
            makers[json.dumps(known)].append(
                f"{job.stage} {job.name} ({facts[MADE] if facts else 'when, is not known'})"
            )
    body = ""
    for shared, made in makers.items():
        rows = [[key, value] for key, value in json.loads(shared).items()]
        where = "Made by" if rows else "Brought here by DVC or by hand, its maker is not known here"
        body += f"<h2>{where}</h2>" + _html_table(["", ""], [*rows, ["jobs", ", ".join(dict.fromkeys(made))]])
    now = f"Report of {time()}; params.yaml has the SHA-256 {artifacts.sha256(source)}."
    measured = times(params, suite)
    took = [[f"{stage} {name}", f"{seconds:.1f}", f"{memory:.0f}"] for stage, name, seconds, memory in measured]
    minutes = sum(seconds for _, _, seconds, _ in measured) / 60
    text = f"{len(took)} jobs, {minutes:.1f} minutes in all; what DVC fetched from its cache is not among them."
    table = _html_table(["job", "seconds", "memory, MB"], took)
    return f"How {suite} was made", f"<p>{now}</p>{body}<h2>Wall time</h2><p>{text}</p>{table}"


def times(params: Params, suite: str) -> list[tuple[str, str, float, float]]:
    """Stage, name, wall seconds and peak memory (MB) of the suite's jobs, from Snakemake's ``benchmarks/``."""
    runs = [params.resolve(run) for run in params.suites[suite]]
    names = {suite, *(run.name for run in runs), *(run.dataset_name for run in runs)}
    names |= {f"{suite}-{part}" for part in (*FIGURES, "energy")}  # and no suite whose name begins like this one's
    found = []
    for path in sorted(Path("benchmarks").glob("*/*.tsv")):
        if path.stem in names:
            measured = pd.read_csv(path, sep="\t").iloc[-1]
            memory = pd.to_numeric(measured["max_rss"], errors="coerce")
            found.append((path.parent.name, path.stem, float(measured["s"]), 0.0 if pd.isna(memory) else float(memory)))
    return found
