"""The documentation: its links, and the site that `make docs` builds."""

import os
import posixpath
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from spiking_diffusion.config import Params
from spiking_diffusion.graph.stages import STAGES

ROOT = Path(__file__).parents[2]
WRITTEN = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pretrained/*/*.md"), ROOT / "results/README.md"]
)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
PAGES = runpy.run_path(str(ROOT / "docs/pages.py"))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a file."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{path.name} links to {target}#{anchor}"


def test_every_written_page_is_in_the_site():
    written = {path.relative_to(ROOT).as_posix() for path in WRITTEN if path.parent != ROOT / "docs"}
    assert written == set(PAGES["COPIES"])


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "docs/howto.md#run-an-ablation", "howto.md#run-an-ablation"),
        ("index.md", "pretrained/mnist-best/README.md", "pretrained/mnist-best.md"),
        ("index.md", "docs/tour.py", "tour.md"),
        ("best.md", "../pretrained/mnist-best/README.md", "pretrained/mnist-best.md"),
        ("best.md", "histories", "histories/index.md"),
        ("best.md", "energy.md", "energy.md"),
        ("pretrained/mnist-best.md", "../../docs/evaluation.md", "../evaluation.md"),
        ("index.md", "https://dvc.org/a.md", "https://dvc.org/a.md"),
        ("energy.md", "#measured", "#measured"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page, link, there):
    assert PAGES["relinked"](f"see [this]({link}).", page) == f"see [this]({there})."


def test_reference_pages_name_every_command_and_every_key():
    pages = PAGES["pages"]()
    for stage in STAGES.values():
        assert f"## spiking-diffusion {stage.command}\n" in pages["reference/cli.md"]
    sections = pages["reference/params.md"].split("\n## ")
    for name, section in Params.model_json_schema()["$defs"].items():
        (text,) = (part for part in sections if part.startswith(f"{name}\n"))
        assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(section["properties"])
    assert "| `decay` | number ≥ 0, < 1 |" in pages["reference/params.md"]


def test_notebook_as_a_page():
    page = PAGES["tour"]("# %% [markdown]\n# # Title\n#\n# Text\n\n# %%\nx = 1\n\n# %%\ny = 2\n")
    assert page == "# Title\n\nText\n\n\n```python\nx = 1\n```\n\n```python\ny = 2\n```\n\n"


@pytest.mark.skipif(
    not all(find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")),
    reason="the packages of the documentation are not installed: `make docs` installs them",
)
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "tour.html", "howto.html", "reference/python.html"} <= {
        posixpath.join(*path.relative_to(tmp_path / "site").parts) for path in built
    }
    for path in built:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]* src=\"?https?:", text), path
        assert not re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect|preload)[^>]*https?:", text), path
    assert "Tensor" in (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
