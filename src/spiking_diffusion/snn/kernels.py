"""Building and calling the CPU kernels of ``kernels.cpp``.

They are compiled once on each machine, in a second. They are stored in the user's cache directory under a name that
depends on the source, the compiler and the processor. If that directory is not usable, a folder for this user among the
temporary files takes its place. Without a C++ compiler, PyTorch and SpikingJelly do the same work more slowly.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
# no contraction: a multiplication fused with an addition would round differently from PyTorch's two operations;
# no trapping: floating-point exceptions are not used, and support for them would prevent vectorising the spike decision
FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-std=c++17",
)


def usable(x: Tensor) -> bool:
    """Whether the kernels support ``x``: float32 on a CPU, outside autocast, with a compiler available."""
    cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return cpu and library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None with a warning if they cannot be compiled."""
    try:
        return _build()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("no CPU kernels, training and sampling will be slower: %s", " ".join(str(reason).split())[:300])
        return None


def _build() -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True).stdout
    key = "\n".join([SOURCE.read_text(), *compiler, *FLAGS, version, _processor()])
    name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    for folder in (_cache, _of_user):
        try:
            return _compile(compiler, folder() / name)
        except (OSError, RuntimeError) as error:  # no home folder, or no writing or running in it
            log.debug("no kernels there: %s", error)
    private = Path(tempfile.mkdtemp(prefix="spiking-diffusion-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return _compile(compiler, private / name)


def _compile(compiler: list[str], out: Path) -> ctypes.CDLL:
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(f".{os.getpid()}")
        try:
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(part)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    return ctypes.CDLL(str(out))


def _cache() -> Path:
    """Raises RuntimeError if the user has no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spiking-diffusion")


def _of_user() -> Path:
    """A folder among the temporary files that only this user can write to, so that nobody else can put a library
    there."""
    folder = Path(tempfile.gettempdir(), f"spiking-diffusion-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user, or others can write to it")
    return folder


def _processor() -> str:
    """What ``-march=native`` depends on, because different machines may share a home directory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(("flags", "Features", "model")))])
