"""The main numbers of a suite's table, as a paper prints them: arrows to what is better, and the best in bold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spiking_diffusion.config import FAMILIES
from spiking_diffusion.reporting.tables import LIKE_TABLE_1, PROTOCOLS, Cells, notes_of

MOST = 6
"""Columns of measured numbers, which fit in two columns of a paper with their deviations."""
MISSING = "--"


@dataclass(frozen=True)
class Column:
    """A column of the table. ``better`` is ``"lower"``, ``"higher"``, or empty for a name; ``protocol`` is above it."""

    key: str
    title: str
    better: str = ""
    protocol: str = ""


def main_columns(table: Sequence[Cells], settings: Sequence[str]) -> list[Column]:
    """Dataset, model and the ``settings`` in which rows differ, the run where that is not enough, and main measures.

    Errors are by the released code's rules where the paper's are next to ours, as both are on one scale.
    """
    known = {key for cells in table for key, value in cells.items() if value is not None}
    names = [Column("dataset", "Dataset"), Column("model", "Model")]
    names += [Column(key, key.rpartition(".")[2]) for key in settings]
    told_apart = Counter(tuple(str(cells.get(column.key)) for column in names) for cells in table)
    if max(told_apart.values(), default=0) > 1:
        names.append(Column("run", "Run"))
    like_paper = any(f"{key}_paper" in known for key in LIKE_TABLE_1)
    errors = ("released_mse", "released_ssim") if like_paper else ("mse", "ssim")
    measures = [Column(key, title, "lower") for key, title in zip(errors, ("MSE", "1 - SSIM"), strict=True)]
    if like_paper:
        measures += [Column(f"released_{key.lower()}", key, "lower", "released") for key in ("KID", "FID")]
    order = sorted(PROTOCOLS, key=lambda protocol: protocol != "classifier")
    fids = [Column(f"{p}_fid", "FID", "lower", p) for p in order if not (like_paper and p == "released")]
    measures += [*fids[:1], Column("legible", "Legible", "higher"), *fids[1:]]
    return [*names, *[column for column in measures if {column.key, f"{column.key}_paper"} & known][:MOST]]


def main_rows(
    table: Sequence[Cells], columns: Sequence[Column], titles: Mapping[str, str]
) -> list[list[tuple[str, bool]]]:
    """The text of each cell and whether it is the best of its dataset; ``titles`` are those of datasets.

    Compared are our rows, and a protocol's numbers only where they are of as many images. The paper's numbers have a
    row of their own below ours.
    """
    best = {column.key: _best(table, column) for column in columns if column.better}
    rows = []
    for number, cells in enumerate(table):
        rows.append([(_text(cells, column, titles), number in best.get(column.key, ())) for column in columns])
        published = {column.key: cells.get(f"{column.key}_paper") for column in columns if column.better}
        if any(value is not None for value in published.values()):
            theirs = published | {"dataset": cells["dataset"], "model": "as published"}
            rows.append([(_text(theirs, column, titles), False) for column in columns])
    return rows


def _best(table: Sequence[Cells], column: Column) -> set[int]:
    """The numbers of the rows whose value is the best of those that it compares with, if there are any."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for number, cells in enumerate(table):
        value = cells.get(column.key)
        if isinstance(value, (int, float)) and not math.isnan(value):
            images = cells.get(f"{column.protocol}_n_generated") if column.protocol else ""
            groups.setdefault((cells["dataset"], str(images)), {})[number] = value
    choose = min if column.better == "lower" else max
    return {
        number
        for values in groups.values()
        if len(values) > 1
        for number, value in values.items()
        if value == choose(values.values())
    }


def _text(cells: Cells, column: Column, titles: Mapping[str, str]) -> str:
    value = cells.get(column.key)
    if column.key == "dataset":
        return titles.get(str(value), str(value))
    if column.key == "model" and value in FAMILIES:
        return FAMILIES[value].title
    if not isinstance(value, (int, float)) or not column.better:
        return MISSING if value is None else str(value)
    spread = cells.get(f"{column.key}_std", cells.get(f"{column.key}_deviation"))
    if not spread:
        return f"{value:.3g}"
    digits = max(0, -math.floor(math.log10(spread)))  # one digit of the deviation says how many of the mean matter
    return f"{value:.{digits}f} ± {spread:.{digits}f}"


def to_latex(table: list[Cells], columns: list[str], titles: Mapping[str, str]) -> str:
    """A ``tabular`` of the main columns for the package booktabs, 8 pt in a paper of 10, its notes below."""
    shown = main_columns(table, settings_in(columns))
    over = [column.protocol for column in shown]
    rows = main_rows(table, shown, titles)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        r"\begin{tabular}{@{}" + "".join("r" if column.better else "l" for column in shown) + "@{}}",
        r"\toprule",
    ]
    if any(over):
        lines += [" & ".join(_above(over)) + r" \\", *_rules(over)]
    lines.append(" & ".join(map(_heading, shown)) + r" \\")
    before = ""
    for row in rows:
        dataset = row[0][0]
        if dataset != before:
            lines.append(r"\midrule")
        first = (dataset if dataset != before else "", False)
        lines.append(" & ".join(_cell(*cell) for cell in (first, *row[1:])) + r" \\")
        before = dataset
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_escaped(note)}" for note in notes_of(table, columns)]
    return "".join(f"{line}\n" for line in [*lines, "}"])


def settings_in(columns: Sequence[str]) -> list[str]:
    """The columns of settings, by their dotted key."""
    return [column for column in columns if "." in column and not column.endswith(("_std", "_deviation"))]


def _above(over: Sequence[str]) -> list[str]:
    """Protocols, each over the columns of its numbers."""
    cells, at = [], 0
    while at < len(over):
        wide = next((n for n in range(at, len(over)) if over[n] != over[at]), len(over)) - at if over[at] else 1
        cells.append(rf"\multicolumn{{{wide}}}{{c}}{{{over[at]}}}" if over[at] else "")
        at += wide
    return cells


def _rules(over: Sequence[str]) -> list[str]:
    places = {protocol: [n + 1 for n, each in enumerate(over) if each == protocol] for protocol in over if protocol}
    return [rf"\cmidrule(lr){{{found[0]}-{found[-1]}}}" for found in places.values()]


def _heading(column: Column) -> str:
    arrow = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "": ""}[column.better]
    return _escaped(column.title) + arrow


def _cell(text: str, best: bool) -> str:
    written = _escaped(text)
    return rf"\textbf{{{written}}}" if best else written


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
