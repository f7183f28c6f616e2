"""Random numbers and determinism."""

import os
import subprocess
import sys

import pytest


def test_determinism_does_not_load_the_compiler() -> None:
    """``torch.use_deterministic_algorithms`` imports it: three seconds of ``encode``, ``sample`` and others."""
    code = (
        "import sys, torch\n"
        "from spiking_diffusion.randomness import make_deterministic\n"
        "make_deterministic(1)\n"
        "assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1\n"
        "assert torch.is_deterministic_algorithms_warn_only_enabled() == torch.cuda.is_available()\n"
        "assert 'torch._dynamo' not in sys.modules and 'torch._inductor' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("variables", "threads"), [({"OMP_THREAD_LIMIT": "1"}, 2), ({"OMP_THREAD_LIMIT": "3"}, 4)])
def test_fewer_threads_than_asked_for_are_refused(variables: dict[str, str], threads: int) -> None:
    """With two of which one is granted, the first backward pass of a convolution never ended."""
    code = (
        "from spiking_diffusion.errors import UserError\n"
        "from spiking_diffusion.randomness import make_deterministic\n"
        f"make_deterministic({threads - 1})\n"
        f"try:\n    make_deterministic({threads})\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | variables
    )
    assert done.stdout.startswith(f"the settings ask for {threads} threads, and OMP_THREAD_LIMIT allows {threads - 1}:")


def test_all_threads_are_those_asked_for() -> None:
    """Whatever the variables of NumPy's and PyTorch's libraries say; a busy machine may not lower the number either."""
    code = (
        "import ctypes, os, numpy, torch\n"
        "from threadpoolctl import threadpool_info\n"
        "from spiking_diffusion.randomness import make_deterministic\n"
        "make_deterministic(2)\n"
        "import scipy.linalg\n"
        "pools = threadpool_info()\n"
        "assert {'openmp', 'blas'} <= {pool['user_api'] for pool in pools}\n"
        "assert {pool['num_threads'] for pool in pools} == {2}, pools\n"
        "dynamic = [ctypes.CDLL(p['filepath']).omp_get_dynamic() for p in pools if p['user_api'] == 'openmp']\n"
        "assert not any(dynamic)\n"
    )
    variables = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "5", "OMP_DYNAMIC": "TRUE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | variables)
