"""The demo page: what its server answers to good and bad requests, and the page itself in a headless Chromium."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image

from spiking_diffusion import load
from spiking_diffusion.cli import main
from spiking_diffusion.demo import MOST, serve
from spiking_diffusion.errors import UserError

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOW = {"condition": 7, "guidance": 1.0, "sampler": "margin", "steps": 4, "temperature": 1.0, "seed": 3}


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with the weights that come along."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    monkeypatch.chdir(tmp_path)
    with serve(0, "cpu", torch.get_num_threads()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    torch.use_deterministic_algorithms(deterministic)


def post(url: str, asked: Any, **headers: str) -> tuple[int, Any]:
    content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_models_and_what_the_page_has_to_know_of_one(address: str) -> None:
    status, names = post(f"{address}/models", {})
    assert (status, names) == (200, sorted(path.parent.name for path in ROOT.glob("pretrained/*/config.json")))
    status, about = post(f"{address}/about", {"model": "mnist-best"})
    assert (about["shape"], about["conditions"], about["by"]) == ([1, 28, 28], 10, "label")
    assert about["how"]["sampler"] == "ancestral" and about["steps"] == 49


def test_drawing_has_frames_that_end_in_the_images_of_the_seed(address: str) -> None:
    asked = {"model": "mnist-best", "n": 3, "how": HOW, "frames": True}
    status, answer = post(f"{address}/draw", asked)
    assert status == 200 and len(answer["frames"]) == 4 and answer["network_calls"] == 8  # two a step, with guidance
    assert not np.array_equal(pixels(answer["frames"][0][0]), pixels(answer["frames"][-1][0]))
    _, last = post(f"{address}/draw", asked | {"frames": False})
    assert last["frames"] == answer["frames"][-1:]
    _, other = post(f"{address}/draw", asked | {"how": HOW | {"seed": 4}})
    assert other["frames"][-1] != answer["frames"][-1]


def test_completion_keeps_what_is_outside_the_mask(address: str) -> None:
    image = (load("mnist-best", device="cpu").sample(1, **HOW)[0] * 255).int()
    mask = torch.zeros(28, 28, dtype=torch.int)
    mask[14:] = 1
    asked = {"model": "mnist-best", "n": 2, "how": HOW, "image": image.tolist(), "mask": mask.tolist()}
    status, answer = post(f"{address}/complete", asked)
    assert status == 200 and len(answer["frames"][0]) == 2
    for each in map(pixels, answer["frames"][0]):
        assert np.array_equal(each[:14], image[0, :14].numpy())


@pytest.mark.parametrize(
    ("verb", "asked", "said"),
    [
        ("draw", {"model": "mnist"}, "a model that is not here: there are fmnist-best, mnist-best"),
        ("draw", [], "a model that is not here"),
        ("about", {"model": "../mnist-best"}, "a model that is not here"),
        ("draw", {"model": "mnist-best", "n": MOST + 1}, f"n must be a whole number from 1 to {MOST}"),
        ("draw", {"model": "mnist-best", "n": "3"}, "n must be a whole number"),
        ("draw", {"model": "mnist-best", "how": {"condition": 10}}, "condition is 10: mnist-best has 10 conditions"),
        ("draw", {"model": "mnist-best", "how": {"temperature": 0}}, "temperature is 0"),
        ("draw", {"model": "mnist-best", "how": {"steps": 2.5}}, "steps is 2.5"),
        ("draw", {"model": "mnist-best", "how": {"sampler": ["margin"]}}, "sampler is ['margin']"),
        ("draw", {"model": "mnist-best", "how": {"speed": 1}}, "was trained without what speed sets"),
        ("complete", {"model": "mnist-best"}, "image and mask are lists of numbers"),
        ("complete", {"model": "mnist-best", "image": [[[0]]], "mask": [[0]]}, "the mask covers nothing"),
        ("complete", {"model": "mnist-best", "image": [[[0]]], "mask": [[1]]}, "images have shape (1, 1, 1, 1)"),
        ("draw", b"{", "a request is JSON"),
        ("draw", b" " * (2**20 + 1), "a request has at most 1048576 bytes"),
    ],
)
def test_bad_requests_get_a_sentence(address: str, verb: str, asked: Any, said: str) -> None:
    status, answer = post(f"{address}/{verb}", asked)
    assert status == 400 and said in answer["error"]


def test_only_pages_of_this_machine_are_answered(address: str) -> None:
    assert post(f"{address}/models", {}, Host="elsewhere.example")[0] == 403
    assert post(f"{address}/nothing", {})[0] == 404


def test_two_visitors_at_once(address: str) -> None:
    asked = [{"model": name, "n": 4, "how": {"steps": 3, "seed": 1}} for name in ("mnist-best", "fmnist-best")]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda each: post(f"{address}/draw", each), asked))
    assert [status for status, _ in together] == [200, 200]
    assert [post(f"{address}/draw", each) for each in asked] == together


def test_what_keeps_it_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--device", "cpu", "--port", str(port)]) == 2
    assert f"error: cannot listen at 127.0.0.1:{port} (Address already in use)" in capsys.readouterr().err
    assert main(["demo", "--device", "cpu", "--port", "70000"]) == 2
    assert "error: --port is 70000: give a number from 0 to 65535" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there are no trained models here"):
        serve(0, "cpu", 1)


def test_page_in_a_browser(address: str, tmp_path: Path) -> None:
    """It draws by itself, shows a picture's way, and completes one whose lower half is masked; nothing leaves."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here to open the page in")
    with Browser(CHROMIUM, tmp_path / "profile", patience=60) as page:
        start = time.monotonic()
        page.open(address)
        page.wait("document.querySelectorAll('#drawn img').length === 32 && !busy")
        print(f"first images after {time.monotonic() - start:.1f} s")
        page.wait("[...document.querySelectorAll('#drawn img')].every(image => image.naturalWidth === 28)")
        page.evaluate("form.steps.value = 4; form.condition.value = '7'; form.n.value = 6; form.requestSubmit()")
        page.wait("document.querySelectorAll('#drawn img').length === 6 && !busy")
        page.evaluate("document.querySelector('#drawn img').click(); $('half').click(); $('complete').click()")
        page.wait("document.querySelectorAll('#completed img').length === 16 && !busy")
        page.screenshot(tmp_path / "demo.png")
        page.evaluate("form.noValidate = true; form.temperature.value = -1; form.requestSubmit()")
        page.wait("$('said').className === 'error'")
        assert page.evaluate("$('said').textContent") == "temperature is -1"
        assert {url.partition(":")[0] for url in page.requests} <= {"http", "data"}
        assert all(url.startswith(("data:", address)) for url in page.requests)
        assert [error for error in page.errors if "400" not in error] == []
