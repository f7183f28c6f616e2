"""Snakemake's graph and DVC's are the same, and go stale together."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from spiking_diffusion.config import check_params, load_params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.dvc import address, dvc_yaml, sources
from spiking_diffusion.graph.jobs import jobs
from spiking_diffusion.graph.stages import STAGES
from spiking_diffusion.graph.suites import FIGURES, PAGES

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PARAMS = load_params(ROOT / "params.yaml")


def results(paths: list[str]) -> set[str]:
    return {path for path in paths if path.startswith("results/")}


SNAKEMAKE_JOBS = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings, WorkflowSettings

with SnakemakeApi(OutputSettings(quiet=None)) as api:
    flow = api.workflow(ResourceSettings(cores=8), snakefile=Path("Snakefile"))
    flow.dag(DAGSettings(targets=set(sys.argv[2:])))
    flow._workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
    flow._workflow._build_dag()
    assert flow._workflow.default_target == "all"  # which an included file does not set by itself
    found = {
        str(file): {
            "rule": job.rule.name, "inputs": [str(i) for i in job.input], "threads": job.threads,
            "gpu": "gpu" in job.resources.keys(), "command": job.shellcmd or "",
        }
        for job in flow._workflow.dag.jobs for file in job.output
    }
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def snakemake_jobs(pristine: Any) -> dict[str, Any]:
    """Every file that Snakemake would make, with its rule; no command line prints them for files not yet made."""
    answer = pristine.root / "jobs.json"
    pristine.run(sys.executable, "-c", SNAKEMAKE_JOBS, str(answer), *PARAMS.suites)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


@pytest.fixture(scope="module")
def snakemake_edges(snakemake_jobs: dict[str, Any]) -> dict[str, set[str]]:
    """Inputs of every file that Snakemake would make."""
    return {file: results(job["inputs"]) for file, job in snakemake_jobs.items()}


@pytest.fixture(scope="module")
def dvc_stages() -> dict[str, Any]:
    with Repo(str(ROOT)) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def test_dvc_yaml_is_up_to_date() -> None:
    assert (ROOT / "dvc.yaml").read_text() == dvc_yaml(PARAMS), "run `make generated`"


def test_same_files_from_same_files(snakemake_edges: dict[str, set[str]], dvc_stages: dict[str, Any]) -> None:
    """Each file has the same inputs in both; DVC makes a suite's table and figures in one stage.

    Seen to fail with an input left out of a rule, and with one left out of a stage.
    """
    found = {name.replace("@", ":"): stage for name, stage in dvc_stages.items()}
    of = {out.def_path: name for name, stage in found.items() for out in stage.outs}
    for job in jobs(PARAMS):
        for path in (*job.outputs, job.settings_file):
            where = address(PARAMS, job.stage, job.name)
            whole = where if where in found else f"{where}:{job.name}"
            assert of.pop(str(path)) == whole
            if str(path) in snakemake_edges:
                inputs = snakemake_edges[str(path)]
                mine = results([dep.def_path for dep in found[whole].deps if hasattr(dep, "def_path")])
                assert inputs == set(map(str, job.inputs)), f"{job}: Snakemake's rule and the stage differ"
                assert inputs <= mine and (job.spec.over == "suites" or inputs == mine), whole
            else:
                assert not any(job.name in runs for runs in PARAMS.suites.values()), f"no rule makes {path}"
    assert not of, "DVC makes files that no stage declares"


def test_rules_have_the_threads_and_commands_of_their_stages(snakemake_jobs: dict[str, Any]) -> None:
    """With `sample.threads` in the rule `evaluate` this fails."""
    seen = set()
    for job in jobs(PARAMS):
        if rule := snakemake_jobs.get(str(job.out)):
            seen.add(job.stage)
            assert rule["rule"] == job.stage
            assert rule["threads"] == min(job.threads, 8), job
            assert rule["gpu"] == job.spec.gpu, job
            assert rule["command"].startswith(f"spiking-diffusion {' '.join(job.command)} > "), job
    assert seen == set(STAGES)


def test_every_stage_declares_its_code(dvc_stages: dict[str, Any]) -> None:
    """DVC depends on the files that are in the fingerprint, a folder standing for all that is in it."""
    of: dict[str, set[str]] = defaultdict(set)
    for job in jobs(PARAMS):
        of[address(PARAMS, job.stage, job.name)] |= set(map(str, job.spec.code))
    for name, stage in dvc_stages.items():
        code = {
            dep.def_path.removeprefix("src/spiking_diffusion/")
            for dep in stage.deps
            if getattr(dep, "def_path", "").startswith("src/")
        }
        assert code == set(sources(map(Path, of[name.partition("@")[0]]))), name


def params_file(text: str = "") -> dict[str, Any]:
    """params.yaml without its anchors: a change in one place is one change, not one for everybody who shares it."""
    raw: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(text or (ROOT / "params.yaml").read_text())))
    return raw


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, (*path, str(key)))
    else:
        yield path, value


def mutated(value: Any) -> list[Any]:
    """Other values that might be valid in its place."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value + 4, value // 2, value * 2]
        case float():
            return [value * 0.9375 + 0.001]
        case list():
            return [
                value[::-1],
                value[1:],
                [*value[:-1], value[-1] * 2] if value and not isinstance(value[-1], str) else value[:1],
            ]
        case str():
            others = [
                "ema",
                "gradient",
                "normal",
                "embedding",
                "spikes",
                "straight-through",
                "reconstruction",
                "psp",
                "leaky-sum",
                "poisson",
                "free",
                "unit",
                "raw",
                "elbo",
                "reweighted",
                "constant",
                "cosine",
                "counted",
                "random",
                "cpu",
                "quick",
                "paper",
                "digits",
                "digits-ablation",
                "mnist",
                "cifar10",
                "0" * 64,
            ]
            return [0.25, 7, *others, value + "x"]
        case _:
            return []


def keys_of(params: Any) -> dict[tuple[str, str], str]:
    """What Snakemake compares for each job, by stage and name."""
    return {(job.stage, job.name): job.key for job in jobs(params)}


def addressed(stage: str, name: str) -> str:
    """The name of a job's stage for DVC."""
    where = address(PARAMS, stage, name)
    return where if where.endswith(f"-{name}") else f"{where}@{name}"


def test_what_snakemake_reruns_dvc_reruns(dvc_stages: dict[str, Any]) -> None:
    """For every leaf of params.yaml: the jobs whose key changes are a subset of DVC's stages that read it.

    Ablations are left out: their runs have the same keys as others, and would take minutes.
    """
    raw = params_file()
    raw["suites"] = {suite: runs for suite, runs in raw["suites"].items() if "ablation" not in suite}
    kept = {run for runs in raw["suites"].values() for run in runs} | {"digits-ablation", "mnist-best-free"}
    raw |= {
        family: {name: raw[family][name] for name in raw[family] if name in kept} for family in ("runs", "baselines")
    }
    before = keys_of(check_params(raw))
    tried = silent = 0
    for path, value in leaves(raw):
        changed = copy.deepcopy(raw)
        section = changed
        for part in path[:-1]:
            section = section[part]
        for other in mutated(value):
            section[path[-1]] = other
            try:
                after = keys_of(check_params(changed))
                break
            except UserError:
                continue
        else:
            assert (
                path[-1]
                in (
                    "files",
                    "format",
                    "dataset",  # a run and its tokenizer have the same
                    "architecture",
                    "by",
                    "positions",
                    "latent_norm",
                    "guess",
                    "precision",
                    "resize",
                    "surrogate",
                    "sampler",
                    "protocols",
                    "device",
                    "restart_dead",
                )
                or path[0] == "suites"
            ), path
            continue
        tried += 1
        # a job that is new, `tune` of a run that was not tuned before, needs `make generated` first
        stale = {addressed(*job) for job, key in after.items() if before.get(job, key) != key}
        dotted = ".".join(path)
        watching = {
            name.partition(":")[2] or name
            for name, stage in dvc_stages.items()
            for dep in stage.deps
            for watched in getattr(dep, "params", [])
            if dotted == watched or dotted.startswith(watched + ".")
        }
        assert stale <= watching, f"{dotted}: snakemake would rerun {sorted(stale - watching)}, DVC would not"
        silent += not stale
    assert tried > 150
    # keys of recipes that no run of that kind uses, such as FSVAE's in recipes of ablations, or that its tokenizer has
    assert silent < 0.35 * tried


def variants(raw: dict[str, Any]) -> dict[str, str]:
    """params.yaml with one leaf changed on which the suite ``quick`` might depend, for each that can be changed."""
    quick = {
        ("recipes", "quick"),
        ("datasets", "digits"),
        ("runs", "digits"),
        ("baselines", "digits-fsvae"),
        ("suites", "quick"),
    }
    found = {}
    for path, value in leaves(raw):
        if path[:2] not in quick and path[0] not in ("classifier", "device"):
            continue
        changed = copy.deepcopy(raw)
        section = changed
        for part in path[:-1]:
            section = section[part]
        for other in mutated(value):
            section[path[-1]] = other
            try:
                check_params(changed)
            except UserError:
                continue
            found[".".join(path)] = yaml.safe_dump(changed, sort_keys=False)
            break
    return found


def compare_tools(project: Any, which: slice) -> None:
    """Real Snakemake and real DVC on a finished tree: what the first would make again, so would the second."""
    text = (project.root / "params.yaml").read_text()
    chosen = dict(list(variants(params_file(text)).items())[which])
    answers = project.root / "variants.json"
    answers.write_text(json.dumps([text, *chosen.values()]))
    project.run(sys.executable, str(Path(__file__).with_name("stale.py")), str(answers))
    clean, *found = json.loads(answers.read_text())
    assert clean == [[], []]
    for key, (snakemake, dvc) in zip(chosen, found, strict=True):
        assert set(snakemake) <= set(dvc), f"{key}: DVC would keep {sorted(set(snakemake) - set(dvc))}"
    assert sum(bool(snakemake) for snakemake, _ in found) > len(found) / 2


def test_a_few_keys_make_the_same_files_stale_in_both_tools(by_dvc: Any, tmp_path: Path) -> None:
    """With `recipes.*.sample` taken out of dvc.yaml, DVC would keep samples that Snakemake makes again."""
    compare_tools(by_dvc.clone(tmp_path / "x"), slice(3, None, 40))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_key_makes_the_same_files_stale_in_both_tools(by_dvc: Any, tmp_path: Path) -> None:
    compare_tools(by_dvc.clone(tmp_path / "x"), slice(None))


SAMPLING = {"sample", "inspect", "evaluate", "energy", "fsvae_sample", "fsvae_evaluate", "fsvae_energy"}


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        (("sdid", "train", "lr"), 0.5, {"sdid", "tune", "sample", "inspect", "evaluate", "energy"}),
        (("vqsvae", "train", "lr"), 0.5, {"vqsvae", "tokens", "tune", "sample", "inspect", "evaluate", "energy"}),
        (("fsvae", "train", "lr"), 0.5, {"fsvae", "fsvae_sample", "fsvae_evaluate", "fsvae_energy"}),
        (("tune", "n"), 7, {"tune"}),
        (("evaluate", "kid_subsets"), 7, {"tune", "evaluate", "fsvae_evaluate"}),
        (("sample", "temperature"), 0.5, SAMPLING),
    ],
)
def test_a_key_makes_only_its_own_stages_stale(key: tuple[str, ...], value: Any, stages: set[str]) -> None:
    raw = params_file()
    section = raw["recipes"]["quick"]
    for part in key[:-1]:
        section = section[part]
    section[key[-1]] = value
    before, after = keys_of(PARAMS), keys_of(check_params(raw))
    assert {stage for (stage, name), key in after.items() if key != before[stage, name]} == stages


def test_all_plans_table_1_without_data(pristine: Any) -> None:
    out = pristine.run("snakemake", "-n", "all", "--forceall", "--quiet", "rules").stdout
    stats = dict(
        line.split()
        for line in out.partition("Job stats:")[2].splitlines()
        if len(line.split()) == 2 and line.split()[1].isdigit()
    )
    assert stats["fetch"] == "5" and int(stats["fsvae"]) >= 5 and int(stats["vqsvae"]) >= 5


def test_dvc_plans_table_1_without_data() -> None:
    """With --force: alone, DVC's --dry stops at the first input that is not there yet (its issue 9021)."""
    command = [BIN / "dvc", "repro", "--dry", "--force", "suite-table1"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("mnist", "fmnist", "kmnist", "letters", "cifar10"):
        for stage in ("fetch", "vqsvae", "sdid", "evaluate"):
            assert f"Running stage '{stage}@{name}'" in out


def test_every_figure_and_page_has_a_caption() -> None:
    """Without one, drawing succeeds and `snakemake --report` ends in a traceback."""
    assert not [kind for kind in (*FIGURES, *PAGES) if not (ROOT / f"workflow/report/{kind}.rst").is_file()]


def test_lint_is_clean(pristine: Any) -> None:
    done = pristine.run("snakemake", "--lint", ok=False)
    found = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip().startswith("* ")]
    # all rules run in the one environment of requirements.lock
    assert [line for line in found if "conda environment or container" not in line] == []
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
