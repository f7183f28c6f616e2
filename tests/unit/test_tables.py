"""Tables: what is in them by hand, and that the same input gives the same bytes."""

import copy
import csv
import re
import statistics
from pathlib import Path

import pytest
import yaml

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.graph.suites import figures_of, rows_of
from spiking_diffusion.metrics.rows import read_row, write_row
from spiking_diffusion.reporting.tables import PUBLISHED, SPREAD
from spiking_diffusion.stages import make

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
RAW["runs"] |= {
    "digits-1": {"dataset": "digits", "recipe": "quick", "seed": 1},
    "digits-2": {"dataset": "digits", "recipe": "quick", "seed": 2},
    "digits-k": {"dataset": "digits", "recipe": "quick", "vqsvae": {"k": 0.25}},
    "digits-k-1": {"dataset": "digits", "recipe": "quick", "vqsvae": {"k": 0.25}, "seed": 1},
}
RAW["suites"] |= {
    "both": ["digits-fsvae", "digits"],
    "seeds": ["digits-1", "digits-fsvae", "digits", "digits-2"],
    "ks": ["digits", "digits-k", "digits-1", "digits-k-1"],
    "recipes": ["digits-fsvae", "digits", "digits-best", "digits-k"],
    "beyond": ["mnist", "cifar10"],
}
PARAMS = check_params(RAW)
ASKED = ("fid", "kid", "n_generated", "n_real", "kid_subset_size")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def metrics(run, **changes):
    """Write a run's metrics: classifier's numbers are there, standard's cannot be had, others were not asked for."""
    resolved = PARAMS.resolve(run)
    row = {"dataset": resolved.dataset_name, "model": resolved.model, "run": run, "recipe": "quick", "seed": 0}
    row |= {"mse": 0.01, "ssim": 0.5, "released_mse": 0.02, "released_ssim": 0.25, "network_calls": 31.254}
    row |= {f"classifier_{key}": value for key, value in zip(ASKED, (7.0, 0.125, 500, 360, 360), strict=True)}
    row |= {f"standard_{key}": None for key in ASKED} | {"standard_reason": "no weights"}
    row |= {f"{name}_reason": "not asked for" for name in ("clean32", "train50k", "released")}
    write_row(run, row | changes)


def rows(suite):
    return list(csv.DictReader(Path("results/tables", f"{suite}.csv").read_text().splitlines()))


def test_metrics_files_hold_numbers_and_notes_the_rest(project):
    """Seen to fail with reasons and settings, sentences long, among what `dvc metrics show` puts into columns."""
    row = {"dataset": "a", "model": "b", "run": "x", "mse": 0.5, "ssim": 1, "classifier_fid": 0.25, "seed": 3}
    row |= {"classifier_n_real": 10, "classifier_settings": "words", "standard_fid": None, "standard_reason": "why"}
    write_row("x", row)
    assert artifacts.read_json(paths.metrics_path("x")) == {"mse": 0.5, "ssim": 1, "classifier_fid": 0.25}
    assert read_row("x") == row


def test_a_row_for_each_run_with_its_numbers():
    metrics("digits-fsvae", mse=0.0125)
    metrics("digits", classifier_fid=1.2345678, codes_used=126)
    assert make(Job(PARAMS, "table", "both")) == Path("results/tables/both.csv")
    first, second = rows("both")
    assert list(first)[:6] == ["dataset", "model", "run", "seeds", "mse", "ssim"]
    assert (first["model"], first["run"], first["mse"]) == ("fsvae", "digits-fsvae", "0.0125")
    assert (second["run"], second["classifier_fid"], second["codes_used"]) == ("digits", "1.23457", "126")
    assert first["codes_used"] == "", "a number that FSVAE does not have is empty"
    assert first["classifier_n_generated"] == "500", "counts stay whole"
    assert not [column for column in first if column.startswith(("clean32", "train50k", "released_fid"))]


def test_floors_of_other_numbers_are_said():
    counts = {"classifier_n_reconstructed": 360, "classifier_n_train_test": 500}
    metrics("digits-fsvae", **counts)
    metrics("digits", **counts, bits_per_token=2.5)
    make(Job(PARAMS, "table", "both"))
    text = Path("results/tables/both.md").read_text()
    assert (
        "\nEmpty cells: the model has no such number, its source gives none, or one of the two compared is missing.\n"
        in text
    )
    assert "KID on subsets of 360, floors of 360 reconstructions and 500 real images.\n" in text


def test_a_number_that_cannot_be_had_is_empty_and_explained():
    metrics("digits-fsvae")
    metrics("digits", standard_fid=3.5)
    make(Job(PARAMS, "table", "both"))
    first, second = rows("both")
    assert (first["standard_fid"], first["standard_reason"]) == ("", "no weights")
    assert second["standard_fid"] == "3.5"
    text = Path("results/tables/both.md").read_text()
    header, _, fsvae, ours = (line.strip("| ").split(" | ") for line in text.splitlines()[:4])
    assert (fsvae[header.index("standard_fid")], ours[header.index("standard_fid")]) == ("[1]", "3.5")
    assert "\n[1] standard: no weights.\n" in text
    assert "\nclassifier: 500 generated against 360 real images, KID on subsets of 360.\n" in text
    assert "\nNot asked for: clean32, train50k, released.\n" in text
    assert "\\par standard: no weights.\n" in Path("results/tables/both.tex").read_text()


def test_seeds_are_one_row_with_mean_and_deviation():
    values = {"digits": 1.0, "digits-1": 2.0, "digits-2": 6.0}
    for run, value in values.items():
        metrics(run, classifier_fid=value, mse=0.25)
    metrics("digits-fsvae", classifier_fid=9.0)
    make(Job(PARAMS, "table", "seeds"))
    ours, fsvae = rows("seeds")
    assert (ours["run"], ours["seeds"], fsvae["seeds"]) == ("digits-1", "3", "1")
    assert float(ours["classifier_fid"]) == 3.0
    assert float(ours["classifier_fid_std"]) == pytest.approx(statistics.stdev(values.values()), rel=1e-5)
    assert float(ours["mse_std"]) == 0
    assert (fsvae["classifier_fid"], fsvae["classifier_fid_std"]) == ("9", "")
    assert " 3 ± 2.6 |" in Path("results/tables/seeds.md").read_text()
    assert r"\textbf{3 $\pm$ 3}" in Path("results/tables/seeds.tex").read_text()


def test_one_seed_has_the_deviation_over_the_networks_that_judge():
    """With several seeds it is the one over seeds, and that over networks has none of its own."""
    for number, run in enumerate(("digits", "digits-1", "digits-2", "digits-fsvae")):
        metrics(run, classifier_fid=number + 3.0, classifier_fid_deviation=0.25 + number, classifier_kid_deviation=0.5)
    make(Job(PARAMS, "table", "seeds"))
    ours, fsvae = rows("seeds")
    columns = list(ours)
    at = columns.index("classifier_fid")
    assert columns[at : at + 3] == ["classifier_fid", "classifier_fid_std", "classifier_fid_deviation"]
    assert not [column for column in columns if column.endswith("_deviation_std")]
    assert (fsvae["classifier_fid_std"], fsvae["classifier_fid_deviation"]) == ("", "3.25")
    assert (ours["classifier_fid_std"], ours["classifier_fid_deviation"]) == ("1", "1.25")
    text = Path("results/tables/seeds.md").read_text()
    assert " 4 ± 1 |" in text and " 6 ± 3.2 |" in text and " 0.125 ± 0.5 |" in text
    assert "_deviation" not in text.splitlines()[0]
    assert f"\n{SPREAD}\n" in text


def test_no_deviations_need_no_note():
    metrics("digits-fsvae")
    metrics("digits")
    make(Job(PARAMS, "table", "both"))
    assert "±" not in Path("results/tables/both.md").read_text()


def test_what_is_read_and_the_perfect_prior_are_main_columns():
    metrics("digits-fsvae", legible=0.25, test_legible=0.75, class_balance=0.125, classifier_perfect_prior_fid=2.5)
    metrics("digits", legible=None, test_legible=None, class_balance=None)
    make(Job(PARAMS, "table", "both"))
    header, _, fsvae, ours = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in Path("results/tables/both.md").read_text().splitlines()[:4]
    )
    for key, value in {"legible": "0.25", "test_legible": "0.75", "class_balance": "0.125"}.items():
        assert (fsvae[header.index(key)], ours[header.index(key)]) == (value, "")
    assert fsvae[header.index("classifier_perfect_prior_fid")] == "2.5"


def test_no_mean_over_some_of_the_seeds():
    for run in ("digits", "digits-1", "digits-2", "digits-fsvae"):
        metrics(run, **({} if run == "digits-2" else {"standard_fid": 4.0}))
    make(Job(PARAMS, "table", "seeds"))
    assert rows("seeds")[0]["standard_fid"] == ""
    metrics("digits", standard_fid=4.0, standard_reason=None)
    make(Job(PARAMS, "table", "seeds"))
    reason = rows("seeds")[0]["standard_reason"]
    assert "digits-2: no weights" in reason and "digits:" not in reason


def test_an_ablation_has_a_column_for_what_differs():
    for run, value in {"digits": 1.0, "digits-1": 2.0, "digits-k": 5.0, "digits-k-1": 7.0}.items():
        metrics(run, classifier_fid=value)
    make(Job(PARAMS, "table", "ks"))
    assert [(row["vqsvae.k"], row["seeds"], row["classifier_fid"]) for row in rows("ks")] == [
        ("learned", "2", "1.5"),
        ("0.25", "2", "6"),
    ]
    assert not [column for column in rows("ks")[0] if column.endswith("_paper")]


def test_runs_of_two_recipes_have_a_column_for_the_recipe_and_for_what_differs_within_one():
    """Seen to fail with a column for each of the thirty settings in which two recipes differ."""
    found = [(row.runs[0], row.settings) for row in rows_of(PARAMS, "recipes")]
    assert found == [
        ("digits-fsvae", {}),
        ("digits", {"recipe": "quick", "vqsvae.k": "learned"}),
        ("digits-best", {"recipe": "best"}),
        ("digits-k", {"recipe": "quick", "vqsvae.k": 0.25}),
    ]
    assert "ablation" not in figures_of(PARAMS, "recipes")


def test_the_recipe_is_shown_where_there_are_several():
    """Seen to fail: the CSV file had the column, the table that `make quick` prints did not."""
    for run in ("digits", "digits-best", "digits-fsvae"):
        metrics(run, recipe=PARAMS.resolve(run).recipe_name)
    for suite, there in (("quick", True), ("both", False)):
        make(Job(PARAMS, "table", suite))
        head = Path(f"results/tables/{suite}.md").read_text().splitlines()[0]
        assert ("| recipe |" in head) == there


def test_settings_that_only_the_other_model_reads_do_not_make_runs_differ():
    assert [row.runs for row in rows_of(PARAMS, "both")] == [["digits-fsvae"], ["digits"]]
    raw = yaml.safe_load(yaml.safe_dump(RAW))
    raw["runs"]["digits-1"]["fsvae"] = {"k": 5}
    assert next(row.runs for row in rows_of(check_params(raw), "seeds")) == ["digits-1", "digits", "digits-2"]


def test_a_run_under_another_name_is_no_second_seed():
    """Seen to fail: one row of two "seeds" and their deviation, where an ablation names the recipe's own value."""
    raw = copy.deepcopy(RAW)
    for seed in (0, 1):
        raw["runs"][f"plain-{seed}"] = {"dataset": "digits", "recipe": "quick", "seed": seed}
        same = {"tau_syn": raw["recipes"]["quick"]["vqsvae"]["tau_syn"]}
        raw["runs"][f"named-{seed}"] = raw["runs"][f"plain-{seed}"] | {"vqsvae": same}
    raw["suites"]["alike"] = ["plain-0", "plain-1", "named-0", "named-1"]
    rows = [row.runs for row in rows_of(check_params(raw), "alike")]
    assert rows == [["plain-0", "plain-1"], ["named-0", "named-1"]]


def test_table_1_stands_beside_our_numbers():
    for run in PARAMS.suites["table1"]:
        metrics(run)
    metrics("mnist", mse=0.0035, released_mse=0.004, released_ssim=0.1, released_fid=40.0, released_kid=0.01)
    make(Job(PARAMS, "table", "table1"))
    found = {(row["dataset"], row["model"]): row for row in rows("table1")}
    assert len(found) == 10
    ours, fsvae = found["mnist", "spiking-diffusion"], found["letters", "fsvae"]
    assert (ours["released_mse_paper"], ours["released_mse_difference"]) == ("0.006", "-0.002")
    assert (ours["released_ssim_paper"], ours["released_ssim_difference"]) == ("0.077", "0.023")
    assert (ours["released_fid_paper"], ours["released_fid_difference"]) == ("37.5", "2.5")
    assert (ours["released_kid_paper"], ours["released_kid_difference"]) == ("0.018", "-0.008")
    assert (fsvae["released_fid"], fsvae["released_fid_paper"]) == ("", "95.96")
    assert (fsvae["released_fid_difference"], fsvae["released_reason"]) == ("", "not asked for")
    text = Path("results/tables/table1.md").read_text()
    assert "released: not asked for." in text
    header = text.splitlines()[0].strip("| ").split(" | ")
    assert header[3:7] == ["mse", "ssim", "released_mse", "released_mse_paper"]


def test_mse_and_ssim_stand_alone():
    """Seen to fail: 1 - SSIM of clamped images in [0, 1], borders mirrored, next to the paper's other definition."""
    for run in PARAMS.suites["table1"]:
        metrics(run)
    make(Job(PARAMS, "table", "table1"))
    columns = set(rows("table1")[0])
    assert not columns & {f"{key}_{beside}" for key in ("mse", "ssim") for beside in ("paper", "difference")}


def test_released_errors_of_runs_that_the_paper_does_not_have_are_in_the_csv_alone():
    metrics("digits-fsvae", released_mse=0.02, released_ssim=0.25)
    metrics("digits", released_mse=0.01, released_ssim=0.125)
    make(Job(PARAMS, "table", "both"))
    assert [row["released_ssim"] for row in rows("both")] == ["0.25", "0.125"]
    text = Path("results/tables/both.md").read_text()
    assert "released_" not in text and "Not asked for: clean32, train50k, released." in text


def test_peers_stand_in_the_column_of_their_own_protocol():
    metrics("mnist", clean32_fid=5.0)
    metrics("cifar10", train50k_fid=100.0)
    make(Job(PARAMS, "table", "beyond"))
    found = {(row["dataset"], row["model"]): row for row in rows("beyond")}
    assert found["mnist", "spiking-diffusion"]["clean32_fid"] == "5"
    peer = found["mnist", "FSDDIM T=8"]
    assert (peer["clean32_fid"], peer["clean32_n_generated"], peer["train50k_fid"]) == ("3.99", "10000", "")
    assert "arXiv:2312.01742" in peer["source"]
    sdm = {name: row["train50k_fid"] for (_, name), row in found.items() if name.startswith("SDM ")}
    assert sdm["SDM Analytic-DPM T=8"] == "12.95"
    assert (sdm["SDM DDPM T=4"], sdm["SDM DDPM T=8"]) == ("18.57", "15.45"), "one model, several rows"
    assert ("mnist", "SDM DDPM T=4") not in found
    assert found["cifar10", "Spiking-Diffusion as published"]["released_fid"] == "120.5"
    datasets = [row["dataset"] for row in rows("beyond")]
    assert datasets == sorted(datasets, reverse=True), "each of ours stands above its peers"
    assert "\nclean32: 10000 generated (FSDDIM T=8, FSDDIM T=4); 5000 generated (FSVAE, ESVAE, SGAD T=16).\n" in (
        Path("results/tables/beyond.md").read_text()
    )


def no_counterpart(suite="beyond"):
    """The notes on peers that no run compares with."""
    lines = Path("results/tables", f"{suite}.md").read_text().splitlines()
    return [line for line in lines if "so none compares with" in line]


def test_peers_without_a_counterpart_are_said():
    """By dataset, protocol and number of images. Seen to fail: SDDPM's 50,000 images stood next to a run of 10,000."""
    metrics("mnist", clean32_fid=5.0, clean32_n_generated=10000)
    metrics("cifar10", train50k_fid=100.0, train50k_n_generated=50000, released_fid=90.0, released_n_generated=1280)
    make(Job(PARAMS, "table", "beyond"))
    assert no_counterpart() == [
        "clean32 of 5000 images: no run on mnist, cifar10 has this number, so none compares with FSVAE, ESVAE, SGAD "
        "T=16.",
        "clean32 of 10000 images: no run on cifar10 has this number, so none compares with FSDDIM T=8, FSDDIM T=4.",
        "train50k of 50000 images: no run on mnist has this number, so none compares with SDDPM T=4.",
        "released of 1280 images: no run on mnist has this number, so none compares with "
        "Spiking-Diffusion as published.",
    ]
    assert "train50k of 50000 images: no run on mnist" in Path("results/tables/beyond.tex").read_text()


def test_a_run_that_draws_fewer_images_or_has_no_number_is_no_counterpart():
    metrics("mnist", clean32_fid=5.0, clean32_n_generated=500, train50k_fid=None, train50k_n_generated=50000)
    metrics("cifar10", clean32_fid=5.0, clean32_n_generated=5000)
    make(Job(PARAMS, "table", "beyond"))
    notes = no_counterpart()
    assert (
        "clean32 of 10000 images: no run on mnist, cifar10 has this number, so none compares with FSDDIM T=8, "
        in (notes[0])
    )
    assert notes[1].startswith("clean32 of 5000 images: no run on mnist has this")
    assert notes[2].startswith("train50k of 50000 images: no run on mnist has this")


def test_suites_without_peers_have_no_such_note():
    metrics("digits-fsvae")
    metrics("digits")
    make(Job(PARAMS, "table", "both"))
    assert no_counterpart("both") == []


def test_what_is_published_is_about_known_datasets_and_protocols():
    assert set(PUBLISHED["table1"]) == {PARAMS.resolve(run).dataset_name for run in PARAMS.suites["table1"]}
    for models in PUBLISHED["table1"].values():
        assert set(models) == {"fsvae", "spiking-diffusion"}
        assert all(number > 0 for numbers in models.values() for number in numbers.values())
    peers = PUBLISHED["peers"]
    names = [each["model"] for each in (*peers, *PUBLISHED["not_found"])]
    assert len(set(names)) == len(names), "a row of the table is known by its model"
    for peer in peers:
        assert set(peer) == {"model", "source", "protocol", "n_generated", "measured", "checked", "fid"}
        assert peer["fid"] and set(peer["fid"]) <= set(PARAMS.datasets)
        assert peer["protocol"] in ("clean32", "train50k", "released")
        assert isinstance(peer["n_generated"], int)
        assert all(number > 0 for number in (peer["n_generated"], *peer["fid"].values()))
        assert all(isinstance(peer[key], str) and peer[key] for key in ("model", "source", "measured", "checked"))
    for each in PUBLISHED["not_found"]:
        assert set(each) == {"model", "source", "looked_for"}


def test_page_on_evaluation_names_every_source_of_a_number_and_every_model_without_one():
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    section = page.partition("## Numbers of others")[2].partition("\n## ")[0]
    for each in (*PUBLISHED["peers"], *PUBLISHED["not_found"]):
        assert re.search(r"arXiv:(\d{4}\.\d{5})", each["source"])[1] in section, each["model"]
    for each in PUBLISHED["not_found"]:
        assert each["model"] in section


def test_table_is_the_same_twice_and_its_settings_lie_beside():
    metrics("digits-fsvae")
    metrics("digits")
    out = make(Job(PARAMS, "table", "both"))
    first = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    assert sorted(first) == ["both.csv", "both.md", "both.settings.json", "both.tex"]
    expected = dict(Job(PARAMS, "table", "both").record)
    expected["outputs"] = {str(path): artifacts.sha256(path) for path in map(out.with_suffix, (".csv", ".md", ".tex"))}
    assert artifacts.read_json(paths.settings_path(out)) == expected
    make(Job(PARAMS, "table", "both"))
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == first


def test_a_code_of_latex_in_a_name_is_written_as_text():
    metrics("digits-fsvae")
    metrics("digits", standard_reason="50 % of a_b are $")
    make(Job(PARAMS, "table", "both"))
    assert r"standard: 50 \% of a\_b are \$" in Path("results/tables/both.tex").read_text()


def test_images_seen_are_in_every_table():
    metrics("digits-fsvae", images_seen=50280)
    for run in ("digits", "digits-1", "digits-2"):
        metrics(run, vqsvae_images_seen=50280, sdid_images_seen=50280, images_seen=100560)
    make(Job(PARAMS, "table", "seeds"))
    ours, fsvae = rows("seeds")
    assert (ours["vqsvae_images_seen"], ours["sdid_images_seen"], ours["images_seen"]) == ("50280", "50280", "100560")
    assert (fsvae["vqsvae_images_seen"], fsvae["images_seen"]) == ("", "50280")
    assert not [column for column in ours if column.endswith("images_seen_std")], "seeds have one budget"
    header, _, of_ours, _ = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in Path("results/tables/seeds.md").read_text().splitlines()[:4]
    )
    assert [of_ours[header.index(f"{key}images_seen")] for key in ("vqsvae_", "sdid_", "")] == [
        *("50280", "50280", "100560")
    ]
