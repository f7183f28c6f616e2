"""The forward process (Eq. 10-12) and the bound (Eq. 14), against Bayes' rule on small state spaces."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from spiking_diffusion.diffusion import AbsorbingDiffusion
from spiking_diffusion.diffusion.absorbing import bits, bits_per_token

STEPS = [1, 2, 5, 49]


def transition_reference(size, steps, t):
    """Q_t as printed in Eq. 11 with gamma of Eq. 12."""
    gamma = 1 / (steps - t + 1)
    q = np.zeros((size + 1, size + 1))
    for i in range(size):
        q[i, i], q[i, size] = 1 - gamma, gamma
    q[size, size] = 1
    return q


def cumulative_reference(size, steps, t):
    """Q_1 ... Q_t: row i holds q(h_t | h_0 = i)."""
    product = np.eye(size + 1)
    for step in range(1, t + 1):
        product = product @ transition_reference(size, steps, step)
    return product


def posterior_reference(size, steps, t, start, now):
    """q(h_{t-1} | h_t = now, h_0 = start) by Bayes' rule, (K+1,)."""
    joint = cumulative_reference(size, steps, t - 1)[start] * transition_reference(size, steps, t)[:, now]
    return joint / joint.sum()


@pytest.mark.parametrize("steps", STEPS)
def test_transition_is_eq_11(steps):
    diffusion = AbsorbingDiffusion(3, steps)
    assert diffusion.mask == 3
    for t in range(1, steps + 1):
        assert diffusion.gamma(t) == pytest.approx(1 / (steps - t + 1))
        q = diffusion.transition(t).numpy()
        np.testing.assert_allclose(q, transition_reference(3, steps, t), atol=1e-7)
        np.testing.assert_allclose(q.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_product_of_transitions_masks_with_probability_t_over_steps(steps):
    diffusion, product = AbsorbingDiffusion(3, steps), torch.eye(4, dtype=torch.float64)
    for t in range(1, steps + 1):
        product = product @ diffusion.transition(t).double()
        expected = np.diag([1 - t / steps] * 3 + [1.0])
        expected[:3, 3] = t / steps
        np.testing.assert_allclose(product.numpy(), expected, atol=1e-5)


def test_masked_token_is_revealed_with_probability_1_over_t():
    """Bayes' rule with the code's own Q_t: what the sampler's 1/t rests on. Tokens that show never change."""
    size, steps = 3, 6
    diffusion, before = AbsorbingDiffusion(size, steps), np.eye(size + 1)
    for t in range(1, steps + 1):
        q = diffusion.transition(t).double().numpy()
        for start in range(size):
            joint = before[start] * q[:, diffusion.mask]
            expected = np.zeros(size + 1)
            expected[start], expected[diffusion.mask] = 1 / t, 1 - 1 / t
            np.testing.assert_allclose(joint / joint.sum(), expected, atol=1e-6)
            if t < steps:
                kept = before[start] * q[:, start]
                assert (kept / kept.sum()).argmax() == start
                assert np.count_nonzero(kept) == 1
        before = before @ q


def test_q_sample_masks_the_share_t_over_steps(rng):
    """Each sample has its own t; a sample's tokens are masked independently of each other."""
    diffusion, side, batch = AbsorbingDiffusion(7, 5), 20, 500
    tokens = torch.randint(7, (5 * batch, side, side))
    t = torch.arange(1, 6).repeat(batch)
    noisy = diffusion.q_sample(tokens, t, rng())
    assert (noisy.shape, noisy.dtype) == (tokens.shape, torch.int64)
    masked = noisy == 7
    assert torch.equal(noisy[~masked], tokens[~masked])
    for step in range(1, 6):
        p, here = step / 5, masked[t == step].double()
        assert float(here.mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / here.numel()))
        spread = float(here.sum((1, 2)).var()) / side**2  # variance of a sum of independent tokens, per token
        assert spread == pytest.approx(p * (1 - p), rel=5 * math.sqrt(2 / batch))
        assert (here.mean(0) - p).abs().max() < 6 * math.sqrt(0.25 / batch)  # at every place


def test_draw_t_is_uniform_on_1_to_steps(rng):
    t = AbsorbingDiffusion(3, 7).draw_t(7000, rng(), torch.device("cpu"))
    counts = torch.bincount(t, minlength=9).numpy()
    assert counts[0] == counts[8] == 0
    assert stats.chisquare(counts[1:8]).pvalue > 0.001


def test_draws_depend_on_the_generator_alone(rng):
    diffusion, tokens = AbsorbingDiffusion(3, 9), torch.randint(3, (4, 3, 3))

    def draw(seed):
        torch.rand(5)  # the global generator moves on
        generator = rng(seed)
        t = diffusion.draw_t(4, generator, torch.device("cpu"))
        return torch.cat([t, diffusion.q_sample(tokens, t, generator).flatten()])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_counts_are_uniform_and_spread_over_the_batch(rng):
    diffusion, noise = AbsorbingDiffusion(3, 7), rng()
    drawn = torch.stack([diffusion.draw_counts(14, noise, torch.device("cpu")) for _ in range(500)])
    counts = torch.stack([torch.bincount(row, minlength=9) for row in drawn])
    assert (counts[:, 0] == 0).all()
    assert (counts[:, 8] == 0).all()
    assert (counts[:, 1:8] - 2).abs().max() <= 1  # 14 draws from 1..7
    assert stats.chisquare(torch.bincount(drawn[:, 0], minlength=8)[1:].numpy()).pvalue > 0.001


def test_mask_exactly_masks_every_choice_of_so_many(rng):
    diffusion = AbsorbingDiffusion(3, 4)
    tokens, counts = torch.randint(3, (6000, 2, 2)), torch.full((6000,), 2)
    noisy = diffusion.mask_exactly(tokens, counts, rng())
    masked = noisy == 3
    assert torch.equal(noisy[~masked], tokens[~masked])
    assert (masked.flatten(1).sum(1) == 2).all()
    choices = torch.bincount((masked.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    six = choices[choices > 0]
    assert len(six) == 6
    assert stats.chisquare(six.numpy()).pvalue > 0.001


def test_bound_of_counted_masks_is_that_of_all_orders(rng):
    """A network that says how many tokens show: the mean over orders of -log p, token after token, by hand."""
    diffusion = AbsorbingDiffusion(2, 4)
    log_p = torch.tensor([0.9, 0.6, 0.3, 0.2]).log()  # of the true token where 1, 2, 3, 4 are masked
    tokens = torch.zeros(8000, 2, 2, dtype=torch.int64)
    noise = rng()
    counts = diffusion.draw_counts(len(tokens), noise, torch.device("cpu"))
    noisy = diffusion.mask_exactly(tokens, counts, noise)
    p = log_p[counts - 1][:, None, None].expand(-1, 2, 2)
    bound = diffusion.bound(torch.stack([p, (1 - p.exp()).log()], 1), tokens, noisy, counts)
    assert float(bound.mean()) == pytest.approx(-float(log_p.mean()), rel=1e-3)


# --- the bound ------------------------------------------------------------------------------------------


def test_bound_by_hand():
    """-log of 1/2, 1/4 and 1/8 at three masks; the token that shows does not count."""
    diffusion = AbsorbingDiffusion(2, 2)
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]])  # p of codes 0 and 1 at the two tokens
    logits = p.log().T.view(1, 2, 1, 2).expand(3, -1, -1, -1) + 3.0  # softmax ignores a constant
    tokens = torch.tensor([[[0, 0]], [[0, 0]], [[1, 0]]])
    noisy = torch.tensor([[[2, 2]], [[0, 2]], [[1, 0]]])
    bound = diffusion.bound(logits, tokens, noisy, torch.tensor([2, 1, 1]))
    assert bits(1.0) == pytest.approx(1 / math.log(2))
    assert [bits(float(b)) for b in bound] == pytest.approx([(1 + 2) / 2, 2.0, 0.0], abs=1e-6)


def test_bound_has_a_gradient_at_masks_only(rng):
    diffusion = AbsorbingDiffusion(4, 9)
    logits, tokens = torch.randn(3, 4, 3, 3, requires_grad=True), torch.randint(4, (3, 3, 3))
    t = torch.tensor([2, 4, 6])
    noisy = diffusion.q_sample(tokens, t, rng())
    diffusion.bound(logits, tokens, noisy, t).sum().backward()
    expected = (logits.detach().softmax(1) - torch.nn.functional.one_hot(tokens, 4).movedim(-1, 1)) / t[
        :, None, None, None
    ]
    torch.testing.assert_close(logits.grad, expected * (noisy == 4)[:, None])


def variational_bound(size, n, log_p, start):
    """sum_t E_q KL(q(h_{t-1} | h_t, h_0) || p(h_{t-1} | h_t)) in nats, over all states, with T_d = n.

    p(h_{t-1} | h_t) = sum over h_0~ of q(h_{t-1} | h_t, h_0~) p(h_0~ | h_t), token by token; what shows is known.
    At t = 1 the term is -log p(h_0 | h_1); the prior at T_d is all masks on both sides.
    """
    total = 0.0
    for t in range(1, n + 1):
        marginal = cumulative_reference(size, n, t)
        for state in itertools.product(range(size + 1), repeat=n):
            weight = math.prod(marginal[start[i], state[i]] for i in range(n))
            if weight == 0:
                continue
            for i, now in enumerate(state):
                q = posterior_reference(size, n, t, start[i], now)
                guess = np.exp(log_p[t, state][i]) if now == size else np.eye(size)[now]
                p = sum(guess[k] * posterior_reference(size, n, t, k, now) for k in range(size) if guess[k] > 0)
                total += weight * sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0)
    return total


@pytest.mark.parametrize(("size", "n"), [(2, 2), (3, 2), (2, 3)])
def test_expected_bound_is_the_variational_bound(size, n):
    """Eq. 14 against the sum of KL terms it is derived from, for a denoiser of random tables; nothing is drawn."""
    random = np.random.default_rng(0)
    states = list(itertools.product(range(size + 1), repeat=n))
    logits = {(t, state): random.normal(size=(n, size)) * 2 for t in range(1, n + 1) for state in states}
    log_p = {key: value - np.log(np.exp(value).sum(1, keepdims=True)) for key, value in logits.items()}
    diffusion = AbsorbingDiffusion(size, n)
    for start in itertools.product(range(size), repeat=n):
        expectation = 0.0
        for t in range(1, n + 1):
            for mask in itertools.product([False, True], repeat=n):
                state = tuple(size if hidden else token for hidden, token in zip(mask, start, strict=True))
                probability = 1 / n * math.prod(t / n if hidden else 1 - t / n for hidden in mask)
                bound = diffusion.bound(
                    torch.tensor(logits[t, state].T).view(1, size, 1, n),
                    torch.tensor(start).view(1, 1, n),
                    torch.tensor(state).view(1, 1, n),
                    torch.tensor([t]),
                )
                expectation += probability * float(bound)
        assert expectation * n == pytest.approx(variational_bound(size, n, log_p, start), rel=1e-6)


def test_drawn_bound_averages_to_the_variational_bound(rng):
    """The same with t and masks drawn by the code, as in training."""
    size, n, draws = 2, 2, 40_000
    random = np.random.default_rng(1)
    table = torch.tensor(random.normal(size=(n + 1, size + 1, size + 1, size, n)))  # by t, both tokens
    log_p = {
        (t, state): table[(t, *state)].log_softmax(0).T.numpy()
        for t in range(1, n + 1)
        for state in itertools.product(range(size + 1), repeat=n)
    }
    diffusion, generator, start = AbsorbingDiffusion(size, n), rng(), (0, 1)
    tokens = torch.tensor(start).expand(draws, 1, n)
    t = diffusion.draw_t(draws, generator, torch.device("cpu"))
    noisy = diffusion.q_sample(tokens, t, generator)
    logits = table[t, noisy[:, 0, 0], noisy[:, 0, 1]].unsqueeze(2)
    bound = diffusion.bound(logits, tokens, noisy, t) * n
    error = 5 * float(bound.std()) / math.sqrt(draws)
    assert float(bound.mean()) == pytest.approx(variational_bound(size, n, log_p, start), abs=error)


def test_reweighted_loss_is_the_released_code_s():
    """(1 - t/T_d) times the masked cross-entropy, per token; nothing at t = T_d."""
    diffusion = AbsorbingDiffusion(3, 4)
    logits = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    tokens = torch.randint(3, (3, 2, 2))
    noisy = tokens.clone()
    noisy[:, 0] = diffusion.mask
    t = torch.tensor([1, 3, 4])
    log_p = (logits - logits.exp().sum(1, keepdim=True).log()).numpy()
    for b, weight in enumerate((3 / 4, 1 / 4, 0)):
        expected = -weight * sum(log_p[b, tokens[b, 0, j], 0, j] for j in range(2)) / 4
        assert float(diffusion.reweighted(logits, tokens, noisy, t)[b]) == pytest.approx(expected, abs=1e-12)


def test_bits_per_token_is_the_exact_sum_over_steps(rng):
    """Two tokens of three codes and a denoiser that is any function: every t and every mask by hand, in Eq. 14.

    Seen to fail with t drawn at random for each image and no error that covers it.
    """
    diffusion, tokens = AbsorbingDiffusion(3, 2), torch.tensor([[[0, 2]], [[1, 1]], [[2, 0]]]).repeat(4000, 1, 1)
    table = torch.randn(4, 4, 2, 3, 2, generator=rng(3))  # by both tokens, the step, code and position

    def model(noisy, t):
        flat = noisy.flatten(1)
        return table[flat[:, 0], flat[:, 1], t - 1].unflatten(2, (1, 2))

    exact = 0.0
    for image in tokens[:3].flatten(1):
        for t in (1, 2):
            for masked in itertools.product([False, True], repeat=2):
                p = math.prod(t / 2 if hidden else 1 - t / 2 for hidden in masked)
                seen = image.masked_fill(torch.tensor(masked), 3)
                logits = model(seen.view(1, 1, 2), torch.tensor([t]))[0, :, 0]
                nll = -logits.log_softmax(0)[image, range(2)][list(masked)].sum()
                exact += p * float(nll) / t / 2 / 3  # the mean over both steps and three images
    found, error = bits_per_token(model, diffusion, tokens, 500, rng(), torch.device("cpu"))
    assert error < 0.02
    assert abs(found - bits(exact)) < 4 * error
