"""Files of earlier stages. They are refused if they do not fit the current settings, code and weights."""

from __future__ import annotations

import numpy as np

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job, job_of
from spiking_diffusion.vqsvae.loading import TokenSet, load_tokens


def load_samples(params: Params, run: RunSettings) -> dict[str, np.ndarray]:
    """``images`` (N, C, H, W) uint8 drawn from a run, ``network_calls``, and the hashes of what made them.

    Raises UserError if the file is missing or damaged, or if other settings, other code or another model made it.
    """
    path = paths.samples_path(run.name)
    samples = artifacts.read_npz(path)
    images = samples.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise artifacts.damaged(path, "no images (N, C, H, W) of type uint8 in it")
    if missing := {"network_calls", "model", "stamp"} - samples.keys():
        raise artifacts.damaged(path, f"no {', '.join(sorted(missing))} in it")
    job_of(params, "sample", run.name).check_stamp(path, str(samples["stamp"]))
    weights = paths.model_path(run.name, run.family.last)
    if str(samples["model"]) != artifacts.sha256(weights):
        raise UserError(
            f"{path} was drawn from another model than {weights}: make it again with `snakemake --cores all {path}`"
        )
    return samples


def tokens_of(params: Params, run: RunSettings) -> TokenSet:
    """The tokens of a run. Raises UserError if other settings, other code or another VQ-SVAE made them."""
    path, weights = paths.tokens_path(run.name), paths.model_path(run.name, "vqsvae")
    tokens = load_tokens(path)
    Job(params, "tokens", run.name).check_stamp(path, tokens.stamp)
    if tokens.vqsvae != artifacts.sha256(weights):
        raise UserError(
            f"{path} was made by another VQ-SVAE than {weights}: make it again with `snakemake --cores all {path}`"
        )
    size, shape = run.recipe.vqsvae.codebook.size, run.token_shape
    if tokens.size != size or any(part.shape[1:] != shape for part in tokens.splits.values()):
        raise artifacts.damaged(path, f"tokens must be of shape {shape} and below {size}")
    return tokens
