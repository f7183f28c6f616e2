"""Feature spaces as torch-fidelity's extractors, and features of images in them.

All take uint8 (B, 3, H, W) and are registered under their ``NAME``, so that ``torch_fidelity.calculate_metrics`` can
compute the same numbers. torch-fidelity's cache of features and statistics is never used, because its keys have neither
weights nor numbers of images.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import register_feature_extractor
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset
from torchvision.models.inception import Inception3

from spiking_diffusion.data.images import to_unit
from spiking_diffusion.errors import UserError
from spiking_diffusion.metrics.classifier import load_judges
from spiking_diffusion.metrics.inception import read_weights

SIDE = 299
"""Height and width of inputs of Inception networks."""


class ClassifierFeatures(FeatureExtractorBase):
    """Penultimate layers of a dataset's own classifiers, one by one. ``joined`` concatenates them."""

    NAME = "dataset-classifier"
    says = "penultimate layers of the classifiers of the dataset"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.judges = load_judges(Path(feature_extractor_weights_path), torch.device("cpu"))
        self.channels = self.judges.reader.features[0].in_channels
        self.networks = len(self.judges.networks)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (torch.cat(self.judges.embed(to_unit(images[:, : self.channels])), dim=1),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("joined",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "joined"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


class InceptionFeatures(FeatureExtractorInceptionV3):
    """torch-fidelity's ``inception-v3-compat`` with a safe loader. Its own loader would run code that is pickled in the
    file."""

    NAME = "inception-v3-unpickled"
    says = "inception-v3-compat of torch-fidelity, 2048"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any) -> None:
        copy = io.BytesIO()
        torch.save(read_weights(Path(feature_extractor_weights_path)), copy)  # a file that we wrote is safe to unpickle
        copy.seek(0)
        try:
            super().__init__(name, features_list, copy, **kwargs)
        except RuntimeError as error:
            raise _other_network(feature_extractor_weights_path, error) from error


class CleanInceptionFeatures(InceptionFeatures):
    """The same network on images at 32x32, enlarged as in clean-fid (Parmar et al., arXiv:2104.11222)."""

    NAME = "inception-v3-clean32"
    says = "inception-v3-compat of torch-fidelity, 2048, images at 32x32 enlarged as clean-fid does"

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = torch.stack([clean_resize(image) for image in images.cpu()]).to(images.device)
        x = (x - 128) / 128
        for layer in list(self.children())[:-1]:  # one after the other, up to the head
            x = layer(x)
        return (x.flatten(1),)


class ImageNetFeatures(FeatureExtractorBase):
    """Pooled features of torchvision's Inception, with the preprocessing of the paper's released code.

    Images in [0, 1] are enlarged bilinearly and rescaled to [-1, 1]. The network expects images normalised by
    ImageNet's mean and deviation and rescales them again.
    """

    NAME = "torchvision-inception-v3"
    says = "inception_v3 of torchvision, ImageNet, 2048, images enlarged bilinearly"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.network = Inception3(transform_input=True, init_weights=False)
        try:
            self.network.load_state_dict(read_weights(Path(feature_extractor_weights_path)))
        except RuntimeError as error:
            raise _other_network(feature_extractor_weights_path, error) from error
        self.network.fc = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = F.interpolate(to_unit(images), (SIDE, SIDE), mode="bilinear", align_corners=False)
        return (self.network(x * 2 - 1),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("2048",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "2048"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


EXTRACTORS: tuple[type[Any], ...] = (ClassifierFeatures, InceptionFeatures, CleanInceptionFeatures, ImageNetFeatures)
for extractor in EXTRACTORS:
    register_feature_extractor(extractor.NAME, extractor)


def _other_network(path: str, error: RuntimeError) -> UserError:
    return UserError(
        f"{path} has weights of another network ({' '.join(str(error).split())[:200]}): name another in params.yaml"
    )


def clean_resize(image: Tensor) -> Tensor:
    """uint8 (C, H, W) -> float (C, 299, 299) in [0, 255], through 32x32.

    The first step is bilinear and rounded, as in data loaders. The second is bicubic on each channel's floats, as in
    clean-fid.
    """
    channels = []
    for channel in image.numpy():
        small = Image.fromarray(channel).resize((32, 32), Image.Resampling.BILINEAR)
        large = small.convert("F").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        channels.append(np.asarray(large).clip(0, 255))
    return torch.from_numpy(np.stack(channels))


class RGBImages(Dataset[Tensor]):
    """Images as torch-fidelity needs them: uint8 (3, H, W). Grey images get three equal channels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(3, -1, -1)


class Features:
    """Feature spaces, one for each network of an extractor.

    ``spaces(images)`` of uint8 (N, C, H, W) returns a float32 (N, F) for each network, on the CPU.
    """

    def __init__(self, extractor: type[Any], weights: Path, batch_size: int, device: torch.device) -> None:
        layer = extractor.get_default_feature_layer_for_metric("fid")
        self.batch_size, self.cuda = batch_size, device.type == "cuda"
        self.extractor = create_feature_extractor(
            extractor.NAME, [layer], cuda=self.cuda, feature_extractor_weights_path=str(weights), verbose=False
        )
        self.networks = getattr(self.extractor, "networks", 1)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        # save_cpu_ram: no worker processes
        found = get_featuresdict_from_dataset(
            RGBImages(images), self.extractor, self.batch_size, self.cuda, save_cpu_ram=True, verbose=False
        )
        return next(iter(found.values())).chunk(self.networks, dim=1)
