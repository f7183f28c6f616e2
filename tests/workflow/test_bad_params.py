"""params.yaml that is wrong: Snakemake, DVC and the command line give one verdict, before any job starts."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spiking_diffusion.cli import main
from spiking_diffusion.config import load_params, read_yaml
from spiking_diffusion.errors import UserError

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
RAW |= {
    "datasets": {"digits": RAW["datasets"]["digits"]},
    "recipes": {"quick": RAW["recipes"]["quick"]},
    "runs": {"digits": RAW["runs"]["digits"]},
    "baselines": {"digits-fsvae": RAW["baselines"]["digits-fsvae"]},
    "suites": {"quick": ["digits-fsvae", "digits"]},
}
LR, T, BOOL = "recipes/quick/sdid/train/lr", "recipes/quick/vqsvae/T", "recipes/quick/neuron/detach_reset"
MARK = "put-it-here"


def with_scalar(path: str, text: str) -> str:
    """params.yaml with the value at ``path`` written as ``text``."""
    raw = copy.deepcopy(RAW)
    *above, last = path.split("/")
    section = raw
    for key in above:
        section = section[key]
    section[last] = MARK
    return yaml.safe_dump(raw, sort_keys=False).replace(MARK, text, 1)


WHOLE = yaml.safe_dump(RAW, sort_keys=False)
BAD: dict[str, str] = {
    # numbers that are none, or not the same to both
    **{f"lr {text}": with_scalar(LR, text) for text in ("1e-3", "1E-3", "1e5", ".inf", "-.inf", ".nan", "NaN", "inf")},
    **{f"lr {text}": with_scalar(LR, text) for text in ("0", "0.0", "-0.001", "'0.001'", "0,001", "0.0.1", "1:30")},
    **{f"lr {text}": with_scalar(LR, text) for text in ("[0.001]", "{a: 1}", "2026-11-25", "true", "~", "")},
    **{f"T {text}": with_scalar(T, text) for text in ("true", "4.0", "0", "-1", "012", "0o4", "4e0")},
    **{f"T {text}": with_scalar(T, text) for text in ("'4'", "4 4", "null", "yes", "four", "1:30", ".nan", "!!str 4")},
    **{f"bool {text}": with_scalar(BOOL, text) for text in ("off", "no", "Yes", "1", "'true'", "nope")},
    **{f"device {text}": with_scalar("device", text) for text in ("off", "gpu", "3", "[cpu]")},
    # keys
    "unknown key": with_scalar("recipes/quick/seed", "0\n    speed: 1"),
    "unknown key at the top": WHOLE + "colour: red\n",
    "missing key": WHOLE.replace("    seed: 0\n", "", 1),
    "duplicate key": with_scalar("recipes/quick/seed", "0\n    seed: 0"),
    "duplicate section": WHOLE + "device: cpu\n",
    "a key that is a bool to one": WHOLE.replace("suites:\n", "suites:\n  on: [digits]\n", 1),
    "a key that is a number": WHOLE.replace("suites:\n", "suites:\n  012: [digits]\n", 1),
    # the file
    "empty": "",
    "a list": "- device: auto\n",
    "an open bracket": WHOLE + "more: [1, 2\n",
    "a tab": "device:\t\tauto\n\tx: y\n",
    "two documents": WHOLE + "---\n" + WHOLE,
    "an unknown alias": WHOLE + "more: *nothing\n",
    "an object of Python": with_scalar("device", "!!python/object/apply:os.getcwd []"),
    "a merge's marker": "<<<<<<< HEAD\n" + WHOLE,
}
DOZEN = (
    "lr 1e-3",
    "lr .nan",
    "T true",
    "T 012",
    "bool off",
    "unknown key",
    "missing key",
    "duplicate key",
    "a key that is a bool to one",
    "an open bracket",
    "two documents",
    "empty",
)
GOOD = {
    "plain": WHOLE,
    "lr 1.0e-3": with_scalar(LR, "1.0e-3"),
    "T 0x4": with_scalar(T, "0x4"),
    "T +4": with_scalar(T, "+4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_params_get_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(BAD[case], encoding="utf-8")
    assert main(["fetch", "--dataset", "digits"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: params.yaml") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_there_are_fifty() -> None:
    assert len(BAD) >= 50 and len(set(BAD.values())) == len(BAD) and set(DOZEN) <= BAD.keys()


# DVC is asked inside one process, which saves its slow start; the Snakemake that it starts is a process of its own
VERDICTS = """
import json, os, sys, tempfile
from pathlib import Path
from dvc.cli import main

found = {}
for case, text in json.loads(Path(sys.argv[1]).read_text()).items():
    Path("params.yaml").write_text(text, encoding="utf-8")
    with tempfile.TemporaryFile("w+") as said:
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        code = main(["repro", "fetch@digits"])
        sys.stderr.flush()
        os.dup2(before, 2)
        said.seek(0)
        found[case] = code, said.read(), Path("results").exists() or Path("work").exists()
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def verdicts(project: Any, cases: dict[str, str]) -> None:
    """Let real DVC and real Snakemake judge bad files."""
    (project.root / "params.yaml").write_text(WHOLE, encoding="utf-8")
    (project.root / "dvc.yaml").write_text(project.run("spiking-diffusion", "dvc").stdout)
    project.versioned()
    answers = project.root / "verdicts.json"
    answers.write_text(json.dumps(cases))
    project.run(sys.executable, "-c", VERDICTS, str(answers))
    for case, (code, said, began) in json.loads(answers.read_text()).items():
        assert code and not began, case
        if "error: params.yaml" in said:  # of the Snakemake that DVC started
            continue
        # DVC's own words, of what it cannot parse or what dvc.yaml needs
        assert "ERROR: " in said and "Traceback" not in said, f"{case}: {said}"
        (project.root / "params.yaml").write_text(cases[case], encoding="utf-8")
        done = project.run("snakemake", "--cores", "1", "quick", "--workflow-profile", "none", ok=False)
        assert done.returncode == 2 and done.stderr.startswith("error: params.yaml"), f"{case}: {done.stderr}"
    assert not (project.root / "results").exists()


def test_a_dozen_bad_files_under_all_three(project: Any) -> None:
    """The same Snakefile without its `load_params` starts the job for 11 of them."""
    verdicts(project, {case: BAD[case] for case in DOZEN})


@pytest.mark.slow
def test_all_bad_files_under_all_three(project: Any) -> None:
    verdicts(project, BAD)


@pytest.mark.parametrize("case", GOOD)
def test_what_is_accepted_is_the_same_to_both(case: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD[case], encoding="utf-8")
    load_params(path)
    assert read_yaml(path) == parse_yaml(GOOD[case], str(path)) == yaml.safe_load(GOOD[case])


NUMBERLIKE = st.text("0123456789abcdefxoEe+-_.:, ", max_size=12)
WORDS = st.sampled_from(["on", "off", "yes", "No", "TRUE", "y", "~", "null", "NULL", ".Inf", ".NaN", "=", "<<", "0o17"])
SCALARS = NUMBERLIKE | WORDS | st.text(max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(SCALARS, SCALARS, max_size=3), st.sampled_from(["{}: {}\n", "{}: [{}]\n", "- {}: {}\n"]))
def test_both_tools_read_the_same_or_we_refuse(tmp_path_factory: pytest.TempPathFactory, pairs: Any, line: str) -> None:
    """`read_yaml` accepts nothing that DVC's own parser and Snakemake's read differently; it breaks on nothing."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text("".join(line.format(key, value) for key, value in pairs.items()), encoding="utf-8")
    try:
        found = read_yaml(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    by_dvc = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    by_snakemake = yaml.safe_load(path.read_text(encoding="utf-8"))
    # repr tells types, order and NaN; DVC reads an empty file as no settings
    assert repr(found) == repr(by_snakemake) and repr(found or {}) == repr(by_dvc or {})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([LR, T, BOOL, "device", "recipes/quick/vqsvae/k", "runs/digits/recipe"]), SCALARS)
def test_any_value_is_refused_with_a_sentence_or_read_alike(
    tmp_path_factory: pytest.TempPathFactory, path: str, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    file.write_text(with_scalar(path, text), encoding="utf-8")
    try:
        load_params(file)
    except UserError as error:
        assert str(error).startswith(str(file)) and "\n" not in str(error)
        return
    assert repr(read_yaml(file)) == repr(parse_yaml(file.read_text(encoding="utf-8"), str(file)))


@pytest.mark.parametrize("name", ["all", "sample", "ablations-quick", "table"])
def test_suite_named_like_a_rule(tiny_project: Any, name: str) -> None:
    """Seen to fail with Snakemake's own exception."""
    path = tiny_project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["suites"][name] = ["digits"]
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    done = tiny_project.run("snakemake", "-n", "quick", ok=False)
    assert done.returncode == 2
    assert f"error: suites.{name}: a step of the pipeline has that name, choose another" in done.stderr


def test_make_generated_empties_nothing(tmp_path: Path) -> None:
    """Seen to fail: a slip in params.yaml left an empty dvc.yaml."""
    root = Path(__file__).parents[2]
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "params.yaml").write_text(WHOLE + "colour: red\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["make", "-o", "setup", "generated"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode and "colour" in done.stderr
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_of_clusters_have_all_of_the_default_one(name: str) -> None:
    """They take its place; beside it, its one GPU would hold for a whole cluster."""
    root = Path(__file__).parents[2] / "profiles"
    default, cluster = (yaml.safe_load((root / p / "config.yaml").read_text()) for p in ("default", name))
    assert default.keys() <= cluster.keys()
    assert all(cluster[key] == default[key] for key in default.keys() - {"resources", "printshellcmds"})
    assert f"--workflow-profile profiles/{name}" in (root / name / "config.yaml").read_text()
