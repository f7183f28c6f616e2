"""Compare what SpikingJelly and snnTorch make of a model's NIR files with the model itself (docs/nir.md).

`python docs/nir_readers.py pretrained/mnist-best nir`, after
`spiking-diffusion export --pretrained mnist-best --nir nir`.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import nir
import torch
from snntorch.import_nir import import_from_nir
from spikingjelly.activation_based import nir_exchange
from torch import Tensor

import spiking_diffusion as sd
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion


def by_spikingjelly(path: Path, current: Tensor) -> Tensor:
    """What the graph in a file sends, (T, B, ...), for an input current (T, B, ...)."""
    network = nir_exchange.import_from_nir(path, step_mode="m")
    return network(current)[0]


def by_snntorch(path: Path, current: Tensor) -> Tensor:
    """The same, step by step: its neurons keep their membranes, so a new sequence needs a new import."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it moves the factor 1 / tau into the threshold
        network = import_from_nir(nir.read(path))
    return torch.stack([network(x)[0] for x in current])


READERS: dict[str, Callable[[Path, Tensor], Tensor]] = {"SpikingJelly": by_spikingjelly, "snnTorch": by_snntorch}


@torch.no_grad()
def compare(model: SpikingDiffusion, folder: Path) -> list[str]:
    """A row of Markdown for each part and reader: 16 images of the model's own, half of their tokens masked."""
    images = model.sample(16, seed=1)
    spikes = model.vqsvae.encoder(images)
    tokens = model.encode(images)
    tokens[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = model.diffusion.mask
    t = (tokens == model.diffusion.mask).sum((1, 2))
    logits, current = model.sdid(tokens, t), model.sdid.current(tokens, t)
    rows = []
    for reader, read in READERS.items():
        found = read(folder / "encoder.nir", (images - 0.5).expand(len(spikes), *images.shape))
        sent = read(folder / "sdid.nir", current.expand(model.sdid.settings.T, *current.shape)).mean(0)
        differ = f"{int((found != spikes).sum())} of {spikes.numel():,}"
        rows.append(f"| `{model.config.name}` | {reader} | {differ} | {float((sent - logits).abs().max()):.1e} |")
    return rows


if __name__ == "__main__":
    print(*compare(sd.load(sys.argv[1], device="cpu"), Path(sys.argv[2])), sep="\n")
