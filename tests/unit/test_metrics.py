"""Metrics against the same numbers worked out another way, in NumPy."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.data.images import ImageSet, load_images, to_uint8, to_unit
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import distances, protocols
from spiking_diffusion.metrics.classifier import load_judges
from spiking_diffusion.metrics.reconstruction import mse, released_ssim_loss, ssim_loss
from spiking_diffusion.stages import make
from spiking_diffusion.weights import save_weights

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
PARAMS = check_params(RAW)
CPU = torch.device("cpu")


def pictures(n, channels=1, seed=0, level=128):
    """uint8 (n, channels, 28, 28): smooth blobs with noise, brighter with ``level``."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    centre = draws.uniform(8, 20, (n, channels, 2, 1, 1))
    blob = np.exp(-((y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2) / 30)
    return torch.from_numpy((blob * level + draws.uniform(0, 100, blob.shape)).astype(np.uint8))


# --- pixels ---------------------------------------------------------------------------------------------


def test_every_grey_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    assert to_unit(levels).dtype == torch.float32
    assert (to_unit(levels)[0], to_unit(levels)[-1]) == (0, 1)


def test_to_uint8_rounds_and_clips():
    values = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 0.5, 254.6 / 255, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 128, 255, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_variance(channels):
    images = pictures(20, channels)
    data = ImageSet({"train": images, "validation": images[:1] * 0, "test": images[:1] * 0}, {})
    assert data.variance() == pytest.approx(np.var(images.numpy() / 255.0), rel=1e-10)


# --- MSE and SSIM ---------------------------------------------------------------------------------------


def ssim_by_numpy(a, b):
    """SSIM of two images (C, H, W) in [0, 1] (Wang et al. 2004): Gaussian window 11, sigma 1.5, mirrored borders."""
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(image):
        wider = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")
        return (np.lib.stride_tricks.sliding_window_view(wider, (11, 11), (1, 2)) * window).sum((-1, -2))

    m, n = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - m * m, mean(b * b) - n * n, mean(a * b) - m * n
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * m * n + c1) * (2 * cov + c2)) / ((m * m + n * n + c1) * (var_a + var_b + c2))).mean())


def test_mse_by_hand():
    images = torch.zeros(2, 1, 2, 2)
    other = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])
    assert mse(images, other).tolist() == [0.25, 0.25]
    assert mse(images, images).tolist() == [0, 0]
    assert mse(images[:1], other[1:]).shape == (1,)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_numpy(n, channels):
    a, b = to_unit(pictures(n, channels, 0)), to_unit(pictures(n, channels, 1))
    found = ssim_loss(a, b)
    assert found.shape == (n,)
    expected = [1 - ssim_by_numpy(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    assert found.numpy() == pytest.approx(expected, rel=1e-6)
    assert min(expected) > 0.1


def test_ssim_of_identical_images_is_0_and_of_inverted_ones_above_1():
    images = to_unit(pictures(3))
    assert ssim_loss(images, images).numpy() == pytest.approx(0, abs=1e-9)
    stripes = torch.zeros(1, 1, 28, 28)
    stripes[..., ::2] = 1
    assert float(ssim_loss(stripes, 1 - stripes)) > 1


def released_ssim_by_numpy(a, b):
    """SSIM of two images (C, H, W), a in [0, 1], as the paper's code takes it: less 0.5, zeros beyond the border."""
    line = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    channels, height, width = a.shape
    found = []
    for c, row, column in np.ndindex(channels, height, width):
        sums = np.zeros(5)  # of a, b, a a, b b, a b over the part of the window that is inside
        for i, j in np.ndindex(11, 11):
            y, x = row + i - 5, column + j - 5
            if 0 <= y < height and 0 <= x < width:
                p, q = a[c, y, x] - 0.5, b[c, y, x] - 0.5
                sums += line[i] * line[j] / sum(line) ** 2 * np.array([p, q, p * p, q * q, p * q])
        m, n, aa, bb, ab = sums
        top = (2 * m * n + 0.01**2) * (2 * (ab - m * n) + 0.03**2)
        found.append(top / ((m * m + n * n + 0.01**2) * (aa - m * m + bb - n * n + 0.03**2)))
    return float(np.mean(found))


def test_released_ssim_of_one_pixel_by_hand():
    """All of its window but the middle is padding: the weight there is w, so m = w a and E[a^2] = w a^2."""
    w = 1 / sum(math.exp(-(i**2) / 4.5) for i in range(-5, 6)) ** 2
    a, b = -0.25, 0.75  # less 0.5; b is beyond any image's range
    mean, spread = w * w, w - w * w
    expected = (2 * mean * a * b + 1e-4) * (2 * spread * a * b + 9e-4)
    expected /= (mean * (a * a + b * b) + 1e-4) * (spread * (a * a + b * b) + 9e-4)
    found = released_ssim_loss(torch.tensor([[[[1.25]]]]), torch.tensor([[[[0.25]]]]))
    assert found.tolist() == pytest.approx([1 - expected], rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_released_ssim_agrees_with_numpy(channels):
    """Also where the reconstruction leaves [0, 1]."""
    a = to_unit(pictures(2, channels, 0))[..., 6:18, 4:20]
    b = to_unit(pictures(2, channels, 1))[..., 6:18, 4:20] * 2 - 0.5
    found = released_ssim_loss(b, a)
    expected = [1 - released_ssim_by_numpy(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    assert found.shape == (2,) and found.numpy() == pytest.approx(expected, rel=1e-6)
    assert not torch.allclose(found, released_ssim_loss(b.clamp(0, 1), a), rtol=0.01), "nothing is clamped"
    assert not torch.allclose(found, ssim_loss(b, a), rtol=0.1)
    assert released_ssim_loss(a, a).numpy() == pytest.approx(0, abs=1e-9)


def test_each_image_is_measured_alone():
    a, b = to_unit(pictures(6, seed=0)), to_unit(pictures(6, seed=1))
    for metric in (mse, ssim_loss, released_ssim_loss):
        alone = torch.cat([metric(x[None], y[None]) for x, y in zip(a, b, strict=True)])
        assert torch.allclose(metric(a, b), alone, atol=1e-6)


# --- FID and KID ----------------------------------------------------------------------------------------

SETTINGS = PARAMS.recipes["quick"].evaluate.model_copy(
    update={"batch_size": 32, "kid_subset_size": 1000, "kid_subsets": 3}
)


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "RGB"])
def classifier(request, tmp_path_factory, strong_judges):
    """File of judges with random weights that react strongly to their images, and the number of channels."""
    path = tmp_path_factory.mktemp("classifier") / "x.safetensors"
    save_weights(path, strong_judges(request.param))
    return path, request.param


def embed(path, images):
    """Features of each network."""
    with torch.no_grad():
        return [features.double().numpy() for features in load_judges(path, CPU).embed(to_unit(images))]


def over_networks(number, path, images, real):
    """The mean over the networks of a number of two sets of features."""
    found = [number(x, y) for x, y in zip(embed(path, images), embed(path, real), strict=True)]
    assert len(found) == 2 and found[0] != pytest.approx(found[1], rel=0.02), "networks can be told apart"
    return sum(found) / 2


def fid_by_numpy(x, y):
    mean = x.mean(0) - y.mean(0)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0))  # of the square root of a @ b, singular or not
    return float(mean @ mean + np.trace(a + b) - 2 * roots.sum())


def kid_by_numpy(x, y):
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018)."""
    kxx, kyy, kxy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    within = (kxx.sum() - np.trace(kxx)) / (m * (m - 1)) + (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within - 2 * kxy.mean())


def measure(path, images, real, seed=0, **changes):
    """FID and KID by the protocol ``classifier``."""
    settings = SETTINGS.model_copy(update={"protocols": ["classifier"]} | changes)
    sets = protocols.Images(images, real[:0], real[:0], {"train": real, "test": real})
    row, _ = protocols.measure(sets, settings, PARAMS.inception, path, seed, CPU)
    return {key: row[f"classifier_{key}"] for key in ("fid", "kid", "kid_subset_size")}


def test_fid_and_kid_agree_with_their_closed_forms(classifier):
    path, channels = classifier
    images, real = pictures(90, channels, 0, level=150), pictures(90, channels, 1, level=100)
    assert [x.shape for x in embed(path, images)] == [(90, 16), (90, 16)]
    found = measure(path, images, real)
    assert found["fid"] == pytest.approx(over_networks(fid_by_numpy, path, images, real), rel=1e-3)
    assert found["fid"] > 0.01
    # a subset as large as the set leaves nothing to chance
    assert found["kid"] == pytest.approx(over_networks(kid_by_numpy, path, images, real), rel=1e-3)
    assert found["kid"] > 1e-3
    assert all(type(found[key]) is float for key in ("fid", "kid"))


def test_fid_of_sets_of_different_size(classifier):
    path, channels = classifier
    images, real = pictures(50, channels, 0, level=150), pictures(120, channels, 1, level=100)
    expected = over_networks(fid_by_numpy, path, images, real)
    assert measure(path, images, real)["fid"] == pytest.approx(expected, rel=1e-3)


def test_the_test_set_itself_has_fid_0(classifier):
    path, channels = classifier
    real = pictures(90, channels)
    floor = measure(path, pictures(90, channels, 1), real)["fid"]
    assert abs(measure(path, real, real)["fid"]) < 1e-3 * floor


def test_kid_of_two_halves_of_one_set_is_0_within_its_spread(classifier):
    path, channels = classifier
    both = pictures(160, channels)
    features = embed(path, both)
    draws = np.random.default_rng(0)
    orders = [draws.permutation(160) for _ in range(50)]
    spread = np.std([np.mean([kid_by_numpy(x[o[:80]], x[o[80:]]) for x in features]) for o in orders])
    assert abs(measure(path, both[:80], both[80:])["kid"]) < 4 * spread
    assert measure(path, both[:80], pictures(80, channels, 1, level=250))["kid"] > 4 * spread


def test_order_of_images_does_not_matter(classifier):
    path, channels = classifier
    images, real = pictures(70, channels, 0, level=150), pictures(70, channels, 1)
    found = measure(path, images, real)
    again = measure(path, images.flip(0), real.roll(13, 0), batch_size=17)
    assert again == pytest.approx(found, rel=1e-3)


def test_distances_do_not_depend_on_the_order_of_large_features():
    """KID is a small difference of large sums: in float32 its third digit changed with the order of the images."""
    draws = torch.Generator().manual_seed(0)
    a, b = (10 + torch.randn(200, 16, generator=draws) for _ in range(2))
    order = torch.randperm(200, generator=draws)
    for distance in (distances.fid, lambda x, y: distances.kid(x, y, 200, 1, 0)):
        assert distance(a[order], b) == pytest.approx(distance(a, b), rel=1e-9)


def test_fid_and_kid_are_the_same_twice(classifier):
    path, channels = classifier
    images, real = pictures(60, channels, 0), pictures(60, channels, 1)
    assert measure(path, images, real, kid_subset_size=20) == measure(path, images, real, kid_subset_size=20)


@pytest.mark.parametrize(
    ("asked", "n", "n_real", "used"), [(1000, 40, 60, 40), (1000, 60, 40, 40), (20, 60, 40, 20), (40, 40, 40, 40)]
)
def test_kid_subsets_are_no_larger_than_the_sets(classifier, asked, n, n_real, used):
    path, channels = classifier
    found = measure(path, pictures(n, channels), pictures(n_real, channels, 1), kid_subset_size=asked)
    assert found["kid_subset_size"] == used


def test_any_seed_that_params_accept_will_do(classifier):
    path, channels = classifier
    largest = 2**32 - 1
    raw = yaml.safe_load(yaml.safe_dump(RAW))
    raw["recipes"]["quick"]["seed"] = largest
    check_params(raw)
    measure(path, pictures(10, channels), pictures(10, channels, 1), seed=largest, kid_subset_size=5)
    with pytest.raises(ValueError):  # which is why params.yaml must not accept it
        measure(path, pictures(10, channels), pictures(10, channels, 1), seed=largest + 1, kid_subset_size=5)


# --- the classifier -------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A project folder with digits in it, and parameters with a short training of the judges."""
    monkeypatch.chdir(tmp_path)
    make(Job(PARAMS, "fetch", "digits"))
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    short = {"networks": 2, "channels": [4, 8], "features": 16, "epochs": 1, "least_steps": 40, "threads": 1}
    yield PARAMS.model_copy(update={"classifier": PARAMS.classifier.model_copy(update=short)})
    torch.set_num_threads(threads)  # training sets both for good
    torch.use_deterministic_algorithms(deterministic)


def test_classifier_learns_and_its_features_have_mean_square_1(digits):
    path = make(Job(digits, "classifier", "digits"), "cpu")
    data, judges = load_images(paths.data_path("digits")), load_judges(path, CPU)
    noted = artifacts.read_json(paths.settings_path(path))
    accuracies = [*noted["test_accuracy"], noted["reader_test_accuracy"]]
    assert len(accuracies) == 3 and len(set(accuracies)) > 1
    for network, accuracy in zip([*judges.networks, judges.reader], accuracies, strict=True):
        with torch.no_grad():
            features = network.embed(to_unit(data.images["train"])).double()
            guesses = network(to_unit(data.images["test"])).argmax(1)
        assert float(features.square().mean()) == pytest.approx(1, rel=1e-4)
        assert accuracy == pytest.approx(float((guesses == data.labels["test"]).float().mean()))
        assert accuracy > 0.5
    assert not torch.equal(judges.networks[0].head.weight, judges.networks[1].head.weight)


def test_classifier_of_one_class_has_no_accuracy(digits):
    datasets = digits.datasets | {"digits": digits.datasets["digits"].model_copy(update={"classes": 1})}
    path = paths.data_path("digits")
    arrays = artifacts.read_npz(path)
    artifacts.write_npz(path, {key: array * (not key.endswith("labels")) for key, array in arrays.items()})
    out = make(Job(digits.model_copy(update={"datasets": datasets}), "classifier", "digits"), "cpu")
    noted = artifacts.read_json(paths.settings_path(out))
    assert (noted["test_accuracy"], noted["reader_test_accuracy"]) == ([None, None], None)
    assert float(load_judges(out, CPU).temperature) == 1


def test_one_image_cannot_be_learned_from(digits):
    """Seen to fail with a traceback out of a batch normalisation, which needs two."""
    path = paths.data_path("digits")
    arrays = artifacts.read_npz(path)
    artifacts.write_npz(path, {key: array[:1] for key, array in arrays.items()})
    with pytest.raises(UserError, match=r"digits has 1 training image.*datasets\.digits\.split"):
        make(Job(digits, "classifier", "digits"), "cpu")


def test_small_datasets_see_least_steps_and_large_ones_epochs(digits, monkeypatch):
    """1257 images in batches of 128 are 9 steps an epoch. The reader takes twice as many steps as a network.

    Seen to fail with the smaller of the two numbers.
    """
    taken = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args: taken.append(self))
    for epochs, least, steps in ((1, 3, 9), (2, 3, 19), (1, 12, 12)):
        taken.clear()
        changed = digits.classifier.model_copy(update={"epochs": epochs, "least_steps": least})
        make(Job(digits.model_copy(update={"classifier": changed}), "classifier", "digits"), "cpu")
        assert sorted(Counter(taken).values()) == [steps, steps, 2 * steps]


def test_classifier_is_the_same_twice(digits):
    short = digits.model_copy(update={"classifier": digits.classifier.model_copy(update={"least_steps": 3})})
    first = artifacts.sha256(make(Job(short, "classifier", "digits"), "cpu"))
    torch.manual_seed(99)
    assert artifacts.sha256(make(Job(short, "classifier", "digits"), "cpu")) == first


@pytest.mark.parametrize(("split", "changed"), [("test", set()), ("validation", {"temperature"})])
def test_judges_learn_from_training_images_and_are_calibrated_on_validation_images(digits, split, changed):
    """Wrong labels of another split change no weight, and those of validation images the temperature alone."""
    digits = digits.model_copy(update={"classifier": digits.classifier.model_copy(update={"least_steps": 20})})
    first = load_file(make(Job(digits, "classifier", "digits"), "cpu"))
    path = paths.data_path("digits")
    arrays = artifacts.read_npz(path)
    arrays[f"{split}_labels"] = arrays[f"{split}_labels"][::-1].copy()
    artifacts.write_npz(path, arrays)
    again = load_file(make(Job(digits, "classifier", "digits"), "cpu"))
    assert {key for key, value in first.items() if not torch.equal(value, again[key])} == changed


def test_loaded_classifier_has_the_sizes_of_its_file(classifier):
    path, channels = classifier
    judges = load_judges(path, CPU)
    assert len(judges.networks) == 2 and not judges.training
    for network in (*judges.networks, judges.reader):
        assert isinstance(network.features[0], nn.Conv2d)
        assert network.features[0].in_channels == channels
    assert [float(network.scale) for network in judges.networks] == [pytest.approx(0.3), pytest.approx(0.4)]


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Sequential()], ids=["other tensors", "no tensors"])
def test_file_that_is_no_classifier(tmp_path, other):
    save_weights(tmp_path / "x.safetensors", other)
    with pytest.raises(UserError, match=r"x\.safetensors is damaged"):
        load_judges(tmp_path / "x.safetensors", CPU)
