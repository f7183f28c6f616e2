"""Weights as files: safetensors, which run no code when they are loaded."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from spiking_diffusion import artifacts
from spiking_diffusion.errors import UserError


def save_weights(path: Path, module: nn.Module, made_from: str = "") -> None:
    """Write weights as safetensors. ``made_from`` is the hash of the weights that they belong to."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    # one key at most: safetensors writes several in arbitrary order
    artifacts.write_bytes(path, safetensors.torch.save(tensors, {"made_from": made_from}))


def halved(path: Path, made_from: str) -> bytes:
    """The content of a file of weights with float16 instead of float32, and another ``made_from``.

    Raises UserError if a number is too large for float16.
    """
    tensors = safetensors.torch.load(artifacts.require(path).read_bytes())
    small = {key: value.half() if value.dtype == torch.float32 else value for key, value in tensors.items()}
    if any(value.is_floating_point() and not torch.isfinite(value).all() for value in small.values()):
        raise UserError(f"{path} has numbers that are too large for float16: export it without --half")
    return safetensors.torch.save(small, {"made_from": made_from})


def load_weights(path: Path, module: nn.Module, device: torch.device) -> str:
    """Load weights into ``module``, move it to ``device`` in evaluation mode, and return their ``made_from``.

    Raises UserError if the file is missing, damaged, or belongs to a network with other sizes.
    """
    artifacts.require(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            made_from = (file.metadata() or {}).get("made_from", "")
            module.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except Exception as error:
        raise UserError(
            f"{path} does not fit its settings or is damaged ({' '.join(str(error).split())[:300]}): train it again"
        ) from error
    module.to(device).eval()
    return made_from


def weight_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a safetensors file. Raises UserError if it is missing or damaged."""
    artifacts.require(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise artifacts.damaged(path, error) from error
