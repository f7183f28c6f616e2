"""Where every random number comes from: (seed, purpose), never from carried state."""

from __future__ import annotations

import hashlib
import os

import torch


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose, e.g. ``generator("cpu", 0, "vqsvae", "order", epoch)``."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_initialisation(seed: int, *purpose: str | int) -> None:
    """Seed the global generator, which layers draw their first weights from."""
    torch.manual_seed(generator("cpu", seed, *purpose, "initialisation").initial_seed())


def make_deterministic(threads: int) -> None:
    """Fix the number of CPU threads and ask for deterministic kernels.

    Bits of a parallel sum depend on the number of threads, so a setting names it and no scheduler changes it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # not use_deterministic_algorithms: it imports the compiler, seconds of each job that neither trains nor evaluates
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    # every `empty` is filled here: a pass over memory saved
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # float32 means float32 on a GPU too: cuDNN's convolutions would otherwise round their inputs to TF32
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
