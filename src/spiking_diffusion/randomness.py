"""The source of every random number: (seed, purpose), never a carried state."""

from __future__ import annotations

import ctypes
import hashlib
import os

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spiking_diffusion.errors import UserError


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose, e.g. ``generator("cpu", 0, "vqsvae", "order", epoch)``."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_initialisation(seed: int, *purpose: str | int) -> None:
    """Seed the global generator. Layers draw their initial weights from it."""
    torch.manual_seed(generator("cpu", seed, *purpose, "initialisation").initial_seed())


def make_deterministic(threads: int) -> None:
    """Fix the number of CPU threads and ask for deterministic kernels.

    Bits of a parallel sum depend on the number of threads. It is therefore a setting, for PyTorch and for NumPy's
    linear algebra, and no scheduler changes it. Raises UserError if the system allows fewer threads.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)  # for libraries that are loaded later
    threadpool_limits(threads, "blas")
    torch.set_num_threads(threads)
    _check_granted(threads)
    # not use_deterministic_algorithms, which imports the compiler and costs every job seconds
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    # we fill every `empty` ourselves, so this saves a pass over memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # float32 means float32 on a GPU too: cuDNN's convolutions would otherwise round their inputs to TF32
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def _check_granted(threads: int) -> None:
    """Raise UserError if the system allows fewer threads. PyTorch's convolutions would then never end."""
    for pool in threadpool_info():
        if pool["user_api"] == "openmp":
            library = ctypes.CDLL(pool["filepath"])
            library.omp_set_dynamic(0)
            granted = library.omp_get_thread_limit()
            if granted < threads:
                raise UserError(
                    f"the settings ask for {threads} threads, and OMP_THREAD_LIMIT allows {granted}: "
                    "unset it, or set `threads` to as many in params.yaml"
                )
