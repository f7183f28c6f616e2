"""Numbers go bad, memory is full, or the processor is an old one: what training says and does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spiking_diffusion.config import load_params
from spiking_diffusion.graph.stages import wants_gpu


def edit(project, stage, **train):
    """Change a stage's training, and no other's."""
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    section = params["classifier"] if stage == "classifier" else params["recipes"]["quick"][stage]["train"]
    section |= train
    path.write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.mark.parametrize("stage", ["vqsvae", "sdid", "fsvae", "classifier"])
def test_a_rate_far_too_high(project, stage):
    """A real divergence. Seen to fail without the check before the update: weights of NaN are written."""
    before = project.results()
    edit(project, stage, lr=1e30)
    status, said = project.command(stage)
    assert status == 2 and "Traceback" not in said, said
    last = said.splitlines()[-1]
    for fragment in ("error: ", "step", "the loss is", "its gradient", "(lr ", "lower"):
        assert fragment in last
    if stage != "classifier":
        assert "last good loss" in last and stage in last
    assert project.results() == before


def test_nothing_but_downloads_is_tried_again():
    """A training that diverged would diverge again, and a file of one's own that is damaged stays so.

    Seen to fail with `retries: 1` in the profile.
    """
    root = Path(__file__).parents[2]
    assert not [path for path in (root / "workflow/rules").glob("*.smk") if "retries:" in path.read_text()]
    assert "retries" not in yaml.safe_load((root / "profiles/default/config.yaml").read_text())


def test_gpu_memory_full(project):
    """The exception that CUDA's allocator raises, in the middle of training: a sentence that names the key.

    Seen to fail where the command line does not catch it.
    """
    project.undo("sdid")
    status, said = project.command("sdid", ["memory", "", 3])
    assert status == 2 and "Traceback" not in said, said
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert said.splitlines()[-1].startswith("error: the GPU's memory is full")
    assert "lower sdid.train.batch_size in params.yaml, or pass --device cpu" in said
    status, said = project.command("sdid")
    assert status == 0, said
    project.assert_as_undisturbed()


def command(project, *args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "spiking_diffusion.cli", *args],
        cwd=project.root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_cuda_without_a_gpu(project):
    """Seen to fail without the check of pick_device."""
    done = command(project, "train", "vqsvae", "--run", "digits", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: device is 'cuda' but PyTorch finds no CUDA device: set device"
    )
    assert not wants_gpu(load_params(project.root / "params.yaml"))


def test_processor_without_avx512(project):
    """Trains all the same, and says what would be faster there. Seen to fail without the warning."""
    project.undo("vqsvae")
    edit(project, "vqsvae", precision="bfloat16")
    done = command(project, "train", "vqsvae", "--run", "digits", ATEN_CPU_CAPABILITY="default")
    assert done.returncode == 0, done.stderr
    assert "this processor multiplies bfloat16 slowly: float32 is used" in done.stderr
