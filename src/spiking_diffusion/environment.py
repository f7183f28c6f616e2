"""Variables that our libraries read, and that a notebook or a container may have set: those that must not count.

docs/faults.md lists those that may.
"""

from __future__ import annotations

import os

DROPPED = (
    *("MPLBACKEND", "MATPLOTLIBRC"),  # a notebook's backend is no module here; a style of one's own changes figures
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),  # float32 would be rounded to bfloat16
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),  # and to TF32
    "CUBLAS_WORKSPACE_CONFIG",  # deterministic kernels need one that we set
    "OMP_DYNAMIC",  # bits of a sum depend on the number of threads, which is a setting
    "SOURCE_DATE_EPOCH",  # the only date in a figure would be this
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),  # of a hook: another repository than the one here
)
"""Variables that a command forgets, for itself and the programs that it starts."""


def settle() -> None:
    """Forget ``DROPPED``. It must come before the libraries are imported that read them."""
    for name in DROPPED:
        os.environ.pop(name, None)
