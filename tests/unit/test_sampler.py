"""The ancestral sampler against the law of its definition, computed exactly on small grids."""

import itertools
import math

import numpy as np
import pytest
import torch
from laws import TableDenoiser, counts_of, exact_conditionals, index_of
from scipy import stats

from spiking_diffusion import artifacts
from spiking_diffusion.diffusion import AbsorbingDiffusion, sample_tokens
from spiking_diffusion.diffusion.absorbing import log_likelihoods
from spiking_diffusion.families import load
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.stages import make

CPU = torch.device("cpu")
EVERY_STEP = [(4, 3), (3, 2), (2, 1), (1, 0)]


def law_of_definition(table, size, n, times):
    """p of each final grid: for each (t, u) each token still masked is revealed with probability (t - u) / t."""
    p = torch.as_tensor(table).softmax(-1).numpy()
    law = {(size,) * n: 1.0}
    for t, u in times:
        reveal = (t - u) / t
        after = dict.fromkeys(itertools.product(range(size + 1), repeat=n), 0.0)
        for state, mass in law.items():
            if mass == 0:
                continue
            code = p[t, index_of(state, size + 1)]
            options = [
                [(size, 1 - reveal), *((k, code[i, k] * reveal) for k in range(size))]
                if token == size
                else [(token, 1.0)]
                for i, token in enumerate(state)
            ]
            for choice in itertools.product(*options):
                after[tuple(token for token, _ in choice)] += mass * math.prod(q for _, q in choice)
        law = after
    return np.array([law[state] for state in itertools.product(range(size), repeat=n)])


@pytest.fixture
def random_table():
    """A denoiser over 2x2 grids of 2 codes with 4 steps that is as inconsistent as tables can be."""
    return np.random.default_rng(1).normal(size=(5, 3**4, 4, 2))


def test_perfect_denoiser_gives_the_data_law(joint, rng):
    """With so many steps that no two tokens are revealed at once, the sampler is exact."""
    steps, n = 10**6, 20_000
    table = torch.as_tensor(exact_conditionals(joint, 3, 4))
    denoiser = TableDenoiser(table[None], 3)
    tokens, _ = sample_tokens(
        lambda x, t, where: denoiser(x, torch.zeros_like(t), where),
        AbsorbingDiffusion(3, steps),
        (n, 2, 2),
        1.0,
        rng(),
        CPU,
    )
    assert stats.chisquare(counts_of(tokens, 3), joint.flatten() * n).pvalue > 0.01


def test_one_step_gives_the_product_of_marginals(joint, rng):
    """The same denoiser with everything revealed at once: tokens lose their dependence, and the test sees it."""
    n = 20_000
    table = np.stack([exact_conditionals(joint, 3, 4)] * 2)
    tokens, calls = sample_tokens(TableDenoiser(table, 3), AbsorbingDiffusion(3, 1), (n, 2, 2), 1.0, rng(), CPU)
    marginals = [joint.sum(tuple(axis for axis in range(4) if axis != i)) for i in range(4)]
    product = np.einsum("a,b,c,d->abcd", *marginals).flatten()
    assert calls == n
    assert stats.chisquare(counts_of(tokens, 3), product * n).pvalue > 0.01
    assert stats.chisquare(counts_of(tokens, 3), joint.flatten() * n).pvalue < 1e-9


def test_law_is_that_of_the_step_by_step_definition(random_table, rng):
    """T_d = 4: several tokens at one step, steps without any, and a denoiser that looks at t."""
    n = 20_000
    denoiser = TableDenoiser(random_table, 2)
    tokens, _ = sample_tokens(denoiser, AbsorbingDiffusion(2, 4), (n, 2, 2), 1.0, rng(), CPU)
    assert (tokens.shape, tokens.dtype) == ((n, 2, 2), torch.int64)
    assert stats.chisquare(counts_of(tokens, 2), law_of_definition(random_table, 2, 4, EVERY_STEP) * n).pvalue > 0.01


def test_known_tokens_stay_and_the_others_have_their_law_given_these(joint, rng):
    """Exact, as no two tokens are revealed at once. Some samples know two tokens, the others none."""
    steps, n = 10**6, 20_000
    denoiser = TableDenoiser(torch.as_tensor(exact_conditionals(joint, 3, 4))[None], 3)
    known = torch.full((n, 2, 2), 3)
    known[: n // 2, 0, 1], known[: n // 2, 1, 0] = 2, 0
    seen = []
    tokens, _ = sample_tokens(
        lambda x, t, where: seen.append(t.max()) or denoiser(x, torch.zeros_like(t), where),
        AbsorbingDiffusion(3, steps),
        (n, 2, 2),
        1.0,
        rng(1),  # of 25 seeds, one had p < 0.01; all of them together 0.94
        CPU,
        known=known,
    )
    told, free = tokens[: n // 2], tokens[n // 2 :]
    assert (told[:, 0, 1] == 2).all() and (told[:, 1, 0] == 0).all()
    law = joint[:, 2, 0, :] / joint[:, 2, 0, :].sum()
    assert stats.chisquare(counts_of(told[:, [0, 1], [0, 1]], 3), law.flatten() * n / 2).pvalue > 0.01
    assert stats.chisquare(counts_of(free, 3), joint.flatten() * n / 2).pvalue > 0.01
    assert stats.chisquare(counts_of(told[:, [0, 1], [0, 1]], 3), np.full(9, n / 18)).pvalue < 1e-9


def test_known_tokens_begin_at_the_step_of_their_number(rng):
    """Two of four are masked: from t = 2 on, all of them by t = 1, or at once where one step is asked for."""
    known = torch.tensor([[[0, 2], [2, 1]], [[1, 1], [1, 1]]]).repeat(50, 1, 1)
    for wanted, most in ((None, 2), (1, 2), (9, 2)):
        steps = []

        def denoiser(x, t, where, steps=steps):
            steps.extend(t.tolist())
            return torch.zeros(int(where.sum()), 2)

        tokens, calls = sample_tokens(
            denoiser, AbsorbingDiffusion(2, 4), (100, 2, 2), 1.0, rng(), CPU, steps=wanted, known=known
        )
        assert max(steps) == most and set(steps) == ({2} if wanted == 1 else {1, 2})
        assert (calls == 50) == (wanted == 1)
        assert torch.equal(tokens[known < 2], known[known < 2]) and tokens.max() < 2


def test_likelihoods_are_those_of_the_law(joint, rng):
    """Of exact conditionals the bound over all orders is the likelihood itself. Masked tokens are asked for nothing."""
    other = np.random.default_rng(5).dirichlet(np.full(81, 2.0)).reshape(3, 3, 3, 3)
    tables = [TableDenoiser(torch.as_tensor(exact_conditionals(law, 3, 4))[None], 3) for law in (joint, other)]

    def model(tokens, t, where, condition):
        parts = zip(tokens, t, where, condition, strict=True)
        return torch.cat([tables[c](x[None], torch.zeros_like(s)[None], w[None]) for x, s, w, c in parts])

    tokens, noise = torch.tensor([[0, 3], [2, 1]]), rng()
    found = log_likelihoods(model, AbsorbingDiffusion(3, 4), tokens, 2, noise, rounds=3000)
    expected = [math.log(law.sum(1)[0, 2, 1]) for law in (joint, other)]
    assert found.tolist() == pytest.approx(expected, abs=0.05)
    assert abs(expected[0] - expected[1]) > 0.15
    nothing = log_likelihoods(model, AbsorbingDiffusion(3, 4), torch.full((2, 2), 3), 2, noise)
    assert nothing.tolist() == [0, 0]


def law_of_calls(n, steps):
    """P(number of steps that reveal something), for n tokens, each masked one revealed with probability 1/t."""
    law = {(n, 0): 1.0}
    for t in range(steps, 0, -1):
        after = {}
        for (masked, calls), mass in law.items():
            for revealed in range(masked + 1):
                key = masked - revealed, calls + (revealed > 0)
                p = math.comb(masked, revealed) * (1 / t) ** revealed * (1 - 1 / t) ** (masked - revealed)
                after[key] = after.get(key, 0.0) + mass * p
        law = after
    return np.array([law.get((0, calls), 0.0) for calls in range(min(n, steps) + 1)])


def test_number_of_calls_has_the_law_of_the_definition(random_table, rng):
    n, per_sample = 10_000, torch.zeros(10_000, dtype=torch.int64)
    denoiser = TableDenoiser(random_table, 2)
    _, calls = sample_tokens(
        denoiser, AbsorbingDiffusion(2, 4), (n, 2, 2), 1.0, rng(), CPU, lambda _, t: per_sample.add_(t > 0)
    )
    expected = law_of_calls(4, 4)
    assert expected[0] == 0
    assert stats.chisquare(np.bincount(per_sample, minlength=5)[1:], expected[1:] * n).pvalue > 0.01
    assert calls == int(per_sample.sum()) == sum(len(t) for _, t in denoiser.calls)


@pytest.mark.parametrize("n", [4, 9])
def test_expected_number_of_calls_formula(n):
    """The definition, step by step, gives T_d (1 - (1 - 1/T_d)^T_d)."""
    assert law_of_calls(n, n) @ np.arange(n + 1) == pytest.approx(n * (1 - (1 - 1 / n) ** n))


def test_expected_number_of_calls_for_49_tokens(rng):
    """About 31 of 49 steps reveal something."""
    n, per_sample, diffusion = 400, torch.zeros(400), AbsorbingDiffusion(2, 49)

    def denoiser(x, t, where):
        return torch.zeros(int(where.sum()), 2)

    sample_tokens(denoiser, diffusion, (n, 7, 7), 1.0, rng(), CPU, lambda _, t: per_sample.add_(t > 0))
    error = 5 * float(per_sample.std()) / math.sqrt(n)
    assert float(per_sample.mean()) == pytest.approx(49 * (1 - (1 - 1 / 49) ** 49), abs=error)


def test_network_is_asked_at_the_next_step_that_reveals_something(random_table, rng):
    """Never for a finished sample; what is masked at a call is what is revealed at this t or a smaller one."""
    n, steps, frames = 3000, 4, []
    denoiser = TableDenoiser(random_table, 2)
    tokens, _ = sample_tokens(
        denoiser,
        AbsorbingDiffusion(2, steps),
        (n, 2, 2),
        1.0,
        rng(),
        CPU,
        lambda tokens, t: frames.append((tokens.clone(), t.clone())),
    )
    assert len(frames) == len(denoiser.calls) <= steps
    assert torch.equal(frames[-1][0], tokens)

    reveal_at = torch.zeros(n, 2, 2, dtype=torch.int64)
    shown = torch.full((n, 2, 2), 2)
    for frame, t in frames:
        new = (shown == 2) & (frame != 2)
        assert torch.equal(frame[shown != 2], shown[shown != 2])  # what shows stays
        reveal_at = torch.where(new, t.view(-1, 1, 1), reveal_at)
        shown = frame
    assert stats.chisquare(np.bincount(reveal_at.flatten(), minlength=5)[1:]).pvalue > 0.01  # uniform on 1..T_d

    before = torch.full((n,), steps + 1)
    for (asked, t), (_, t_all) in zip(denoiser.calls, frames, strict=True):
        active = t_all > 0
        masked, at = asked == 2, reveal_at[active]
        assert torch.equal(t, t_all[active])
        assert masked.flatten(1).any(1).all()
        assert torch.equal(masked, at <= t.view(-1, 1, 1))
        assert (at == t.view(-1, 1, 1)).flatten(1).any(1).all()
        assert (t < before[active]).all()
        before = t_all


def test_small_temperature_takes_the_most_likely_token(rng):
    """At every place of a grid that is not square, whatever the order of revealing."""
    logits = torch.randn(5, 2, 3)

    def denoiser(x, t, where):
        return logits.expand(len(x), -1, -1, -1).movedim(1, -1)[where]

    tokens, _ = sample_tokens(denoiser, AbsorbingDiffusion(5, 6), (50, 2, 3), 1e-4, rng(), CPU)
    assert torch.equal(tokens, logits.argmax(0).expand(50, -1, -1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature, rng):
    n, logits = 10_000, torch.tensor([0.0, 1.0, -1.0, 0.5])

    def denoiser(x, t, where):
        return logits.expand(int(where.sum()), 4)

    tokens, _ = sample_tokens(denoiser, AbsorbingDiffusion(4, 1), (n, 1, 1), temperature, rng(), CPU)
    weights = np.exp(logits.double().numpy() / temperature)
    assert stats.chisquare(counts_of(tokens, 4), weights / weights.sum() * n).pvalue > 0.01


def test_samples_depend_on_the_generator_alone(random_table, rng):
    def draw(seed):
        torch.rand(3)  # the global generator moves on
        diffusion = AbsorbingDiffusion(2, 4)
        return sample_tokens(TableDenoiser(random_table, 2), diffusion, (50, 2, 2), 1.0, rng(seed), CPU)[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# --- fewer steps ----------------------------------------------------------------------------------------


def test_as_many_steps_as_there_are_is_the_same_sampler(random_table, rng):
    def draw(steps):
        denoiser = TableDenoiser(random_table, 2)
        return sample_tokens(denoiser, AbsorbingDiffusion(2, 4), (50, 2, 2), 1.0, rng(), CPU, steps=steps)

    (tokens, calls), (same, same_calls) = draw(None), draw(4)
    assert torch.equal(tokens, same)
    assert calls == same_calls


@pytest.mark.parametrize(("steps", "times"), [(4, [4, 3, 2, 1]), (3, [4, 2, 1]), (2, [4, 2]), (1, [4])])
def test_law_of_fewer_steps(random_table, steps, times, rng):
    """From t to the next u, a masked token is revealed with probability (t - u) / t, and the network sees t."""
    n, asked = 20_000, set()
    tokens, calls = sample_tokens(
        TableDenoiser(random_table, 2),
        AbsorbingDiffusion(2, 4),
        (n, 2, 2),
        1.0,
        rng(steps),
        CPU,
        lambda _, t: asked.update(t.tolist()),
        steps=steps,
    )
    law = law_of_definition(random_table, 2, 4, list(itertools.pairwise([*times, 0])))
    assert asked - {0} == set(times)
    assert calls <= n * steps
    assert stats.chisquare(counts_of(tokens, 2), law * n).pvalue > 0.01
    if steps < 4:
        every = law_of_definition(random_table, 2, 4, EVERY_STEP)
        assert stats.chisquare(counts_of(tokens, 2), every * n).pvalue < 1e-3, "the test cannot tell the two laws apart"


@pytest.mark.parametrize("steps", range(1, 50))
def test_every_one_of_the_steps_reveals_something(steps, rng):
    """49 tokens: S values of t, no matter whether S divides 49, the first of them T_d."""
    seen = set()

    def denoiser(x, t, where):
        return torch.zeros(int(where.sum()), 2)

    diffusion = AbsorbingDiffusion(2, 49)
    sample_tokens(denoiser, diffusion, (60, 7, 7), 1.0, rng(), CPU, lambda _, t: seen.update(t.tolist()), steps)
    assert seen - {0} == {j * 49 // steps for j in range(1, steps + 1)}


def test_guidance_adds_what_the_condition_changes():
    """l + w (l - l') of the table's logits with and without the condition, and two calls in place of one."""
    size, steps = 3, 2
    diffusion = AbsorbingDiffusion(size, steps)
    with_it, without = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 0.5, -0.5])
    seen = []

    def denoiser(tokens, t, where, condition=None):
        seen.append(condition)
        return (without if condition is None else with_it).expand(int(where.sum()), size)

    n, condition = 20_000, torch.arange(20_000)
    generator = torch.Generator().manual_seed(0)
    tokens, calls = sample_tokens(
        denoiser, diffusion, (n, 1, 2), 1.0, generator, CPU, condition=condition, guidance=1.5
    )
    found = torch.bincount(tokens.flatten(), minlength=size).numpy()
    p = (with_it + 1.5 * (with_it - without)).double().softmax(0).numpy()
    assert stats.chisquare(found, 2 * n * p).pvalue > 0.001
    told = [part for part in seen if part is not None]
    assert len(told) == len(seen) / 2
    assert calls == 2 * sum(map(len, told))
    assert torch.equal(told[0], condition)  # all of them begin
    _, plain = sample_tokens(denoiser, diffusion, (n, 1, 2), 1.0, generator, CPU, condition=condition)
    assert plain < calls


# --- the stage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "digits-fsvae"])
def test_no_image_is_drawn_twice(untrained, tiny_params, name):
    """Seven batches, each with noise of its own."""
    images = load(tiny_params(temperature=1.0, batch_size=3).resolve(name), CPU).draw(20).images
    assert len(images.flatten(1).unique(dim=0)) > 15


def test_as_many_images_as_the_recipe_says_in_its_steps(untrained, tiny_params):
    """In one step all tokens are drawn at once, by one call."""
    params = tiny_params(n=7, temperature=0.7, steps=1)
    drawn = artifacts.read_npz(make(Job(params, "sample", "digits"), "cpu"))
    assert drawn["images"].shape == (7, 1, 28, 28)
    assert (drawn["temperature"], drawn["steps"], drawn["network_calls"]) == (0.7, 1, 1)
