"""The metrics of a suite's runs side by side, with what others have published, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from spiking_diffusion.config import FAMILIES, Params, Protocol, read_yaml
from spiking_diffusion.graph.suites import Row, rows_of
from spiking_diffusion.metrics.rows import read_row

PUBLISHED = read_yaml(Path(__file__).with_name("published.yaml"))
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
FIRST = ("dataset", "model", "run", "seeds")
MEASURES = ("kid", "fid", "perfect_prior_fid", "train_test_fid", "reconstruction_fid", "precision", "recall")
COUNTS = ("n_generated", "n_real", "n_reconstructed", "n_perfect_prior", "n_train_test", "kid_subset_size")
READ = ("legible", "test_legible", "class_balance", "class_accuracy")
BUDGET = "images_seen"
LAST = (
    *("bits_per_token", "perplexity", "nearest_train_mean", "test_nearest_train_mean"),
    *("sampler", "steps", "temperature", "guidance", "network_calls"),
    *(f"{network}_{BUDGET}" for family in FAMILIES.values() for network in family.networks),
    *(BUDGET, "source"),
)
SPREAD = "±: standard deviation over seeds; in a row of one seed, over the networks that judge."
ERRORS = ("released_mse", "released_ssim")
"""Errors of reconstructions by the released code's rules. Every run has them, whatever its protocols are."""
LIKE_TABLE_1 = {"released_mse": "mse", "released_ssim": "ssim", "released_kid": "kid", "released_fid": "fid"}
"""Columns of ours that stand on the scale of a column in the paper's Table 1."""

Cells = dict[str, Any]


def cells_of(params: Params, suite: str) -> tuple[list[Cells], list[str]]:
    """The rows of a suite's table and its columns, in order.

    Runs that differ only in their seed are one row, with mean and standard deviation. Settings in which a suite's runs
    of one model on one dataset differ have a column each. Where none differ, the paper's Table 1 is next to our
    numbers, and in a suite called ``beyond`` other models have rows of their own.
    """
    rows = rows_of(params, suite)
    names = [run for row in rows for run in row.runs]
    metrics = {run: read_row(run) for run in names}
    table = [_merge(row, [metrics[run] for run in row.runs]) for row in rows]
    if suite == "beyond":
        datasets = list(dict.fromkeys(row.dataset for row in rows))
        table = sorted([*table, *_peers(datasets)], key=lambda cells: datasets.index(cells["dataset"]))
    elif not any(row.settings for row in rows):
        for cells in table:
            _add_table_1(cells)
    return table, _columns(table, list(dict.fromkeys(key for row in rows for key in row.settings)))


def _merge(row: Row, metrics: list[Cells]) -> Cells:
    """One row of the table out of the metrics of its seeds."""
    cells: Cells = {"dataset": row.dataset, "model": row.model, "run": row.runs[0], "seeds": len(metrics)}
    cells |= row.settings
    for key in dict.fromkeys(key for each in metrics for key in each if key not in {*FIRST, "seed"}):
        values = [each.get(key) for each in metrics]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if all(value == values[0] for value in values):
            cells[key] = values[0]
        elif key.endswith("_reason"):
            cells[key] = "; ".join(f"{run}: {why}" for run, why in zip(row.runs, values, strict=True) if why)
        else:  # without all of its seeds a mean would be another's
            cells[key] = statistics.fmean(numbers) if len(numbers) == len(values) else None
        if len(numbers) == len(values) > 1 and key not in row.settings and not key.endswith(("_deviation", BUDGET)):
            cells[f"{key}_std"] = statistics.stdev(numbers)
    return cells


def _add_table_1(cells: Cells) -> None:
    """The paper's numbers, and ours less the paper's."""
    published = PUBLISHED["table1"].get(cells["dataset"], {}).get(cells["model"], {})
    for ours, theirs in LIKE_TABLE_1.items() if published else ():
        value = cells.setdefault(ours, None)
        cells[f"{ours}_paper"] = published[theirs]
        cells[f"{ours}_difference"] = None if value is None else value - published[theirs]


def _peers(datasets: Iterable[str]) -> list[Cells]:
    """Published models on these datasets, each number in the column of the protocol that it is nearest to."""
    return [
        {
            "dataset": dataset,
            "model": peer["model"],
            f"{peer['protocol']}_fid": peer["fid"][dataset],
            f"{peer['protocol']}_n_generated": peer["n_generated"],
            "source": peer["source"],
        }
        for dataset in datasets
        for peer in PUBLISHED["peers"]
        if dataset in peer["fid"]
    ]


def _columns(table: list[Cells], settings: list[str]) -> list[str]:
    """All columns in order. A protocol that no row asked for has none."""
    found = set().union(*table)
    measured = [f"{protocol}_{key}" for protocol in PROTOCOLS for key in (*MEASURES, *COUNTS)]
    shown = [p for p in PROTOCOLS if any(f"{p}_{key}" in found for key in MEASURES)]
    reasons = [f"{protocol}_reason" for protocol in PROTOCOLS]
    main = [*FIRST, *settings, "mse", "ssim", *ERRORS, *READ, *measured, *LAST[:-1]]
    beside = ("std", "deviation", "paper", "difference")
    derived = {f"{key}_{suffix}" for key in found for suffix in beside}
    order = [*main, *sorted(found - {*main, *reasons, "source"} - derived), *(f"{p}_reason" for p in shown), "source"]
    return [name for key in order for name in (key, *(f"{key}_{suffix}" for suffix in beside)) if name in found]


# --- as text --------------------------------------------------------------------------------------------


def to_csv(table: list[Cells], columns: list[str]) -> str:
    """Every column, numbers with six significant digits; what is missing is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text(cells.get(column), 6) for column in columns] for cells in table)
    return out.getvalue()


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "" if value is None else str(value)


def to_markdown(table: list[Cells], columns: list[str]) -> str:
    """The main columns: means with their deviations; numbers of images and reasons for empty cells as notes below."""
    header, body, notes = _for_people(table, columns, MEASURES)
    lines = [header, ["---"] * len(header), *body]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return text + "".join(f"\n{note}\n" for note in notes)


def notes_of(table: list[Cells], columns: list[str]) -> list[str]:
    """Numbers of images, what ± is, what compares with nothing, and why protocols have no number."""
    *_, notes = _for_people(table, columns, ("fid",))
    return [re.sub(r"^\[\d+\] ", "", note) for note in notes if not note.startswith("Empty cells")]


def _for_people(
    table: list[Cells], columns: list[str], measures: tuple[str, ...]
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, cells and notes. An empty cell of a protocol holds the number of the note that says why.

    Of a protocol without any number, the column of its FID stands for all. Errors by the released code's rules are
    shown with those of the paper only.
    """
    known = {column for column in columns if any(cells.get(column) is not None for cells in table)}

    def shown(column: str) -> bool:
        base = column.removesuffix("_paper").removesuffix("_difference")
        if base in ERRORS:
            return f"{base}_paper" in known
        protocol, _, key = base.partition("_")
        if protocol in PROTOCOLS:
            return key in measures and (column in known or key == "fid" or f"{base}_paper" in known)
        if column == "seeds":
            return any(cells.get("seeds", 1) > 1 for cells in table)
        if column == "recipe":
            return len({cells.get("recipe") for cells in table}) > 1
        return base in (*FIRST, "mse", "ssim", *READ, *LAST) or "." in column

    header = [column for column in columns if shown(column)]
    reasons: dict[str, int] = {}
    body = []
    for cells in table:
        line = []
        for column in header:
            text = _text(cells.get(column), 4)
            # over seeds; of one seed, over the networks that judge
            spread = cells.get(f"{column}_std", cells.get(f"{column}_deviation"))
            if text and spread is not None:
                text += f" ± {_text(spread, 2)}"
            why = cells.get(f"{column.partition('_')[0]}_reason")
            if why and not column.startswith(ERRORS) and not text and not column.endswith("_difference"):
                reason = f"{column.partition('_')[0]}: {why}"
                text = f"[{reasons.setdefault(reason, len(reasons) + 1)}]"
            line.append(text)
        body.append(line)
    notes = [f"[{number}] {reason}." for reason, number in reasons.items()]
    absent = [p for p in PROTOCOLS if f"{p}_fid" not in columns and any(f"{p}_reason" in cells for cells in table)]
    asked = [f"Not asked for: {', '.join(absent)}."] if absent else []
    empty = "Empty cells: the model has no such number, its source gives none, or one of the two compared is missing."
    blank = [empty] if any("" in line for line in body) else []
    over = [SPREAD] if any("±" in cell for line in body for cell in line) else []
    return header, body, [*_numbers_of_images(table), *without_counterpart(table), *over, *notes, *asked, *blank]


def without_counterpart(table: Sequence[Mapping[Any, Any]]) -> list[str]:
    """A note on published numbers that no run on their dataset has by the same protocol of as many images.

    ``table`` can also be the rows of a CSV file.
    """
    ours = {
        (row["dataset"], protocol, str(row.get(f"{protocol}_n_generated")))
        for row in table
        for protocol in PROTOCOLS
        if row.get("run") and row.get(f"{protocol}_fid") not in (None, "")
    }
    alone: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for protocol in PROTOCOLS:
        for row in table:
            n = str(row.get(f"{protocol}_n_generated"))
            published = not row.get("run") and row.get(f"{protocol}_fid") not in (None, "")
            if published and (row["dataset"], protocol, n) not in ours:
                alone[protocol, n][row["dataset"]].append(row["model"])
    notes = []
    for (protocol, n), models in alone.items():
        for names in dict.fromkeys(map(tuple, models.values())):
            datasets = ", ".join(dataset for dataset, found in models.items() if tuple(found) == names)
            text = f"{protocol} of {n} images: no run on {datasets} has this number, so none compares with"
            notes.append(f"{text} {', '.join(names)}.")
    return notes


def _numbers_of_images(table: list[Cells]) -> list[str]:
    notes = []
    for protocol in PROTOCOLS:
        counted: dict[str, list[str]] = {}
        for cells in table:
            generated, real, again, _, floor, subset = (cells.get(f"{protocol}_{count}") for count in COUNTS)
            if generated is not None:
                against = f" against {real} real images, KID on subsets of {subset}" if real is not None else ""
                if any(n not in (None, generated) for n in (again, floor)):  # FID of fewer images is higher
                    against += f", floors of {again} reconstructions and {floor} real images"
                counted.setdefault(f"{generated} generated{against}", []).append(
                    str(cells.get("run") or cells["model"])
                )
        runs = [f" ({', '.join(dict.fromkeys(names))})" if len(counted) > 1 else "" for names in counted.values()]
        if counted:
            notes.append(f"{protocol}: {'; '.join(map(str.__add__, counted, runs))}.")
    return notes
