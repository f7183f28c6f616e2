"""Files that are damaged, foreign or malicious are seen for what they are, by the real commands."""

import hashlib
import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spiking_diffusion.artifacts import read_npz, write_npz


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def assert_refused(project, stage, *fragments):
    """The stage says one sentence with the fragments in it, and touches nothing."""
    before = project.results()
    status, said = project.command(stage)
    assert status == 2, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("error: ") and all(fragment in last for fragment in fragments), said
    assert project.results() == before


# --- checkpoints ----------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(raw)


def poison(path):
    path.write_bytes(pickle.dumps(Canary(path.with_suffix(".canary")), protocol=2))


def poison_well(path):
    """With torch's own format and a checksum that fits."""
    file = io.BytesIO()
    torch.save({"identity": Canary(path.with_suffix(".canary"))}, file)
    path.write_bytes(hashlib.sha256(file.getvalue()).hexdigest().encode() + b"\n" + file.getvalue())


@pytest.mark.parametrize("damage", [cut, flip, poison, poison_well])
def test_damaged_checkpoints(project, damage):
    """The one before is used, with a word of warning; where both are damaged, training stops until they are deleted.

    Seen to fail without the checksum (flip), with unpickling (poison_well), and where training begins anew unasked.
    """
    newest, older = sorted(project.work("sdid").glob("*.pt"), reverse=True)
    damage(newest)
    status, said = project.command("sdid")
    assert status == 0 and f"{newest.name} is damaged" in said and "continuing after epoch 2, step" in said, said
    project.assert_as_undisturbed()
    newest, older = sorted(project.work("sdid").glob("*.pt"), reverse=True)
    damage(newest)
    damage(older)
    for _ in range(2):
        assert_refused(project, "sdid", "all checkpoints are damaged", "delete work/digits/sdid")
    shutil.rmtree(project.work("sdid"))
    status, said = project.command("sdid")
    assert status == 0 and "going on" not in said
    project.assert_as_undisturbed()
    assert not list(project.root.rglob("*.canary"))


def test_checkpoints_of_other_settings_are_not_gone_on_from(project):
    """Seen to fail where the identity in them is not compared."""
    edit(project, "vqsvae", "beta", 0.5)
    status, said = project.command("vqsvae")
    assert status == 0 and "made with other settings, data or code" in said and "going on" not in said
    assert project.results()["models/digits/vqsvae.safetensors"] != project.expected["models/digits/vqsvae.safetensors"]


def edit(project, section, key, value):
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["recipes"]["quick"][section][key] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


# --- tokens and samples ---------------------------------------------------------------------------------


def change(project, name, **arrays):
    """Write arrays of an .npz anew, valid as a file."""
    path = project.root / "results" / name
    write_npz(path, read_npz(path) | arrays)


TOKENS, SAMPLES = "tokens/digits.npz", "samples/digits.npz"


@pytest.mark.parametrize("stage", ["sdid", "evaluate"])
@pytest.mark.parametrize(
    ("arrays", "clue"),
    [
        ({"stamp": np.array("0" * 64)}, "made with other settings or other code"),
        ({"vqsvae": np.array("0" * 64)}, "made by another VQ-SVAE"),
        ({"train": np.full((1000, 7, 7), 8, np.uint16)}, "below 8"),
        ({"train": np.zeros((1000, 6, 7), np.uint16)}, "of shape (7, 7)"),
        ({"test": np.zeros((10, 7, 7), np.int64)}, "must be uint16"),
        ({"validation": np.zeros((10, 7, 7), np.float32)}, "must be uint16"),
        ({"size": np.array(9)}, "below 8"),
    ],
    ids=["settings", "another VQ-SVAE", "out of range", "shape", "int64", "float", "codebook"],
)
def test_tokens_that_do_not_belong(project, stage, arrays, clue):
    """Seen to fail without check_stamp, and without what tokens_of checks."""
    change(project, TOKENS, **arrays)
    assert_refused(project, stage, "results/tokens/digits.npz", clue)


@pytest.mark.parametrize(
    ("arrays", "clue"),
    [
        ({"stamp": np.array("0" * 64)}, "made with other settings or other code"),
        ({"model": np.array("0" * 64)}, "drawn from another model"),
        ({"images": np.zeros((40, 1, 28, 29), np.uint8)}, "no images of shape (1, 28, 28)"),
        ({"images": np.zeros((40, 1, 28, 28), np.float32)}, "of type uint8"),
    ],
    ids=["settings", "another model", "shape", "type"],
)
def test_samples_that_do_not_belong(project, arrays, clue):
    """Seen to fail without check_stamp."""
    change(project, SAMPLES, **arrays)
    assert_refused(project, "evaluate", "results/samples/digits.npz", clue)


def test_samples_of_other_settings(project):
    """As when a setting was changed and Snakemake went unasked. Seen to fail without check_stamp."""
    edit(project, "sample", "n", 41)
    assert_refused(project, "evaluate", "results/samples/digits.npz was made with other settings", "make it again")
    status, said = project.command("sample")
    assert status == 0, said
    assert project.command("evaluate")[0] == 0


def test_sdid_of_another_vqsvae(project):
    """Seen to fail where the hash in SDID's weights is not compared."""
    edit(project, "vqsvae", "beta", 0.5)
    assert project.command("vqsvae")[0] == 0
    assert_refused(project, "sample", "sdid.safetensors was trained on tokens of another VQ-SVAE")


# --- no code from data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/digits.npz", "vqsvae"),
        ("data/digits.npz", "classifier"),
        ("tokens/digits.npz", "sdid"),
        ("samples/digits.npz", "evaluate"),
        ("classifiers/digits.safetensors", "evaluate"),
        ("classifiers/digits.safetensors", "ladder"),
        ("models/digits/vqsvae.safetensors", "tokens"),
        ("models/digits/sdid.safetensors", "sample"),
        ("models/digits-fsvae/fsvae.safetensors", "fsvae_sample"),
        ("samples/digits.npz", "samples_figure"),
        ("tuning/digits.json", "sample"),
        ("metrics/digits.json", "table"),
    ],
)
def test_pickles_in_place_of_a_file_run_nothing(project, name, stage):
    """Seen to fail for the arrays where numpy may unpickle."""
    path, canary = project.root / "results" / name, project.root / "canary"
    file = io.BytesIO()
    if path.suffix == ".npz":
        keys = read_npz(path)
        np.savez(file, **dict.fromkeys(keys, np.array([Canary(canary)], dtype=object)))
        np.load(io.BytesIO(file.getvalue()), allow_pickle=True)[next(iter(keys))]
    else:
        torch.save(Canary(canary), file)
        torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    canary.unlink()  # it sings where pickles are trusted
    path.write_bytes(file.getvalue())
    assert_refused(project, stage, f"results/{name}")
    assert not canary.exists()
