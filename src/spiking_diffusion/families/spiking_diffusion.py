"""Spiking-Diffusion: VQ-SVAE and SDID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.diffusion import sample_ancestral
from spiking_diffusion.diffusion.absorbing import bits_per_token
from spiking_diffusion.diffusion.loading import load_sdid
from spiking_diffusion.families import Counter, Model, Notes
from spiking_diffusion.families.inputs import load_samples, tokens_of
from spiking_diffusion.randomness import generator
from spiking_diffusion.vqsvae.codebook import perplexity
from spiking_diffusion.vqsvae.loading import load_vqsvae


class SpikingDiffusion(Model):
    """Images <-> tokens (``vqsvae``), and new tokens out of masks (``sdid`` with its process ``diffusion``)."""

    def __init__(self, config: RunSettings, device: torch.device, root: Path = Path()) -> None:
        super().__init__(config, device)
        self.root = root
        self.vqsvae = load_vqsvae(config, device, root)
        self.sdid, self.diffusion = load_sdid(config, device, root)

    def how(  # type: ignore[override]
        self, temperature: float | None = None, steps: int | None = None, callback: Any = None
    ) -> Notes:
        if temperature is None:
            temperature = chosen_temperature(self.config, self.root)
        if steps is None:
            steps = (
                self.diffusion.steps if self.config.recipe.sample.steps == "all" else self.config.recipe.sample.steps
            )
        return {"steps": steps, "temperature": temperature}

    def draw_batch(self, size: int, noise: torch.Generator, callback: Any = None, **how: Any) -> tuple[Tensor, int]:
        chosen, shape = self.how(**how), (size, *self.vqsvae.token_shape)
        tokens, calls = sample_ancestral(
            self.sdid,
            self.diffusion,
            shape,
            chosen["temperature"],
            noise,
            self.device,
            callback,
            steps=int(chosen["steps"]),
        )
        return self.vqsvae.decode(tokens, noise), calls

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> tokens (B, h, w) int64 in [0, K)."""
        return self.vqsvae.encode(self.checked(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Tokens (B, h, w) in [0, K] -> images (B, C, H, W) in [0, 1]; a masked token, K, sends no current."""
        return self.vqsvae.decode(codes.to(self.device))

    @torch.no_grad()
    def unclamped(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.vqsvae.unclamped(self.encode(images))

    def numbers(self, params: Params) -> dict[str, Any]:
        recipe, tokens = self.config.recipe, tokens_of(params, self.config)
        noise = generator(self.device, recipe.seed, "evaluate", "bound")
        spread, used = perplexity(tokens.splits["test"], tokens.size)
        bound, error = bits_per_token(
            self.sdid, self.diffusion, tokens.splits["test"], recipe.evaluate.batch_size, noise, self.device
        )
        return {
            "bits_per_token": bound,
            "bits_per_token_error": error,
            "perplexity": spread,
            "codes_used": used,
            "k": float(self.vqsvae.k),
            "sampler": recipe.sample.sampler,
        }

    def count(self, counter: Counter, images: Tensor, n: int, params: Params) -> Notes:
        """Draws as the stage ``sample`` did, in as many steps and at the same temperature."""
        samples = load_samples(params, self.config)
        with counter.counting(len(images), encoder=self.vqsvae.encoder):
            self.encode(images)
        asg = {"asg": self.vqsvae.asg} if self.config.recipe.vqsvae.coding == "asg" else {}
        with counter.counting(n, sdid=self.sdid, **asg, decoder=self.vqsvae.decoder):
            _, notes = self.draw(n, "energy", temperature=float(samples["temperature"]), steps=int(samples["steps"]))
        return {"network_calls": notes["network_calls"], "T": self.config.recipe.sdid.T}


MODEL = SpikingDiffusion


def chosen_temperature(run: RunSettings, root: Path = Path()) -> float:
    """The run's temperature; ``tuned`` is looked up in ``results/tuning/{run}.json``."""
    if run.recipe.sample.temperature != "tuned":
        return run.recipe.sample.temperature
    path = root / paths.tuning_path(run.name)
    try:
        return float(artifacts.read_json(path)["temperature"])
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, "no temperature in it") from error
