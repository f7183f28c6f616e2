"""The workflow as a module of another one, and with its files in a storage."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spiking_diffusion import environment, paths

ROOT = Path(__file__).parents[2]
TOKENS = "results/tokens/digits.npz"
MODULE = """\
module {name}:
    snakefile: "{snakefile}"
    config: {config}
    prefix: "{name}"


use rule * from {name} as {name}_*
"""


def outer(project: Any, root: Path, *modules: tuple[str, dict[str, Any]], rules: str = "") -> Any:
    """A folder with a workflow that has ``rules`` and then ``modules``, each a prefix and the module's config."""
    root.mkdir()
    other = copy.copy(project)
    other.root, other.environment = root, {"PYTHONPATH": str(project.root / "src")}
    snakefile = project.root / "workflow/Snakefile"
    text = [MODULE.format(name=name, config=config, snakefile=snakefile) for name, config in modules]
    (root / "Snakefile").write_text("\n\n".join([rules, *text]))
    return other


def settings(project: Any, path: Path, **changes: object) -> None:
    """A params.yaml with changes at ``path``."""
    path.parent.mkdir(exist_ok=True)
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    params["recipes"]["quick"] |= changes
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- as a module ----------------------------------------------------------------------------------------

COUNT = """\
rule count:
    input:
        "a/results/tokens/digits.npz",
        "b/results/data/digits.npz",
    output:
        "sizes.txt",
    shell:
        "wc -c {input} > {output}"
"""


def test_two_modules_with_settings_of_their_own(tiny_project: Any, tmp_path: Path) -> None:
    """Seen to fail where rules ignore their prefix, and where all modules share one folder or one file of settings."""
    other = outer(
        tiny_project,
        tmp_path / "outer",
        ("a", {"params": "conf/a.yaml"}),
        ("b", {"params": "conf/b.yaml"}),
        rules=COUNT,
    )
    settings(tiny_project, other.root / "conf/a.yaml", seed=7)
    settings(tiny_project, other.root / "conf/b.yaml")
    other.run("snakemake", "--cores", "2", "--quiet", "all")
    assert len((other.root / "sizes.txt").read_text().splitlines()) == 3, (
        "the outer workflow's first rule is its target"
    )
    assert {path.name for path in other.root.iterdir()} == {*("Snakefile", "conf", "a", "b", "sizes.txt"), ".snakemake"}
    assert not (other.root / "b/results/tokens").exists()
    said = json.loads((other.root / "a" / TOKENS).with_suffix(".settings.json").read_text())
    assert said["settings"]["seed"] == 7 and list(said["outputs"]) == [TOKENS]
    assert (other.root / "a" / paths.work_path("digits", "vqsvae") / "training.json").is_file()
    assert (other.root / "a/logs/tokens/digits.log").is_file()

    (other.root / "conf/a.yaml").rename(other.root / "conf/renamed.yaml")
    snakefile = other.root / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("conf/a.yaml", "conf/renamed.yaml"))
    assert other.planned("count") == set(), "a renamed file of settings makes nothing stale"
    settings(tiny_project, other.root / "conf/renamed.yaml", seed=8)
    assert other.planned("count") == {"a_vqsvae", "a_tokens", "count"}


def test_own_images_of_a_module_start_at_its_prefix(tiny_project: Any, tmp_path: Path) -> None:
    """A rule of the outer workflow can make them there."""
    rules = 'rule images:\n    output:\n        "sd/my images.npz",\n    shell:\n        "touch {output:q}"\n'
    other = outer(tiny_project, tmp_path / "outer", ("sd", {"params": "mine.yaml"}), rules=rules)
    params = yaml.safe_load((tiny_project.root / "params.yaml").read_text())
    mine = {"title": "Mine", "format": "npz", "shape": [1, 8, 8], "resize": "none", "classes": 3, "citation": "none"}
    mine |= {"split": {"validation": 20, "test": 30, "seed": 0}, "licence": "my own"}
    params["datasets"]["mine"] = mine | {"files": {"data": {"path": "my images.npz"}}}
    (other.root / "mine.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    done = other.run("snakemake", "--cores", "1", "--", "sd/results/data/mine.npz", ok=False)
    said = (other.root / "sd/logs/fetch/mine.log").read_text()
    assert done.returncode == 1 and "my images.npz" in said and "there is no file" not in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"params": "nowhere.yaml"}, "nowhere.yaml"),
        ({"recipe": "quick"}, "the module's config has 'recipe': its only key is 'params'"),
    ],
)
def test_a_module_with_a_wrong_config(pristine: Any, tmp_path: Path, config: dict[str, str], said: str) -> None:
    done = outer(pristine, tmp_path / "outer", ("sd", config)).run("snakemake", "-n", ok=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and said in lines[0]


def test_a_module_whose_folders_get_other_names(pristine: Any, tmp_path: Path) -> None:
    other = outer(pristine, tmp_path / "outer", ("sd", {}))
    shutil.copy(pristine.root / "params.yaml", other.root)
    snakefile = other.root / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace('prefix: "sd"', 'replace_prefix: {"results": "made"}'))
    done = other.run("snakemake", "-n", ok=False)
    assert done.returncode == 2 and "error: the module's results are in made: use `prefix:`" in done.stderr


# --- in a storage ---------------------------------------------------------------------------------------


def absent(*packages: str) -> str:
    """Which of ``packages`` are not installed."""
    return ", ".join(package for package in packages if importlib.util.find_spec(package) is None)


def check_storage(project: Any, *storage: str) -> None:
    """Three jobs that take their inputs from the storage. Their results do not stay among its local copies."""
    made = ("snakemake", "--cores", "1", "--quiet", "all", *storage)
    project.run(*made, "--", TOKENS)
    assert not (project.root / "results").exists() and not (project.root / "work/digits").exists()
    left = {part for name in files(project.root / ".snakemake/storage") for part in Path(name).parts}
    assert "work" in left and "results" not in left
    assert "Nothing to be done" in project.run("snakemake", "-n", *storage, "--", TOKENS).stdout
    project.edit(recipes__quick__seed=7)
    planned = project.run("snakemake", "-n", "--quiet", "rules", *storage, "--", TOKENS).stdout
    assert "vqsvae" in planned and "fetch" not in planned


@pytest.mark.skipif(
    bool(absent("snakemake_storage_plugin_fs")) or not shutil.which("rsync"),
    reason="needs snakemake-storage-plugin-fs and rsync",
)
def test_a_folder_as_storage(tiny_project: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Seen to fail with "missing files" where jobs write to the working directory."""
    store = tmp_path_factory.mktemp("store")
    check_storage(tiny_project, "--default-storage-provider", "fs", "--default-storage-prefix", str(store))
    assert {TOKENS, "results/models/digits/vqsvae.safetensors", "logs/tokens/digits.log"} <= files(store)
    assert not [name for name in files(store) if name.startswith("work/")]
    said = json.loads((store / TOKENS).with_suffix(".settings.json").read_text())
    assert "results/data/digits.npz" in said["inputs"] and list(said["outputs"]) == [TOKENS]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket of an S3 server on this machine, whose address and keys the environment has."""
    if missing := absent("snakemake_storage_plugin_s3", "moto", "flask"):
        pytest.skip(f"not installed: {missing}")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    environment = {"ENDPOINT_URL": address, "ACCESS_KEY": "key", "SECRET_KEY": "secret"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SNAKEMAKE_STORAGE_S3_{name}", value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if server.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        s3 = boto3.resource(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        yield s3.create_bucket(Bucket="a-bucket")
    finally:
        server.terminate()
        server.wait()


def test_s3_as_storage(bucket: Any, tiny_project: Any) -> None:
    check_storage(tiny_project, "--default-storage-provider", "s3", "--default-storage-prefix", "s3://a-bucket/sd")
    names = {item.key for item in bucket.objects.all()}
    assert {f"sd/{TOKENS}", "sd/results/models/digits/vqsvae.safetensors"} <= names
    assert not [name for name in names if "work" in Path(name).parts]


# --- in another working directory -----------------------------------------------------------------------


def test_the_catalogue_can_try_every_stage(pristine: Any, tmp_path: Path) -> None:
    """Its settings are in ``.test``, which is the working directory when the workflow catalogue tries a workflow."""
    shutil.copy(ROOT / ".test/params.yaml", tmp_path)
    planned = pristine.run("snakemake", "-n", "--quiet", "rules", "--directory", str(tmp_path)).stdout
    assert {f"{name} " in planned for name in ("fsvae_evaluate", "tune", "table", "trajectory_figure")} == {True}


def test_root(tiny_project: Any) -> None:
    project = tiny_project
    (project.root / "sub").mkdir()
    project.run("spiking-diffusion", "fetch", "--dataset", "digits", "--root", "sub")
    assert (project.root / "sub/results/data/digits.npz").is_file() and not (project.root / "results").exists()
    done = project.run("spiking-diffusion", "fetch", "--dataset", "digits", "--root", "nowhere", ok=False)
    assert done.returncode == 2 and "nowhere (No such file or directory)" in done.stderr
    for command in ("sync", "status"):
        done = project.run("spiking-diffusion", command, "--root", "sub", ok=False)
        assert done.returncode == 2 and "leave out --params and --root" in done.stderr


def test_root_leaves_paths_in_variables_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("SPIKING_DIFFUSION_MIRROR", "mirror")
    monkeypatch.setenv("SPIKING_DIFFUSION_INCEPTION", "https://example.org/weights")
    environment.make_absolute()
    assert os.environ["SPIKING_DIFFUSION_MIRROR"] == str(tmp_path / "mirror")
    assert os.environ["SPIKING_DIFFUSION_INCEPTION"] == "https://example.org/weights"
