"""Building and calling the CPU kernels of ``kernels.cpp``.

They are compiled once a machine, in a second, and kept in the user's cache directory under a name made of the
source, the compiler and the processor. Where there is no C++ compiler, PyTorch and SpikingJelly do the same work
more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
# no contraction: a multiplication fused with an addition would round otherwise than PyTorch's two;
# no trapping: nobody asks for floating-point exceptions, and for their sake the choice spike or not would not vectorise
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
    """Whether the kernels can take ``x``: float32 on a CPU, outside autocast, with a compiler at hand."""
    cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return cpu and library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, with a warning, where they cannot be compiled."""
    try:
        return ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("no CPU kernels, training and sampling will be slower: %s", " ".join(str(reason).split())[:300])
        return None


def _build() -> Path:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True).stdout
    key = "\n".join([SOURCE.read_text(), *compiler, *FLAGS, version, _processor()])
    name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        return _compile(compiler, _cache() / name)
    except OSError:  # a home that cannot be written to
        return _compile(compiler, Path(tempfile.mkdtemp(prefix="spiking-diffusion-")) / name)


def _compile(compiler: list[str], out: Path) -> Path:
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(f".{os.getpid()}")
        subprocess.run([*compiler, *FLAGS, str(SOURCE), "-o", str(part)], check=True, capture_output=True, text=True)
        part.replace(out)
    return out


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spiking-diffusion")


def _processor() -> str:
    """What ``-march=native`` depends on: a home directory may be shared by unlike machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(("flags", "Features", "model")))])
