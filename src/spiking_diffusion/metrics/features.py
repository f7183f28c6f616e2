"""FID and KID by torch-fidelity on the features of the pipeline's own classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor

from spiking_diffusion import config
from spiking_diffusion.data.images import to_unit
from spiking_diffusion.metrics.classifier import load_classifier


class ClassifierFeatures(FeatureExtractorBase):
    """A dataset's classifier as torch-fidelity wants it: uint8 (B, 3, H, W) -> its penultimate layer."""

    NAME = "dataset-classifier"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.classifier = load_classifier(Path(feature_extractor_weights_path), torch.device("cpu"))
        self.channels = self.classifier.features[0].in_channels

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.classifier.embed(to_unit(images[:, : self.channels])),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("penultimate",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "penultimate"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


register_feature_extractor(ClassifierFeatures.NAME, ClassifierFeatures)


class RGBImages(Dataset[Tensor]):
    """What torch-fidelity asks for: uint8 (3, H, W); grey images get three equal channels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(3, -1, -1)


def fid_and_kid(
    images: Tensor, real: Tensor, classifier: Path, settings: config.Evaluate, seed: int, device: torch.device
) -> dict[str, float]:
    """FID and KID of two sets of images (N, C, H, W) uint8 in the features of ``classifier``.

    KID's subsets are no larger than the smaller set; ``kid_subset_size`` in the result says how large.
    """
    subset = min(settings.kid_subset_size, len(images), len(real))
    found = torch_fidelity.calculate_metrics(
        input1=RGBImages(images),
        input2=RGBImages(real),
        cuda=device.type == "cuda",
        batch_size=settings.batch_size,
        fid=True,
        kid=True,
        kid_subset_size=subset,
        kid_subsets=settings.kid_subsets,
        rng_seed=seed,
        feature_extractor=ClassifierFeatures.NAME,
        feature_extractor_weights_path=str(classifier),
        save_cpu_ram=True,  # no worker processes
        verbose=False,
        cache=False,
    )
    return {
        "fid": float(found[torch_fidelity.KEY_METRIC_FID]),
        "kid": float(found[torch_fidelity.KEY_METRIC_KID_MEAN]),
        "kid_subset_size": subset,
    }
