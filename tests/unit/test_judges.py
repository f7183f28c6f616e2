"""The networks that judge images: their sizes, their files, what they learn from, and what is read from them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spiking_diffusion import artifacts, paths
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import Classifier, Judges, cells_of, is_random, load_judges
from spiking_diffusion.metrics.reading import Reader, class_balance, legible
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.stages import make
from spiking_diffusion.stages.classifier import calibrate, cut_and_mixed
from spiking_diffusion.weights import save_weights

CPU = torch.device("cpu")
CHANNELS = [(5,), (4, 6), (4, 6, 7)]


def noise(n, *shape):
    return torch.rand(n, *shape)


# --- sizes and files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "cells"),
    [((1, 28, 28), [784, 196, 49]), ((3, 32, 32), [1024, 256, 64]), ((1, 12, 20), [240, 60, 15])],
    ids=str,
)
def test_positions_that_poolings_leave_by_hand(shape, cells):
    assert [cells_of(shape, channels) for channels in CHANNELS] == cells


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_judges_have_the_sizes_of_their_file(tmp_path, lively, channels, colours):
    """Other widths of each layer, and the same numbers from the loaded ones."""
    shape, path = (colours, 12, 20), tmp_path / "x.safetensors"
    judges = lively(Judges(3, colours, channels, cells_of(shape, channels), 9, 11)).eval()
    for number, network in enumerate((*judges.networks, judges.reader)):
        network.scale.fill_(2.0 + number)
    judges.temperature.fill_(1.5)
    save_weights(path, judges)
    loaded, images = load_judges(path, CPU), noise(4, *shape)
    assert len(loaded.networks) == 3 and not loaded.training and not is_random(path)
    with torch.no_grad():
        assert [features.shape for features in loaded.embed(images)] == [(4, 9)] * 3
        assert loaded.read(images).shape == (4, 11)
        assert torch.equal(loaded.read(images), judges.read(images))
        for found, expected in zip(loaded.embed(images), judges.embed(images), strict=True):
            assert torch.equal(found, expected)


def test_judges_of_one_class_are_random(tmp_path):
    save_weights(tmp_path / "x.safetensors", Judges(2, 1, (4,), 96, 5, 1))
    assert is_random(tmp_path / "x.safetensors")


def test_features_are_divided_by_their_scale():
    network, images = Classifier(1, (4,), 96, 5, 10).eval(), noise(6, 1, 8, 12)
    before, logits = network.embed(images), network(images)
    network.scale.fill_(4.0)
    assert torch.allclose(network.embed(images), before / 4)
    assert torch.equal(network(images), logits), "the head sees features as they are"


# --- dead units -----------------------------------------------------------------------------------------


def assert_alive(network, images):
    """Every feature takes another value for almost every image."""
    with torch.no_grad():
        features = network.eval().embed(images)
    different = [len(column.unique()) for column in features.T]
    constant = sum(n == 1 for n in different)
    assert min(different) > 0.9 * len(images), f"{constant} features are constant, others have {min(different)} values"
    assert features.std(0).min() > 1e-3 * features.std(0).mean()


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_no_feature_of_a_fresh_network_is_constant(channels):
    """Seen to fail with ReLU in place of GELU: some features are 0 for all images, others for most."""
    for seed in range(3):
        torch.manual_seed(seed)
        network = Classifier(1, channels, cells_of((1, 28, 28), channels), 64, 10)
        assert_alive(network, noise(200, 1, 28, 28))


def test_no_feature_of_a_trained_network_is_constant():
    """After a training that drives ReLUs into silence: at a high rate on few images.

    Seen to fail with ReLU: without batch normalisation half of the features are 0 for all images.
    """
    network, images, labels = Classifier(1, (4, 6), 784 // 4, 64, 10), noise(64, 1, 28, 28), torch.arange(64) % 10
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.03)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
    assert_alive(network, images)
    assert_alive(network, noise(200, 1, 28, 28))


# --- what the reader learns from ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 20)], ids=str)
def test_targets_of_mixed_images_are_their_shares_of_pixels(shape, rng):
    """Images of one grey each, so that every pixel says whose it is. Seen to fail where the area ignores the border."""
    size, draws = 8, rng()
    levels = torch.arange(size) / 10
    images, targets = levels[:, None, None, None].expand(size, *shape).clone(), torch.eye(size)
    areas = []
    for _ in range(200):
        mixed, found = cut_and_mixed(images, targets, draws)
        shares = torch.stack([(mixed == level).float().mean((1, 2, 3)) for level in levels], dim=1)
        assert torch.allclose(found, shares, atol=1e-6)
        assert torch.allclose(found.sum(1), torch.ones(size))
        areas.append(float(1 - found.diagonal().min()))
    assert min(areas) < 0.02 and max(areas) > 0.5 and len(set(areas)) > 50, "rectangles of all sizes"
    assert torch.equal(images, levels[:, None, None, None].expand(size, *shape)), "the images stay as they were"


def test_mixed_targets_of_equal_classes_are_one_class(rng):
    targets = torch.eye(3)[[1, 1, 1, 1]]
    _, found = cut_and_mixed(noise(4, 1, 8, 8), targets, rng())
    assert torch.allclose(found, targets)


# --- calibration ----------------------------------------------------------------------------------------


def as_validation(labels):
    return SimpleNamespace(labels={"validation": labels})


def test_an_overconfident_reader_is_cooled():
    """Right three times in four, with logits of 6. At temperature T an answer has 1 / (1 + exp(-6 / T)) of two, which
    is 3/4 at 6 / log 3 = 5.5, more than 4; with logits of 3 it is 2.73."""
    labels = torch.tensor([0, 0, 0, 1] * 25)
    for size, expected in ((3.0, 3 / np.log(3)), (6.0, 4.0)):
        logits = torch.tensor([[size, 0.0]]).expand(100, 2)
        assert calibrate(logits, as_validation(labels)) == pytest.approx(expected, rel=0.02)


def test_a_reader_that_is_never_wrong_is_not_sharpened():
    """Seen to fail with temperatures below 1 among those tried."""
    labels = torch.arange(100) % 10
    for size in (0.1, 1.0, 20.0):
        assert calibrate(size * torch.eye(10)[labels], as_validation(labels)) == 1


# --- what is read ---------------------------------------------------------------------------------------


def test_legible_by_hand():
    certain, unsure, at_the_edge = [0.95, 0.05], [0.2, 0.8], [0.9, 0.1]
    assert legible(torch.tensor([certain, unsure, unsure, certain[::-1]])) == 0.5
    assert legible(torch.tensor([unsure, at_the_edge])) == 0, "more than 0.9"
    assert legible(torch.tensor([certain])) == 1


def test_class_balance_by_hand():
    labels = torch.tensor([0, 0, 1, 2])  # a half and two quarters
    same = torch.eye(3)[[0, 1, 0, 2]]
    assert class_balance(same, labels) == 0
    assert class_balance(torch.eye(3)[[1]], labels) == pytest.approx(0.75)
    assert class_balance(torch.eye(3)[[0, 2]], labels) == pytest.approx(0.25)
    assert class_balance(torch.eye(4)[[3, 3]], labels) == 1, "a class that is not there"


def test_reader_gives_the_calibrated_probabilities_of_its_own_network(tmp_path, strong_judges):
    judges = strong_judges()
    judges.temperature.fill_(2.5)
    save_weights(tmp_path / "x.safetensors", judges)
    images = torch.randint(256, (7, 1, 28, 28), dtype=torch.uint8)
    found = Reader(tmp_path / "x.safetensors", 3, CPU)(images)
    with torch.no_grad():
        expected = (judges.reader(images / 255) / 2.5).softmax(1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(7))


# --- in a run's metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 1])
def test_a_run_is_read_and_compared_with_copies(untrained, classes):
    """With judges of one class nothing can be read, and the numbers are none."""
    paths.data_path("digits").unlink()
    make(Job(untrained, "fetch", "digits"))  # with its test images
    judges = Judges(2, 1, (4, 4), cells_of((1, 28, 28), (4, 4)), 8, classes)
    for network in (*judges.networks, judges.reader):
        nn.init.normal_(network.head.weight, std=20)
    save_weights(paths.classifier_path("digits"), judges)
    make(Job(untrained, "fsvae_sample", "digits-fsvae"), "cpu")
    make(Job(untrained, "fsvae_evaluate", "digits-fsvae"), "cpu")
    row = read_row("digits-fsvae")
    shares = ("legible", "test_legible", "reconstruction_legible", "perfect_prior_legible", "class_balance")
    read = [row.get(key) for key in shares]
    if classes == 1:
        assert read == [None] * 5
    else:
        assert all(0 <= share <= 1 for share in read) and max(read) > 0
        generated = torch.from_numpy(artifacts.read_npz(paths.samples_path("digits-fsvae"))["images"])
        assert row["legible"] == legible(Reader(paths.classifier_path("digits"), 50, CPU)(generated))
    assert row["classifier_n_perfect_prior"] == row["classifier_n_generated"] == 30
    assert row["classifier_perfect_prior_fid"] > 0 and row["classifier_fid_deviation"] > 0
    for key in ("nearest_train", "pixel_nearest_train"):
        assert 0 < row[f"test_{key}_p01"] < row[f"test_{key}_mean"]
        assert 0 < row[f"{key}_p01"] <= row[f"{key}_mean"]
