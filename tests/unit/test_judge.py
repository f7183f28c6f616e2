"""The judges of digits, trained with the settings in params.yaml, and what they make of impostors.

A judge is good if it puts impostors in the order that a person would: halves of two digits of one class near real
digits, halves of any two far away, and noise behind them all.
"""

import contextlib
from pathlib import Path

import pandas as pd
import pytest
import torch

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import load_params
from spiking_diffusion.data.images import load_images, to_unit
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import load_judges
from spiking_diffusion.stages import make

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A project folder with digits, their judges and the ladder."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    folder = tmp_path_factory.mktemp("judged")
    with contextlib.chdir(folder):
        for stage in ("fetch", "classifier", "ladder"):
            make(Job(PARAMS, stage, "digits"), "cpu")
    torch.set_num_threads(threads)  # training sets both for good
    torch.use_deterministic_algorithms(deterministic)
    return folder


@pytest.fixture(scope="module")
def ladder(judged):
    """The rows by name."""
    return pd.read_csv(judged / paths.ladder_path("digits")).set_index("images")


def test_every_network_tells_classes_apart(judged):
    noted = artifacts.read_json(judged / paths.settings_path(paths.classifier_path("digits")))
    accuracies = [*noted["test_accuracy"], noted["reader_test_accuracy"]]
    assert len(accuracies) == PARAMS.classifier.networks + 1
    assert min(accuracies) >= 0.97, accuracies


def test_no_feature_is_dead(judged):
    """Over test images. The features' mean square is 1."""
    images = to_unit(load_images(judged / paths.data_path("digits")).images["test"])
    judges = load_judges(judged / paths.classifier_path("digits"), torch.device("cpu"))
    for network in (*judges.networks, judges.reader):
        with torch.no_grad():
            spread = network.embed(images).std(0)
        assert len(spread) == PARAMS.classifier.features
        assert spread.min() > 0.05, f"{int((spread <= 0.05).sum())} features are almost constant"


STORED = sorted((Path(__file__).parents[2] / "docs/ladders").glob("*.csv"))
"""Ladders of datasets whose judges take longer to train, as `docs/evaluation.md` has them."""


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_ladders_are_in_the_same_order(path):
    stored = pd.read_csv(path).set_index("images")
    fid, legible = stored["fid"], stored["legible"]
    assert fid["real"] < fid["halves of one class"] < fid["halves of any two"] < fid["noise"]
    assert fid["halves of any two"] > 5 * fid["real"]
    assert legible["halves of any two"] < legible["real"] / 2


def test_impostors_are_in_the_order_that_a_person_would_give_them(ladder):
    fid = ladder["fid"]
    assert fid["real"] < fid["halves of one class"] < fid["halves of any two"]
    assert fid["halves of any two"] > 5 * fid["real"]
    for name in ("noise", "shuffled blocks"):
        assert fid[name] > fid["halves of any two"]


def test_what_is_of_no_one_class_is_not_legible(ladder):
    legible = ladder["legible"]
    assert legible["real"] > 0.8
    assert legible["halves of any two"] < legible["real"] / 2
    assert legible["noise"] < 0.1
    assert ladder["class_balance"]["real"] < 0.02


def test_repeated_images_have_no_recall(ladder):
    assert ladder["recall"]["50 images repeated"] < ladder["recall"]["real"] / 2
