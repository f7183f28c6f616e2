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
    content = {"images": images.numpy(), "network_calls": np.array(calls)}
    made_by = {"model": artifacts.sha256(inputs[-1]), "stamp": pipeline.stamp(params, stage, run.name)}
    artifacts.write_npz(out, content | {key: np.array(digest) for key, digest in made_by.items()})
    pipeline.seal(pipeline.record(params, stage, run.name, inputs), out)
    return out


def load_samples(params: Params, run: RunSettings) -> dict[str, np.ndarray]:
    """``images`` (N, C, H, W) uint8 drawn from a run, ``network_calls``, and the hashes of what made them.

    Raises UserError if the file is missing or damaged, or if other settings, other code or another model made it.
    """
    path = artifacts.samples_path(run.name)
    stage, model = ("fsvae_sample", "fsvae") if run.model == "fsvae" else ("sample", "sdid")
    samples = artifacts.read_npz(path)
    images = samples.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise artifacts.damaged(path, "no images (N, C, H, W) of type uint8 in it")
    if missing := {"network_calls", "model", "stamp"} - samples.keys():
        raise artifacts.damaged(path, f"no {', '.join(sorted(missing))} in it")
    pipeline.check_stamp(params, stage, run.name, path, str(samples["stamp"]))
    weights = artifacts.model_path(run.name, model)
    if str(samples["model"]) != artifacts.sha256(weights):
        raise UserError(
            f"{path} was drawn from another model than {weights}: make it again with `snakemake --cores all {path}`"
        )
    return samples


def sample_picture(run: RunSettings, n: int, out: Path, device: torch.device) -> Path:
    """Draw ``n`` images and write them as one PNG, near square."""
    if out.suffix != ".png":
        raise UserError(f"--out is {str(out)!r}: give a name that ends in .png")
    images, _ = draw(run, n, device)
    picture = Image.fromarray(grid(images.numpy(), columns=math.ceil(math.sqrt(n))))
    artifacts.write_atomic(out, lambda file: picture.save(file, format="PNG"))
    return out
