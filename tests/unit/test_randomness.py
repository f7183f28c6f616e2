"""Random numbers and determinism."""

import subprocess
import sys


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
