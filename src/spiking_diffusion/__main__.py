"""``python -m spiking_diffusion`` is the command ``spiking-diffusion``."""

import sys

from spiking_diffusion.cli import main

sys.exit(main())
