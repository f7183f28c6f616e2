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
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.data.images import to_uint8
from spiking_diffusion.devices import pick_device
from spiking_diffusion.errors import UserError, sentence, unknown
from spiking_diffusion.progress import watch
from spiking_diffusion.randomness import generator
from spiking_diffusion.weights import save_weights

Notes = dict[str, Any]
DRAWN = ("sampler", "steps", "temperature", "guidance")
"""Notes on how a model of tokens draws, as far as it has them."""
CONFIG = "config.json"
"""The complete setting of the run, which builds the model without ``params.yaml``."""
HUB = {"mnist": "ylecun/mnist", "fmnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Datasets as Hugging Face names them."""


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

    def settled(self) -> RunSettings:
        """The setting with what was tuned in it."""
        how = self.how()
        tuned: dict[str, Any] = {key: how[key] for key in ("sampler", "temperature", "guidance") if key in how}
        recipe = self.config.recipe
        recipe = recipe.model_copy(update={"sample": recipe.sample.model_copy(update=tuned)})
        return self.config.model_copy(update={"recipe": recipe})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, ``config.json`` and a short ``README.md`` with Hugging Face's metadata into ``folder``.

        ``from_pretrained`` and ``load`` read it. Raises UserError where the folder cannot be written.
        """
        run, made_from = self.settled(), ""
        for network in run.family.networks:
            path = paths.weights_path(Path(folder), network)
            save_weights(path, getattr(self, network), made_from)
            made_from = made_from or artifacts.sha256(path)  # SDID says which VQ-SVAE its tokens are of
        artifacts.write_json(Path(folder, CONFIG), run.model_dump())
        title = f"{run.family.title} for {run.dataset.title}, recipe `{run.recipe_name}`, seed {run.recipe.seed}."
        artifacts.write_text(Path(folder, "README.md"), f"{front_matter(run, {})}\n# {run.name}\n\n{title}\n")

    @staticmethod
    def from_pretrained(folder: str | Path, device: str = "auto") -> Model:
        """The model, of whatever family, in a folder of ``save_pretrained`` or ``spiking-diffusion export``.

        Raises UserError if files are missing or damaged.
        """
        return load_pretrained(Path(folder), pick_device(device))

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


def load_pretrained(folder: Path, device: torch.device) -> Model:
    """The model in a folder of pretrained weights.

    Raises UserError if files are missing or damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        have = {other.parent.name: other for other in folder.parent.glob(f"*/{CONFIG}")}
        raise UserError(f"{path} is missing: {unknown('set of weights', folder.name, have)}")
    try:
        settings = RunSettings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({sentence(error, '')}): get the folder again") from error
    return load(settings, device, folder)


def front_matter(run: RunSettings, numbers: dict[str, float]) -> str:
    """The metadata of a model card, in YAML between two lines of dashes, as Hugging Face reads them."""
    task = "unconditional-image-generation"
    meta: dict[str, Any] = {
        "license": "mit",
        "library_name": "spiking-diffusion",
        "pipeline_tag": task,
        "tags": ["spiking-neural-network", run.model, *run.family.networks],
    }
    if run.dataset_name in HUB:
        meta["datasets"] = [HUB[run.dataset_name]]
    if numbers:
        meta["metrics"] = list(numbers)
        dataset = {"type": HUB.get(run.dataset_name, run.dataset_name), "name": run.dataset.title, "split": "test"}
        values = [{"type": key, "value": float(f"{value:.4g}")} for key, value in numbers.items()]
        result = {"task": {"type": task}, "dataset": dataset, "metrics": values}
        meta["model-index"] = [{"name": run.name, "results": [result]}]
    return f"---\n{yaml.safe_dump(meta, sort_keys=False)}---\n"
