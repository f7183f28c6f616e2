"""``spiking-diffusion grid``: the lines of ``params.yaml`` for an ablation, and one line for whatever is wrong."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spiking_diffusion.cli import main
from spiking_diffusion.config import check_params, load_params, read_yaml

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project folder with params.yaml and nothing else."""
    shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def grid(capsys):
    """Print a grid. No line of a suite is longer than 120."""

    def call(options):
        assert main(["grid", *shlex.split(options)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert max(map(len, out[out.index("\nsuites:\n") :].splitlines())) <= 120
        return out

    return call


def merged(text):
    """``params.yaml`` with the printed lines pasted into it, checked as every command checks it."""
    raw = read_yaml("params.yaml")
    Path("grid.yaml").write_text(text, encoding="utf-8")
    for section, entries in read_yaml("grid.yaml").items():
        assert not set(entries) & set(raw[section]), "a pasted line would be a second one of its name"
        raw[section].update(entries)
    return check_params(raw)


def change(old, new):
    """Edit params.yaml."""
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    Path("params.yaml").write_text(text.replace(old, new), encoding="utf-8")


# --- what is printed ------------------------------------------------------------------------------------


def test_the_example_of_the_documentation(grid):
    readme = (PROJECT / "docs/howto.md").read_text(encoding="utf-8")
    command = re.search(r"^spiking-diffusion grid (.*)$", readme, re.MULTILINE)
    assert f"```yaml\n{grid(command[1])}```\n" in readme


def test_runs_that_exist_are_reused(grid):
    suite = "ablation-k-quick"
    text = grid("--run digits-ablation --set vqsvae.k=learned,0,0.25,0.5,0.75,1 --seeds 0,1,2 --suite x")
    assert text.startswith("# Paste these lines into params.yaml, under `suites:`.\n")
    assert yaml.safe_load(text) == {"suites": {"x": load_params().suites[suite]}}
    _, _, lines = text.partition("\nsuites:\n")
    assert lines.replace("  x:\n", f"  {suite}:\n") in Path("params.yaml").read_text(encoding="utf-8")


def test_every_variant_resolves_to_the_run_with_the_keys_changed(grid):
    options = "--run mnist-quick --set vqsvae.k=0,1 --set vqsvae.codebook.size=64,128 --seeds 0,7 --suite x"
    params = merged(grid(options))
    base = load_params().resolve("mnist-quick").recipe.model_dump()
    found = [params.resolve(name) for name in params.suites["x"]]
    assert [run.name.removeprefix("mnist-quick-") for run in found] == [
        *("k-0-size-64", "k-0-size-64-s7", "k-0", "k-0-s7"),
        *("k-1-size-64", "k-1-size-64-s7", "k-1", "k-1-s7"),
    ]
    wanted = [(k, size, seed) for k in (0.0, 1.0) for size in (64, 128) for seed in (0, 7)]
    for run, (k, size, seed) in zip(found, wanted, strict=True):
        base["vqsvae"]["k"], base["vqsvae"]["codebook"]["size"], base["seed"] = k, size, seed
        assert (run.dataset_name, run.recipe_name, run.recipe.model_dump()) == ("mnist", "quick", base)


def test_the_entry_of_the_run_is_kept(grid):
    text = grid("--run mnist-quick --set vqsvae.train.lr=1e-3,0.002 --seeds 0,1 --suite x")
    own = "sdid: {train: {epochs: 6}}, sample: {n: 10000}}"
    lr = f"vqsvae: {{train: {{epochs: 3, lr: 0.001}}}}, {own}"
    assert text.splitlines()[3:6] == [
        f"  mnist-quick-lr-0001: {{dataset: mnist, recipe: quick, {lr}",
        f"  mnist-quick-lr-0001-s1: {{dataset: mnist, recipe: quick, seed: 1, {lr}",
        f"  mnist-quick-s1: {{dataset: mnist, recipe: quick, seed: 1, vqsvae: {{train: {{epochs: 3}}}}, {own}",
    ]


def test_a_run_with_a_seed_of_its_own(grid):
    text = grid("--run digits-ablation-s1 --set vqsvae.k=learned,0.9 --seeds 0,1 --suite x")
    entry = {"dataset": "digits", "recipe": "ablation", "vqsvae": {"k": 0.9}}
    new = {"digits-ablation-s1-k-09-s0": {**entry, "seed": 0}, "digits-ablation-s1-k-09": {**entry, "seed": 1}}
    assert yaml.safe_load(text) == {"runs": new, "suites": {"x": ["digits-ablation", "digits-ablation-s1", *new]}}


def test_baselines_have_a_section_of_their_own(grid):
    text = grid("--run digits-fsvae --set fsvae.T=8 --suite x")
    assert "under `baselines:` and `suites:`" in text
    entry = {"dataset": "digits", "recipe": "quick", "fsvae": {"T": 8}}
    assert yaml.safe_load(text)["baselines"] == {"digits-fsvae-t-8": entry}
    merged(text)


@pytest.mark.parametrize(
    ("sets", "names", "values"),
    [
        ("sdid.channels=[8,8],[16, 16, 16]", ["channels-8-8", "channels-16-16-16"], ["[8, 8]", "[16, 16, 16]"]),
        ("vqsvae.train.betas=[0,0.999]", ["betas-0-0999"], ["[0.0, 0.999]"]),
        ("vqsvae.tau_syn=1.5,10,16.0", ["tau-syn-15", "tau-syn-10", "tau-syn-16"], ["1.5", "10.0", "16.0"]),
        ("vqsvae.train.lr=2e-5", ["lr-2e-05"], ["2.0e-05"]),
        ("neuron.v_reset=-0.5,0.5", ["v-reset-minus-05", "v-reset-05"], ["-0.5", "0.5"]),
        ("neuron.detach_reset=true", ["detach-reset-true"], ["true"]),
        ("sample.steps=4,all", ["steps-4"], ["4"]),
        ("vqsvae.readout=leaky-sum", ["readout-leaky-sum"], ["leaky-sum"]),
        (" vqsvae.k = 0.9 , 0.8 ", ["k-09", "k-08"], ["0.9", "0.8"]),
    ],
)
def test_names_and_values(grid, sets, names, values):
    text = grid(f"--run digits --set '{sets}' --suite x")
    assert re.findall(r"^  digits-([\w-]+): {", text, re.MULTILINE) == names
    last = sets.split("=")[0].strip().split(".")[-1]
    assert re.findall(rf"\b{last}: (\[.*?\]|[^}}]*)}}", text) == values
    merged(text)


def test_keys_with_one_last_part_are_named_in_full(grid):
    text = grid("--run mnist --set vqsvae.T=16,8 --set sdid.T=16,8 --suite x")
    names = ["mnist", "mnist-sdid-t-8", "mnist-vqsvae-t-8", "mnist-vqsvae-t-8-sdid-t-8"]
    assert yaml.safe_load(text)["suites"]["x"] == names


def test_a_long_suite_is_wrapped(grid):
    text = grid(f"--run mnist --set vqsvae.k={','.join(f'0.{i}' for i in range(11, 40))} --suite x")
    assert len(merged(text).suites["x"]) == 29


def test_a_variant_under_a_name_of_its_own_settles_a_clash(grid):
    change("  mnist-k-0: ", "  mnist-tau-25: {dataset: mnist, recipe: paper, vqsvae: {tau_syn: 25.0}}\n  mnist-k-0: ")
    text = grid("--run mnist --set vqsvae.tau_syn=2.5,25 --suite x")
    assert yaml.safe_load(text)["suites"]["x"] == ["mnist-tau-syn-25", "mnist-tau-25"]


def test_it_changes_no_file_and_needs_no_torch():
    before = Path("params.yaml").read_bytes()
    code = "import sys; from spiking_diffusion.cli import main; main(sys.argv[1:]); print('#', 'torch' in sys.modules)"
    command = ["grid", "--run", "mnist", "--set", "vqsvae.k=0.9", "--suite", "x"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("# False\n")
    assert [str(path) for path in Path().iterdir()] == ["params.yaml"]
    assert Path("params.yaml").read_bytes() == before


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ("--run mnits --set vqsvae.k=0 --suite x", ["'mnits'", "did you mean 'mnist'?"]),
        ("--run mnist --set vqsvae.k=0 --suite ablation-k", ["ablation-k exists", "another name"]),
        ("--run mnist --set vqsvae.k=0 --suite Ablation_k", ["'Ablation_k'", "[a-z0-9]"]),
        ("--run mnist --set vqsvae.k=0 --suite on", ["a name", "true"]),
        ("--run mnist --set vqsvae.k=0 --suite x --params ./params.yaml", ["grid reads params.yaml", "--params"]),
        ("--run mnist --set vqsvae.kk=1 --suite x", ["'vqsvae.kk'", "did you mean 'vqsvae.k'?"]),
        ("--run mnist --set k=1 --suite x", ["'k'", "did you mean 'vqsvae.k'?"]),
        ("--run mnist --set nothing=1 --suite x", ["'nothing'", "spiking-diffusion show --run mnist"]),
        ("--run mnist-fsvae --set vqsvae.k=0 --suite x", ["'vqsvae.k'", "mnist-fsvae reads"]),
        ("--run mnist --set vqsvae.k= --suite x", ["'vqsvae.k='", "KEY=VALUE"]),
        ("--run mnist --set sdid.channels=[8,16 --suite x", ["'sdid.channels=[8,16'", "YAML"]),
        ("--run mnist --set vqsvae.k=2 --suite x", ["vqsvae.k is 2", "'learned'", "less than or equal to 1"]),
        ("--run mnist --set sdid.channels=8,16 --suite x", ["sdid.channels is 8", "list"]),
        ("--run mnist --set sample.steps=50 --suite x", ["sample.steps is 50", "49 tokens"]),
        ("--run mnist --set vqsvae.k=0 --seeds 0,one --suite x", ["seed is 'one'"]),
        ("--run mnist --set vqsvae.k=0.5,0.50 --suite x", ["{vqsvae.k: 0.5}", "once"]),
        ("--run mnist --set vqsvae.tau_syn=2.5,25 --suite x", ["mnist-tau-syn-25", "25.0", "under another name"]),
        (f"--run mnist --set sdid.channels=[{'1024,' * 12}] --suite x", ["mnist-channels-1024", "64 characters"]),
        ("--run digits --set vqsvae.k=0.9 --suite x", ["baselines.digits-k-09 ", "{vqsvae.k: 0.9}", "another name"]),
    ],
)
def test_refused_in_one_line(options, fragments, capsys):
    change("  digits-fsvae: ", "  digits-k-09: {dataset: digits, recipe: quick}\n  digits-fsvae: ")
    assert main(["grid", *shlex.split(options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [fragment for fragment in fragments if fragment not in err] == [], err
