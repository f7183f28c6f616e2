"""A small CNN trained on the dataset itself: its penultimate layer is the feature space of the
``classifier`` protocol, which needs no download and suits small grey images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from spiking_diffusion import artifacts
from spiking_diffusion.weights import load_weights, weight_shapes


class Classifier(nn.Module):
    """Two 3x3 convolutions with pooling, a feature layer with ReLU, a linear head. No spikes.

    ``cells`` is the number of positions that two poolings leave, H/4 x W/4.
    """

    scale: Tensor

    def __init__(self, c_in: int, channels: tuple[int, int], cells: int, features: int, classes: int) -> None:
        super().__init__()
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(c_in, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * cells, features),
            nn.ReLU(),
        )
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


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """A trained classifier; its sizes are those of the weights in the file."""
    shapes = weight_shapes(path)
    try:
        (first, c_in, *_), (second, *_) = shapes["features.0.weight"], shapes["features.3.weight"]
        (features, cells), (classes, _) = shapes["features.7.weight"], shapes["head.weight"]
    except KeyError as error:
        raise artifacts.damaged(path, f"no {error} in it") from error
    model = Classifier(c_in, (first, second), cells // second, features, classes)
    load_weights(path, model, device)
    return model


def is_random(path: Path) -> bool:
    """Whether a classifier has the weights that it began with: one class is nothing to learn."""
    return weight_shapes(path).get("head.weight", (0,))[0] == 1
