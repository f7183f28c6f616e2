"""Tables of a paper: few columns, arrows, the best in bold, and narrow enough."""

import re
from pathlib import Path

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from spiking_diffusion.config import load_params
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.rows import write_row
from spiking_diffusion.reporting.latex import MOST, Column, main_columns, main_rows
from spiking_diffusion.reporting.style import TWO_COLUMNS
from spiking_diffusion.stages import make

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
ROWS = [
    {"dataset": "digits", "model": "fsvae", "run": "a", "mse": 0.03, "classifier_fid": 9.0, "legible": 0.2},
    {
        "dataset": "digits",
        "model": "spiking-diffusion",
        "run": "b",
        "mse": 0.01,
        "classifier_fid": 12.0,
        "legible": 0.4,
    },
    {"dataset": "mnist", "model": "spiking-diffusion", "run": "c", "mse": 0.02, "classifier_fid": None, "legible": 0.4},
]
FID = Column("classifier_fid", "FID", "lower", "classifier")


def best(table, column):
    return [is_best for [(_, is_best)] in main_rows(table, [column], {})]


def test_the_best_of_each_dataset_is_bold():
    assert best(ROWS, FID) == [True, False, False]
    assert best(ROWS, Column("legible", "Legible", "higher")) == [False, True, False], "alone, it is no best"
    assert best([ROWS[0], ROWS[1] | {"classifier_fid": 9.0}], FID) == [True, True]


def test_numbers_of_unequal_numbers_of_images_are_not_compared():
    counts = [{"classifier_n_generated": n} for n in (500, 10000)]
    assert best([row | count for row, count in zip(ROWS, counts, strict=False)], FID) == [False, False]


def test_means_have_the_digits_that_their_deviation_leaves():
    def text(**cells):
        return main_rows([ROWS[0] | cells], [FID], {})[0][0][0]

    assert text(classifier_fid=43.0103, classifier_fid_std=2.96) == "43 ± 3"
    assert text(classifier_fid=43.0103, classifier_fid_deviation=0.21) == "43.0 ± 0.2"
    assert text(classifier_fid=0.0352665) == "0.0353" and text(classifier_fid=None) == "--"


def test_runs_are_named_where_nothing_else_tells_them_apart():
    assert [column.key for column in main_columns(ROWS, [])][:3] == ["dataset", "model", "mse"]
    alike = [ROWS[0], ROWS[0] | {"run": "d"}]
    assert [column.key for column in main_columns(alike, [])][:3] == ["dataset", "model", "run"]
    apart = [row | {"vqsvae.k": k} for row, k in zip(alike, (0.0, 1.0), strict=True)]
    assert [column.title for column in main_columns(apart, ["vqsvae.k"])][:3] == ["Dataset", "Model", "k"]


@pytest.fixture
def table1(tmp_path, monkeypatch):
    """Table 1 with every number that a run can have, and deviations."""
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(PARAMS.suites["table1"]):
        row = {"dataset": PARAMS.resolve(run).dataset_name, "model": PARAMS.resolve(run).model, "run": run}
        row |= {"released_mse": 0.0353 + number, "released_ssim": 0.307, "mse": 0.03, "ssim": 0.4, "legible": 0.3522}
        for protocol in ("standard", "released", "classifier", "clean32"):
            row |= {f"{protocol}_fid": 143.0103, f"{protocol}_kid": 0.55619, f"{protocol}_n_generated": 10000}
            row |= {f"{protocol}_fid_deviation": 2.96, f"{protocol}_kid_deviation": 0.0471}
        write_row(run, row)
    make(Job(PARAMS, "table", "table1"))
    return Path("results/tables/table1.tex").read_text(encoding="utf-8")


def test_table_1_is_booktabs_with_arrows_and_published_rows(table1):
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"FID $\downarrow$",
        r"Legible $\uparrow$",
        r"\textbf{0.0353}",
    ):
        assert part in table1
    assert r"\hline" not in table1 and "_fid" not in table1.partition(r"\end{tabular}")[0]
    assert table1.count("as published") == 10 and "Fashion-MNIST" in table1
    head = next(line for line in table1.splitlines() if line.startswith("Dataset"))
    assert head.count("&") == 1 + MOST and table1.count("{") == table1.count("}")
    assert re.search(r"as published & 0.023 & 0.219 & 0.054 & 90.6 & -- & --", table1)


def test_table_1_fits_two_columns_of_a_paper(table1):
    """In 8 pt of a font like Times, with 6 pt between columns."""
    lines = table1.partition(r"\toprule")[2].partition(r"\bottomrule")[0].splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if "&" in line and "multicolumn" not in line]
    font = FontProperties(family="STIXGeneral", weight="bold", size=8)

    def width(cell):
        plain = re.sub(r"\\textbf\{(.*)\}", r"\1", cell).replace(r"$\pm$", "±").replace(r"$\downarrow$", "↓")
        return TextPath((0, 0), plain.replace(r"$\uparrow$", "↑") or " ", prop=font).get_extents().width if plain else 0

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    assert 0.4 * 72 * TWO_COLUMNS < sum(widths) + 6 * (len(widths) - 1) < 72 * TWO_COLUMNS
