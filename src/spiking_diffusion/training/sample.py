"""The ``sample`` stage: draw images from a trained model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.diffusion import sample_ancestral
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import generator, make_deterministic
from spiking_diffusion.reporting.picture import grid
from spiking_diffusion.training.fsvae import load_fsvae
from spiking_diffusion.training.sdid import load_sdid
from spiking_diffusion.training.tokens import load_vqsvae


@torch.no_grad()
def draw(run: RunSettings, n: int, device: torch.device) -> tuple[Tensor, float]:
    """``n`` images (n, C, H, W) uint8 from a run's model, and the network calls that one image took.

    A call is one pass of the denoiser through all its time steps; FSVAE makes one pass in all. The noise of a
    batch depends on the seed and the batch's number.
    """
    settings, seed = run.recipe.sample, run.recipe.seed
    make_deterministic(settings.threads)
    images: list[Tensor] = []
    calls = 0
    sizes = [min(settings.batch_size, n - start) for start in range(0, n, settings.batch_size)]
    if run.model == "fsvae":
        fsvae = load_fsvae(run, device)
        for number, size in enumerate(tqdm(sizes, desc=f"sample {run.name}", disable=None)):
            images.append(to_uint8(fsvae.sample(size, generator(device, seed, "sample", number), device)).cpu())
            calls += size
    else:
        vqsvae, (sdid, diffusion) = load_vqsvae(run, device), load_sdid(run, device)
        for number, size in enumerate(tqdm(sizes, desc=f"sample {run.name}", disable=None)):
            noise = generator(device, seed, "sample", number)
            tokens, made = sample_ancestral(
                sdid,
                diffusion,
                (size, *vqsvae.token_shape),
                settings.temperature,
                noise,
                device,
                steps=None if settings.steps == "all" else settings.steps,
            )
            images.append(to_uint8(vqsvae.decode(tokens, noise)).cpu())
            calls += made
    return torch.cat(images), calls / n


def sample_run(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Draw as many images as the recipe says and write ``results/samples/{run}.npz``."""
    fsvae = run.model == "fsvae"
    images, calls = draw(run, run.recipe.sample.n, device)
    out = artifacts.samples_path(run.name)
    stage, models = ("fsvae_sample", ["fsvae"]) if fsvae else ("sample", ["vqsvae", "sdid"])
    inputs = [artifacts.model_path(run.name, model) for model in models]
    artifacts.write_json(artifacts.settings_path(out), pipeline.record(params, stage, run.name, inputs))
    artifacts.write_npz(out, {"images": images.numpy(), "network_calls": np.array(calls)})
    return out


def sample_picture(run: RunSettings, n: int, out: Path, device: torch.device) -> Path:
    """Draw ``n`` images and write them as one PNG, near square."""
    if out.suffix != ".png":
        raise UserError(f"--out is {str(out)!r}: give a name that ends in .png")
    images, _ = draw(run, n, device)
    picture = Image.fromarray(grid(images.numpy(), columns=math.ceil(math.sqrt(n))))
    artifacts.write_atomic(out, lambda file: picture.save(file, format="PNG"))
    return out
