"""Distances between sets of features against closed forms, NumPy and torch-fidelity called directly."""

import numpy as np
import pytest
import scipy.linalg
import torch

from spiking_diffusion.metrics import distances


def gaussian(n, mean, covariance, seed=0):
    """float32 (n, F) whose own mean and covariance are exactly these."""
    draws = np.random.default_rng(seed).standard_normal((n, len(mean)))
    draws -= draws.mean(0)
    white = draws @ np.linalg.inv(np.linalg.cholesky(np.cov(draws, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean).float()


def covariance(seed, size=6):
    matrix = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return matrix @ matrix.T / (2 * size)


def normal(n, size=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, size))).float()


# --- FID ------------------------------------------------------------------------------------------------


def test_fid_of_gaussians_with_one_variance_by_hand():
    """|m - m'|^2 + F (s - s')^2 for covariances s^2 I and s'^2 I."""
    a, b = gaussian(500, np.zeros(4), 4 * np.eye(4)), gaussian(300, np.full(4, 0.5), 9 * np.eye(4), seed=1)
    assert distances.fid(a, b) == pytest.approx(4 * 0.25 + 4 * (2 - 3) ** 2, rel=1e-5)


def test_fid_of_gaussians_is_the_closed_form():
    c, d, mean = covariance(0), covariance(1), np.arange(6) / 4
    expected = mean @ mean + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    assert distances.fid(gaussian(400, np.zeros(6), c), gaussian(300, mean, d, seed=1)) == pytest.approx(
        expected, rel=1e-4
    )


def test_fid_is_symmetric_and_no_order_matters():
    a, b = normal(200), 2 * normal(150, seed=1) + 0.3
    value = distances.fid(a, b)
    assert distances.fid(b, a) == pytest.approx(value, rel=1e-5)
    assert distances.fid(a.flip(0), b.roll(7, 0)) == pytest.approx(value, rel=1e-5)


# --- the released code's root ---------------------------------------------------------------------------


def test_svd_root_of_a_symmetric_positive_matrix_is_its_root():
    assert distances.trace_of_svd_root(np.diag([4.0, 9.0, 0.0])) == pytest.approx(5)
    c = covariance(3)
    assert distances.trace_of_svd_root(c) == pytest.approx(np.trace(scipy.linalg.sqrtm(c)).real, rel=1e-9)


def test_svd_root_of_a_product_of_covariances_by_hand():
    """diag(1, 0) times one half everywhere is [[1/2, 1/2], [0, 0]]: singular value 1/sqrt 2 between (1, 0) and
    (1, 1)/sqrt 2, eigenvalue 1/2."""
    product = np.diag([1.0, 0.0]) @ np.full((2, 2), 0.5)
    assert distances.trace_of_svd_root(product) == pytest.approx(2**-0.25 * 2**-0.5)
    assert np.trace(scipy.linalg.sqrtm(product + 1e-12 * np.eye(2))).real == pytest.approx(0.5**0.5, rel=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_svd_root_reads_too_high(seed):
    a = gaussian(100, np.zeros(6), covariance(seed))
    b = gaussian(100, np.zeros(6), covariance(seed + 100), seed=1)
    assert distances.svd_fid(a, b) > 1.01 * distances.fid(a, b) > 0


def test_svd_fid_is_fid_where_covariances_share_their_axes():
    a, b = gaussian(100, np.zeros(3), np.diag([1.0, 4, 9])), gaussian(90, np.ones(3), np.diag([2.0, 3, 1]), seed=1)
    assert distances.svd_fid(a, b) == pytest.approx(distances.fid(a, b), rel=1e-4)


# --- KID ------------------------------------------------------------------------------------------------


def test_kid_of_equal_distributions_is_0_on_average():
    found = [distances.kid(normal(60, seed=2 * i), normal(60, seed=2 * i + 1), 60, 1, 0) for i in range(300)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0, "an unbiased estimate falls on both sides"
    biased = np.mean([mmd_with_diagonals(normal(60, seed=2 * i), normal(60, seed=2 * i + 1)) for i in range(20)])
    assert biased > 20 * error


def mmd_with_diagonals(a, b):
    x, y = a.double().numpy(), b.double().numpy()
    xx, yy, xy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    return xx.mean() + yy.mean() - 2 * xy.mean()


def test_kid_of_whole_sets_does_not_depend_on_their_order():
    a, b = normal(80), normal(80, seed=1) + 0.2
    found = distances.kid(a, b, 80, 2, 0)
    assert distances.kid(a.flip(0), b.roll(9, 0), 80, 2, 1) == pytest.approx(found, rel=1e-3)


# --- precision, recall, neighbours ----------------------------------------------------------------------


def test_precision_and_recall_by_numpy():
    a, b = normal(50, 3), 0.5 * normal(40, 3, seed=1)

    def inside(points, centres):
        between = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        radius = np.sort(between, axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - centres[None], axis=2) <= radius).any(1).mean()

    x, y = a.double().numpy(), b.double().numpy()
    precision, recall = distances.precision_recall(a, b)
    assert (precision, recall) == (pytest.approx(inside(x, y)), pytest.approx(inside(y, x)))
    assert recall > 0 and precision < 1


def test_precision_and_recall_of_far_and_of_equal_sets():
    a = normal(30)
    assert distances.precision_recall(a, a) == (1, 1)
    assert distances.precision_recall(a, a + 100) == (0, 0)


def test_nearest_by_numpy_and_0_for_a_copy():
    a, b = normal(30), normal(2500, seed=1)
    expected = np.linalg.norm(a.numpy()[:, None] - b.numpy()[None], axis=2).min(1)
    assert distances.nearest(a, b).numpy() == pytest.approx(expected, rel=1e-5)
    assert distances.nearest(b[1200:1230], b).tolist() == [0.0] * 30


# --- nearest in pixels ----------------------------------------------------------------------------------


def framed(n, channels=1, seed=0, border=3):
    """uint8 (n, channels, 12, 16): noise in a black frame, which loses nothing when it moves."""
    images = torch.zeros(n, channels, 12, 16, dtype=torch.uint8)
    inside = np.random.default_rng(seed).integers(0, 256, (n, channels, 12 - 2 * border, 16 - 2 * border), np.uint8)
    images[:, :, border:-border, border:-border] = torch.from_numpy(inside)
    return images


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_have_no_distance_in_pixels_even_moved_by_one(channels):
    """In each of the nine ways. Seen to fail without the moves, and with moves along one axis alone."""
    known = framed(2500, channels)
    copies = known[1200:1230]
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            assert distances.nearest_in_pixels(copies.roll((y, x), (2, 3)), known).tolist() == [0.0] * 30
    for move in ((2, 0), (0, -2), (2, 2)):
        assert (distances.nearest_in_pixels(copies.roll(move, (2, 3)), known) > 0.1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_distance_in_pixels_of_a_known_error_by_hand(channels):
    """Off by 51 = 0.2 in a quarter of the pixels: the root of 0.04 / 4. Moved by one the same, by two much more."""
    known = framed(40, channels) // 2
    images = known.clone()
    images[:, :, 3:9, 4:12] += 51  # 6x8 of 12x16 pixels
    for move in (0, 1, 2):
        found = distances.nearest_in_pixels(images.roll(move, 3), known)
        assert found.shape == (40,)
        if move < 2:
            assert found.numpy() == pytest.approx(0.1, rel=1e-5)
        else:
            assert (found > 0.11).all()


def test_distance_in_pixels_is_to_the_nearest_by_numpy():
    """Over more images than are in memory at once."""
    images, known = framed(1100, border=1), framed(50, seed=1, border=1)
    found = distances.nearest_in_pixels(images, known).numpy()
    some = [0, 7, 999, 1000, 1099]
    for at in some:
        wide = np.pad(images[at, 0].numpy() / 255, 1)
        moved = [wide[y : y + 12, x : x + 16] for y in range(3) for x in range(3)]
        errors = [((one - other / 255) ** 2).mean() ** 0.5 for one in moved for other in known[:, 0].numpy()]
        assert found[at] == pytest.approx(min(errors), rel=1e-5)


# --- the edges ------------------------------------------------------------------------------------------

CONSTANT = torch.ones(20, 8)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (CONSTANT, CONSTANT),
        (CONSTANT, normal(20)),
        (normal(20), CONSTANT),
        (normal(5), normal(6, seed=1)),
        (normal(2), normal(2, seed=1)),
        (normal(30) * torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 1]), normal(30, seed=1)),
    ],
    ids=["both constant", "one constant", "real constant", "fewer than features", "two", "singular"],
)
def test_degenerate_sets_have_finite_distances(a, b):
    size = min(len(a), len(b))
    found = [distances.fid(a, b), distances.svd_fid(a, b), distances.kid(a, b, size, 3, 0)]
    if size > distances.NEIGHBOURS:
        found += distances.precision_recall(a, b)
    assert np.isfinite(found).all()
    assert min(found[:2]) > -1e-4


def test_distance_of_constants_is_that_of_their_means():
    assert distances.fid(CONSTANT, 3 * CONSTANT) == pytest.approx(8 * 4)
    assert distances.svd_fid(CONSTANT, 3 * CONSTANT) == pytest.approx(8 * 4)


def test_a_set_has_no_distance_to_itself():
    a = normal(100)
    assert abs(distances.fid(a, a)) < 1e-4
    assert abs(distances.kid(a, a, 100, 2, 0)) < 0.1 * abs(distances.kid(a, a + 1, 100, 2, 0))
