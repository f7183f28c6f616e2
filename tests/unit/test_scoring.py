"""Images of other programs: every usual layout is taken, and what can't be compared is refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spiking_diffusion import artifacts, paths
from spiking_diffusion.cli import main
from spiking_diffusion.config import check_params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.metrics.classifier import Judges
from spiking_diffusion.scoring import as_stored, score
from spiking_diffusion.stages import make
from spiking_diffusion.weights import save_weights

PARAMS = Path(__file__).parents[2] / "params.yaml"
CPU = torch.device("cpu")
GREY, COLOUR = [1, 28, 28], [3, 8, 8]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with digits and untrained judges; returns its parameters and the test images."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS.read_text(encoding="utf-8"))
    params = check_params(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
    make(Job(params, "fetch", "digits"))
    save_weights(paths.classifier_path("digits"), Judges(2, 1, [4, 4], 14 * 14, 8, 10))
    return params, artifacts.read_npz(paths.data_path("digits"))["test_images"]


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "three equal channels", "floats"])
def test_layouts_of_grey_images(layout):
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), np.uint8)
    stored = {
        "NHW": images[:, 0],
        "NHWC": images.transpose(0, 2, 3, 1),
        "NCHW": images,
        "three equal channels": images.repeat(3, 1),
        "floats": images / np.float32(255),
    }[layout]
    assert np.array_equal(as_stored(Path("x.npz"), stored, GREY), images)


@pytest.mark.parametrize(
    ("images", "shape", "said"),
    [
        (np.zeros((4, 32, 32), np.uint8), GREY, "shape \\(1, 32, 32\\), the dataset's are \\(1, 28, 28\\): resize"),
        (np.zeros((4, 28), np.uint8), GREY, "shape \\(28,\\)"),
        (np.zeros((4, 8, 8), np.uint8), COLOUR, "1 channels, the dataset's are colour"),
        (np.arange(4 * 3 * 784, dtype=np.uint8).reshape(4, 3, 28, 28), GREY, "3 channels, the dataset's are grey"),
        (np.full((4, 28, 28), 2.0), GREY, "floats from 2.0 to 2.0"),
        (np.full((4, 28, 28), np.nan), GREY, "floats from nan"),
        (np.zeros((4, 28, 28), np.int64), GREY, "is int64"),
    ],
)
def test_images_that_do_not_fit(images, shape, said):
    with pytest.raises(UserError, match=said):
        as_stored(Path("x.npz"), images, shape)


def test_real_images_score_like_real_images(project):
    """The test images themselves: an FID of 0, and as legible and as far from training images as they are."""
    params, test = project
    artifacts.write_npz(Path("x.npz"), {"images": test})
    found = score(params, "digits", Path("x.npz"), ["classifier"], CPU)
    assert found["images"] == found["classifier_n_generated"] == len(test)
    assert abs(found["classifier_fid"]) < 0.1 * found["classifier_train_test_fid"]
    assert found["legible"] == found["test_legible"]
    assert found["pixel_nearest_train_mean"] == found["test_pixel_nearest_train_mean"] > 0
    assert not [key for key in found if key.startswith("standard")]


def test_a_folder_and_the_command(project, capsys):
    _, test = project
    Path("mine").mkdir()
    for number, image in enumerate(test[:12, 0]):
        Image.fromarray(image).save(f"mine/{number}.png")
    assert main(["score", "mine", "--dataset", "digits"]) == 0
    assert '"images": 12' in capsys.readouterr().out
    for arguments, said in [
        (["nothing", "--dataset", "digits"], "there is no file or folder nothing"),
        (["mine", "--dataset", "digit"], "did you mean 'digits'"),
        (["mine", "--dataset", "digits", "--protocols", "clasifier"], "did you mean 'classifier'"),
        (["mine", "--dataset", "mnist"], "results/data/mnist.npz is missing"),
    ]:
        assert main(["score", *arguments]) == 2
        assert said in capsys.readouterr().err
    Image.fromarray(test[0, 0, :20]).save("mine/small.png")
    assert main(["score", "mine", "--dataset", "digits"]) == 2
    assert "mine cannot be scored: small.png is 20 pixels high" in capsys.readouterr().err


def test_too_few_images_and_too_many_arrays(project):
    params, test = project
    artifacts.write_npz(Path("few.npz"), {"x": test[:3]})
    artifacts.write_npz(Path("two.npz"), {"x": test, "y": test})
    with pytest.raises(UserError, match="has 3 images: precision and recall need 4"):
        score(params, "digits", Path("few.npz"), ["classifier"], CPU)
    with pytest.raises(UserError, match="has the arrays x, y: call the one"):
        score(params, "digits", Path("two.npz"), ["classifier"], CPU)
