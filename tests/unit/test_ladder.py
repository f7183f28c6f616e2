"""Impostors: what is in each set, what the stage writes of them, and how the figure orders them."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.data.images import load_images
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.classifier import Judges, load_judges
from spiking_diffusion.metrics.ladder import BLOCKS, halves, impostors, shuffled
from spiking_diffusion.metrics.reading import Reader, class_balance, legible
from spiking_diffusion.stages import make
from spiking_diffusion.weights import save_weights

CPU = torch.device("cpu")
NAMES = [
    *("real", "halves of one class", "halves of any two", "blurred, 3x3"),
    *("50 images repeated", "shuffled blocks", "noise"),
]


def told_apart(n, channels=1, height=8, width=12):
    """uint8 (n, channels, height, width), whose every image has a level of its own, and their classes, 0 to 2."""
    assert n < 256
    levels = torch.arange(n, dtype=torch.uint8)
    return levels[:, None, None, None].expand(n, channels, height, width).clone(), torch.arange(n) % 3


# --- the sets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [60, 200, 250], ids=["fewer", "as many", "more"])
def test_sets_have_their_sizes_and_real_ones_are_first(n, channels, rng):
    images, labels = told_apart(200, channels)
    sets = impostors(images, labels, n, rng())
    assert list(sets) == NAMES
    for name, some in sets.items():
        assert some.shape == (n, channels, 8, 12) and some.dtype == torch.uint8, name
    real = sets["real"][:, 0, 0, 0].tolist()
    assert torch.equal(sets["real"], images[real])
    assert n > 200 or len(set(real)) == n, "each real image once"


def test_same_generator_same_sets(rng):
    images, labels = told_apart(100)
    first, again, other = (impostors(images, labels, 40, rng(seed)) for seed in (0, 0, 1))
    for name in NAMES:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]), name


def test_halves_by_hand():
    above, below = torch.full((1, 1, 8, 12), 1), torch.full((1, 1, 8, 12), 2)
    assert halves(above, below)[0, 0, :, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_halves_of_one_class_are_of_one_class_and_those_of_any_two_are_not(rng):
    """By the levels of each half, which say whose it is. Seen to fail with any image in place of one of the class."""
    images, labels = told_apart(200)
    sets = impostors(images, labels, 200, rng())
    for name in ("halves of one class", "halves of any two"):
        upper, lower = (sets[name][:, 0, row].long() for row in (0, -1))
        assert (upper == upper[:, :1]).all() and (lower == lower[:, :1]).all()
        assert torch.equal(upper[:, 0], sets["real"][:, 0, 0, 0].long())
        assert (upper[:, 0] != lower[:, 0]).float().mean() > 0.9, "not the image itself"
        alike = (labels[upper[:, 0]] == labels[lower[:, 0]]).float().mean()
        assert alike == 1 if name == "halves of one class" else 0.2 < alike < 0.5
        assert len(lower[:, 0].unique()) > 100


def test_blurred_images_are_means_of_3x3(rng):
    images, labels = torch.randint(256, (20, 3, 8, 12), dtype=torch.uint8), torch.zeros(20)
    sets = impostors(images, labels, 20, rng())
    wide = np.pad(sets["real"].numpy().astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
    means = sum(wide[:, :, y : y + 8, x : x + 12] for y in range(3) for x in range(3)) / 9
    assert np.abs(sets["blurred, 3x3"].numpy() - means).max() < 0.51


@pytest.mark.parametrize("n", [30, 130, 200])
def test_repeated_images_are_at_most_50(n, rng):
    images, labels = told_apart(200)
    found, times = impostors(images, labels, n, rng())["50 images repeated"][:, 0, 0, 0].unique(return_counts=True)
    assert min(n, 50) * 0.7 < len(found) <= 50
    assert times.max() >= n // 50


@pytest.mark.parametrize("channels", [1, 3])
def test_shuffled_blocks_are_the_images_own_blocks(channels, rng):
    """Each block once, whole and upright, each image in an order of its own."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, channels, 8, 12), np.uint8))
    moved = shuffled(images, rng())

    def blocks(image):
        y, x = 8 // BLOCKS, 12 // BLOCKS
        return [
            tuple(image[:, i * y : (i + 1) * y, j * x : (j + 1) * x].flatten().tolist())
            for i in range(BLOCKS)
            for j in range(BLOCKS)
        ]

    orders = set()
    for before, after in zip(map(blocks, images), map(blocks, moved), strict=True):
        assert sorted(before) == sorted(after) and len(set(before)) == BLOCKS**2
        orders.add(tuple(before.index(block) for block in after))
    assert moved.shape == images.shape and len(orders) == 30


def test_noise_has_every_level(rng):
    images, labels = told_apart(60)
    values = impostors(images, labels, 60, rng())["noise"]
    counts = torch.bincount(values.flatten(), minlength=256)
    assert counts.min() > 0 and counts.max() < 4 * counts.float().mean()


# --- the stage ------------------------------------------------------------------------------------------


@pytest.fixture
def digits(untrained):
    """The project with 300 training images and 100 test images."""
    path = paths.data_path("digits")
    path.unlink()
    make(Job(untrained, "fetch", "digits"))
    sizes = {"train": 300, "validation": 50, "test": 100}
    arrays = artifacts.read_npz(path)
    artifacts.write_npz(path, {key: array[: sizes[key.partition("_")[0]]] for key, array in arrays.items()})
    return untrained


def rows():
    with paths.ladder_path("digits").open() as file:
        return list(csv.DictReader(file))


def test_rows_are_in_order_with_means_over_networks(digits, strong_judges):
    """The first row's numbers are worked out again. Its images are all training images, in another order."""
    path = paths.classifier_path("digits")
    judges = strong_judges()
    nn.init.normal_(judges.reader.head.weight, std=2)  # it is sure of itself
    save_weights(path, judges)
    out = make(Job(digits, "ladder", "digits"), "cpu")
    assert [row["images"] for row in rows()] == NAMES
    assert {row["n"] for row in rows()} == {"300"}
    assert artifacts.read_json(paths.settings_path(out))["inputs"].keys() == {
        *("results/data/digits.npz", "results/classifiers/digits.safetensors")
    }
    examples = artifacts.read_npz(out.with_suffix(".npz"))
    assert list(examples) == NAMES and {array.shape for array in examples.values()} == {(10, 1, 28, 28)}

    data, judges = load_images(paths.data_path("digits")), load_judges(path, CPU)
    first = rows()[0]
    with torch.no_grad():
        ours, theirs = judges.embed(data.images["train"] / 255), judges.embed(data.images["test"] / 255)
    fids = [distances.fid(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert float(first["fid"]) == pytest.approx(np.mean(fids), rel=1e-3)
    assert float(first["fid_deviation"]) == pytest.approx(np.std(fids, ddof=1), rel=1e-2)
    near = [distances.precision_recall(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert [float(first[key]) for key in ("precision", "recall")] == pytest.approx(np.mean(near, axis=0), rel=1e-3)
    read = Reader(path, 100, CPU)(data.images["train"])
    assert 0 < float(first["legible"]) == pytest.approx(legible(read), rel=1e-4)
    assert float(first["class_balance"]) == pytest.approx(class_balance(read, data.labels["train"]), rel=1e-4)


def test_ladder_is_the_same_twice(digits):
    def made():
        out = make(Job(digits, "ladder", "digits"), "cpu")
        return {path.name: path.read_bytes() for path in out.parent.iterdir()}

    first = made()
    torch.manual_seed(99)
    assert made() == first
    assert first.keys() == {"digits.csv", "digits.npz", "digits.settings.json"}


def test_judges_of_one_class_read_nothing(digits):
    save_weights(paths.classifier_path("digits"), Judges(2, 1, (4, 4), 196, 8, 1))
    make(Job(digits, "ladder", "digits"), "cpu")
    assert {(row["legible"], row["class_balance"]) for row in rows()} == {("", "")}
    assert all(float(row["fid"]) > 0 for row in rows())


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_few_images_to_measure(digits, split):
    """Seen to fail with a traceback out of torch-fidelity."""
    path = paths.data_path("digits")
    few = {key: array[:3] if key.startswith(split) else array for key, array in artifacts.read_npz(path).items()}
    artifacts.write_npz(path, few)
    with pytest.raises(UserError, match=r"digits has .*3.* too few .*datasets\.digits\.split"):
        make(Job(digits, "ladder", "digits"), "cpu")


def test_four_images_are_enough(digits):
    path = paths.data_path("digits")
    artifacts.write_npz(path, {key: array[:4] for key, array in artifacts.read_npz(path).items()})
    make(Job(digits, "ladder", "digits"), "cpu")
    assert all(np.isfinite(float(row[key])) for row in rows() for key in ("fid", "kid", "precision", "recall"))
