"""The trained networks of a run behind one interface for all families.

Each family has a module here with a subclass of ``Model`` under the name ``MODEL``. ``config.families`` lists the
modules. Code outside never asks for the family of a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.errors import UserError
from spiking_diffusion.progress import watch
from spiking_diffusion.randomness import generator

Notes = dict[str, Any]


class Batch(NamedTuple):
    """Images drawn together, the number of network calls for all of them, and their conditions (B,), if any."""

    images: Tensor
    calls: int
    conditions: Tensor | None = None


class Drawn(NamedTuple):
    """Images (n, C, H, W) uint8, how they were drawn, and their conditions (n,), if any."""

    images: Tensor
    notes: Notes
    conditions: Tensor | None


class Counter(Protocol):
    """The part of ``metrics.energy.Counter`` that ``Model.count`` uses."""

    def counting(self, images: int, **stages: nn.Module) -> AbstractContextManager[None]: ...


class Model(ABC):
    """The trained networks of a run.

    ``config`` has the complete settings of the run. ``device`` is the device on which it computes. Images are float (B,
    C, H, W) in [0, 1].
    """

    def __init__(self, config: RunSettings, device: torch.device) -> None:
        self.config = config
        self.device = device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.name!r}, {self.device})"

    @property
    def options(self) -> set[str]:
        """The options of ``sample`` that say how images are drawn."""
        return set()

    @abstractmethod
    def draw_batch(self, size: int, noise: torch.Generator, **how: Any) -> Batch:
        """``size`` new images."""

    @abstractmethod
    def how(self, **how: Any) -> Notes:
        """The settings for drawing images: those in ``how``, and the recipe's for the others."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images -> their codes."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> images."""

    @abstractmethod
    def unclamped(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Images -> their reconstructions before clamping, in (-0.5, 1.5), 0 is black and 1 is white.

        ``noise`` is for families with random encoding.
        """

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Images -> their reconstructions in [0, 1]. ``noise`` is as in ``unclamped``."""
        return self.unclamped(images, noise).clamp(0, 1)

    @abstractmethod
    def numbers(self, params: Params) -> dict[str, Any]:
        """Metrics on test data that only this family has."""

    @abstractmethod
    def count(self, counter: Counter, images: Tensor, n: int, params: Params) -> Notes:
        """Encode ``images`` and draw ``n`` images while ``counter`` counts. Returns how they were drawn."""

    @torch.no_grad()
    def sample(self, n: int = 64, *, seed: int | None = None, **how: Any) -> Tensor:
        """Draw ``n`` images: float (n, C, H, W) in [0, 1] on the CPU.

        ``seed`` is the recipe's by default. On the CPU, the same seed, number and settings give the same images. A
        model of tokens also takes ``sampler``, ``steps``, ``temperature`` and ``callback`` (see ``sample_tokens``). A
        model that was trained with conditions also takes ``guidance`` and the number of a ``condition``, such as a
        class.

        >>> from spiking_diffusion import load
        >>> images = load("digits").sample(2, temperature=0.8, steps=8)
        >>> images.shape, bool(images.min() >= 0), bool(images.max() <= 1)
        (torch.Size([2, 1, 28, 28]), True, True)

        Raises UserError if ``n`` is less than 1.
        """
        if n < 1:
            raise UserError(f"n is {n}: ask for 1 image or more")
        return torch.cat([part.images.cpu() for part in self._parts(n, "sample", seed, how)])

    @torch.no_grad()
    def draw(self, n: int, purpose: str = "sample", **how: Any) -> Drawn:
        """``n`` images, uint8.

        ``purpose`` picks the noise. ``network_calls`` of the notes is per image. A call is one pass of the denoiser
        through all its time steps. A model without a denoiser makes one call.
        """
        images, calls, conditions = [], 0, []
        for part in self._parts(n, purpose, None, how):
            images.append(to_uint8(part.images).cpu())
            calls += part.calls
            conditions += [] if part.conditions is None else [part.conditions.cpu()]
        notes = {"network_calls": calls / n, **self.how(**how)}
        return Drawn(torch.cat(images), notes, torch.cat(conditions) if conditions else None)

    def checked(self, images: Tensor) -> Tensor:
        """Move images to the model's device. Raises UserError for a shape other than (B, C, H, W), and for integers."""
        if images.dim() != 4 or list(images.shape[1:]) != self.config.dataset.shape:
            raise UserError(
                f"images have shape {tuple(images.shape)}, {self.config.name} takes (B, *{self.config.dataset.shape})"
            )
        if not images.is_floating_point():
            raise UserError(f"images are {images.dtype}: give floats in [0, 1], such as images / 255")
        return images.to(self.device)

    def _parts(self, n: int, purpose: str, seed: int | None, how: dict[str, Any]) -> Iterator[Batch]:
        """Batches. The noise of each depends only on seed, purpose and its number."""
        batch, seed = self.config.recipe.sample.batch_size, self.config.recipe.seed if seed is None else seed
        sizes = [min(batch, n - start) for start in range(0, n, batch)]
        for number, size in enumerate(watch(sizes, f"{purpose} {self.config.name}, batch", len(sizes))):
            yield self.draw_batch(size, generator(self.device, seed, purpose, number), **how)


def load(run: RunSettings, device: torch.device, folder: Path | None = None) -> Model:
    """The trained networks of a run, with the weights in ``folder`` (default: the run's folder).

    Raises UserError if files are missing, damaged, or do not fit the settings or each other.
    """
    model: Model = import_module(f"spiking_diffusion.{run.family.module}").MODEL(run, device, folder)
    return model
