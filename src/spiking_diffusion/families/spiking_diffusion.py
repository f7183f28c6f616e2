"""Spiking-Diffusion: VQ-SVAE and SDID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.diffusion import sample_tokens
from spiking_diffusion.diffusion.absorbing import bits_per_token, log_likelihoods
from spiking_diffusion.diffusion.loading import load_sdid
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import DRAWN, Batch, Counter, Model, Notes
from spiking_diffusion.families.inputs import load_samples, tokens_of
from spiking_diffusion.randomness import generator
from spiking_diffusion.vqsvae.codebook import perplexity
from spiking_diffusion.vqsvae.loading import load_vqsvae


class SpikingDiffusion(Model):
    """Images <-> tokens (``vqsvae``), and new tokens from masks (``sdid`` with its process ``diffusion``)."""

    def __init__(self, config: RunSettings, device: torch.device, folder: Path | None = None) -> None:
        super().__init__(config, device)
        self.vqsvae = load_vqsvae(config, device, folder)
        self.sdid, self.diffusion = load_sdid(config, device, folder)
        self.root = folder.resolve().parents[2] if folder else Path()  # the project folder with its tuning

    @property
    def options(self) -> set[str]:
        return {"sampler", "temperature", "steps"} | ({"condition", "guidance"} if self.sdid.conditions else set())

    def how(  # type: ignore[override]
        self,
        sampler: str | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        condition: int | None = None,
        callback: Any = None,
    ) -> Notes:
        if steps is None:
            steps = (
                self.diffusion.steps if self.config.recipe.sample.steps == "all" else self.config.recipe.sample.steps
            )
        given = {"sampler": sampler, "temperature": temperature}
        if self.sdid.conditions:
            given["guidance"] = guidance
        notes = {k: chosen(k, self.config, self.root) if v is None else v for k, v in given.items()}
        return {"steps": steps, **notes}

    def draw_tokens(
        self,
        size: int,
        noise: torch.Generator,
        condition: int | None = None,
        callback: Any = None,
        known: Tensor | None = None,
        **how: Any,
    ) -> tuple[Tensor, int, Tensor | None]:
        """``size`` grids of tokens, the number of network calls for all of them, and their conditions.

        Tokens ``known`` (1, h, w) in [0, K] are kept unless they are the mask K.
        """
        notes = self.how(**how)
        told = self._conditions_of(size, condition, noise, known)
        tokens, calls = sample_tokens(
            self.sdid,
            self.diffusion,
            (size, *self.vqsvae.token_shape),
            notes["temperature"],
            noise,
            self.device,
            callback,
            steps=int(notes["steps"]),
            condition=told,
            guidance=notes.get("guidance", 0.0),
            sampler=notes["sampler"],
            known=None if known is None else known.expand(size, -1, -1),
        )
        return tokens, calls, told

    def draw_batch(self, size: int, noise: torch.Generator, **how: Any) -> Batch:
        tokens, calls, told = self.draw_tokens(size, noise, **how)
        return Batch(self.vqsvae.decode(tokens, noise), calls, told)

    @torch.no_grad()
    def inpaint(
        self,
        image: Tensor,
        mask: Tensor,
        n: int = 8,
        *,
        seed: int | None = None,
        condition: int | None = None,
        **how: Any,
    ) -> Tensor:
        """``n`` completions of an ``image`` (1, C, H, W) in [0, 1] where ``mask`` (H, W) bool is True: (n, C, H, W).

        Tokens that see a masked pixel (``VQSVAE.covered``) are redrawn. The other tokens and the pixels outside the
        mask are kept. A model with conditions draws a condition for each completion, with its probability given the
        known tokens, unless ``condition`` names one. ``how`` is as in ``sample``.

        Raises UserError for shapes that do not fit and for an unknown condition.
        """
        image, height, width = self.checked(image), *self.config.dataset.shape[1:]
        if len(image) != 1 or mask.shape != (height, width) or mask.dtype != torch.bool or n < 1:
            raise UserError(
                f"inpaint takes 1 image, a mask ({height}, {width}) of bools, and n of 1 or more; these are "
                f"{len(image)}, {tuple(mask.shape)} of {str(mask.dtype).removeprefix('torch.')}, and {n}"
            )
        mask = mask.to(self.device)
        known = self.encode(image * ~mask).masked_fill(self.vqsvae.covered(mask[None]), self.diffusion.mask)
        parts = self._parts(n, "inpaint", seed, {"known": known, "condition": condition, **how})
        return torch.where(mask, torch.cat([part.images for part in parts]), image).cpu()

    def _conditions_of(
        self, size: int, condition: int | None, noise: torch.Generator, known: Tensor | None
    ) -> Tensor | None:
        """``size`` conditions: the requested one, or random ones, given the tokens ``known`` (1, h, w) if there are
        any."""
        if condition is not None:
            if not 0 <= condition < self.sdid.conditions:
                raise UserError(f"condition is {condition}: {self.config.name} has {self.sdid.conditions} conditions")
            return torch.full((size,), condition, device=self.device)
        log_p = None
        if known is not None and self.sdid.conditions:
            log_p = log_likelihoods(self.sdid, self.diffusion, known[0], self.sdid.conditions, noise)
        return self.sdid.draw_conditions(size, noise, log_p)

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
            self.sdid,
            self.diffusion,
            tokens.splits["test"],
            recipe.evaluate.batch_size,
            noise,
            self.device,
            tokens.conditions["test"].to(self.device) if self.sdid.conditions else None,
        )
        return {
            "bits_per_token": bound,
            "bits_per_token_error": error,
            "perplexity": spread,
            "codes_used": used,
            "k": float(self.vqsvae.k),
        }

    def count(self, counter: Counter, images: Tensor, n: int, params: Params) -> Notes:
        """Draws as in the stage ``sample``."""
        samples = load_samples(params, self.config)
        with counter.counting(len(images), encoder=self.vqsvae.encoder):
            self.encode(images)
        asg = {"asg": self.vqsvae.asg} if self.config.recipe.vqsvae.coding == "asg" else {}
        with counter.counting(n, sdid=self.sdid, **asg, decoder=self.vqsvae.decoder):
            notes = self.draw(n, "energy", **drawn_how(samples)).notes
        return {"network_calls": notes["network_calls"], "T": self.config.recipe.sdid.T}


MODEL = SpikingDiffusion


def drawn_how(samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """How a run's samples were drawn, to draw more in the same way."""
    return {key: samples[key].item() for key in DRAWN if key in samples}


def chosen(key: str, run: RunSettings, root: Path = Path()) -> Any:
    """The run's sampler, temperature or guidance. For ``tuned`` it is read from ``results/tuning/{run}.json``."""
    value = getattr(run.recipe.sample, key)
    if value != "tuned":
        return value
    path, kind = root / paths.tuning_path(run.name), str if key == "sampler" else float
    try:
        return kind(artifacts.read_json(path)[key])
    except (KeyError, TypeError, ValueError) as error:
        raise artifacts.damaged(path, f"no {key} in it") from error
