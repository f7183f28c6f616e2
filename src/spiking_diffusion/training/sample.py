"""The ``sample`` stage: draw images from a trained model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
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

log = logging.getLogger(__name__)


@torch.no_grad()
def draw(run: RunSettings, n: int, device: torch.device) -> tuple[Tensor, dict[str, float]]:
    """``n`` images (n, C, H, W) uint8 from a run's model, and what to note of how they were drawn.

    ``network_calls``, per image: a call is one pass of the denoiser through all its time steps; FSVAE makes one in all.
    ``steps`` and ``temperature``, which FSVAE has not. The noise of a batch depends on the seed and the batch's number.
    """
    settings, seed = run.recipe.sample, run.recipe.seed
    make_deterministic(settings.threads)
    if run.model == "fsvae":
        fsvae = load_fsvae(run, device)
        images = [
            to_uint8(fsvae.sample(size, generator(device, seed, "sample", number), device)).cpu()
            for number, size in _batches(n, settings.batch_size, run.name)
        ]
        return torch.cat(images), {"network_calls": 1.0}
    drawing, temperature = Drawing(run, device), chosen_temperature(run)
    steps = drawing.diffusion.steps if settings.steps == "all" else settings.steps
    drawn, calls = drawing.draw(n, temperature, steps, "sample")
    return drawn, {"network_calls": calls, "steps": steps, "temperature": temperature}


def chosen_temperature(run: RunSettings) -> float:
    """The run's temperature; ``tuned`` is looked up in ``results/tuning/{run}.json``."""
    if run.recipe.sample.temperature != "tuned":
        return run.recipe.sample.temperature
    path = artifacts.tuning_path(run.name)
    try:
        return float(artifacts.read_json(path)["temperature"])
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, "no temperature in it") from error


class Drawing:
    """A run's two networks, ready to draw images from."""

    def __init__(self, run: RunSettings, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.vqsvae = load_vqsvae(run, device)
        self.sdid, self.diffusion = load_sdid(run, device)

    @torch.no_grad()
    def draw(self, n: int, temperature: float, steps: int, purpose: str) -> tuple[Tensor, float]:
        """``n`` images (n, C, H, W) uint8 and the network calls that one took; ``purpose`` picks the noise."""
        images, calls = [], 0
        for number, size in _batches(n, self.run.recipe.sample.batch_size, f"{purpose} {self.run.name}"):
            noise = generator(self.device, self.run.recipe.seed, purpose, number)
            shape = (size, *self.vqsvae.token_shape)
            tokens, made = sample_ancestral(
                self.sdid, self.diffusion, shape, temperature, noise, self.device, steps=steps
            )
            images.append(to_uint8(self.vqsvae.decode(tokens, noise)).cpu())
            calls += made
        return torch.cat(images), calls / n


def _batches(n: int, size: int, what: str) -> Iterator[tuple[int, int]]:
    """Number and size of each batch."""
    sizes = [min(size, n - start) for start in range(0, n, size)]
    yield from enumerate(tqdm(sizes, desc=what, disable=None))


def sample_run(params: Params, run: RunSettings, device: torch.device) -> Path:
    """Draw as many images as the recipe says and write ``results/samples/{run}.npz``.

    How long that took goes to ``work/{run}/sampling.json``: no two runs agree on it, and on ``results/`` they do.
    """
    fsvae = run.model == "fsvae"
    start = time.perf_counter()
    images, notes = draw(run, run.recipe.sample.n, device)
    seconds = time.perf_counter() - start
    log.info("%s: %d images in %.1f s, %.4f s each", run.name, len(images), seconds, seconds / len(images))
    artifacts.write_json(
        artifacts.sampling_path(run.name),
        {"device": device.type, "images": len(images), "seconds": seconds, **notes},
    )
    out = artifacts.samples_path(run.name)
    stage, models = ("fsvae_sample", ["fsvae"]) if fsvae else ("sample", ["vqsvae", "sdid"])
    inputs = [artifacts.model_path(run.name, model) for model in models]
    content = {"images": images.numpy(), **{key: np.array(value) for key, value in notes.items()}}
    made_by = {"model": artifacts.sha256(inputs[-1]), "stamp": pipeline.stamp(params, stage, run.name)}
    artifacts.write_npz(out, content | {key: np.array(digest) for key, digest in made_by.items()})
    if run.tuned:
        inputs.append(artifacts.tuning_path(run.name))
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
