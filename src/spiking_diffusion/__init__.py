"""Spiking-Diffusion: vector-quantised discrete diffusion made of spiking neurons.

Shapes throughout the package: images ``(B, C, H, W)`` in [0, 1], spike trains time first ``(T, B, C, H, W)``
in {0, 1}, tokens ``(B, H, W)`` int64 in [0, K), with K itself for [MASK].
"""

import os

# before PyTorch is imported: large tensors in huge pages, or a step spends up to a third of its time on page faults
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# a thread that waits actively keeps the core from the one waited for: with other work beside it, ten times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
