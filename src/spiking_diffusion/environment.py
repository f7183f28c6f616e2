"""Environment variables that our libraries read and that must not change results.

Notebooks and containers may set them. docs/faults.md lists the variables that are used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DROPPED = (
    *("MPLBACKEND", "MATPLOTLIBRC"),  # the notebook's backend is missing here, and a style of your own changes figures
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),  # float32 would be rounded to bfloat16
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),  # and to TF32
    "CUBLAS_WORKSPACE_CONFIG",  # deterministic kernels need our own value
    "OMP_DYNAMIC",  # bits of a sum depend on the number of threads, which is a setting
    "SOURCE_DATE_EPOCH",  # the only date in a figure would be this
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),  # set in a git hook: they may name another repository
)
"""Variables that a command removes from its environment and from the programs that it starts."""


def settle() -> None:
    """Remove ``DROPPED`` from the environment. Call it before importing the libraries that read these variables."""
    for name in DROPPED:
        os.environ.pop(name, None)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_absolute() -> None:
    """Make relative paths in our own variables absolute, before the working directory changes. URLs stay."""
    for name in ("SPIKING_DIFFUSION_MIRROR", "SPIKING_DIFFUSION_INCEPTION"):
        value = os.environ.get(name)
        if value and Path(value).exists():
            os.environ[name] = str(Path(value).absolute())


def activate() -> None:
    """Let shells find the commands of this Python's environment, also where it is not activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
