"""The command itself: help, output for programs, and one line with exit code 2 for whatever a user can mend."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spiking_diffusion import __version__
from spiking_diffusion.artifacts import write_npz
from spiking_diffusion.cli import main
from spiking_diffusion.config import Params, load_params

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project folder with params.yaml and nothing else."""
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)  # commands that run in this process set both for good
    torch.use_deterministic_algorithms(deterministic)


def run(*args, **options):
    """The real command in a process of its own."""
    command = [sys.executable, "-m", "spiking_diffusion.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def files():
    """All but params.yaml and the locks that fetching takes."""
    return sorted(
        str(path)
        for path in Path().rglob("*")
        if path.is_file() and path.name != "params.yaml" and path.suffix != ".lock"
    )


# --- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "",
            [
                "fetch",
                "train",
                "ladder",
                "encode",
                "tune",
                "sample",
                "evaluate",
                "energy",
                "table",
                "figure",
                "report",
                "show",
                "dvc",
                "schema",
                "recipes",
                "--version",
            ],
        ),
        ("fetch", ["--dataset", "--params"]),
        ("train", ["vqsvae", "sdid", "fsvae", "classifier"]),
        ("train vqsvae", ["--run", "--device", "--params"]),
        ("train sdid", ["--run", "--device", "--params"]),
        ("train fsvae", ["--run", "--device", "--params"]),
        ("train classifier", ["--dataset", "--device", "--params"]),
        ("ladder", ["--dataset", "--device", "--params"]),
        ("encode", ["--run", "--device", "--params"]),
        ("tune", ["--run", "--device", "--params"]),
        ("sample", ["--run", "--device", "--params", "-n", "--out"]),
        ("evaluate", ["--run", "--device", "--params"]),
        ("energy", ["--run", "--device", "--params"]),
        ("table", ["--suite", "--params", "--energy"]),
        ("figure", ["--suite", "--params", "samples", "losses", "codebook"]),
        ("report", ["--suite"]),
        ("show", ["--run", "--params"]),
        ("dvc", ["--params"]),
        ("schema", []),
        ("recipes", ["--params"]),
    ],
)
def test_help(command, options):
    done = run(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [option for option in options if option not in done.stdout] == []
    assert done.stdout.startswith(f"usage: spiking-diffusion {command}".rstrip())


def test_help_and_bad_names_need_no_torch():
    """They answer at once: torch takes seconds to import."""
    code = "import sys; from spiking_diffusion.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "show", "--run", "nope"], capture_output=True, text=True)
    assert done.stdout == "2 False\n"


def test_version():
    assert run("--version").stdout == f"spiking-diffusion {__version__}\n"


# --- output for programs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "digits-fsvae"])
def test_show_is_the_resolved_run_as_json(name):
    done = run("show", "--run", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == load_params("params.yaml").resolve(name).model_dump()
    assert files() == []


def test_schema_is_json_and_needs_no_params():
    Path("params.yaml").unlink()
    done = run("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == Params.model_json_schema()


def test_dvc_is_yaml():
    done = run("dvc")
    assert (done.returncode, done.stderr) == (0, "")
    assert "stages" in yaml.safe_load(done.stdout)


@pytest.mark.parametrize("command", ["show --run digits", "dvc", "schema", "recipes"])
def test_reader_that_goes_away_is_no_error(command):
    """``spiking-diffusion schema | head``."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "spiking_diffusion.cli", *command.split()],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_params_file():
    text = PARAMS.read_text(encoding="utf-8")
    Path("params.yaml").unlink()
    Path("other.yaml").write_text(text.replace("title: Digits", "title: Numbers"), encoding="utf-8")
    done = run("show", "--run", "digits", "--params", "other.yaml")
    assert json.loads(done.stdout)["dataset"]["title"] == "Numbers"


def test_fetch_writes_below_results_and_prints_the_path():
    done = run("fetch", "--dataset", "digits")
    assert (done.returncode, done.stdout) == (0, "results/data/digits.npz\n")
    made = [f"results/data/digits.{kind}" for kind in ("card.json", "npz", "png", "settings.json")]
    assert files() == [*made, "work/provenance/data/digits.json"]


# --- what the user can mend -----------------------------------------------------------------------------


def assert_refused(code, stdout, stderr, fragments, left=()):
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    assert [fragment for fragment in fragments if fragment not in stderr] == [], stderr
    assert files() == list(left)


def write_yaml(text):
    Path("params.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "fragments"),
    [
        ("show --run digit", ["'digit'", "did you mean 'digits'?"]),
        ("show --run ../x", ["'../x'", "digits"]),
        ("train vqsvae --run ../x", ["'../x'"]),
        ("sample --run Digits --out x.png", ["'Digits'", "did you mean 'digits'?"]),
        ("evaluate --run zzz", ["'zzz'", "digits"]),
        ("fetch --dataset mnits", ["'mnits'", "did you mean 'mnist'?"]),
        ("fetch --dataset ../../etc", ["'../../etc'"]),
        ("train classifier --dataset zzz", ["'zzz'", "digits"]),
        ("table --suite quikc", ["'quikc'", "did you mean 'quick'?"]),
        ("figure --suite ../x samples", ["'../x'"]),
        ("report --suite zzz", ["'zzz'", "table1"]),
        ("show --run digits --params nowhere.yaml", ["nowhere.yaml", "--params"]),
        ("fetch --dataset digits --params .", ["--params"]),
        ("table --suite quick", ["results/metrics/digits-fsvae.json is missing", "snakemake --cores all"]),
        ("figure --suite quick losses", ["history.csv is missing", "snakemake --cores all"]),
    ],
)
def test_refused_in_one_line(command, fragments, capsys):
    code = main(command.split())
    assert_refused(code, *capsys.readouterr(), fragments)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("device: [", ["params.yaml is not valid YAML", "line"]),
        ("", ["params.yaml"]),
        ("device: auto\n", ["params.yaml", "is missing"]),
        ("device: off\n", ["params.yaml", "device", "Snakemake", "DVC"]),
        (PARAMS.read_text(encoding="utf-8").replace("device: auto", "device: gpu"), ["params.yaml", "device is 'gpu'"]),
    ],
    ids=["no YAML", "empty", "incomplete", "read differently", "bad value"],
)
@pytest.mark.parametrize("command", ["show --run digits", "dvc", "train sdid --run digits", "table --suite quick"])
def test_bad_params_are_refused_by_every_command(text, fragments, command, capsys):
    write_yaml(text)
    code = main(command.split())
    assert_refused(code, *capsys.readouterr(), fragments)


WITH_TORCH = [
    (
        "train vqsvae --run digits",
        ["results/data/digits.npz is missing", "snakemake --cores all results/data/digits.npz"],
    ),
    ("train fsvae --run digits-fsvae", ["results/data/digits.npz is missing"]),
    ("train sdid --run digits", ["results/tokens/digits.npz is missing"]),
    ("train classifier --dataset digits", ["results/data/digits.npz is missing"]),
    ("ladder --dataset digits", ["results/data/digits.npz is missing"]),
    ("encode --run digits", ["is missing", "snakemake --cores all"]),
    ("tune --run digits", ["results/data/digits.npz is missing"]),
    ("tune --run digits-fsvae", ["'digits-fsvae'", "fsvae run"]),
    ("energy --run digits", ["results/data/digits.npz is missing"]),
    ("table --suite quick --energy", ["results/energy/digits-fsvae.json is missing"]),
    ("sample --run digits", ["results/models/digits/vqsvae.safetensors is missing"]),
    ("sample --run digits-fsvae --out x.png", ["results/models/digits-fsvae/fsvae.safetensors is missing"]),
    ("evaluate --run digits", ["is missing", "snakemake --cores all"]),
    ("figure --suite quick samples", ["is missing", "snakemake --cores all"]),
    ("train fsvae --run digits", ["'digits'", "spiking-diffusion run", "baseline"]),
    ("train vqsvae --run digits-fsvae", ["'digits-fsvae'", "fsvae run"]),
    ("train sdid --run digits-fsvae", ["'digits-fsvae'", "fsvae run"]),
    ("encode --run digits-fsvae", ["'digits-fsvae'", "fsvae run"]),
    ("sample --run digits -n 0 --out x.png", ["-n is 0", "1"]),
    ("sample --run digits -n -3 --out x.png", ["-n is -3", "1"]),
    ("sample --run digits -n 1000000000000 --out x.png", ["-n is 1000000000000"]),
    ("sample --run digits -n 4", ["-n", "--out"]),
    ("sample --run digits --out x.jpg", ["'x.jpg'", ".png"]),
    ("sample --run digits --out x", ["'x'", ".png"]),
]


@pytest.mark.parametrize(("command", "fragments"), WITH_TORCH)
def test_refused_in_one_line_by_commands_that_compute(command, fragments, capsys):
    code = main(command.split())
    assert_refused(code, *capsys.readouterr(), fragments)


@pytest.mark.parametrize(
    ("command", "fragments"),
    [
        ("fetch --dataset ../../etc", ["'../../etc'"]),
        ("figure --suite quick losses", ["history.csv is missing"]),
        ("train vqsvae --run digits", ["results/data/digits.npz is missing"]),
        ("evaluate --run digits", ["is missing"]),
    ],
)
def test_libraries_add_nothing_to_the_line(command, fragments):
    """The same by the real command, where torch and its friends may write to stderr as they like."""
    done = run(*command.split())
    assert_refused(done.returncode, done.stdout, done.stderr, fragments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize(
    "command", ["train vqsvae --run digits", "sample --run digits --out x.png", "evaluate --run digits"]
)
def test_cuda_where_there_is_none(command, capsys):
    code = main([*command.split(), "--device", "cuda"])
    assert_refused(code, *capsys.readouterr(), ["cuda", "--device cpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_in_params_where_there_is_none(capsys):
    write_yaml(PARAMS.read_text(encoding="utf-8").replace("device: auto", "device: cuda"))
    code = main(["train", "vqsvae", "--run", "digits"])
    assert_refused(code, *capsys.readouterr(), ["cuda", "--device cpu"])


@pytest.mark.parametrize(
    "command", ["train vqsvae --run digits", "train classifier --dataset digits", "train fsvae --run digits-fsvae"]
)
def test_damaged_data(command, capsys):
    write_npz(Path("results/data/digits.npz"), {"train_images": np.zeros(3)})
    code = main(command.split())
    assert_refused(code, *capsys.readouterr(), ["results/data/digits.npz is damaged"], left=["results/data/digits.npz"])


def test_results_that_cannot_be_written(capsys):
    Path("results").write_text("a file where a folder should be")
    code = main(["fetch", "--dataset", "digits"])
    assert_refused(code, *capsys.readouterr(), ["results/data/digits.npz"], left=["results"])


def test_report_without_snakemake_in_reach(monkeypatch, capsys):
    """As by ``.venv/bin/spiking-diffusion report`` without activating the environment."""
    monkeypatch.setenv("PATH", "/nowhere")
    code = main(["report", "--suite", "quick"])
    assert_refused(code, *capsys.readouterr(), ["snakemake"])


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "train --run digits",
        "show",
        "sample --run digits -n four",
        "figure --suite quick pie",
        "encode --run digits --device tpu",
    ],
)
def test_misuse_is_answered_with_the_usage(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: spiking-diffusion")
    assert files() == []


def test_interruption_is_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("spiking_diffusion.stages.fetch.run", interrupt)
    assert main(["fetch", "--dataset", "digits"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_job_does_not_search_for_garbage_while_it_imports():
    """It did so a thousand times: a third of the seconds that each of a suite's jobs takes to start."""
    code = (
        "import gc\n"
        "from spiking_diffusion.cli import main\n"
        "main(['show', '--run', 'digits'])\n"
        "before = gc.get_stats()[0]['collections']\n"
        "import torch\n"
        "assert gc.isenabled() and gc.get_stats()[0]['collections'] - before < 20\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_report_says_what_it_waits_for(caplog):
    """Seen to fail: its Snakemake waited for another one, and nobody heard why."""
    code = "from spiking_diffusion.locks import one_snakemake; one_snakemake(); print(1, flush=True); input()"
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as holder:
        holder.stdout.readline()
        threading.Timer(1, lambda: holder.communicate("end\n")).start()
        assert main(["report", "--suite", "quick"]) == 2  # there is no Snakefile
    assert f"this folder's pipeline is locked by process {holder.pid} on" in caplog.text
