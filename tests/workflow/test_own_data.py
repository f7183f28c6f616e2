"""A dataset of the user's own through the whole pipeline, and what a change of its files makes stale in either tool."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image


def write_npz(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (400, 12, 20, 3), np.uint8)
    np.savez_compressed(path, x_train=images, y_train=np.arange(400) % 3)


def add(project: Any, kind: str, path: str, **split: int) -> None:
    """One entry under datasets, one run, and a suite of it."""
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    params["datasets"]["mine"] = {
        "title": "Mine",
        "format": kind,
        "shape": [3, 12, 20],
        "resize": "none",
        "classes": 3,
        "split": {"validation": 20, "test": 30, "seed": 0} | split,
        "licence": "my own",
        "citation": "none",
        "files": {"data": {"path": path}},
    }
    train = {"train": {"batch_size": 16}}  # there are 40 images
    params["runs"]["mine"] = {"dataset": "mine", "recipe": "quick", "vqsvae": train, "sdid": train}
    params["suites"]["mine"] = ["mine"]
    (project.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (project.root / "dvc.yaml").write_text(project.run("spiking-diffusion", "dvc").stdout)


def test_colour_images_of_an_odd_size_from_an_npz(tiny_project: Any) -> None:
    project = tiny_project
    data = project.root / "my data.npz"
    write_npz(data, 0)
    add(project, "npz", "my data.npz")
    wanted = ("results/tables/mine.md", "results/figures/mine-samples.png")
    project.run("snakemake", "--cores", "2", "--quiet", "all", "--", *wanted)
    assert "spiking-diffusion" in (project.root / wanted[0]).read_text()
    with Image.open(project.root / wanted[1]) as figure:
        assert figure.width > 100
    assert project.planned(wanted[1]) == set()

    os.utime(data)
    assert project.planned(wanted[1]) == set(), "the bytes are the same"
    write_npz(data, 1)
    assert project.planned("mine") >= {"fetch", "classifier", "vqsvae", "tokens", "sdid", "sample", "evaluate", "table"}


def stale(project: Any) -> bool:
    return "fetch-mine" in project.run("dvc", "status", "fetch-mine").stdout


def test_a_change_in_a_folder_makes_both_tools_fetch_again(tiny_project: Any) -> None:
    project, shown = tiny_project, "results/data/mine.npz"
    folder = project.root / "photos"
    rng = np.random.default_rng(0)

    def draw(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(path)

    for animal in ("cat", "dog", "emu"):
        for i in range(5):
            draw(f"{animal}/{i}.png")
    add(project, "folder", "photos", validation=2, test=3)
    shutil.copytree(
        Path(__file__).parents[2] / ".dvc", project.root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp")
    )
    project.run("git", "init", "-q")

    def fetched() -> bytes:
        project.run("dvc", "repro", "-q", "fetch-mine")
        assert project.planned(shown) == set() and not stale(project)
        return (project.root / shown).read_bytes()

    made = {fetched()}
    os.utime(folder / "dog/1.png")
    assert project.planned(shown) == set() and not stale(project)
    for change in (
        lambda: draw("dog/1.png"),
        lambda: draw("emu/9.png"),
        lambda: (folder / "cat/3.png").rename(folder / "emu/3a.png"),
    ):
        change()
        assert project.planned(shown) == {"fetch"} and stale(project)
        made.add(fetched())
    assert len(made) == 4


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_own_data_that_is_not_there_is_named(tiny_project: Any, kind: str) -> None:
    add(tiny_project, kind, "nowhere.here")
    done = tiny_project.run("snakemake", "--cores", "1", "results/data/mine.npz", ok=False)
    assert done.returncode and "Traceback" not in done.stderr
    kind = "file or folder" if kind == "folder" else "file"
    assert f"error: there is no {kind} nowhere.here: correct datasets.mine.files.data.path" in done.stderr


def test_dvc_says_what_is_wrong_with_ones_data(tiny_project: Any) -> None:
    """Seen to say "exited with 1" alone; what Snakemake says of itself would hide the sentence."""
    add(tiny_project, "folder", "photos")
    for animal in ("cat", "dog", "emu"):
        (tiny_project.root / "photos" / animal).mkdir(parents=True)
        Image.new("L", (20, 12)).save(tiny_project.root / "photos" / animal / "0.png")
    tiny_project.versioned()
    done = tiny_project.run("dvc", "repro", "fetch-mine", ok=False)
    said = done.stdout + done.stderr
    assert done.returncode and "Traceback" not in said
    assert "error: photos cannot be read as folder (cat/0.png is grey (1 channel), shape [3, 12, 20] means" in said
    assert len(said.splitlines()) < 40, said


@pytest.mark.parametrize("scm", [True, False])
def test_dvc_in_a_zip_download(tiny_project: Any, scm: bool) -> None:
    """There is no .git in it. The documentation says what DVC needs then."""
    tiny_project.versioned(git=False)
    readme = (Path(__file__).parents[2] / "docs/howto.md").read_text(encoding="utf-8")
    command = "dvc config core.no_scm true"
    assert command in readme
    tiny_project.environment = {"GIT_CEILING_DIRECTORIES": str(tiny_project.root.parent)}
    if not scm:
        tiny_project.run(*command.split())
    done = tiny_project.run("dvc", "repro", "fetch@digits", ok=False)
    assert (done.returncode == 0) == (not scm)
    assert scm or (tiny_project.root / "results/data/digits.npz").is_file()


def test_folder_with_a_broken_link_gets_the_sentence(tiny_project: Any) -> None:
    (tiny_project.root / "photos/cat").mkdir(parents=True)
    (tiny_project.root / "photos/cat/x.png").symlink_to("nowhere.png")
    add(tiny_project, "folder", "photos")
    done = tiny_project.run("snakemake", "--cores", "1", "results/data/mine.npz", ok=False)
    assert done.returncode and "error: photos cannot be read (photos/cat/x.png is a broken link" in done.stderr
