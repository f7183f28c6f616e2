"""A small CNN trained on the dataset itself: its penultimate layer is the feature space of the
``classifier`` protocol, which needs no download and suits small grey images."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import artifacts, pipeline
from spiking_diffusion.config import Params
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import generator, make_deterministic, seed_initialisation
from spiking_diffusion.training.devices import batches
from spiking_diffusion.training.weights import load_weights, save_weights, weight_shapes

log = logging.getLogger(__name__)


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


def train_classifier(params: Params, name: str, device: torch.device) -> Path:
    """Train the classifier of a dataset with Adam, write its weights, and note its test accuracy."""
    settings, dataset = params.classifier, params.dataset(name)
    make_deterministic(settings.threads)
    seed_initialisation(settings.seed, "classifier", name)
    source = artifacts.data_path(name)
    data = load_images(source)
    c_in, height, width = data.shape
    model = Classifier(
        c_in, (settings.channels[0], settings.channels[1]), height * width // 16, settings.features, dataset.classes
    )
    model.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr)
    images, labels = data.images["train"].to(device), data.labels["train"].to(device)
    draws = generator("cpu", settings.seed, "classifier", name, "order")
    for step in range(settings.steps):
        index = torch.randint(len(images), (settings.batch_size,), generator=draws).to(device)
        loss = F.cross_entropy(model(to_unit(images[index])), labels[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradient = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not torch.isfinite(loss + gradient):
            raise UserError(
                f"classifier {name}: step {step}, the loss is {loss.item()} and its gradient {gradient.item()} "
                f"(lr {settings.lr}): nothing is kept; lower classifier.lr and run again"
            )
        optimiser.step()
    model.eval()
    with torch.no_grad():
        squares = [
            model.features(to_unit(part)).square().sum().double()
            for part in batches(images, settings.batch_size, device)
        ]
        model.scale.copy_(torch.sqrt(sum(squares, start=torch.zeros(())) / (len(images) * settings.features)))
        guesses = torch.cat(
            [model(to_unit(part)).argmax(1).cpu() for part in batches(data.images["test"], settings.batch_size, device)]
        )
    accuracy = float((guesses == data.labels["test"]).float().mean()) if dataset.classes > 1 else None
    if accuracy is None:
        log.warning("classifier %s: there are no labels to learn, so its features are those of random weights", name)
    else:
        log.info("classifier %s: test accuracy %.4f", name, accuracy)
    out = artifacts.classifier_path(name)
    identity = pipeline.record(params, "classifier", name, [source])
    save_weights(out, model)
    pipeline.seal(identity | {"test_accuracy": accuracy}, out)
    return out
