"""Loads of ranks: against enumeration, against drawn loads, and bad input."""

import itertools
import math

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from perfmodel.errors import DataError
from perfmodel.routing.largest import (
    _curve,
    _nodes,
    _table,
    expected_maxima,
    expected_maximum,
    quantiles_of_maximum,
)
from perfmodel.routing.loads import (
    expert_counts,
    multinomial_rank_loads,
    rank_loads,
    sample_activation,
    sample_experts,
)


def power_law(ranks: int, exponent: float) -> np.ndarray:
    weights = np.arange(1.0, ranks + 1) ** -exponent
    return weights / weights.sum()


def sampled_maxima(shares: np.ndarray, pairs: int, draws: int = 4000) -> np.ndarray:
    return multinomial_rank_loads(np.random.default_rng(5), shares, pairs, draws).max(axis=1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 6.0])  # at 6 nearly every token is finished by Gumbel keys
def test_tokens_are_conserved_and_their_experts_distinct(exponent):
    rng = np.random.default_rng(3)
    wanted = rng.integers(0, 13, size=3000)
    ids, tokens = sample_experts(rng, power_law(512, exponent), wanted)
    assert len(ids) == wanted.sum()
    assert (np.bincount(tokens, minlength=3000) == wanted).all()
    assert len(np.unique(tokens * 512 + ids)) == len(ids)
    assert ids.min() >= 0
    assert expert_counts(ids, 512).sum() == wanted.sum()


@pytest.mark.parametrize("popularity", [(0.4, 0.3, 0.2, 0.1), (0.998, 0.001, 0.0007, 0.0003)])
@pytest.mark.parametrize("k", [2, 3])
def test_chosen_sets_match_enumeration(popularity, k):
    """Successive sampling: P(e1, e2, ..) = prod p_e / (1 - those before); the second case needs Gumbel keys."""
    expected: dict[int, float] = {}
    for order in itertools.permutations(range(4), k):
        chance, left = 1.0, 1.0
        for e in order:
            chance, left = chance * popularity[e] / left, left - popularity[e]
        key = sum(1 << e for e in order)
        expected[key] = expected.get(key, 0.0) + chance
    tokens = 100_000
    ids, token = sample_experts(np.random.default_rng(11), popularity, np.full(tokens, k))
    sets = np.bincount(token, weights=1 << ids).astype(int)
    for key, chance in expected.items():
        error = 4.5 * math.sqrt(chance * (1 - chance) / tokens)
        assert np.mean(sets == key) == pytest.approx(chance, abs=error)


def test_experts_without_popularity_are_never_chosen():
    ids, _ = sample_experts(np.random.default_rng(0), [0.0, 1.0, 0.0, 1e-12, 0.0], np.full(50, 2))
    assert set(ids) == {1, 3}


def test_no_tokens_and_no_experts():
    rng = np.random.default_rng(0)
    for counts in ([], [0, 0]):
        ids, tokens = sample_experts(rng, [1.0, 1.0], counts)
        assert len(ids) == len(tokens) == 0


def test_activation_has_its_distribution():
    pmf = np.array([0.1, 0.0, 0.6, 0.3])
    drawn = sample_activation(np.random.default_rng(2), pmf, 100_000)
    assert np.bincount(drawn, minlength=4) / 1e5 == pytest.approx(pmf, abs=0.007)
    assert not (drawn == 1).any()


def test_rank_loads_splits_replicas():
    shares = [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    assert rank_loads([[4, 2, 6], [0, 0, 1]], shares).tolist() == [[5, 7], [0, 1]]


def test_multinomial_moments():
    shares, pairs = power_law(5, 0.7), 300
    loads = multinomial_rank_loads(np.random.default_rng(4), shares, pairs, 40_000)
    assert (loads.sum(axis=1) == pairs).all()
    assert loads.mean(axis=0) == pytest.approx(pairs * shares, rel=0.005)
    assert loads.var(axis=0) == pytest.approx(pairs * shares * (1 - shares), rel=0.04)


def test_distinct_experts_vary_less_than_the_multinomial():
    """4 of 8 experts, one to a rank: (8 - 4) / (8 - 1) of the multinomial variance."""
    rng, steps, tokens = np.random.default_rng(6), 2000, 20
    ids, token = sample_experts(rng, np.ones(8), np.full(steps * tokens, 4))
    exact = expert_counts(token // tokens * 8 + ids, steps * 8).reshape(steps, 8)
    fast = multinomial_rank_loads(rng, np.full(8, 1 / 8), tokens * 4, steps)
    assert exact.var() / fast.var() == pytest.approx(4 / 7, rel=0.06)
    assert exact.max(axis=1).mean() < fast.max(axis=1).mean()


@pytest.mark.parametrize("mean", [1, 3, 10, 100, 1000, 10_000])
@pytest.mark.parametrize(
    "shares",
    [np.full(8, 1 / 8), np.full(32, 1 / 32), np.full(128, 1 / 128), power_law(32, 0.6), power_law(128, 0.2)],
    ids=["8", "32", "128", "32 power law", "128 power law"],
)
def test_maximum_matches_drawn_loads(shares, mean):
    pairs = mean * len(shares)
    drawn = sampled_maxima(shares, pairs, 2000)
    assert float(expected_maximum(shares, pairs)) * mean == pytest.approx(drawn.mean(), rel=0.03)
    for q, tolerance in ((0.5, 0.03), (0.99, 0.04)):
        got = float(quantiles_of_maximum(shares, pairs, [q])[0]) * mean
        assert got == pytest.approx(np.quantile(drawn, q), rel=tolerance, abs=1.1)


@pytest.mark.parametrize("mean", [2, 10])
def test_maximum_matches_distinct_experts_of_a_large_model(mean):
    """8 of 512 experts, 4 to each of 128 ranks: distinctness hardly matters."""
    tokens, steps = 16 * mean, 400
    ids, token = sample_experts(np.random.default_rng(8), np.ones(512), np.full(tokens * steps, 8))
    loads = expert_counts(token // tokens * 128 + ids // 4, steps * 128).reshape(steps, 128)
    got = float(expected_maximum(np.full(128, 1 / 128), tokens * 8)) * mean
    assert got == pytest.approx(loads.max(axis=1).mean(), rel=0.03)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.3, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.3, 0.0)])
@pytest.mark.parametrize("pairs", [1, 2, 4, 5, 7])
def test_few_pairs_match_enumeration(shares, pairs):
    """Exact up to 16 pairs, by the table's own nodes."""
    ranks = len(shares)
    mean = 0.0
    for landed in itertools.product(range(ranks), repeat=pairs):
        mean += math.prod(shares[r] for r in landed) * max(landed.count(r) for r in range(ranks))
    assert float(expected_maximum(shares, pairs)) == pytest.approx(mean * ranks / pairs)


@pytest.mark.parametrize(
    "shares", [np.full(2, 0.5), power_law(2, 1.0), power_law(8, 2.0), np.full(16, 1 / 16)]
)
def test_just_above_the_exact_range(shares):
    """The normal density is at its worst there: 3 % for two ranks."""
    for pairs in (17, 20, 24, 40):
        got = float(expected_maximum(shares, pairs)) * pairs / len(shares)
        assert got == pytest.approx(sampled_maxima(shares, pairs, 20_000).mean(), rel=0.035)


def test_limits():
    assert float(expected_maximum([1.0], 1234)) == 1.0
    assert float(expected_maximum([0.5, 0.5], 0)) == 2.0
    assert float(expected_maximum([0.5, 0.5], 1)) == 2.0
    assert float(expected_maximum([1.0, 0.0], 1e5)) == 2.0
    assert float(expected_maximum([0.75, 0.25], 1e12)) == pytest.approx(1.5, rel=1e-3)
    pairs = np.geomspace(1, 1e10, 500)
    values = expected_maximum(np.full(64, 1 / 64), pairs)
    assert values.min() >= 1
    assert values.max() <= 64


def test_arrays_equal_scalars_and_order_of_ranks_is_nothing():
    shares, pairs = power_law(12, 0.5), np.array([[3.0, 70.5], [1e4, 1e6]])
    got = expected_maximum(shares, pairs)
    assert got.shape == (2, 2)
    assert got == pytest.approx(
        np.array([[float(expected_maximum(shares[::-1], p)) for p in row] for row in pairs])
    )
    quantiles = quantiles_of_maximum(shares, pairs, (0.1, 0.5, 0.99))
    assert quantiles.shape == (2, 2, 3)
    assert (np.diff(quantiles, axis=-1) > 0).all()
    assert quantiles_of_maximum(shares, pairs, ()).shape == (2, 2, 0)


def test_what_was_asked_before_changes_nothing():
    """A piece of the spline goes through the nodes around it, whichever are known; whole, it is scipy's."""
    shares, pairs = power_law(96, 0.4), np.geomspace(200.0, 1e6, 40)
    together = expected_maximum(shares, pairs)
    _curve.cache_clear()
    one_by_one = np.array([float(expected_maximum(shares, p)) for p in pairs[::-1]])[::-1]
    assert (together == one_by_one).all()
    nodes = _nodes(96)
    at_nodes = np.log(expected_maximum(shares, nodes.pairs))
    assert at_nodes == pytest.approx(_curve(np.sort(shares).tobytes(), None).values, rel=1e-14)
    whole = np.exp(CubicSpline(nodes.logs, at_nodes)(np.log(pairs)))
    assert together == pytest.approx(whole, rel=3e-6)


def test_vectors_asked_together_are_those_asked_alone():
    """Arrays of several vectors are filled up: to the last digit that changes nothing."""
    rng = np.random.default_rng(3)
    every = [rng.dirichlet(np.full(48, concentration)) for concentration in (0.1, 0.5, 5.0, 200.0)]
    every.append(every[0])
    pairs = np.geomspace(3.0, 1e6, 20).reshape(4, 5)
    together = expected_maxima(every, pairs)
    _curve.cache_clear()
    _table.cache_clear()
    alone = np.array([expected_maximum(shares, pairs) for shares in every])
    assert together.shape == (5, 4, 5)
    assert (together == alone).all()


def test_bad_input():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="sums to"):
        sample_activation(rng, [0.5, 0.4], 3)
    with pytest.raises(DataError, match="at least 0"):
        sample_activation(rng, [1.5, -0.5], 3)
    with pytest.raises(DataError, match="only 2 of 3"):
        sample_experts(rng, [1.0, 1.0, 0.0], [1, 3])
    with pytest.raises(DataError, match="finite"):
        sample_experts(rng, [1.0, math.nan], [1])
    with pytest.raises(DataError, match="counts_per_token"):
        sample_experts(rng, [1.0, 1.0], [-1])
    with pytest.raises(DataError, match="replica"):
        rank_loads([1, 1], [[1.0, 0.5], [0.0, 0.0]])
    with pytest.raises(DataError, match="rank_shares"):
        multinomial_rank_loads(rng, [0.5, 0.6], 3, 1)
    with pytest.raises(DataError, match="pairs"):
        multinomial_rank_loads(rng, [0.5, 0.5], -3, 1)
    with pytest.raises(DataError, match="pairs"):
        expected_maximum([0.5, 0.5], [1.0, -1.0])
    with pytest.raises(DataError, match="rank_shares"):
        expected_maximum([0.5, 0.6], 10)
    with pytest.raises(DataError, match="strictly between"):
        quantiles_of_maximum([0.5, 0.5], 10, [1.0])
