"""The ``tokens`` stage: a trained VQ-SVAE turns images into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.artifacts import SPLITS
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import make_deterministic
from spiking_diffusion.training.devices import batches
from spiking_diffusion.training.weights import load_weights
from spiking_diffusion.vqsvae import VQSVAE


@dataclass(frozen=True)
class TokenSet:
    """``splits[split]`` (N, h, w) int64 in [0, size), made by the VQ-SVAE whose file hashes to ``vqsvae``.

    ``stamp`` is that of the settings and the code that made them.
    """

    splits: dict[str, Tensor]
    size: int
    vqsvae: str
    stamp: str = ""


def load_vqsvae(run: RunSettings, device: torch.device) -> VQSVAE:
    """The trained VQ-SVAE of a run, in evaluation mode."""
    channels, height, width = run.dataset.shape
    model = VQSVAE(run.recipe.vqsvae, run.recipe.neuron, (channels, height, width))
    load_weights(artifacts.model_path(run.name, "vqsvae"), model, device)
    return model


@torch.no_grad()
def encode_run(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Encode all images of a run's dataset and write ``results/tokens/{run}.npz``."""
    settings = run.recipe.vqsvae
    make_deterministic(settings.train.threads)
    source, weights = artifacts.data_path(run.dataset_name), artifacts.model_path(run.name, "vqsvae")
    data = load_images(source)
    model = load_vqsvae(run, device)
    content = {"size": np.array(settings.codebook.size), "vqsvae": np.array(artifacts.sha256(weights))}
    content["stamp"] = np.array(pipeline.stamp(params, "tokens", run.name))
    for split in SPLITS:
        tokens = [
            model.encode(to_unit(part)).cpu() for part in batches(data.images[split], settings.train.batch_size, device)
        ]
        content[split] = torch.cat(tokens).numpy().astype(np.uint16)
    out = artifacts.tokens_path(run.name)
    artifacts.write_npz(out, content)
    pipeline.seal(pipeline.record(params, "tokens", run.name, [source, weights]), out)
    return out


def load_tokens(path: Path) -> TokenSet:
    """Read tokens. Raises UserError if the file is missing, damaged, or has tokens that are out of range."""
    arrays = artifacts.read_npz(path)
    try:
        size, vqsvae, stamp = int(arrays["size"]), str(arrays["vqsvae"]), str(arrays["stamp"])
        splits = {split: arrays[split] for split in SPLITS}
        if any(a.dtype != np.uint16 or a.ndim != 3 or a.size == 0 or a.max() >= size for a in splits.values()):
            raise ValueError(f"tokens must be uint16, (N, h, w) and below {size}")
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, error) from error
    return TokenSet({k: torch.from_numpy(a.astype(np.int64)) for k, a in splits.items()}, size, vqsvae, stamp)


def tokens_of(params: Params, run: RunSettings) -> TokenSet:
    """The tokens of a run. Raises UserError if other settings, other code or another VQ-SVAE made them."""
    path, weights = artifacts.tokens_path(run.name), artifacts.model_path(run.name, "vqsvae")
    tokens = load_tokens(path)
    pipeline.check_stamp(params, "tokens", run.name, path, tokens.stamp)
    if tokens.vqsvae != artifacts.sha256(weights):
        raise UserError(
            f"{path} was made by another VQ-SVAE than {weights}: make it again with `snakemake --cores all {path}`"
        )
    size, shape = run.recipe.vqsvae.codebook.size, tuple(side // 4 for side in run.dataset.shape[1:])
    if tokens.size != size or any(part.shape[1:] != shape for part in tokens.splits.values()):
        raise artifacts.damaged(path, f"tokens must be of shape {shape} and below {size}")
    return tokens
