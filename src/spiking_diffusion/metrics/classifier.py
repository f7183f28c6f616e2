"""Small CNNs, trained on the dataset itself, that judge its images. They need no download and are made for small
images.

Several networks that differ only in their seeds give the features for the ``classifier`` protocol. Another network, the
``reader``, measures how certain an image's class is. No FID uses the reader's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spiking_diffusion import artifacts
from spiking_diffusion.weights import load_weights, weight_shapes

CERTAIN = 0.9
"""The probability above which an image counts as legible."""


class Classifier(nn.Module):
    """Convolutions 3x3, with pooling after all but the last, a layer of features, a linear head. No spikes.

    Every layer has a batch normalisation and a GELU, so that no unit is always silent. ``cells`` is the number of
    positions after the poolings.
    """

    scale: Tensor

    def __init__(self, c_in: int, channels: Sequence[int], cells: int, features: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip([c_in, *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
            layers.append(nn.MaxPool2d(2))
        layers[-1] = nn.Flatten()
        linear = nn.Linear(channels[-1] * cells, features, bias=False)
        self.features = nn.Sequential(*layers, linear, nn.BatchNorm1d(features), nn.GELU())
        self.head = nn.Linear(features, classes)
        self.register_buffer("scale", torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> features (B, F), scaled to a mean square of 1 over the training images.

        Without the scale, FID and KID would grow with the classifier's weights and mean nothing across datasets.
        """
        return self.features(images) / self.scale

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, classes)."""
        return self.head(self.features(images))


class Judges(nn.Module):
    """The ``networks`` whose features are compared, and the ``reader``, calibrated by ``temperature``."""

    temperature: Tensor

    def __init__(
        self, number: int, c_in: int, channels: Sequence[int], cells: int, features: int, classes: int
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(Classifier(c_in, channels, cells, features, classes) for _ in range(number))
        self.reader = Classifier(c_in, channels, cells, features, classes)
        self.register_buffer("temperature", torch.ones(()))

    def embed(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [0, 1] -> the features of each network, (B, F)."""
        return [network.embed(images) for network in self.networks if isinstance(network, Classifier)]

    def read(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> probabilities (B, classes)."""
        return (self.reader(images) / self.temperature).softmax(1)


def cells_of(shape: Sequence[int], channels: Sequence[int]) -> int:
    """The number of positions of images (C, H, W) after the poolings."""
    return int(shape[1] // 2 ** (len(channels) - 1)) * int(shape[2] // 2 ** (len(channels) - 1))


def load_judges(path: Path, device: torch.device) -> Judges:
    """Trained judges, with the sizes of the weights in the file."""
    shapes = weight_shapes(path)
    try:
        convolutions = [shape for key, shape in shapes.items() if key.startswith("reader.features") and len(shape) == 4]
        (features, inputs), (classes, _) = (
            next(s for key, s in shapes.items() if key.startswith("reader.features") and len(s) == 2),
            shapes["reader.head.weight"],
        )
        channels, number = [shape[0] for shape in convolutions], sum(key.endswith("head.weight") for key in shapes) - 1
        model = Judges(number, convolutions[0][1], channels, inputs // channels[-1], features, classes)
    except (KeyError, IndexError, StopIteration, ValueError) as error:
        raise artifacts.damaged(path, f"no judges of images in it: {error}") from error
    load_weights(path, model, device)
    return model


def is_random(path: Path) -> bool:
    """Whether the judges have their initial weights, because there is only one class and nothing to learn."""
    return weight_shapes(path).get("reader.head.weight", (0,))[0] == 1
