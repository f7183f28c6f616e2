"""The ``inspect`` stage: small arrays from inside a trained run, as inputs of figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_split, to_uint8, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.diffusion import AbsorbingDiffusion
from spiking_diffusion.families.inputs import load_samples, tokens_of
from spiking_diffusion.families.spiking_diffusion import SpikingDiffusion, drawn_how
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn import psp
from spiking_diffusion.vqsvae import VQSVAE

SAMPLES, DECODED = 16, 1000
"""Number of samples that are followed from masks to images, and of training images that show what codes decode to."""


@torch.no_grad()
def run(job: Job, device: torch.device) -> None:
    """Write ``results/traces/{run}.npz``: codes as images, samples after each step, spikes of one test image.

    ``codes``              (K, C, 3 H/h, 3 W/w) uint8, what each code and its eight neighbours decode to on average
    ``occurrences``        (K,) int64, the number of positions in that average; ``codes`` is black without any
    ``trajectory_tokens``  (T_d+1, SAMPLES, h, w) uint16, h_t at index t; K is the mask
    ``trajectory_images``  (T_d+1, SAMPLES, C, H, W) uint8, the same decoded
    ``image``              (C, H, W) uint8, a test image, and ``reconstruction``
    ``encoder_spikes``     (T, c, h, w) uint8 of that image, and ``encoder_psp`` float32; ``asg_spikes``, ``asg_psp``
    """
    image = load_split(paths.data_path(job.run.dataset_name), "test")[:1]
    drawn = load_samples(job.params, job.run)
    train = tokens_of(job.params, job.run).splits["train"][:DECODED]
    model = SpikingDiffusion(job.run, device)
    size = job.run.recipe.vqsvae.codebook.size
    codes, occurrences = codes_in_context(train.numpy(), _decode(model, train), size)
    content = {
        "codes": codes,
        "occurrences": occurrences,
        **_trajectory(model, **drawn_how(drawn)),
        **_spikes(model.vqsvae, image.to(device)),
    }
    artifacts.write_npz(job.out, content)


def _decode(model: SpikingDiffusion, tokens: Tensor) -> np.ndarray:
    """Tokens (N, h, w) in [0, K] -> images (N, C, H, W) uint8, some at a time."""
    return torch.cat([to_uint8(model.decode(part)).cpu() for part in batches(tokens, 100, model.device)]).numpy()


def codes_in_context(tokens: np.ndarray, images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N, h, w) and the images (N, C, H, W) uint8 they decode to -> for each of ``size`` codes the mean image of
    its cell and the eight around it, as far as they are in the image, (size, C, 3 H/h, 3 W/w) uint8, and its number of
    occurrences (size,).
    """
    _, h, w = tokens.shape
    _, channels, height, width = images.shape
    y, x = height // h, width // w
    total, count = np.zeros((size, channels, 3 * y, 3 * x)), np.zeros((size, 1, 3 * y, 3 * x))
    border = ((0, 0), (0, 0), (y, y), (x, x))
    padded, inside = np.pad(images, border), np.pad(np.ones((1, 1, height, width)), border)
    for i in range(h):
        for j in range(w):
            around = np.s_[..., i * y : (i + 3) * y, j * x : (j + 3) * x]
            np.add.at(total, tokens[:, i, j], padded[around])
            np.add.at(count, tokens[:, i, j], inside[around])
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return mean.round().astype(np.uint8), np.bincount(tokens.ravel(), minlength=size)


def trajectory(
    draw: Callable[[Callable[[Tensor, Tensor], None]], Any], diffusion: AbsorbingDiffusion, shape: tuple[int, int, int]
) -> Tensor:
    """h_T_d, ..., h_0 of samples ``shape`` (B, h, w): (T_d+1, B, h, w), h_t at index t.

    ``draw`` draws them with the paper's sampler and calls the given callback.
    """
    states = torch.full((diffusion.steps + 1, *shape), diffusion.mask)

    def note(tokens: Tensor, t: Tensor) -> None:
        for sample in t.nonzero().flatten().tolist():
            states[: int(t[sample]), sample] = tokens[sample].cpu()  # until a later round overwrites them

    draw(note)
    return states


def _trajectory(model: SpikingDiffusion, **how: Any) -> dict[str, np.ndarray]:
    """Samples after each step, drawn in the same way as the run's samples."""
    noise = generator(model.device, model.config.recipe.seed, "inspect", "trajectory")
    states = trajectory(
        lambda note: model.draw_tokens(SAMPLES, noise, callback=note, **how),
        model.diffusion,
        (SAMPLES, *model.vqsvae.token_shape),
    )
    images = _decode(model, states.flatten(0, 1))
    return {
        "trajectory_tokens": states.numpy().astype(np.uint16),
        "trajectory_images": images.reshape(*states.shape[:2], *images.shape[1:]),
    }


def _spikes(model: VQSVAE, image: Tensor) -> dict[str, np.ndarray]:
    """Spike trains of encoder and generator for one image (1, C, H, W) uint8, and their postsynaptic potentials."""
    out = model(to_unit(image))
    found = {"image": image[0].cpu().numpy(), "reconstruction": to_uint8(out.images.clamp(0, 1))[0].cpu().numpy()}
    for name, spikes in (("encoder", out.encoder_spikes), ("asg", out.asg_spikes)):
        found[f"{name}_spikes"] = spikes[:, 0].cpu().numpy().astype(np.uint8)
        found[f"{name}_psp"] = psp(spikes, model.settings.tau_syn)[:, 0].cpu().numpy()
    return found
