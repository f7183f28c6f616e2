"""Spiking-Diffusion: vector-quantised discrete diffusion made of spiking neurons.

>>> import spiking_diffusion as sd
>>> model = sd.load("digits")
>>> model.sample(4).shape
torch.Size([4, 1, 28, 28])

Shapes throughout the package: images ``(B, C, H, W)`` in [0, 1], spike trains time first ``(T, B, C, H, W)``
in {0, 1}, tokens ``(B, H, W)`` int64 in [0, K), with K itself for [MASK].
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiking_diffusion.api import load
    from spiking_diffusion.config import load_params
    from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion, sample_tokens
    from spiking_diffusion.families import Model
    from spiking_diffusion.fsvae import FSVAE
    from spiking_diffusion.vqsvae import VQSVAE

# set before PyTorch is imported: without huge pages, a step spends up to a third of its time on page faults
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# a thread that waits actively blocks the core for the thread it waits for: ten times slower next to other work
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["FSVAE", "SDID", "VQSVAE", "AbsorbingDiffusion", "Model", "load", "load_params", "sample_tokens"]
_HOMES = {"load": "api", "load_params": "config", "Model": "families", "FSVAE": "fsvae", "VQSVAE": "vqsvae"}


def __getattr__(name: str) -> Any:
    """Import a name on first use, because importing torch takes seconds and not every command needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'diffusion')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
