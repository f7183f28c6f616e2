"""A project folder to fetch into, and a server on loopback to fetch from."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spiking_diffusion.data.sources import MIRROR


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder below others, no mirror, and no proxy between the test and its server."""
    folder = tmp_path / "above" / "project"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


class Server(ThreadingHTTPServer):
    """Answers GET from ``replies``: path -> (status, headers, body); ``asked`` lists the paths in order.

    A path in ``stalling`` gets half of its body; then the event is set, and the rest comes when it is cleared.
    """

    daemon_threads = True

    def __init__(self):
        self.replies, self.asked, self.stalling, self.over = {}, [], {}, threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path=""):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/silent":
            self.server.over.wait()
            return
        status, headers, body = self.server.replies.get(self.path, (404, {}, b"not found"))
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        stalled = self.server.stalling.pop(self.path, None)
        if stalled:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            stalled.set()
            while stalled.is_set() and not self.server.over.wait(0.01):
                pass
            body = body[len(body) // 2 :]
        try:
            self.wfile.write(body)
        except ConnectionError:  # who asked is gone
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()
