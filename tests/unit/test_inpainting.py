"""Completing pictures: which tokens are drawn anew, what stays, and what files are taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spiking_diffusion.cli import main
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import load
from spiking_diffusion.inpainting import read
from spiking_diffusion.vqsvae import VQSVAE

CPU = torch.device("cpu")
GREY, COLOUR = [1, 28, 28], [3, 28, 28]
INPAINT = ["inpaint", "--run", "digits", "--device", "cpu", "--image", "x.png", "--mask", "half.png", "--out", "o.png"]


@pytest.fixture
def vqsvae(vqsvae_settings, neuron, lively):
    def make(scale=4, blocks=0):
        return lively(VQSVAE(vqsvae_settings(scale=scale, blocks=blocks), neuron, (1, 28, 28))).eval()

    return make


@pytest.mark.parametrize(("scale", "blocks"), [(4, 0), (2, 0), (4, 2)])
def test_receptive_field_by_hand(vqsvae, scale, blocks):
    """Two 3x3 convolutions of strides 2 and 2, or 2 and 1: the token at i sees the pixels from scale i - 3 to + 3."""
    model, side, reach = vqsvae(scale, blocks), 28 // scale, 3
    for y, x in ((0, 0), (13, 27), (14, 3)):
        mask = torch.zeros(1, 28, 28, dtype=torch.bool)
        mask[0, y, x] = True
        at = torch.arange(side) * scale
        expected = ((at - y).abs() <= reach)[:, None] & ((at - x).abs() <= reach)
        assert torch.equal(model.covered(mask)[0], expected)


@pytest.mark.parametrize("scale", [4, 2])
@torch.no_grad()
def test_tokens_that_stay_depend_on_no_masked_pixel(vqsvae, scale):
    torch.manual_seed(scale)
    model = vqsvae(scale)
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[0, 9:15, 20:] = True
    images = torch.rand(1, 1, 28, 28).repeat(40, 1, 1, 1)
    images = torch.where(mask, torch.rand(images.shape), images)
    features, covered = model.readout(model.encoder(images)), model.covered(mask)[0]
    assert not covered.all()
    assert torch.equal(features[:, :, ~covered], features[:1, :, ~covered].expand(40, -1, -1))
    moved = (features != features[:1]).any(1).any(0)
    assert moved.any() and not (moved & ~covered).any()


@pytest.fixture
def files(untrained):
    """A project, and a picture and masks in it."""
    Path("params.yaml").write_text(yaml.safe_dump(untrained.model_dump()), encoding="utf-8")
    draws = np.random.default_rng(0)
    Image.fromarray(draws.integers(0, 256, (28, 28), np.uint8)).save("x.png")
    half = np.zeros((28, 28), np.uint8)
    half[14:] = 255
    Image.fromarray(half).save("half.png")
    Image.fromarray(half * 0).save("nothing.png")
    Image.fromarray(half[:20]).save("small.png")
    Path("text.png").write_text("no picture")
    return untrained


def test_a_spot_of_a_large_mask_covers_a_pixel(tmp_path, monkeypatch):
    """One of a million, which an average would lose."""
    monkeypatch.chdir(tmp_path)
    large = np.zeros((1120, 1120), np.uint8)
    Image.fromarray(large).save("x.png")
    large[401, 999] = 255
    Image.fromarray(large).save("m.png")
    _, mask = read(Path("x.png"), Path("m.png"), GREY)
    assert mask.nonzero().tolist() == [[10, 24]]


def test_what_the_mask_leaves_stays(files, monkeypatch):
    model = load(files.resolve("digits"), CPU)
    image, mask = read(Path("x.png"), Path("half.png"), GREY)
    how = {"temperature": 1.0, "steps": 5}
    drawn, decode = [], model.vqsvae.decode
    with monkeypatch.context() as patch:
        patch.setattr(model.vqsvae, "decode", lambda tokens, noise: drawn.append(tokens) or decode(tokens, noise))
        found = model.inpaint(image, mask, 6, seed=3, **how)
    assert found.shape == (6, 1, 28, 28)
    assert torch.equal(found[..., :14, :], image[..., :14, :].expand(6, -1, -1, -1))
    assert not torch.equal(found[0], found[1]) and found.min() >= 0 and found.max() <= 1
    assert torch.equal(model.inpaint(image, mask, 6, seed=3, **how), found)
    assert not torch.equal(model.inpaint(image, mask, 6, seed=4, **how), found)
    hidden = image.clone()
    hidden[..., 14:, :] = 0.7
    assert torch.equal(model.inpaint(hidden, mask, 6, seed=3, **how), found), "what is masked makes no difference"
    kept, seen = model.encode(image * ~mask)[0], model.vqsvae.covered(mask[None])[0]
    (tokens,) = drawn
    assert torch.equal(tokens[:, ~seen], kept[~seen].expand(6, -1)) and seen.sum() == 4 * 7
    assert not torch.equal(tokens[:, seen], kept[seen].expand(6, -1)) and tokens.max() < 6
    for wrong in (
        (image.repeat(2, 1, 1, 1), mask, 6),
        (image, mask[:9], 6),
        (image, mask.float(), 6),
        (image, mask, 0),
    ):
        with pytest.raises(UserError, match="inpaint takes 1 image"):
            model.inpaint(*wrong, **how)


def test_a_picture_of_both_and_of_completions(files, capsys):
    assert (
        main([*INPAINT, "-n", "4", "--seed", "3", "--temperature", "1"]) == 0 and capsys.readouterr().out == "o.png\n"
    )
    shown = np.asarray(Image.open("o.png"))
    assert shown.shape == (28, 6 * 29 - 1)
    image, mask = read(Path("x.png"), Path("half.png"), GREY)
    completed = load(files.resolve("digits"), CPU).inpaint(image, mask, 4, seed=3, temperature=1.0)
    np.testing.assert_array_equal(shown[:, :28], np.asarray(Image.open("x.png")))
    assert (shown[14:, 29:57] == 128).all() and (shown[:14, 29:57] == shown[:14, :28]).all()
    assert np.abs(shown[:, 58:86] / 255 - completed[0, 0].numpy()).max() < 0.01


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_a_picture_of_any_kind(files, mode):
    """A white disc on black, and transparent around it where the kind can be."""
    y, x = np.mgrid[:60, :60]
    disc = ((y - 30) ** 2 + (x - 30) ** 2 < 400).astype(np.uint8) * 255
    picture = Image.fromarray(disc)
    if mode == "I;16":
        picture = Image.fromarray(disc.astype(np.uint16) * 257)
    elif "A" in mode:
        picture = Image.fromarray(np.full_like(disc, 255)).convert(mode)
        picture.putalpha(Image.fromarray(disc))
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    picture.save("any.tif")
    Image.fromarray(disc).save("mask.png")
    for shape in (GREY, COLOUR):
        image, mask = read(Path("any.tif"), Path("mask.png"), shape)
        assert image.shape == (1, *shape) and mask.shape == (28, 28)
        assert image[0, :, 14, 14].min() > 0.95 and image[0, :, 1, 1].max() < 0.05
        assert mask[14, 14] and not mask[1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--steps 4", "results/tuning/digits.json is missing"),
        ("--image nowhere.png", "there is no file nowhere.png"),
        ("--mask nowhere.png", "there is no file nowhere.png"),
        ("--image text.png", "text.png cannot be read as a picture (cannot identify image file"),
        ("--mask nothing.png", "nothing.png covers nothing: paint the part to be redrawn white"),
        (
            "--mask small.png",
            "x.png is 28 x 28 pixels, small.png is 28 x 20 pixels: a mask has the size",
        ),
        ("-n 0", "-n is 0: ask for 1 to 1000 completions"),
        ("--out o.jpg", "--out is 'o.jpg': give a name that ends in .png"),
        ("--run digits-fsvae", "digits-fsvae is a run of FSVAE, which has no tokens"),
        ("--run digist", "did you mean 'digits'?"),
        ("--class 3", "digits was trained without what --class sets: its options are --sampler, --seed, --steps,"),
        ("--guidance 1", "digits was trained without what --guidance sets"),
        ("--temperature 0", "--temperature is 0.0: see `spiking-diffusion inpaint --help`"),
        ("--temperature nan", "--temperature is nan"),
        ("--steps 0", "--steps is 0"),
        ("--seed -1", "--seed is -1"),
    ],
)
def test_what_does_not_fit_is_told(files, capsys, change, said):
    assert main([*INPAINT, *change.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error
    assert not Path("o.png").exists() and not Path("o.jpg").exists()


def test_options_of_a_picture(files, capsys):
    """They do what the same words do from Python, and are refused where no picture is drawn."""
    sample = ["sample", "--device", "cpu", "-n", "4", "--out", "o.png", "--steps", "3"]
    model = load(files.resolve("digits"), CPU)
    assert main([*sample, "--run", "digits", "--temperature", "0.5", "--seed", "7", "--sampler", "margin"]) == 0
    expected = (model.sample(4, temperature=0.5, steps=3, seed=7, sampler="margin") * 255).round()
    assert np.abs(np.asarray(Image.open("o.png"))[:28, :28] - expected[0, 0].numpy()).max() <= 1
    for option in ("--seed 3", "--class 3", "--steps 2"):
        assert main(["sample", "--run", "digits", *option.split()]) == 2
        assert f"error: {option.split()[0]} is for pictures: add --out FILE.png" in capsys.readouterr().err
    assert main([*sample, "--run", "digits-fsvae"]) == 2
    assert "digits-fsvae was trained without what --steps sets: its options are --seed" in capsys.readouterr().err
