"""Numbers that ``evaluate`` writes, worked out from the run's files: which images and tokens each of them is of."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from spiking_diffusion import artifacts, paths
from spiking_diffusion.diffusion.absorbing import bits_per_token
from spiking_diffusion.diffusion.loading import load_sdid
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics import distances
from spiking_diffusion.metrics.classifier import load_judges
from spiking_diffusion.metrics.reading import class_balance, legible
from spiking_diffusion.metrics.reconstruction import ssim_loss
from spiking_diffusion.metrics.rows import read_row
from spiking_diffusion.stages import make
from spiking_diffusion.weights import save_weights

CPU = torch.device("cpu")
SIZES = {"train": 120, "validation": 20, "test": 40}


@pytest.fixture
def params(untrained, strong_judges):
    """Those of a project folder with few images, tokens and samples. Test images are of five classes and their tokens
    two codes, which SDID prefers. Half of the samples are the last training images, the others their negatives."""
    path = paths.data_path("digits")
    path.unlink()
    make(Job(untrained, "fetch", "digits"))
    arrays = artifacts.read_npz(path)
    chosen = np.flatnonzero(arrays["test_labels"] < 5)
    arrays |= {key: arrays[key][chosen] for key in ("test_images", "test_labels")}
    arrays = {key: array[: SIZES[key.partition("_")[0]]] for key, array in arrays.items()}
    artifacts.write_npz(path, arrays)

    judges = strong_judges(features=5)
    nn.init.normal_(judges.reader.head.weight, std=2)  # it is sure of some images
    save_weights(paths.classifier_path("digits"), judges)

    sdid, _ = load_sdid(untrained.resolve("digits"), CPU)
    sdid.out.bias.data[:2] += 5
    made_from = artifacts.sha256(paths.model_path("digits", "vqsvae"))
    save_weights(paths.model_path("digits", "sdid"), sdid, made_from)
    draws = np.random.default_rng(0)
    tokens = artifacts.read_npz(make(Job(untrained, "tokens", "digits"), "cpu"))
    for split, n in SIZES.items():
        tokens[split] = (np.arange(n * 49).reshape(n, 7, 7) % 2).astype(np.uint16)
    for split in ("train", "validation"):
        tokens[split] = draws.integers(2, 6, tokens[split].shape).astype(np.uint16)
    artifacts.write_npz(paths.tokens_path("digits"), tokens)

    artifacts.write_json(paths.tuning_path("digits"), {"temperature": 0.9})
    samples = artifacts.read_npz(make(Job(untrained, "sample", "digits"), "cpu"))
    copies = arrays["train_images"][-60:]
    artifacts.write_npz(paths.samples_path("digits"), samples | {"images": np.concatenate([copies, 255 - copies])})
    return untrained


@pytest.fixture
def row(params):
    make(Job(params, "evaluate", "digits"), "cpu")
    return read_row("digits")


def unit(split):
    return torch.from_numpy(artifacts.read_npz(paths.data_path("digits"))[f"{split}_images"]) / 255


def stored(images):
    """As files have them: 256 levels."""
    return (images * 255).round() / 255


def test_every_number_of_images_is_of_the_images_that_its_name_says(params, row):
    """There are as many samples as training images, so that nothing is left to chance."""
    model, judges = load(params.resolve("digits"), CPU), load_judges(paths.classifier_path("digits"), CPU)
    samples = torch.from_numpy(artifacts.read_npz(paths.samples_path("digits"))["images"]) / 255
    train, test = unit("train"), unit("test")
    labels = torch.from_numpy(artifacts.read_npz(paths.data_path("digits"))["train_labels"])
    again, perfect = model.reconstruct(test), model.reconstruct(train)

    def fid(images):
        with torch.no_grad():
            pairs = zip(judges.embed(stored(images)), judges.embed(test), strict=True)
            return np.mean([distances.fid(a, b) for a, b in pairs])

    def read(images):
        with torch.no_grad():
            return judges.read(stored(images))

    expected = {
        "mse": float((again - test).double().square().mean()),
        "ssim": float(ssim_loss(again, test).double().mean()),
        "classifier_fid": fid(samples),
        "classifier_train_test_fid": fid(train),
        "classifier_reconstruction_fid": fid(again),
        "classifier_perfect_prior_fid": fid(perfect),
        "legible": legible(read(samples)),
        "test_legible": legible(read(test)),
        "reconstruction_legible": legible(read(again)),
        "perfect_prior_legible": legible(read(perfect)),
        "class_balance": class_balance(read(samples), labels),
    }
    told_apart = {round(value, 2 if value > 1 else 4) for value in expected.values()}
    assert len(told_apart) >= len(expected) - 1, "all reconstructions may be legible"
    for key, value in expected.items():
        assert row[key] == pytest.approx(value, rel=1e-3), key
    rebuilt = artifacts.read_npz(paths.reconstructions_path("digits"))["images"]
    assert np.array_equal(rebuilt, (again * 255).round().to(torch.uint8).numpy())


def test_copies_are_at_no_distance_wherever_they_are_in_the_training_images(row):
    """Distances by hand, to every training image. Half of the samples are copies of the last ones."""
    judges, train = load_judges(paths.classifier_path("digits"), CPU), unit("train").numpy()
    samples = torch.from_numpy(artifacts.read_npz(paths.samples_path("digits"))["images"]) / 255
    for name, images in (("", samples), ("test_", unit("test"))):
        with torch.no_grad():
            ours, known = judges.embed(images)[0].numpy(), judges.embed(unit("train"))[0].numpy()
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        moved = [padded[:, :, y : y + 28, x : x + 28] for y, x in itertools.product(range(3), range(3))]
        squares = [[((image - train) ** 2).mean((1, 2, 3)).min() for image in part] for part in moved]
        found = {
            "nearest_train": np.linalg.norm(ours[:, None] - known, axis=2).min(1),
            "pixel_nearest_train": np.sqrt(np.min(squares, axis=0)),
        }
        for key, distances_of in found.items():
            assert row[f"{name}{key}_mean"] == pytest.approx(distances_of.mean(), rel=1e-3)
            assert row[f"{name}{key}_p01"] == pytest.approx(np.quantile(distances_of, 0.01), rel=1e-3, abs=1e-5)
            assert (distances_of[:60].max() < 1e-5) == (name == ""), "samples are copies, test images are not"


def test_bits_and_perplexity_are_of_test_tokens(params, row, rng):
    """Test tokens are two codes, equally often."""
    model, diffusion = load_sdid(params.resolve("digits"), CPU)
    tokens = artifacts.read_npz(paths.tokens_path("digits"))

    def bits(split):
        part = torch.from_numpy(tokens[split].astype(np.int64)).repeat(10, 1, 1)
        return bits_per_token(model, diffusion, part, 100, rng(5), CPU)[0]

    room = 5 * row["bits_per_token_error"]
    assert abs(row["bits_per_token"] - bits("test")) < room
    assert abs(row["bits_per_token"] - bits("train")) > 2 * room, "they can be told apart"
    assert row["codes_used"] == 2 and row["perplexity"] == pytest.approx(2, rel=1e-3)
