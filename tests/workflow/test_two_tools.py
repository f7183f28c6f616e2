"""Files that come and go by another way than Snakemake: they are refused, taken note of, checked, and removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spiking_diffusion.cli import main
from spiking_diffusion.config import load_params
from spiking_diffusion.graph.jobs import jobs
from spiking_diffusion.graph.records import claim, doubt
from spiking_diffusion.provenance.prune import orphans
from spiking_diffusion.provenance.sync import strangers
from spiking_diffusion.provenance.verify import verify


@pytest.fixture
def copy(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished tiny project to break, as the working directory. Its code is the same as that of these tests."""
    project = finished.clone(tmp_path / "copy")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def recorded(by_dvc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, made by DVC and recorded in its lock and cache."""
    project = by_dvc.clone(tmp_path / "recorded")
    monkeypatch.chdir(project.root)
    return project


def refused(project: Any, *command: str) -> bool:
    """Whether Snakemake refuses, in one sentence that names the way out."""
    done = project.run("snakemake", *command, "--workflow-profile", "none", ok=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr and (done.returncode == 2) == bool(lines)
    assert all("run `spiking-diffusion sync`" in line for line in lines)
    return bool(lines)


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.unlink()  # DVC's cache is linked and read-only
    path.write_bytes(content)


# --- comparing ------------------------------------------------------------------------------------------


def test_dvc_compares_as_the_readme_says(recorded: Any) -> None:
    """An experiment beside the commit that holds dvc.lock: numbers that moved, curves, the key that was changed."""
    who = ("a", "a@b.example")
    recorded.environment = recorded.environment | {  # a new one: copies of a project share theirs
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in zip(("NAME", "EMAIL"), who, strict=True)
    }
    recorded.run("git", "add", "-A")
    recorded.run("git", "commit", "-qm", "x")
    recorded.run("dvc", "exp", "run", "-q", "-S", "recipes.quick.evaluate.kid_subsets=3", "evaluate@digits")
    moved = json.loads(recorded.run("dvc", "metrics", "diff", "--json").stdout)
    assert {Path(path).name: set(numbers) for path, numbers in moved.items()} == {
        "digits.json": {"classifier_kid", "classifier_kid_deviation"}
    }
    recorded.run("dvc", "plots", "diff", "--targets", "results/models/digits/sdid.history.csv")
    page = (recorded.root / "dvc_plots/index.html").read_text()
    assert "validation_bits_per_token" in page and "workspace" in page
    shown = recorded.run("dvc", "exp", "show", "--only-changed", "--csv").stdout
    assert "kid_subsets" in shown.splitlines()[0] and "classifier_kid" in shown.splitlines()[0]


# --- sync -----------------------------------------------------------------------------------------------


def test_files_of_unknown_origin_are_refused_until_sync(copy: Any) -> None:
    """With `refuse_strangers` taken out of the Snakefile it says "nothing to be done" of other settings' files."""
    before = copy.results()
    shutil.rmtree(".snakemake")
    copy.edit(recipes__quick__sdid__train__lr=0.123)
    assert refused(copy, "-n", "quick") and refused(copy, "--cores", "1", "results/metrics/digits.json")
    assert copy.results() == before
    said = copy.run("spiking-diffusion", "sync").stdout
    assert "results/models/digits/sdid.safetensors: Snakemake will make it again, it is of other settings" in said
    assert copy.results() == before
    planned = copy.planned("quick")
    assert planned >= {"sdid", "sample", "evaluate", "table"} and not planned & {"vqsvae", "tokens", "fsvae"}


@pytest.mark.parametrize("way", ["checkout", "run-cache"])
def test_what_dvc_brings_back_is_taken_over(recorded: Any, way: str) -> None:
    before = recorded.results()
    shutil.rmtree("results")
    shutil.rmtree(".snakemake")
    if way == "checkout":
        recorded.run("dvc", "checkout", "-q", "--with-deps", "suite-quick")  # the other suites were never made
    else:
        Path("dvc.lock").unlink()
        assert "Running stage" not in recorded.run("dvc", "repro", "suite-quick").stdout
    assert recorded.results() == before
    assert refused(recorded, "-n", "quick")
    assert "Snakemake keeps them" in recorded.run("spiking-diffusion", "sync").stdout
    assert recorded.planned("quick") == set()
    assert "nothing to do" in recorded.run("spiking-diffusion", "sync").stdout
    assert "up to date" in recorded.run("dvc", "status", "suite-quick").stdout


def test_a_checkout_of_another_version_is_not_taken_for_ours(recorded: Any) -> None:
    """Snakemake noted other settings for these files: what it noted stands, what lies here is DVC's."""
    learning_rate = yaml.safe_load(Path("params.yaml").read_text())["recipes"]["quick"]["evaluate"]["kid_subsets"]
    recorded.edit(recipes__quick__evaluate__kid_subsets=learning_rate + 1)
    recorded.run("snakemake", "--cores", "1", "--quiet", "all", "--", "results/metrics/digits.json")
    assert not strangers(load_params())
    recorded.run("dvc", "checkout", "-q", "--force", "evaluate@digits")
    assert refused(recorded, "-n", "results/metrics/digits.json")
    recorded.run("spiking-diffusion", "sync")
    assert recorded.planned("results/metrics/digits.json") == {"evaluate"}


def of(stage: str) -> Any:
    return next(job for job in jobs(load_params()) if job.stage == stage and job.present)


def without_settings(stage: str) -> Path:
    of(stage).settings_file.unlink()
    return of(stage).outputs[0]


def edited_settings(stage: str, **changes: object) -> Path:
    job = of(stage)
    job.settings_file.write_text(json.dumps(json.loads(job.settings_file.read_text()) | changes))
    return job.settings_file


def other_bytes(stage: str) -> Path:
    path = of(stage).outputs[0]
    flip(path)
    return path


def other_text(stage: str, text: str) -> Path:
    of(stage).settings_file.write_text(text)
    return of(stage).settings_file


STRANGE: dict[str, Callable[[], Path]] = {
    "no settings": lambda: without_settings("vqsvae"),
    "half a settings file": lambda: other_text("sdid", '{"stage": "sdid"'),
    "another job's settings": lambda: shutil.copy(of("tokens").settings_file, of("sdid").settings_file),
    "settings that are no mapping": lambda: other_text("table", "[]"),
    "other code": lambda: edited_settings("sample", code="0" * 64),
    "other inputs": lambda: edited_settings("table", inputs={"results/metrics/digits.json": "0" * 64}),
    "other weights": lambda: other_bytes("vqsvae"),
    "other images": lambda: other_bytes("sample"),
    "another table": lambda: other_bytes("table"),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_whatever_is_strange_is_seen(copy: Any, fault: str) -> None:
    """Each is missed by Snakemake itself, which looks at its own notes alone: `planned` is empty without the check."""
    assert strangers(load_params()) == []
    changed = STRANGE[fault]()
    assert [job for job in strangers(load_params()) if changed in (job.settings_file, *job.outputs)]


def test_a_strange_file_is_made_again_after_sync(copy: Any) -> None:
    whole = copy.results()
    flip(Path("results/samples/digits.npz"))
    without_settings("table")
    assert refused(copy, "-n", "quick")
    said = copy.run("spiking-diffusion", "sync").stdout
    assert "results/samples/digits.npz: Snakemake will make it again, it is of unknown origin" in said
    assert copy.planned("quick") >= {"sample", "evaluate", "table"}
    copy.run("snakemake", "--cores", "2", "--quiet", "all", "--", "quick")
    assert copy.results() == whole and strangers(load_params()) == []


def test_files_of_a_killed_job_are_snakemakes_own(copy: Any) -> None:
    """It marks them before the job starts and makes them again; to ask for sync there would be a nuisance."""
    job = of("sdid")
    job.settings_file.unlink()
    marks = "from pathlib import Path; from snakemake.persistence.file import FilePersistence as F; import sys\n"
    marks += "[F(path=Path('.snakemake').absolute())._mark_incomplete(path, None) for path in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", marks, *map(str, (job.settings_file, *job.outputs))], check=True)
    assert strangers(load_params()) == [] and "sdid" in copy.planned("quick")


def test_times_alone_make_nothing_strange(copy: Any) -> None:
    for path in Path("results").rglob("*.*"):
        path.touch()
    assert strangers(load_params()) == []


def test_every_file_belongs_to_a_job_whose_settings_vouch_for_it(copy: Any) -> None:
    owner = {path: job for job in jobs(load_params()) for path in (job.settings_file, *job.outputs)}
    for name in copy.results():
        job = owner[Path("results", name)]
        said = claim(job)
        assert said and not doubt(job)
        assert Path("results", name) == job.settings_file or f"results/{name}" in said["outputs"]


# --- verify ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["results under DVC", "results without DVC", "cache"])
def test_verify_sees_every_flipped_bit(recorded: Any, where: str) -> None:
    """With the hashes beside outputs, those of dvc.lock, or the cache left out of `verify`, one of the three fails."""
    if where == "results without DVC":
        Path("dvc.lock").unlink()
        shutil.rmtree(".dvc")
    checked, wrong = verify(load_params())
    assert wrong == [] and checked > 50
    files = [path for path in Path(".dvc/cache/files" if where == "cache" else "results").rglob("*") if path.is_file()]
    if where == "results without DVC":  # what is beside it vouches for a file, and dvc.lock for both
        files = [path for path in files if not path.name.endswith(".settings.json")]
    assert len(files) > 30
    for number, path in enumerate(files):
        flip(path, number % 7 / 6)
    named = {line.partition(": ")[0] for line in verify(load_params())[1]}
    assert {str(path) for path in files} - named == set()


@pytest.mark.parametrize("lock", [True, False])
def test_verify_says_what_differs(recorded: Any, lock: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if not lock:
        Path("dvc.lock").unlink()
        shutil.rmtree(".dvc")
    assert main(["verify"]) == 0
    assert " 0 of them do not hold" in capsys.readouterr().out
    flip(Path("results/models/digits/vqsvae.safetensors"))
    assert main(["verify"]) == 1
    said = capsys.readouterr().out
    assert "results/models/digits/vqsvae.safetensors: damaged or changed" in said
    assert "results/tokens/digits.npz: made with another VQ-SVAE" in said
    assert ("dvc.lock recorded" in said) == lock


def test_verify_reads_a_damaged_lock_with_a_sentence(recorded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.lock").write_text("<<<<<<< HEAD\nstages: [")
    assert main(["verify"]) == 2
    assert capsys.readouterr().err.startswith("error: dvc.lock is damaged")


# --- prune, and runs that are removed -------------------------------------------------------------------


def remove_run(project: Any) -> None:
    """Take the spiking run, and with it the figure of its codebook's use, out of everything."""
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    del params["runs"]["digits"], params["runs"]["digits-best"]
    for suite, names in list(params["suites"].items()):
        params["suites"][suite] = [name for name in names if name != "digits"]
        if not params["suites"][suite]:
            del params["suites"][suite]
    (project.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (project.root / "dvc.yaml").write_text(project.run("spiking-diffusion", "dvc").stdout)


def test_a_removed_run_leaves_the_tables(recorded: Any) -> None:
    remove_run(recorded)
    assert recorded.planned("quick") >= {"table"}
    assert "suite-quick" in recorded.run("dvc", "status", "suite-quick").stdout
    recorded.run("snakemake", "--cores", "1", "--quiet", "all", "--", "results/tables/quick.csv")
    by_snakemake = Path("results/tables/quick.csv").read_text()
    assert "digits-fsvae" in by_snakemake and "spiking-diffusion" not in by_snakemake
    recorded.run("dvc", "repro", "-q", "suite-quick")
    assert Path("results/tables/quick.csv").read_text() == by_snakemake


def test_prune_lists_and_removes_what_nothing_names(copy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = [Path(name) for name in ("results/notes.txt", "results/mine/digits.txt", "work/notes/x.txt", "logs/x.txt")]
    own += [Path("work/downloads/inception.weights/x.pth"), Path("work/downloads/mnist/x.gz")]
    # seen to be removed: whatever had a name that is no run's, in folders that the pipeline writes to
    own += [Path("results/figures/poster.png"), Path("results/samples/for-paper/grid.png"), Path("results/data/notes")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    Path("results/samples/.digits.npz.x1y2").write_text("half")
    assert Path("work/provenance/models/digits/sdid.json").is_file()
    assert orphans(load_params()) == []
    assert main(["prune"]) == 0 and "nothing to remove" in capsys.readouterr().out
    before = set(map(str, Path().glob("[rwlb]*/**/*")))
    remove_run(copy)
    assert main(["prune"]) == 1, "nobody is there to be asked"
    said = capsys.readouterr().out
    assert "results/models/digits/sdid.safetensors\n" in said and "--yes removes them" in said
    assert set(map(str, Path().glob("[rwlb]*/**/*"))) == before
    assert main(["prune", "--yes"]) == 0
    gone = before - set(map(str, Path().glob("[rwlb]*/**/*")))
    assert {"results/models/digits", "results/samples/digits.npz", "results/samples/.digits.npz.x1y2"} <= gone
    assert {"work/provenance/models/digits", "work/provenance/samples/digits.json"} <= gone
    assert {"work/digits", "logs/sdid/digits.log", "benchmarks/sdid/digits.tsv"} <= gone
    assert not [name for name in gone if "fsvae" in Path(name).name or name.startswith("results/data")]
    assert all(path.is_file() for path in own) and main(["prune"]) == 0


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_prune_asks_first(copy: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    remove_run(copy)
    assert main(["prune"]) == code
    assert Path("results/samples/digits.npz").exists() == bool(code)


@pytest.mark.parametrize("command", ["sync", "verify", "prune"])
def test_upkeep_is_of_this_folder(copy: Any, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--params", "x/../params.yaml"]) == 2
