"""Protocols: the Inception networks with random weights against torch-fidelity and torchvision called directly, what
is done without weights or with the wrong ones, and the numbers of whole protocols."""

import io
import logging
import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch_fidelity
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models.inception import Inception3

from spiking_diffusion import artifacts
from spiking_diffusion.config import Inception, Protocol, check_params
from spiking_diffusion.errors import UserError
from spiking_diffusion.metrics import distances, features, protocols
from spiking_diffusion.metrics.classifier import Judges, cells_of, load_judges
from spiking_diffusion.metrics.features import (
    CleanInceptionFeatures,
    Features,
    ImageNetFeatures,
    InceptionFeatures,
    RGBImages,
    clean_resize,
)
from spiking_diffusion.metrics.inception import CACHE, INCEPTION, UnavailableError, find_weights, read_weights
from spiking_diffusion.metrics.protocols import COLUMNS, PROTOCOLS, Images, measure, over_networks
from spiking_diffusion.weights import save_weights

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
PARAMS = check_params(RAW)
QUICK = PARAMS.recipes["quick"].evaluate
CPU = torch.device("cpu")
NOWHERE = "http://127.0.0.1:9/weights.pth"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty project, without a word about weights in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", "torch")
    monkeypatch.delenv(INCEPTION, raising=False)
    monkeypatch.delenv("SPIKING_DIFFUSION_MIRROR", raising=False)


def lively(network):
    """Random weights that let differences between images through to the last layer."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.9, 1.1)
    return network


@pytest.fixture(scope="module")
def fid_weights(tmp_path_factory):
    """A file as torch-fidelity's, with random weights."""

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """The constructor insists on a file."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = lively(Blank("blank", ["2048"], nothing))
    path = tmp_path_factory.mktemp("weights") / "fid.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory):
    """A file as torchvision's, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "imagenet.pth"
    torch.save(lively(Inception3(init_weights=False)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, strong_judges):
    path = tmp_path_factory.mktemp("classifier") / "x.safetensors"
    save_weights(path, strong_judges(features=5))
    return path


def pictures(n, channels=1, seed=0, side=28):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), np.uint8))


def inception(**files):
    """``inception:`` of params.yaml; a path stands for that file and its hash, nothing for one that cannot be had."""
    entries = {"fid": {"name": "fid.pth", "urls": [NOWHERE], "sha256": "0" * 64}}
    entries["imagenet"] = {**entries["fid"], "name": "imagenet.pth"}
    entries |= {kind: {"path": str(path), "sha256": artifacts.sha256(path)} for kind, path in files.items()}
    return Inception.model_validate(entries)


# --- features -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_is_torch_fidelitys(fid_weights, channels):
    images = pictures(3, channels)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(fid_weights))
    with torch.no_grad():
        (expected,) = theirs(images.expand(-1, 3, -1, -1))
    (found,) = Features(InceptionFeatures, fid_weights, 3, CPU)(images)
    assert found.shape == (3, 2048)
    assert torch.equal(found, expected)
    assert found.std(0).mean() > 0.001, "images can be told apart"


def test_clean_inception_is_the_same_network_behind_another_resize(fid_weights, monkeypatch):
    large = pictures(2, 3, side=features.SIDE)
    monkeypatch.setattr(features, "clean_resize", lambda image: image.float())
    (found,) = Features(CleanInceptionFeatures, fid_weights, 2, CPU)(large)
    (expected,) = Features(InceptionFeatures, fid_weights, 2, CPU)(large)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("side", [28, 32])
def test_clean_resize(side):
    """Each channel alone, bicubic from floats, cut off at 0 and 255; images of 32x32 are taken as they are."""
    image = pictures(1, 3, side=side)[0]
    found = clean_resize(image)
    assert found.shape == (3, 299, 299) and found.dtype == torch.float32
    assert (float(found.min()), float(found.max())) == (0, 255), "bicubic overshoots, and is cut off"
    assert found.frac().abs().max() > 0.1, "nothing is rounded"
    small = [np.asarray(Image.fromarray(c.numpy()).resize((32, 32), Image.Resampling.BILINEAR)) for c in image]
    if side == 32:
        assert np.array_equal(np.stack(small), image.numpy())
    expected = F.interpolate(  # PIL's cubic has a = -0.5, which torch's has with antialias alone
        torch.from_numpy(np.stack(small)).float()[None], (299, 299), mode="bicubic", antialias=True
    ).clamp(0, 255)
    assert torch.allclose(found, expected[0], atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_features_are_torchvisions_pooled_ones(imagenet_weights, channels):
    images = pictures(3, channels)
    network = Inception3(transform_input=True, init_weights=False).eval()
    network.load_state_dict(torch.load(imagenet_weights, weights_only=True))
    kept = []
    network.Mixed_7c.register_forward_hook(lambda module, inputs, output: kept.append(output))
    large = nn.Upsample((299, 299), mode="bilinear")(images.expand(-1, 3, -1, -1).float() / 255)
    with torch.no_grad():
        network(large * 2 - 1)
    (found,) = Features(ImageNetFeatures, imagenet_weights, 3, CPU)(images)
    assert torch.allclose(found, kept[0].mean((2, 3)), atol=1e-5)
    assert found.std(0).mean() > 0.001


def test_batch_size_makes_no_difference(classifier):
    images = pictures(30)
    found = [Features(features.ClassifierFeatures, classifier, size, CPU)(images) for size in (1, 7, 30)]
    for one, seven, all_at_once in zip(*found, strict=True):
        assert torch.allclose(one, all_at_once, atol=1e-5) and torch.allclose(seven, all_at_once, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_network_of_the_judges_is_a_space_of_its_own(strong_judges, channels):
    """In the order of the file. Seen to fail with the networks' features side by side as one space."""
    judges, images = strong_judges(channels), pictures(6, channels)
    save_weights(Path("x.safetensors"), judges)
    found = Features(features.ClassifierFeatures, Path("x.safetensors"), 4, CPU)(images)
    with torch.no_grad():
        expected = [network.embed(images.float() / 255) for network in judges.networks]
    assert [space.shape for space in found] == [(6, 16), (6, 16)]
    for space, theirs in zip(found, expected, strict=True):
        assert torch.allclose(space, theirs, atol=1e-5)


def test_mean_and_deviation_over_networks_by_hand():
    assert over_networks("fid", [1.0, 2.0, 6.0]) == {"fid": 3.0, "fid_deviation": pytest.approx(7**0.5)}
    assert over_networks("kid", [0.25]) == {"kid": 0.25}, "one network alone has no deviation"


# --- a whole protocol -----------------------------------------------------------------------------------


def test_standard_has_torch_fidelitys_own_numbers(fid_weights, classifier):
    generated, test, train = pictures(8, seed=0), pictures(7, seed=1) // 2, pictures(9, seed=2)
    settings = QUICK.model_copy(update={"protocols": ["standard"], "kid_subset_size": 5, "kid_subsets": 4})
    images = Images(generated, test, test[:0], {"train": train, "validation": train[:4], "test": test})
    row, hashes = measure(images, settings, inception(fid=fid_weights), classifier, 3, CPU)
    expected = torch_fidelity.calculate_metrics(
        input1=RGBImages(generated),
        input2=RGBImages(test),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(fid_weights),
        **{"fid": True, "kid": True, "prc": True, "cuda": False, "verbose": False, "cache": False},
        **{"kid_subset_size": 5, "kid_subsets": 4, "rng_seed": 3, "batch_size": 50, "save_cpu_ram": True},
    )
    # torch-fidelity keeps features in float32, we compare them in float64
    assert row["standard_fid"] == pytest.approx(expected[torch_fidelity.KEY_METRIC_FID], rel=1e-4)
    assert row["standard_kid"] == pytest.approx(expected[torch_fidelity.KEY_METRIC_KID_MEAN], rel=1e-4)
    assert row["standard_precision"] == expected[torch_fidelity.KEY_METRIC_PRECISION]
    assert row["standard_recall"] == expected[torch_fidelity.KEY_METRIC_RECALL]
    assert abs(row["standard_reconstruction_fid"]) < 1e-3 * row["standard_train_test_fid"]
    assert "standard_perfect_prior_fid" not in row and row["standard_n_perfect_prior"] == 0, "there are no such images"
    assert not [key for key in row if key.endswith("_deviation")], "there is one network"
    assert [row[f"standard_{key}"] for key in ("n_generated", "n_real", "kid_subset_size")] == [8, 7, 5]
    assert hashes == {"fid": artifacts.sha256(fid_weights)}
    assert not Path("torch").exists(), "torch-fidelity keeps nothing for the next call, which may be another's"


def sets(n=60, n_test=50, n_train=70, seed=0):
    test = pictures(n_test, seed=seed + 1)
    real = {"train": pictures(n_train, seed=seed + 2), "validation": pictures(10, seed=seed + 3), "test": test}
    return Images(pictures(n, seed=seed), test.flip(3), pictures(n, seed=seed + 4), real)


def run(images, classifier, *names, files=None, **changes):
    settings = QUICK.model_copy(update={"protocols": list(names), "kid_subsets": 3} | changes)
    return measure(images, settings, files or inception(), classifier, 0, CPU)[0]


@pytest.fixture
def all_on_the_classifier(monkeypatch):
    """All protocols on the classifier's features, and with tens of images in place of thousands."""
    space = PROTOCOLS["classifier"].fid_features
    for name, protocol in PROTOCOLS.items():
        change = {"fid_features": space, "kid_features": space, "generated": max(10, protocol.generated // 1000)}
        if protocol.exact:
            change |= {"generated": 40}
        if protocol.first:
            change |= {"first": 40}
        monkeypatch.setitem(PROTOCOLS, name, type(protocol)(**{**vars(protocol), **change}))


@pytest.mark.usefixtures("all_on_the_classifier")
def test_which_images_each_protocol_compares(classifier):
    images = sets()
    row = run(images, classifier, *PROTOCOLS)

    def embed(part):
        with torch.no_grad():
            return torch.stack(load_judges(classifier, CPU).embed(part.float() / 255), dim=1)

    def mean(number, a, b):
        return np.mean([number(a[:, network], b[:, network]) for network in range(2)])

    ours, test = embed(images.generated), embed(images.real["test"])
    everything = embed(torch.cat([images.real["train"], images.real["validation"]]))
    again, perfect = embed(images.reconstructed), embed(images.perfect)
    near = {"rel": 1e-3}
    fid, svd_fid = distances.fid, distances.svd_fid
    assert row["classifier_fid"] == pytest.approx(mean(fid, ours[:10], test), **near)
    assert row["classifier_perfect_prior_fid"] == pytest.approx(mean(fid, perfect[:10], test), **near)
    assert row["train50k_fid"] == pytest.approx(mean(fid, ours[:40], everything), **near)
    assert row["train50k_train_test_fid"] == pytest.approx(mean(fid, test[:40], everything), rel=0.5)
    assert row["released_fid"] == pytest.approx(mean(svd_fid, ours[:40], test[:40]), **near)
    assert row["released_reconstruction_fid"] == pytest.approx(mean(svd_fid, again[:40], test[:40]), **near)
    assert row["released_perfect_prior_fid"] == pytest.approx(mean(svd_fid, perfect[:40], test[:40]), **near)
    whole = mean(lambda a, b: distances.kid(a, b, 40, 3, 0), ours[:40], test[:40])
    assert row["released_kid"] == pytest.approx(whole, rel=0.01)
    precisions = [distances.precision_recall(ours[:10, network], test[:, network])[0] for network in range(2)]
    assert row["classifier_precision"] == pytest.approx(np.mean(precisions))
    assert row["classifier_precision_deviation"] == pytest.approx(np.std(precisions, ddof=1))
    one, two = (fid(ours[:10, network], test[:, network]) for network in range(2))
    assert row["classifier_fid_deviation"] == pytest.approx(abs(one - two) / 2**0.5, **near)
    counts = {name: (row[f"{name}_n_generated"], row[f"{name}_n_real"]) for name in PROTOCOLS}
    assert counts["standard"] == counts["clean32"] == counts["classifier"] == (10, 50)
    assert (counts["train50k"], counts["released"]) == ((40, 80), (40, 40))
    drawn = {name: row[f"{name}_n_perfect_prior"] for name in PROTOCOLS}
    assert drawn == {"standard": 10, "clean32": 10, "train50k": 0, "released": 40, "classifier": 10}
    assert "train50k_perfect_prior_fid" not in row, "its training images would be compared with themselves"
    floors = {name: (row[f"{name}_n_reconstructed"], row[f"{name}_n_train_test"]) for name in PROTOCOLS}
    assert floors["standard"] == (10, 10) and floors["released"] == (40, 40)
    assert floors["train50k"] == (40, 40), "of the test images, at most as many as generated ones"
    assert row["train50k_settings"].endswith("3 subsets; root in FID: eigenvalues; real: train and validation images")
    assert "root in FID: SVD" in row["released_settings"] and "the first 40 of test images" in row["released_settings"]
    assert not [key for key in row if key.endswith("_reason")]


def test_settings_name_the_features():
    said = {name: protocol.settings(100) for name, protocol in PROTOCOLS.items()}
    assert len(set(said.values())) == len(PROTOCOLS)
    assert "inception_v3 of torchvision" in said["released"] and "KID: inception-v3-compat" in said["released"]
    assert "clean-fid" in said["clean32"] and "clean-fid" not in said["standard"]


def test_reconstructions_are_of_all_classes(classifier, monkeypatch):
    """A test set in the order of its classes, EMNIST Letters' for one: the first of it are one half of the alphabet."""
    protocol = PROTOCOLS["classifier"]
    monkeypatch.setitem(PROTOCOLS, "classifier", type(protocol)(**{**vars(protocol), "generated": 200}))
    images = sets(n_test=400)
    images.reconstructed[200:] //= 8
    far = run(images, classifier, "classifier")["classifier_reconstruction_fid"]
    images = Images(images.generated, images.reconstructed.flip(0), images.perfect, images.real)
    assert run(images, classifier, "classifier")["classifier_reconstruction_fid"] == pytest.approx(far, rel=0.3)


def test_a_model_that_draws_the_test_set_scores_0(classifier):
    images = sets()
    images = Images(images.real["test"], images.real["test"], images.real["test"], images.real)
    row = run(images, classifier, "classifier")
    assert abs(row["classifier_fid"]) < 1e-3 * row["classifier_train_test_fid"]
    assert row["classifier_reconstruction_fid"] == row["classifier_perfect_prior_fid"] == row["classifier_fid"]
    assert (row["classifier_precision"], row["classifier_recall"]) == (1, 1)


def test_few_and_constant_images_give_numbers_and_warnings(classifier, caplog):
    images = sets(n=5, n_test=4, n_train=4)
    images = Images(torch.full_like(images.generated, 7), images.reconstructed, images.perfect, images.real)
    with caplog.at_level(logging.WARNING):
        row = run(images, classifier, "classifier")
    assert all(np.isfinite(row[f"classifier_{key}"]) for key in COLUMNS if key != "settings")
    assert row["classifier_kid_subset_size"] == 4
    assert "KID's subsets have 4 images, not 1000" in caplog.text
    assert "5 generated and 4 real images in 5 dimensions: covariances are singular" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"n": 3}, "it needs 4 generated images, and there are 3"),
        ({"n_test": 1}, "it needs 4 real images, and there are 1"),
        ({"n_train": 2}, "it needs 4 real images, and there are 2"),
    ],
)
def test_too_few_images_are_refused_in_words(classifier, sizes, why):
    row = run(sets(**sizes), classifier, "classifier")
    assert row["classifier_reason"] == why
    assert [row[f"classifier_{key}"] for key in COLUMNS] == [None] * len(COLUMNS)


def test_protocols_named_after_a_number_take_no_other(classifier, tmp_path):
    for name in ("fid", "imagenet"):
        (tmp_path / name).write_bytes(name.encode())  # never read: images are counted first
    files = inception(fid=tmp_path / "fid", imagenet=tmp_path / "imagenet")
    row = run(sets(n=1279), classifier, "train50k", "released", files=files)
    assert row["train50k_reason"] == "it needs 50,000 generated images, and there are 1,279"
    assert row["released_reason"] == "it needs 1,280 generated images, and there are 1,279"
    row = run(sets(n=1280), classifier, "released", files=files)
    assert row["released_reason"] == "it needs 1,280 real images, and there are 50"


def test_without_weights_columns_are_empty_and_say_why(classifier):
    row = run(sets(), classifier, "standard", "released", "classifier")
    for name, file in (("standard", "fid.pth"), ("released", "imagenet.pth")):
        assert [row[f"{name}_{key}"] for key in COLUMNS] == [None] * len(COLUMNS)
        assert row[f"{name}_reason"] == (
            f"weights {file} could not be downloaded: "
            "set SPIKING_DIFFUSION_INCEPTION to a folder that has them and evaluate again"
        )
    assert row["classifier_fid"] > 0
    assert row["clean32_reason"] == "not asked for: evaluate.protocols is standard, released, classifier"
    assert "clean32_fid" not in row


# --- weights: where from, and whether they can be trusted -----------------------------------------------


class Canary:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "bare pickle"])
def test_what_is_pickled_in_a_file_of_weights_is_not_run(zipped):
    path = Path("evil.pth")
    torch.save({"a": Canary()}, path) if zipped else path.write_bytes(pickle.dumps({"a": Canary()}))
    for extractor in (InceptionFeatures, ImageNetFeatures, CleanInceptionFeatures):
        with pytest.raises(UserError, match=r"evil\.pth is not a file of weights"):
            Features(extractor, path, 2, CPU)
    assert not Path("canary").exists()
    pickle.loads(pickle.dumps(Canary()))
    assert Path("canary").exists(), "the canary works"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"PK\x03\x04 truncated", b"<html>not found</html>"], ids=["empty", "0", "zip", "html"]
)
def test_a_file_that_holds_no_weights(content):
    Path("x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth is not a file of weights"):
        read_weights(Path("x.pth"))


def test_weights_of_another_network(imagenet_weights):
    torch.save([torch.zeros(3)], "list.pth")
    with pytest.raises(UserError, match=r"list\.pth is not a file of weights"):
        read_weights(Path("list.pth"))
    with pytest.raises(UserError, match=r"imagenet\.pth has weights of another network"):
        Features(InceptionFeatures, imagenet_weights, 2, CPU)


def remote(content, name="fid.pth"):
    """Where a file with this content can be had: nowhere but where a test puts it."""
    Path("hashed").write_bytes(content)
    entry = {"name": name, "urls": [NOWHERE], "sha256": artifacts.sha256(Path("hashed"))}
    return Inception.model_validate({"fid": entry, "imagenet": entry})


def test_weights_by_environment_by_mirror_and_from_an_earlier_download(monkeypatch, tmp_path):
    files = remote(b"weights").fid
    for place in (tmp_path / "own/fid.pth", tmp_path / "mirror/inception/fid.pth", CACHE / "fid.pth"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"weights")
    assert find_weights("fid", files) == CACHE / "fid.pth"
    (CACHE / "fid.pth").unlink()
    monkeypatch.setenv("SPIKING_DIFFUSION_MIRROR", str(tmp_path / "mirror"))
    assert find_weights("fid", files) == tmp_path / "mirror/inception/fid.pth"
    for given in (tmp_path / "own", tmp_path / "own/fid.pth"):
        monkeypatch.setenv(INCEPTION, str(given))
        assert find_weights("fid", files) == tmp_path / "own/fid.pth"
    # the one file is that of `fid`
    monkeypatch.delenv("SPIKING_DIFFUSION_MIRROR")
    with pytest.raises(UnavailableError, match=r"weights fid\.pth could not be downloaded"):
        find_weights("imagenet", files)


def test_a_damaged_download_is_not_used():
    files = remote(b"weights").fid
    CACHE.mkdir(parents=True)
    (CACHE / "fid.pth").write_bytes(b"weightz")
    with pytest.raises(UnavailableError):
        find_weights("fid", files)


def test_a_named_file_must_be_there_and_the_right_one(monkeypatch, tmp_path):
    files = remote(b"weights").fid
    (tmp_path / "other").write_bytes(b"others")
    monkeypatch.setenv(INCEPTION, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_weights("fid", files)
    monkeypatch.setenv(INCEPTION, str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"other is not the file of inception\.fid \(its sha256 is"):
        find_weights("fid", files)
    monkeypatch.delenv(INCEPTION)
    pinned = inception(fid=tmp_path / "other").fid
    assert find_weights("fid", pinned) == tmp_path / "other"
    (tmp_path / "other").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"not the file of inception\.fid"):
        find_weights("fid", pinned)
    (tmp_path / "other").unlink()
    with pytest.raises(UserError, match=r"correct inception\.fid\.path"):
        find_weights("fid", pinned)


def test_hashes_in_params_fit_the_names_that_begin_with_them():
    for file in (PARAMS.inception.fid, PARAMS.inception.imagenet):
        assert file.sha256.startswith(Path(file.name).stem.rpartition("-")[2])
        assert file.urls[0].endswith(f"/{file.name}")
    assert protocols.PROTOCOLS.keys() == set(get_args(Protocol))


def test_a_classifier_without_labels_is_named_beside_its_numbers(tmp_path):
    """One class is nothing to learn: its features are those of random weights."""
    for classes in (1, 10):
        judges = Judges(2, 1, (4, 6), cells_of((1, 28, 28), (4, 6)), 5, classes)
        save_weights(tmp_path / f"{classes}.safetensors", judges)
        real = {split: pictures(8, seed=2) for split in ("train", "test")}
        images = Images(pictures(8), pictures(8, seed=1), pictures(8, seed=3), real)
        row, _ = measure(images, QUICK, PARAMS.inception, tmp_path / f"{classes}.safetensors", 0, CPU)
        assert ("its weights are random" in row["classifier_settings"]) is (classes == 1)
