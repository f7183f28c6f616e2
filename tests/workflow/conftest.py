"""A copy of the project in an empty folder, with networks so small that every stage runs in seconds."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from spiking_diffusion.config import check_params
from spiking_diffusion.graph.dvc import dvc_yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


NAMESPACE = ["unshare", "--map-root-user", "--net", "--"]


@pytest.fixture(scope="session")
def offline() -> list[str]:
    """What runs a command without any network, not even the loopback device; nothing where the system forbids it."""
    try:
        return NAMESPACE if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


class Project:
    """A project folder and the tools run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.umask = -1  # as it is
        for name in ("Snakefile", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, root / name)
        for name in ("workflow", "profiles", "src"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))

    def edit(self, **changes: object) -> None:
        """Set keys of params.yaml given as ``a__b__c=value``."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.replace("_DASH_", "-").split("__")
            section = params
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def clone(self, root: Path) -> Project:
        """A copy, times included."""
        shutil.copytree(self.root, root, symlinks=True, dirs_exist_ok=True)
        twin = copy.copy(self)
        twin.root = root
        return twin

    def versioned(self, git: bool = True) -> None:
        """Put the folder under git and DVC, or DVC alone; nothing recorded yet."""
        shutil.copytree(ROOT / ".dvc", self.root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        if git:
            self.run("git", "init", "-q")

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a tool of the environment, here; its package sources are this folder's."""
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(self.root / "src")}
        environment |= {"SPIKING_DIFFUSION_INCEPTION": "", "SPIKING_DIFFUSION_MIRROR": ""}
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment | self.environment,
            umask=self.umask,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def planned(self, target: str) -> set[str]:
        """Names of the rules that Snakemake would run for ``target``."""
        out = self.run("snakemake", "-n", target, "--quiet", "rules").stdout
        lines = out.partition("Job stats:")[2].splitlines()
        return {line.split()[0] for line in lines if len(line.split()) == 2 and line.split()[1].isdigit()} - {"total"}

    def results(self) -> dict[str, bytes]:
        """Every file below results/, by name."""
        folder = self.root / "results"
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def tiny(project: Project) -> Project:
    """The quick recipe, shrunk further, and its suite without the third run, which one test makes."""
    train = {"epochs": 1, "batch_size": 256, "threads": 1}
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    recipe = params["recipes"]["quick"]
    recipe["vqsvae"] |= {"T": 2, "channels": [4, 4], "code_dim": 4, "train": recipe["vqsvae"]["train"] | train}
    recipe["vqsvae"]["codebook"]["size"] = 8
    recipe["sdid"] |= {"T": 2, "channels": [8, 8], "embed_dim": 4, "train": recipe["sdid"]["train"] | train}
    recipe["fsvae"] |= {"T": 2, "channels": [4, 4], "code_dim": 4, "latent_dim": 4, "k": 2}
    recipe["fsvae"]["train"] |= train
    recipe["sample"] |= {"n": 40, "batch_size": 20, "threads": 1}
    recipe["tune"] |= {"n": 20, "temperatures": [0.7, 1.0], "steps": [4]}
    recipe["evaluate"] |= {"kid_subsets": 2, "threads": 1, "protocols": ["classifier", "standard"]}
    best = params["runs"]["digits-best"]
    best["sdid"] = {"channels": [8, 8], "train": best["sdid"]["train"] | train}
    best["sample"] |= {"n": 40, "batch_size": 20, "steps": 4, "threads": 1}
    best["evaluate"] = dict(recipe["evaluate"])
    params["suites"]["quick"].remove("digits-best")
    params["inception"]["fid"]["urls"] = ["http://127.0.0.1:9/nowhere.pth"]  # as on a machine without network
    params["classifier"] |= {"networks": 2, "channels": [4, 4], "features": 8}
    params["classifier"] |= {"epochs": 1, "least_steps": 5, "threads": 1}
    (project.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (project.root / "dvc.yaml").write_text(dvc_yaml(check_params(params)))
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The project as it is, nothing run yet."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project as it is, for tests that look and make nothing."""
    return Project(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def tiny_project(project: Project) -> Project:
    """A tiny project, nothing run yet."""
    return tiny(project)


# The two whole runs of the suite `quick` differ in all that must make no difference: the tool, the folder's name, the
# number of cores, hash seed, time zone, language, umask, whether there is a network, and the variables below. Tests
# that change them copy.

STRAY = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":0:0",
    "OMP_DYNAMIC": "TRUE",
    "SOURCE_DATE_EPOCH": "1000000000",
    "GIT_DIR": "/nowhere",
    "GIT_WORK_TREE": "/nowhere",
    "GIT_INDEX_FILE": "/nowhere",
    "OPENBLAS_NUM_THREADS": "3",
    "OMP_NUM_THREADS": "3",
    "MKL_NUM_THREADS": "3",
}
"""Variables of a notebook, a cluster or a hook, which must not count."""
STYLE_OF_ONES_OWN = "axes.facecolor: red\nfont.size: 20\nsavefig.dpi: 30\nsavefig.transparent: True\n"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, offline: list[str]) -> Project:
    """A tiny project on which Snakemake has made the suite ``quick``, on many cores, without a network if possible."""

    def make(project: Project) -> None:
        style = project.root.parent / "matplotlibrc"
        style.write_text(STYLE_OF_ONES_OWN)
        project.environment = {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C"}
        project.environment |= STRAY | {"MATPLOTLIBRC": str(style)}
        project.umask = 0o077
        project.run(*offline, "snakemake", "--cores", "8", "--quiet", "all", "--", "quick")

    return shared(tmp_path_factory, "ein Ordner, naïve", make)


@pytest.fixture(scope="session")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project on which DVC has made the suite ``quick``, one stage at a time."""

    def make(project: Project) -> None:
        project.environment = {"PYTHONHASHSEED": "2", "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
        project.umask = 0o022
        project.versioned()
        project.run("dvc", "repro", "-q", "suite-quick")

    return shared(tmp_path_factory, "dvc", make)


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Project], None]) -> Project:
    """A copy of the tiny project that ``make`` has worked on, once for all of pytest's processes."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    root, kept = base / "shared" / name, base / "shared" / f"{name}.pickle"
    root.parent.mkdir(exist_ok=True)
    with FileLock(root.with_suffix(".lock")):
        if not kept.exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            project = tiny(Project(root))
            make(project)
            kept.write_bytes(pickle.dumps(project))
    made: Project = pickle.loads(kept.read_bytes())
    return made.clone(factory.mktemp(name))
