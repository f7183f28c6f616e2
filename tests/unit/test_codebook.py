"""Nearest codes (Eq. 7), lookup (Eq. 8), running means, restarts, perplexity."""

import numpy as np
import pytest
import torch

from spiking_diffusion.errors import UserError
from spiking_diffusion.vqsvae import Codebook
from spiking_diffusion.vqsvae.codebook import perplexity


@pytest.fixture
def make(codebook_settings):
    """A codebook with the given codes, for ``ema`` with running counts if they are given."""

    def build(codes, counts=None, **changes):
        codes = torch.as_tensor(codes, dtype=torch.float32)
        book = Codebook(codebook_settings(size=len(codes), **changes), codes.shape[1])
        state = {**book.state_dict(), "codes": codes}
        if counts is not None:
            state |= {"counts": torch.full((len(codes),), counts), "sums": counts * codes}
        book.load_state_dict(state)
        return book

    return build


def as_features(rows):
    """(N, C) -> (1, C, N, 1)."""
    return torch.as_tensor(rows, dtype=torch.float32).T[None, :, :, None]


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_initial_codes(codebook_settings, init):
    codes = Codebook(codebook_settings(size=500, init=init), 8).codes.detach()
    mean, std = {"normal": (0.0, 1.0), "uniform": (0.5, 12**-0.5)}[init]
    assert float(codes.mean()) == pytest.approx(mean, abs=5 * std / 4000**0.5)
    assert float(codes.std()) == pytest.approx(std, rel=0.06)
    assert (init == "uniform") == bool(((codes >= 0) & (codes <= 1)).all())


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_kmeans_puts_codes_at_the_centres_of_the_batch(codebook_settings, rng, update):
    book = Codebook(codebook_settings(size=3, init="kmeans", update=update), 2)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    spread = 0.01 * torch.randn(3, 50, 2)
    rows = (centres[:, None] + spread).flatten(0, 1)
    book.place(as_features(rows[torch.randperm(150)]), rng())
    found = book.codes.detach()[torch.cdist(centres, book.codes.detach()).argmin(1)]
    torch.testing.assert_close(found, centres + spread.mean(1), rtol=0, atol=1e-6)


def test_kmeans_needs_as_many_features_as_codes(codebook_settings, rng):
    book = Codebook(codebook_settings(size=3, init="kmeans"), 2)
    with pytest.raises(UserError, match="only 2 features for 3 codes"):
        book.place(as_features([[0, 0], [1, 1]]), rng())


def test_kmeans_with_fewer_different_features_than_codes(codebook_settings, rng):
    book = Codebook(codebook_settings(size=3, init="kmeans"), 2)
    book.place(as_features([[0, 0], [1, 1], [0, 0], [1, 1]]), rng())
    assert {tuple(code) for code in book.codes.detach().tolist()} == {(0.0, 0.0), (1.0, 1.0)}


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_nearest_is_brute_force_argmin(codebook_settings, update):
    """Eq. 7."""
    book = Codebook(codebook_settings(size=20, update=update), 4)
    features = torch.rand(3, 4, 5, 6)
    x, codes = features.double().numpy(), book.codes.detach().double().numpy()
    tokens = book.nearest(features)
    assert (tokens.shape, tokens.dtype) == ((3, 5, 6), torch.int64)
    for b, i, j in np.ndindex(3, 5, 6):
        assert tokens[b, i, j] == np.argmin([np.sum((x[b, :, i, j] - code) ** 2) for code in codes])


def test_lowest_index_wins_a_tie(make):
    book = make([[9, 9], [0, 0], [2, 0], [0, 2], [2, 2], [0, 0]])
    features = as_features([[1, 1], [2, 1], [1, 2], [0, 0], [1, 0]])
    assert book.nearest(features).flatten().tolist() == [1, 2, 3, 1, 1]


def test_distances_stay_in_float32_under_autocast(make):
    book = make([[1.0], [1.001]])
    with torch.autocast("cpu", torch.bfloat16):
        assert book.nearest(as_features([[1.002]])).item() == 1


def test_lookup_is_eq_8(make):
    book = make([[1, 2, 3], [4, 5, 6]])
    features = book(torch.tensor([[[0, 1], [1, 0]]]))
    assert features.shape == (1, 3, 2, 2)
    assert features[0, :, 0, 1].tolist() == features[0, :, 1, 0].tolist() == [4, 5, 6]
    assert features[0, :, 0, 0].tolist() == features[0, :, 1, 1].tolist() == [1, 2, 3]


def test_gradient_codes_are_left_to_the_optimiser(codebook_settings, rng):
    book = Codebook(codebook_settings(update="gradient"), 2)
    before = book.codes.detach().clone()
    book.update(torch.rand(1, 2, 4, 4), torch.randint(5, (1, 4, 4)), rng())
    assert torch.equal(book.codes.detach(), before)
    book(torch.tensor([[[0, 3], [3, 0]]])).sum().backward()
    assert [name for name, _ in book.named_parameters()] == ["codes"]
    assert book.codes.grad.tolist() == [[2, 2], [0, 0], [0, 0], [2, 2], [0, 0]]  # how often each was looked up


def test_ema_codes_are_no_parameters_but_saved(codebook_settings):
    book = Codebook(codebook_settings(update="ema"), 2)
    assert not list(book.parameters())
    assert set(book.state_dict()) == {"codes", "counts", "sums"}


def test_first_batch_meets_codes_that_count_as_used_evenly(make, rng):
    book = make([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]], update="ema", decay=0.9)
    book.update(as_features([[0.2, 0.0], [0.0, 0.4], [1.0, 2.0]]), torch.tensor([[[0], [0], [1]]]), rng())
    np.testing.assert_allclose(book.counts, [0.9 + 0.2, 0.9 + 0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(book.codes, [[0.02 / 1.1, 0.04 / 1.1], [1.0, 1.1], [5.0, 5.0]], rtol=1e-6)


def test_a_placed_codebook_is_not_thrown_away_by_the_first_update(codebook_settings, rng):
    """Seen to fail with counts of 0: all codes but those of the batch's few counted as dead and were moved."""
    book = Codebook(codebook_settings(size=32, init="kmeans", update="ema", decay=0.99, restart_dead=True), 4)
    features = torch.rand(8, 4, 7, 7, generator=rng(1)) ** 3

    def error():
        return float((book(book.nearest(features)) - features).square().mean())

    book.place(features, rng())
    placed, codes = error(), book.codes.clone()
    book.update(features, book.nearest(features), rng())
    assert error() < 1.01 * placed
    assert (book.codes - codes).abs().max() < 0.02
    for _ in range(20):
        book.update(features, book.nearest(features), rng())
    assert error() <= 1.01 * placed


def test_ema_by_hand(make, rng):
    """decay 0.9, from counts of 1: two features go to code 0, one to code 1, none to code 2."""
    book = make([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]], update="ema", decay=0.9, counts=1.0)
    book.update(as_features([[0.2, 0.0], [0.0, 0.4], [1.0, 2.0]]), torch.tensor([[[0], [0], [1]]]), rng())
    np.testing.assert_allclose(book.counts, [0.9 + 0.2, 0.9 + 0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(book.sums, [[0.02, 0.04], [0.9 + 0.1, 0.9 + 0.2], [4.5, 4.5]], rtol=1e-6)
    np.testing.assert_allclose(book.codes, [[0.02 / 1.1, 0.04 / 1.1], [1.0, 1.1], [5.0, 5.0]], rtol=1e-6)


def test_ema_over_several_batches(make, rng):
    codes = np.random.default_rng(0).random((6, 3)).astype(np.float32)
    book = make(codes, update="ema", decay=0.7, counts=2.0)
    counts, sums = np.full(6, 2.0), 2.0 * codes
    for _ in range(4):
        features, tokens = torch.rand(2, 3, 4, 5), torch.randint(6, (2, 4, 5))
        book.update(features, tokens, rng())
        for code in range(6):
            assigned = [features[b, :, i, j].numpy() for b, i, j in np.argwhere(tokens.numpy() == code)]
            counts[code] = 0.7 * counts[code] + 0.3 * len(assigned)
            sums[code] = 0.7 * sums[code] + 0.3 * np.sum(assigned, axis=0)
    np.testing.assert_allclose(book.codes, sums / counts[:, None], rtol=1e-5)


CODES = [[0, 0], [1, 1], [2, 2], [50, 50]]


@pytest.fixture
def batch():
    """400 features in [0, 1]^2 that go to the first three of four codes."""
    return torch.rand(4, 2, 10, 10), (torch.arange(400) % 3).view(4, 10, 10)


def nearest_feature(features, code):
    """How far a code is from the nearest feature of a batch."""
    return float((features.movedim(1, -1) - code).abs().amax(-1).min())


def test_dead_codes_move_to_features_and_live_codes_stay(make, batch, rng):
    features, tokens = batch
    restarted = make(CODES, update="ema", decay=0.0, restart_dead=True)
    plain = make(CODES, update="ema", decay=0.0)
    for book in (restarted, plain):
        book.update(features, tokens, rng())
    assert torch.equal(restarted.codes[:3], plain.codes[:3])
    assert plain.codes[3].tolist() == [50, 50]
    assert nearest_feature(features, restarted.codes[3]) < 1e-6


def test_several_dead_codes_move_to_several_features(make, batch, rng):
    features, tokens = batch
    book = make(CODES, update="ema", decay=0.0, restart_dead=True)
    book.update(features, torch.zeros_like(tokens), rng())
    assert all(nearest_feature(features, code) < 1e-6 for code in book.codes[1:])
    assert len(book.codes.unique(dim=0)) == 4
    torch.testing.assert_close(book.codes[0], features.mean((0, 2, 3)))


def test_a_code_dies_when_its_running_share_has_faded_and_again_if_restarted_in_vain(make, batch, rng):
    features, tokens = batch
    book = make(CODES, update="ema", decay=0.99, restart_dead=True, counts=100.0)  # 100: an even share
    generator, before, deaths = rng(), book.codes[3].clone(), []
    for step in range(600):
        book.update(features, tokens, generator)
        if not torch.allclose(book.codes[3], before):
            assert nearest_feature(features, book.codes[3]) < 1e-6
            before = book.codes[3].clone()
            deaths.append(step)
    assert deaths[0] > 50
    assert len(deaths) > 1
    assert min(np.diff(deaths)) > 10  # it is given time to find features


def test_restarts_depend_on_the_generator_alone(make, batch, rng):
    features, tokens = batch

    def restarted(seed):
        torch.rand(7)  # the global generator moves on
        book = make(CODES, update="ema", decay=0.0, restart_dead=True)
        book.update(features, tokens, rng(seed))
        return book.codes

    assert torch.equal(restarted(1), restarted(1))
    assert not torch.equal(restarted(1), restarted(2))


@pytest.mark.parametrize(
    ("tokens", "expected", "used"),
    [
        ([3, 3, 3, 3], 1.0, 1),
        ([0, 0, 1, 1], 2.0, 2),
        ([0, 1, 2, 3], 4.0, 4),
        ([0, 0, 0, 1], (4 / 3) ** 0.75 * 4**0.25, 2),
    ],
)
def test_perplexity_by_hand(tokens, expected, used):
    value, n = perplexity(torch.tensor(tokens).view(1, 2, 2), size=6)
    assert value == pytest.approx(expected)
    assert n == used
