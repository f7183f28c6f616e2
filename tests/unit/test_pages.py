"""What the report's pages say of a run's origin."""

import subprocess
from pathlib import Path

from spiking_diffusion import artifacts
from spiking_diffusion.config import load_params
from spiking_diffusion.reporting.pages import provenance

PARAMS = Path(__file__).parents[2] / "params.yaml"


def git(*arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(["git", *name, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_provenance_names_the_lock_and_the_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS.read_text())
    Path("requirements.lock").write_text("numpy==2\n")
    params = load_params()
    facts = provenance(params)
    assert artifacts.sha256(Path("requirements.lock")) in facts["requirements.lock"]
    assert facts["Commit"] == "not in a git repository"
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "x")
    assert provenance(params)["Commit"] == git("rev-parse", "HEAD")
    Path("params.yaml").write_text(PARAMS.read_text() + "\n")
    assert provenance(params)["Commit"] == f"{git('rev-parse', 'HEAD')} and changes that are not committed"
