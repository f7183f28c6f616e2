"""Samplers other than the paper's, against the laws of their definitions on small grids."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from laws import TableDenoiser, counts_of, exact_conditionals
from scipy import stats

from spiking_diffusion.config import Sampler
from spiking_diffusion.diffusion import AbsorbingDiffusion, sample_tokens
from spiking_diffusion.diffusion.sampler import REMASKED, SAMPLERS, cosine_schedule, geometric_schedule

CPU = torch.device("cpu")


def test_settings_know_every_sampler():
    assert tuple(SAMPLERS) == get_args(Sampler)


class Perfect(TableDenoiser):
    """The exact conditionals of a joint law over 2x2 grids of 3 codes."""

    def __init__(self, joint):
        super().__init__(exact_conditionals(joint, 3, 4)[None], 3)
        self.steps = []

    def __call__(self, tokens, t, where):
        self.steps.append(t)
        return super().__call__(tokens, torch.zeros_like(t), where)


@pytest.mark.parametrize(("sampler", "steps"), [("cosine", 4), ("cosine", 9), ("margin", 9), ("remask", 800)])
def test_exact_samplers_give_the_data_law(sampler, steps, joint, rng, monkeypatch):
    """One token a call. ``remask`` needs many steps, in which two of four tokens seldom change together."""
    n = 20_000
    monkeypatch.setattr("spiking_diffusion.diffusion.sampler.REMASKED", 0.005)
    tokens, _ = sample_tokens(
        Perfect(joint), AbsorbingDiffusion(3, 4), (n, 2, 2), 1.0, rng(2), CPU, steps=steps, sampler=sampler
    )
    assert stats.chisquare(counts_of(tokens, 3), joint.flatten() * n).pvalue > 0.01


def test_cosine_in_two_steps_has_the_law_of_its_definition(joint, rng):
    """4 cos(pi/4) is 2.8: two random tokens from their marginals, then the others, each given these two."""
    n, law = 20_000, np.zeros((3, 3, 3, 3))
    for first in itertools.combinations(range(4), 2):
        others = [axis for axis in range(4) if axis not in first]
        for grid in itertools.product(range(3), repeat=4):
            shown = [joint.sum(tuple(a for a in range(4) if a != axis))[grid[axis]] for axis in first]
            given = joint[
                tuple(slice(grid[axis], grid[axis] + 1) if axis in first else slice(None) for axis in range(4))
            ]
            given = given / given.sum()
            hidden = [given.sum(tuple(a for a in range(4) if a != axis))[grid[axis]] for axis in others]
            law[grid] += math.prod(shown) * math.prod(hidden) / 6
    tokens, calls = sample_tokens(
        Perfect(joint), AbsorbingDiffusion(3, 4), (n, 2, 2), 1.0, rng(), CPU, steps=2, sampler="cosine"
    )
    assert calls == 2 * n
    assert stats.chisquare(counts_of(tokens, 3), law.flatten() * n).pvalue > 0.01
    assert stats.chisquare(counts_of(tokens, 3), joint.flatten() * n).pvalue < 1e-6


def test_confidence_is_biased_even_with_one_token_a_call(joint, rng):
    """What was drawn with a large p is kept first, and that is another law."""
    n = 20_000
    tokens, _ = sample_tokens(
        Perfect(joint), AbsorbingDiffusion(3, 4), (n, 2, 2), 1.0, rng(), CPU, steps=4, sampler="confidence"
    )
    assert stats.chisquare(counts_of(tokens, 3), joint.flatten() * n).pvalue < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 49, 60])
@pytest.mark.parametrize("schedule", [cosine_schedule, geometric_schedule])
def test_schedules_reveal_in_every_step_until_nothing_is_masked(schedule, steps):
    many = torch.tensor([[49], [7], [0]])
    left = torch.cat([many, *schedule(many, steps)], dim=1)
    assert left.shape == (3, steps + 1)
    assert (left[:, -1] == 0).all()
    revealed = -left.diff(dim=1)
    assert ((revealed > 0) | (left[:, :-1] == 0)).all()


def test_schedules_are_those_of_their_definitions():
    many = torch.tensor([[49]])
    assert torch.cat(geometric_schedule(many, 6), 1).tolist() == [[25, 13, 7, 3, 1, 0]]  # half of what is left
    assert torch.cat(cosine_schedule(many, 4), 1).tolist() == [[45, 34, 18, 0]]


@pytest.mark.parametrize("sampler", ["cosine", "confidence", "margin"])
def test_most_likely_positions_come_first_and_numbers_follow_the_schedule(sampler, rng, monkeypatch):
    """The network is surest of the first position and least sure of the last."""
    monkeypatch.setattr("spiking_diffusion.diffusion.sampler.CHOICE", 0.5)
    logits = torch.zeros(49, 3)
    logits[:, 1] = torch.linspace(6, 1, 49)
    frames = []

    def denoiser(x, t, where):
        return logits.view(7, 7, 3).expand(len(x), -1, -1, -1)[where]

    tokens, calls = sample_tokens(
        denoiser,
        AbsorbingDiffusion(3, 49),
        (100, 7, 7),
        1.0,
        rng(),
        CPU,
        lambda tokens, t: frames.append((tokens.flatten(1), t)),
        steps=6,
        sampler=sampler,
    )
    schedule = geometric_schedule if sampler == "margin" else cosine_schedule
    left = [int(number) for number in schedule(torch.tensor([[49]]), 6)]
    assert calls == 600 and tokens.max() < 3
    assert [frame.eq(3).sum(1).unique().tolist() for frame, _ in frames] == [[number] for number in left]
    assert [t.unique().tolist() for _, t in frames] == [[number] for number in [49, *left[:-1]]]
    revealed = frames[2][0] != 3
    middle = float((revealed * torch.arange(49)).sum() / revealed.sum())  # 24 if the order is random
    if sampler == "margin":
        assert all((frame[:, : 49 - number] != 3).all() for (frame, _), number in zip(frames, left, strict=True))
    elif sampler == "confidence":
        assert middle < 22
    else:
        assert middle == pytest.approx(24, abs=1.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_what_is_known(sampler, rng):
    known = torch.full((20, 2, 3), 4)
    known[:, 0, 0] = torch.arange(20) % 4
    known[0] = 1  # nothing to draw

    def denoiser(x, t, where):
        assert len(x) and where.flatten(1).any(1).all() and (x[where] == 4).all() and (t >= 1).all() and (t <= 6).all()
        return torch.zeros(int(where.sum()), 4)

    tokens, calls = sample_tokens(
        denoiser, AbsorbingDiffusion(4, 6), (20, 2, 3), 1.0, rng(), CPU, steps=3, known=known, sampler=sampler
    )
    assert torch.equal(tokens[known < 4], known[known < 4])
    assert tokens.max() < 4 and 19 <= calls <= 19 * 3


def test_remask_masks_as_often_as_it_says(rng):
    """The share of masks follows the schedule although tokens are masked again, and some are."""
    n, steps, frames = 4000, 10, []

    def denoiser(x, t, where):
        return torch.zeros(int(where.sum()), 2)

    sample_tokens(
        denoiser,
        AbsorbingDiffusion(2, 9),
        (n, 3, 3),
        1.0,
        rng(),
        CPU,
        lambda tokens, t: frames.append(tokens == 2),
        steps=steps,
        sampler="remask",
    )
    error = 5 * 0.5 / math.sqrt(9 * n)
    for j, masked in enumerate(frames, 1):
        assert float(masked.double().mean()) == pytest.approx(1 - j / steps, abs=error)
    again = [float(after[~before].double().mean()) for before, after in itertools.pairwise(frames)]
    assert again[:-1] == pytest.approx([REMASKED] * 8, abs=0.02)
    assert again[-1] == 0
