"""What the report's pages say of what made the files."""

import json
import subprocess
from pathlib import Path

import pytest

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import load_params
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.graph.maker import facts, made_by
from spiking_diffusion.reporting.pages import make_page, times

PARAMS = Path(__file__).parents[2] / "params.yaml"
METRICS = paths.metrics_path("digits")
SETTINGS = paths.settings_path(METRICS)


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS.read_text())
    return load_params()


def git(*arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(["git", *name, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def made(params):
    artifacts.write_json(METRICS, {"mse": 0.1})
    artifacts.write_json(paths.notes_path("digits"), {})
    artifacts.write_npz(paths.reconstructions_path("digits"), {})
    job = Job(params, "evaluate", "digits")
    job.__dict__["inputs"] = ()  # none is here
    job.seal()


def test_facts_name_the_lock_and_the_commit(params):
    Path("requirements.lock").write_text("numpy==2\n")
    assert artifacts.sha256(Path("requirements.lock")) in facts()["requirements.lock"]
    assert facts()["Commit"] == "not in a git repository"
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "x")
    assert facts()["Commit"] == git("rev-parse", "HEAD")
    Path("params.yaml").write_text(PARAMS.read_text() + "\n")
    assert facts()["Commit"] == f"{git('rev-parse', 'HEAD')} and changes that are not committed"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}, "unknown, git says: fatal: detected dubious ownership"),
        ({"PATH": "/nowhere"}, "unknown, git cannot be run: No such file or directory"),
        ({}, "unknown, git says: fatal: ambiguous argument 'HEAD'"),
    ],
    ids=["another owner", "no git", "no commit"],
)
def test_a_commit_that_git_does_not_tell(tmp_path, monkeypatch, variables, said):
    """Seen to be called "not in a git repository"."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert facts()["Commit"].startswith(said)


def test_a_page_tells_of_the_maker_and_not_of_the_reporter(params):
    """Seen to fail when the page told of the folder at the time of the report."""
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "x")
    before = git("rev-parse", "HEAD")
    made(params)
    git("commit", "-qm", "y", "--allow-empty")
    page = make_page(params, "quick", "provenance").read_text()
    assert before in page and git("rev-parse", "HEAD") not in page
    assert "evaluate digits" in page


def test_files_from_elsewhere_have_no_maker_here(params):
    made(params)
    assert made_by(SETTINGS)["Processor"]
    SETTINGS.write_text(json.dumps(json.loads(SETTINGS.read_text()) | {"seed": 1}))  # as DVC brings another's
    assert made_by(SETTINGS) is None
    assert "its maker is not known here" in make_page(params, "quick", "provenance").read_text()


def test_times_are_of_the_suite_alone(params):
    """``ablation-k-quick`` is another suite than ``ablation-k``."""
    for name in ("figure/ablation-k-ablation", "figure/ablation-k-quick-ablation", "table/ablation-k"):
        path = Path("benchmarks", f"{name}.tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\tmax_rss\n1.5\t-\n")
    assert [(stage, name) for stage, name, _, _ in times(params, "ablation-k")] == [
        ("figure", "ablation-k-ablation"),
        ("table", "ablation-k"),
    ]


def trained(params, run, network, seconds):
    """As the stage leaves it, but for the network."""
    job = Job(params, network, run)
    for path in job.outputs:
        artifacts.write_text(path, "")
    job.__dict__["inputs"] = ()  # none is here
    job.seal()
    artifacts.write_json(
        paths.cost_path(paths.work_path(run, network)), {"device": "cpu", "processor_seconds": seconds}
    )


def test_the_table_page_has_processor_seconds_of_trainings_that_ran_here(params):
    artifacts.write_text(
        paths.table_path("quick"),
        "dataset,model,run,mse,images_seen\ndigits,fsvae,digits-fsvae,0.1,50280\n"
        "digits,spiking-diffusion,digits,0.1,100560\ndigits,Somebody's,,0.1,\n",
    )
    page = make_page(params, "quick", "table").read_text()
    assert "<th>images_seen</th><td>50280</td><td>100560</td>" in page and "processor seconds" not in page
    trained(params, "digits-fsvae", "fsvae", 12.5)
    trained(params, "digits", "vqsvae", 200.0)
    row = "<th>processor seconds of training, here</th>"
    assert f"{row}<td>12.5 (cpu)</td><td></td><td></td>" in make_page(params, "quick", "table").read_text(), (
        "no sum of some networks"
    )
    trained(params, "digits", "sdid", 1034.25)
    cells = f"{row}<td>12.5 (cpu)</td><td>1234.2: vqsvae 200.0 (cpu), sdid 1034.2 (cpu)</td><td></td>"
    assert cells in make_page(params, "quick", "table").read_text()
    path = paths.settings_path(paths.model_path("digits-fsvae", "fsvae"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 1}))  # as DVC brings another's
    assert f"{row}<td></td>" in make_page(params, "quick", "table").read_text()


def test_the_report_opens_on_main_numbers_and_samples(params):
    """Seen to open on the graph of rules."""
    head = "dataset,model,run,seeds,mse,classifier_fid,classifier_fid_deviation,classifier_n_generated\n"
    rows = "digits,fsvae,digits-fsvae,1,0.1,9.5,,500\ndigits,spiking-diffusion,digits,1,0.01,12.26,0.5,500\n"
    artifacts.write_text(paths.table_path("quick"), head + rows)
    artifacts.write_bytes(paths.figure_path("quick", "samples"), b"png")
    make_page(params, "quick", "table")
    opening = paths.page_path("quick", "opening").read_text()
    assert "<th>Dataset</th><th>Model</th><th>MSE ↓</th><th>classifier FID ↓</th>" in opening
    assert "<td>Digits</td><td>FSVAE</td><td>0.1</td><td><b>9.5</b></td>" in opening
    assert "<td>Spiking-Diffusion</td><td><b>0.01</b></td><td>12.3 ± 0.5</td>" in opening
    assert "data:image/png;base64,cG5n" in opening


def test_the_table_page_says_which_peers_have_no_counterpart(params):
    artifacts.write_text(
        paths.table_path("beyond"),
        "dataset,model,run,clean32_fid,clean32_n_generated,train50k_fid,train50k_n_generated\n"
        "mnist,spiking-diffusion,mnist,5,10000,,\nmnist,A,,4,10000,,\nmnist,B,,,,3,50000\n",
    )
    page = make_page(params, "beyond", "table").read_text()
    assert "<li>train50k of 50000 images: no run on mnist has this number, so none compares with B.</li>" in page
    assert page.count("so none compares with") == 1
