"""Distances between two sets of features (N, F) and (M, F), by torch-fidelity if it has them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

NEIGHBOURS = 3
"""Number of neighbours inside the balls of precision and recall."""
LEAST = NEIGHBOURS + 1
"""The least number of images for precision and recall."""
ROWS = 1000
"""Number of rows of a distance matrix in memory at a time."""


def fid(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017)."""
    one, two = fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double())
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def svd_fid(a: Tensor, b: Tensor) -> float:
    """The paper's released code's "FID": U sqrt(S) V of the singular value decomposition instead of the matrix root.

    This is the root of a symmetric positive matrix. The product of two covariances is not symmetric, so the trace is
    too small and the distance too large.
    """
    one, two = fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double())
    difference = one["mu"] - two["mu"]
    trace = trace_of_svd_root(one["sigma"] @ two["sigma"])
    return float(difference @ difference + np.trace(one["sigma"]) + np.trace(two["sigma"]) - 2 * trace)


def trace_of_svd_root(matrix: np.ndarray) -> float:
    """Trace of U sqrt(S) V for matrix = U S V."""
    u, s, v = np.linalg.svd(matrix)
    return float(np.sum(u * np.sqrt(s) * v.T))


def kid(a: Tensor, b: Tensor, subset_size: int, subsets: int, seed: int) -> float:
    """Unbiased squared MMD with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018), mean over random subsets."""
    one, two = a.double(), b.double()  # in float32 this small difference of large sums would depend on their order
    found = kid_features_to_metric(
        one, two, kid_subset_size=subset_size, kid_subsets=subsets, rng_seed=seed, verbose=False
    )
    return float(found[KEY_METRIC_KID_MEAN])


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Share of generated images near a real one, and of real ones near a generated one (Kynkaanniemi et al. 2019).

    An image is near if it is within the distance to the other image's third nearest neighbour of its own kind.
    """
    found = prc_features_to_metric(
        generated, real, prc_neighborhood=NEIGHBOURS, prc_batch_size=ROWS, save_cpu_ram=True, verbose=False
    )
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of each row of ``a`` (N, F) to the nearest of ``b``: (N,), 0 for an equal row."""
    exact = "donot_use_mm_for_euclid_dist"  # the fast way leaves equal rows some way apart
    return torch.cat([torch.cdist(part, b, compute_mode=exact).amin(1) for part in a.split(ROWS)])


def nearest_in_pixels(images: Tensor, known: Tensor) -> Tensor:
    """Root mean square difference of pixels in [0, 1] of each image to the nearest of ``known``, (N,).

    Each image may move by one pixel in any direction. Images are (N, C, H, W) and (M, C, H, W) uint8.
    """
    known = known.flatten(1).float() / 255
    found = []
    for part in images.split(ROWS):
        padded = F.pad(part.float() / 255, (1, 1, 1, 1))
        height, width = part.shape[2:]
        best = torch.full((len(part),), torch.inf, device=part.device)
        for y, x in itertools.product(range(3), range(3)):
            moved = padded[:, :, y : y + height, x : x + width].flatten(1)
            at = torch.cdist(moved, known).argmin(1)  # the fast way leaves equal rows some way apart
            best = torch.minimum(best, (moved - known[at]).square().mean(1).sqrt())
        found.append(best)
    return torch.cat(found)
