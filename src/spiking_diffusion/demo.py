"""A page to play with trained models, served to this machine alone.

``GET /`` is the page. ``POST`` to ``/models``, ``/about``, ``/draw`` and ``/complete`` takes and returns JSON. A bad
request is answered with status 400 and one sentence.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spiking_diffusion import paths
from spiking_diffusion.api import load
from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.diffusion.sampler import SAMPLERS
from spiking_diffusion.errors import UserError, refused
from spiking_diffusion.families import CONFIG
from spiking_diffusion.families.options import checked_how
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion
from spiking_diffusion.randomness import generator, make_deterministic

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("demo.html")
MOST, FRAMES, LONGEST = 64, 16, 2**20
"""Images at once, pictures of them in the making, and bytes of a request."""


class Demo:
    """Answers to the page. Networks compute one request after the other."""

    def __init__(self, device: str) -> None:
        self.load = cache(lambda name: load(name, device))
        self.lock = Lock()

    def models(self, asked: Any = None) -> list[str]:
        """Names to draw from: weights that come along, and runs whose SDID was trained here."""
        patterns = [paths.pretrained_path("*") / CONFIG, paths.model_path("*", "sdid")]
        return list(dict.fromkeys(path.parent.name for each in patterns for path in sorted(Path().glob(str(each)))))

    def about(self, asked: Any) -> dict[str, Any]:
        """What the page has to know of a model."""
        model = self._model(asked)
        return {
            "title": f"{model.config.dataset.title}, recipe {model.config.recipe_name}",
            "shape": model.config.dataset.shape,
            "conditions": model.sdid.conditions,
            "by": model.config.recipe.condition.by,
            "samplers": list(SAMPLERS),
            "steps": model.diffusion.steps,
            "how": model.how(),
        }

    @torch.no_grad()
    def draw(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Images drawn from masks alone: ``frames`` of all of them in the making, the last one finished."""
        model, how, n = self._asked(asked)
        states: list[Tensor] = []
        seed = how.pop("seed", model.config.recipe.seed)
        with self.lock:
            noise = generator(model.device, seed, "demo")
            tokens, calls, _ = model.draw_tokens(n, noise, callback=lambda seen, _: states.append(seen), **how)
            shown = torch.linspace(0, len(states) - 1, min(FRAMES, len(states))).round().long()
            frames = [model.decode(states[i]) for i in shown] if asked.get("frames") else [model.decode(tokens)]
        return {"frames": [_pngs(frame) for frame in frames], "network_calls": calls / n}

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Completions of ``image`` (C, H, W) in 0..255 where ``mask`` (H, W) is not 0."""
        model, how, n = self._asked(asked)
        try:
            image, mask = (torch.tensor(asked[key], dtype=torch.float32) for key in ("image", "mask"))
            image = (image[None] / 255).clamp(0, 1)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"image and mask are lists of numbers, and these are not ({error})") from None
        if not mask.any():
            raise UserError("the mask covers nothing: paint over what is to be redrawn")
        with self.lock:
            return {"frames": [_pngs(model.inpaint(image, mask > 0, n, **how))]}

    def _model(self, asked: Any) -> SpikingDiffusion:
        name, known = asked.get("model") if isinstance(asked, dict) else None, self.models()
        if name not in known:
            raise UserError(f"the page asks for a model that is not here: there are {', '.join(known)}")
        with self.lock:
            model = self.load(name)
        assert isinstance(model, SpikingDiffusion)
        return model

    def _asked(self, asked: Any) -> tuple[SpikingDiffusion, dict[str, Any], int]:
        model, n, how = self._model(asked), asked.get("n", 16), asked.get("how", {})
        if type(n) is not int or not 1 <= n <= MOST or not isinstance(how, dict):
            raise UserError(f"n must be a whole number from 1 to {MOST}, and how an object")
        return model, checked_how(model, how), n


def _pngs(images: Tensor) -> list[str]:
    """Images (N, C, H, W) as addresses that hold a PNG each."""
    return [_png(image) for image in to_uint8(images).cpu().numpy()]


def _png(image: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


class Handler(BaseHTTPRequestHandler):
    """One request. ``demo`` is set by ``serve``."""

    demo: Demo
    timeout = 60

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        else:
            self._json(404, {"error": f"there is nothing at {self.path}"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LONGEST:
            left = int(length) if length.isdigit() else 0
            while left > 0:  # a browser shows an answer only after it could send all of its request
                left -= len(self.rfile.read(min(left, LONGEST))) or left
            self._json(400, {"error": f"a request has at most {LONGEST} bytes"})
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except ValueError:
            self._json(400, {"error": "a request is JSON, and this one is not"})
            return
        demo, host = self.demo, self.headers.get("Host", "").rpartition(":")[0]
        verbs: dict[str, Callable[[Any], Any]]
        verbs = {"/models": demo.models, "/about": demo.about, "/draw": demo.draw, "/complete": demo.complete}
        if host not in ("127.0.0.1", "localhost"):  # another page's name that resolves to this machine
            self._json(403, {"error": "only for pages of this machine"})
        elif self.path not in verbs:
            self._json(404, {"error": f"there is nothing at {self.path}"})
        else:
            try:
                self._json(200, verbs[self.path](asked))
            except UserError as error:
                self._json(400, {"error": str(error)})
            except Exception as error:
                log.exception("%s failed", self.path)
                self._json(500, {"error": f"this failed ({error}): the terminal of the server says more"})

    def _json(self, status: int, answer: Any) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; img-src data:")
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # the visitor has left
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the page shows what happens."""


def serve(port: int, device: str, threads: int) -> ThreadingHTTPServer:
    """A server at 127.0.0.1, ready for ``serve_forever``; port 0 is any free one.

    Raises UserError if the port is taken, or if there is nothing to draw from.
    """
    demo = Demo(device)
    if not demo.models():
        raise UserError("there are no trained models here: run the command in the project's folder")
    make_deterministic(threads)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"demo": demo}))
    except (OSError, OverflowError) as error:
        if isinstance(error, OverflowError):
            raise UserError(f"--port is {port}: give a number from 0 to 65535") from None
        raise refused(f"cannot listen at 127.0.0.1:{port}", error) from error
