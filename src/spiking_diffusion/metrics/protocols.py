"""The protocols of ``docs/evaluation.md``. Numbers compare only within a protocol."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spiking_diffusion import artifacts, config
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.classifier import is_random
from spiking_diffusion.metrics.features import (
    ClassifierFeatures,
    CleanInceptionFeatures,
    Features,
    ImageNetFeatures,
    InceptionFeatures,
)
from spiking_diffusion.metrics.inception import UnavailableError, find_weights
from spiking_diffusion.randomness import generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """Compares ``generated`` images with images of the ``real`` splits. If not ``exact``, fewer generated images are
    allowed. With ``first``, only that many real images count. ``fid_features`` and ``kid_features`` are (extractor, its
    weights)."""

    fid_features: tuple[type[Any], str]
    kid_features: tuple[type[Any], str]
    generated: int
    exact: bool = False
    real: tuple[Literal["train", "validation", "test"], ...] = ("test",)
    first: int | None = None
    fid: Callable[[Tensor, Tensor], float] = distances.fid

    @property
    def networks(self) -> tuple[str, str]:
        """The networks whose weights it needs."""
        return self.fid_features[1], self.kid_features[1]

    def settings(self, kid_subsets: int) -> str:
        """What its numbers depend on except the images, in words."""
        ours, kids = self.fid_features[0].says, self.kid_features[0].says
        root = "SVD" if self.fid is distances.svd_fid else "eigenvalues"
        first = f"the first {self.first} of " if self.first else ""
        count = f"{'exactly' if self.exact else 'at most'} {self.generated} generated images"
        return (
            f"{count}; features: {ours}; features of KID: {kids if kids != ours else 'the same'}; KID of degree 3 over "
            f"{kid_subsets} subsets; root in FID: {root}; real: {first}{' and '.join(self.real)} images"
        )


_FID = (InceptionFeatures, "fid")
_OWN = (ClassifierFeatures, "classifier")
_CLEAN = (CleanInceptionFeatures, "fid")
PROTOCOLS: dict[config.Protocol, Protocol] = {
    "standard": Protocol(_FID, _FID, 10_000),
    "clean32": Protocol(_CLEAN, _CLEAN, 10_000),
    "train50k": Protocol(_FID, _FID, 50_000, exact=True, real=("train", "validation")),
    "released": Protocol((ImageNetFeatures, "imagenet"), _FID, 1_280, exact=True, first=1_280, fid=distances.svd_fid),
    "classifier": Protocol(_OWN, _OWN, 10_000),
}
INCEPTION_BATCH = 50
"""An image needs some 20 MB inside an Inception network."""


@dataclass(frozen=True)
class Images:
    """The images of a measurement, all uint8 (N, C, H, W).

    ``reconstructed`` are the test images after encoder and decoder. ``perfect`` are as many training images as
    generated ones after encoder and decoder, which is what a perfect prior would draw. Both are missing for images of
    another program. ``real`` is by split.
    """

    generated: Tensor
    reconstructed: Tensor
    perfect: Tensor
    real: dict[str, Tensor]


def measure(
    images: Images,
    settings: config.Evaluate,
    inception: config.Inception,
    classifier: Path,
    seed: int,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Columns of all protocols, and the hash of each Inception network's file that was used.

    If a protocol is not available, its numbers are None and ``{protocol}_reason`` says why. A protocol that was not
    requested has only the reason.
    """
    row: dict[str, Any] = {}
    weights, missing = _find(settings.protocols, inception)
    for name in get_args(config.Protocol):
        if name not in settings.protocols:
            row[f"{name}_reason"] = f"not asked for: evaluate.protocols is {', '.join(settings.protocols)}"
            continue
        try:
            for kind in PROTOCOLS[name].networks:
                if kind in missing:
                    raise missing[kind]
            found = _measure(name, images, settings, weights | {"classifier": classifier}, seed, device)
            if "classifier" in PROTOCOLS[name].networks and is_random(classifier):
                found["settings"] += "; its weights are random: the dataset has no labels"
        except UnavailableError as reason:
            log.info("%s: %s", name, reason)
            found = dict.fromkeys(COLUMNS) | {"reason": str(reason)}
        row |= {f"{name}_{key}": value for key, value in found.items()}
    return row, {kind: artifacts.sha256(path) for kind, path in weights.items()}


def _find(
    names: Iterable[config.Protocol], inception: config.Inception
) -> tuple[dict[str, Path], dict[str, UnavailableError]]:
    """Files of the Inception networks that protocols need, and reasons for those that are not available."""
    weights, missing = {}, {}
    for kind in sorted({kind for name in names for kind in PROTOCOLS[name].networks} - {"classifier"}):
        try:
            weights[kind] = find_weights(kind, getattr(inception, kind))
        except UnavailableError as reason:
            missing[kind] = reason
    return weights, missing


COLUMNS = (
    *("fid", "kid", "reconstruction_fid", "perfect_prior_fid", "train_test_fid", "precision", "recall"),
    *("n_generated", "n_real", "n_reconstructed", "n_perfect_prior", "n_train_test", "kid_subset_size", "settings"),
)
"""The columns of each protocol, without its name in front."""


def _measure(
    name: config.Protocol,
    images: Images,
    settings: config.Evaluate,
    weights: dict[str, Path],
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    protocol = PROTOCOLS[name]
    generated = images.generated[: protocol.generated]
    again = images.reconstructed[: protocol.first] if protocol.first else images.reconstructed
    if len(again) > protocol.generated:  # in random order, because some test sets are in the order of their classes
        order = torch.randperm(len(again), generator=generator("cpu", seed, "reconstructed"))
        again = again[order[: protocol.generated].sort().values]
    real = torch.cat([images.real[split] for split in protocol.real])[: protocol.first]
    # other real images instead of generated ones, as many of them: the best score a perfect model could get
    floor = images.real["test" if "train" in protocol.real else "train"]
    floor = floor[torch.randperm(len(floor), generator=generator("cpu", seed, "floor"))[: len(generated)]]
    wanted = {
        "generated": protocol.generated if protocol.exact else distances.LEAST,
        "real": protocol.first or distances.LEAST,
    }
    for kind, number in (("generated", len(generated)), ("real", min(len(real), len(floor)))):
        if number < wanted[kind]:
            raise UnavailableError(f"it needs {wanted[kind]:,} {kind} images, and there are {number:,}")

    def space(extractor: type[Any], kind: str) -> Features:
        batch = settings.batch_size if kind == "classifier" else min(settings.batch_size, INCEPTION_BATCH)
        return Features(extractor, weights[kind], batch, device)

    perfect = images.perfect[: len(generated)] if "train" not in protocol.real else images.perfect[:0]
    embed = space(*protocol.fid_features)
    theirs, ours = embed(real), embed(generated)
    subset = min(settings.kid_subset_size, len(generated), len(real))
    if subset < settings.kid_subset_size:
        log.warning("%s: KID's subsets have %d images, not %d", name, subset, settings.kid_subset_size)
    if min(len(generated), len(real)) <= ours[0].shape[1]:
        log.warning(
            "%s: %d generated and %d real images in %d dimensions: covariances are singular and FID is too high: "
            "compare it at equal numbers only",
            *(name, len(generated), len(real), ours[0].shape[1]),
        )
    found: dict[str, Any] = {
        "n_generated": len(generated),
        "n_real": len(real),
        "n_reconstructed": len(again),
        "n_perfect_prior": len(perfect),
        "n_train_test": len(floor),
        "kid_subset_size": subset,
        "settings": protocol.settings(settings.kid_subsets),
    }
    found |= compare(ours, theirs, device, protocol.fid)
    floors = {"train_test_fid": floor, "reconstruction_fid": again, "perfect_prior_fid": perfect}
    for key, some in floors.items():
        if len(some):
            found |= over_networks(key, [protocol.fid(a, b) for a, b in zip(embed(some), theirs, strict=True)])
    if protocol.kid_features != protocol.fid_features:
        embed = space(*protocol.kid_features)
        ours, theirs = embed(generated), embed(real)
    return found | compare_kid(ours, theirs, subset, settings.kid_subsets, seed)


def compare(
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    device: torch.device,
    fid: Callable[[Tensor, Tensor], float] = distances.fid,
) -> dict[str, float]:
    """FID, precision and recall of features of generated images against those of real ones, over the networks."""
    pairs = list(zip(ours, theirs, strict=True))
    near = [distances.precision_recall(a.to(device), b.to(device)) for a, b in pairs]
    return {
        **over_networks("fid", [fid(a, b) for a, b in pairs]),
        **over_networks("precision", [precision for precision, _ in near]),
        **over_networks("recall", [recall for _, recall in near]),
    }


def compare_kid(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], subset: int, subsets: int, seed: int
) -> dict[str, float]:
    """KID over the networks."""
    pairs = zip(ours, theirs, strict=True)
    return over_networks("kid", [distances.kid(a, b, subset, subsets, seed) for a, b in pairs])


def over_networks(key: str, values: Sequence[float]) -> dict[str, float]:
    """The mean of a number over the networks, and its deviation if there are several."""
    deviation = {f"{key}_deviation": statistics.stdev(values)} if len(values) > 1 else {}
    return {key: statistics.fmean(values), **deviation}
