"""The ``classifier`` stage: images and labels -> the network whose features FID and KID use."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn import functional as F

from spiking_diffusion import paths
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.devices import batches
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import Classifier
from spiking_diffusion.randomness import generator, seed_initialisation
from spiking_diffusion.weights import save_weights

log = logging.getLogger(__name__)


def run(job: Job, device: torch.device) -> dict[str, Any]:
    """Train the classifier of a dataset with Adam, and note its test accuracy."""
    name, settings, dataset = job.name, job.params.classifier, job.params.dataset(job.name)
    seed_initialisation(settings.seed, "classifier", name)
    data = load_images(paths.data_path(name))
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
    save_weights(job.out, model)
    return {"test_accuracy": accuracy}
