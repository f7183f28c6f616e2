"""The real command killed at the worst moments, and two of them at once: the same bytes, and nothing left behind."""

import gzip
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
pytestmark = pytest.mark.usefixtures("project")
NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def slow(server):
    """params.yaml with a dataset ``slow`` on the server, whose 15 MB of noise take a while to pack."""
    rng = np.random.default_rng(0)
    files = {}
    for name, size in zip(NAMES, (20_000, 20_000, 100, 100), strict=True):
        shape = (size, 28, 28) if name.endswith("images") else (size,)
        raw = gzip.compress(idx(rng.integers(0, 10, shape, np.uint8)), 1, mtime=0)
        server.replies[f"/{name}"] = (200, {}, raw)
        files[name] = {"name": name, "urls": [server.url(f"/{name}")], "sha256": hashlib.sha256(raw).hexdigest()}
    entry = RAW["datasets"]["mnist"] | {"files": files, "split": {"validation": 100, "test": 0, "seed": 0}}
    nothing = {key: {} for key in ("recipes", "runs", "baselines", "suites")}
    Path("params.yaml").write_text(yaml.safe_dump({**RAW, **nothing, "datasets": {"slow": entry}}))
    return server


def start():
    command = [sys.executable, "-m", "spiking_diffusion.cli", "fetch", "--dataset", "slow"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "results/data/slow.npz\n"), err
    return err


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def files():
    """Every file of the project by name."""
    found = {p.as_posix(): p for p in Path().rglob("*") if p.is_file()}
    # when a file was made differs from one run to the next
    return {name: b"" if name.startswith("work/provenance/") else p.read_bytes() for name, p in found.items()}


def expected():
    """What a fetch leaves that nothing disturbed, in this very folder; the folder is empty again afterwards."""
    finish(start())
    found = files()
    shutil.rmtree("results")
    shutil.rmtree("work")
    return found


def wait_for(condition, process=None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.0005)


@pytest.mark.parametrize("name", ["train_images", "test_labels"])
def test_killed_in_mid_download(slow, name):
    undisturbed = expected()
    half = slow.stalling[f"/{name}"] = threading.Event()
    process = start()
    assert half.wait(60)
    wait_for(lambda: list(Path("work/downloads/slow/.partial").glob("tmp*")), process)
    kill(process)
    half.clear()
    assert files() != undisturbed
    finish(start())
    assert files() == undisturbed


def test_killed_in_mid_preparation(slow):
    """While the arrays are being packed: a good part of the temporary file is there."""
    undisturbed = expected()
    process = start()
    size = len(undisturbed["results/data/slow.npz"])
    wait_for(lambda: any(p.stat().st_size > size / 4 for p in Path("results/data").glob(".slow.npz.*")), process)
    kill(process)
    assert list(Path("results/data").glob(".slow.npz.*"))
    assert not Path("results/data/slow.npz").exists()
    asked = len(slow.asked)
    finish(start())
    assert files() == undisturbed
    assert len(slow.asked) == asked, "what was downloaded is used"


def test_killed_wherever_it_happened_to_be(slow):
    undisturbed = expected()
    for seconds in np.linspace(0.1, 2.0, 6):
        process = start()
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)  # of a process not waited for yet, so of no other
        process.communicate()
    finish(start())
    assert files() == undisturbed


def test_of_two_at_once_one_downloads_and_one_waits(slow):
    undisturbed = expected()
    del slow.asked[:]
    half = slow.stalling["/train_images"] = threading.Event()
    first = start()
    assert half.wait(60)
    second = start()
    line = second.stderr.readline()
    assert line.startswith(f"results/data/slow.npz is locked by process {first.pid} on ")
    assert second.poll() is None
    half.clear()
    finish(first)
    assert "is there now" in finish(second)
    assert sorted(slow.asked) == sorted(f"/{name}" for name in NAMES)
    assert files() == undisturbed


def test_who_waits_goes_on_when_the_other_is_killed(slow):
    undisturbed = expected()
    half = slow.stalling["/train_images"] = threading.Event()
    first = start()
    assert half.wait(60)
    second = start()
    assert "waiting" in second.stderr.readline()
    kill(first)
    half.clear()
    finish(second)
    assert files() == undisturbed
