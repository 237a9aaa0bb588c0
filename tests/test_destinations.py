"""Distinct ranks and nodes: against exact enumeration, against drawn tokens, and at the limits."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.routing.destinations import (
    binomial_pmf,
    destinations,
    expected_distinct,
)
from perfmodel.spec.model import Moe


def enumerated(experts: int, places: int, k: int) -> float:
    """Mean distinct places over every choice of k experts."""
    held = experts / places
    picks = [len({int(e // held) for e in pick}) for pick in itertools.combinations(range(experts), k)]
    return sum(picks) / len(picks)


@pytest.mark.parametrize(
    ("experts", "places", "k"), [(8, 4, 1), (8, 4, 3), (8, 2, 5), (12, 3, 4), (6, 6, 6), (9, 1, 2)]
)
def test_uniform_matches_enumeration(experts, places, k):
    assert expected_distinct(experts, places, k) == pytest.approx(enumerated(experts, places, k))


def one_by_one(rng, experts, k, groups, top, places, tokens):
    """Mean distinct places of tokens routed one by one, as DeepSeek-V3's router does it, with scores that are alike."""
    size, total = experts // groups, 0
    for _ in range(tokens):
        score = [1.0 / rng.exponential() for _ in range(experts)]
        group_score = [sum(sorted(score[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
        chosen = sorted(range(groups), key=lambda g: -group_score[g])[:top]
        allowed = [e for g in chosen for e in range(g * size, (g + 1) * size)]
        picks = sorted(allowed, key=lambda e: -score[e])[:k]
        total += len({e * places // experts for e in picks})
    return total / tokens


@pytest.mark.parametrize(
    ("experts", "places", "k", "groups", "top"),
    [
        (16, 4, 2, 4, 2),  # a place is a group
        (16, 8, 3, 4, 2),  # a place is part of a group
        (32, 2, 3, 4, 2),  # a place is two groups
        (24, 4, 3, 6, 3),  # a place is one group and half of another
        (12, 1, 3, 4, 2),  # everything in one place
        (8, 8, 2, 8, 2),  # a group is one expert
    ],
)
def test_group_limited_routing_is_that_of_single_tokens(experts, places, k, groups, top):
    moe = Moe(num_experts=experts, top_k=k, ffn_size=8, num_groups=groups, top_groups=top)
    drawn = one_by_one(np.random.default_rng(5), experts, k, groups, top, places, 4_000)
    assert destinations(moe, places, 1).ranks == pytest.approx(drawn, rel=0.02)


def test_groups_are_chosen_by_their_best_experts():
    """Nearly every chosen group holds a chosen expert: 3.98 of DeepSeek-V3's 4 nodes; uniform groups give 3.63."""
    moe = Moe(num_experts=256, top_k=8, ffn_size=2048, num_groups=8, top_groups=4)
    reached = destinations(moe, 64, 8)
    assert reached.nodes == pytest.approx(3.98, abs=0.01)
    assert reached.ranks == pytest.approx(7.46, abs=0.03)


def test_longcat_matches_drawn_tokens():
    """512 experts on 128 ranks of 16 nodes; each of 12 selections is real with chance 2/3."""
    rng = np.random.default_rng(7)
    moe = Moe(num_experts=512, num_zero_experts=256, top_k=12, ffn_size=2048, expected_real_experts=8)
    ranks, nodes = [], []
    for real in rng.binomial(12, 8 / 12, size=20_000):
        chosen = rng.choice(512, size=real, replace=False)
        ranks.append(len(set(chosen // 4)))
        nodes.append(len(set(chosen // 32)))
    got = destinations(moe, 128, 8)
    assert got.ranks == pytest.approx(np.mean(ranks), rel=0.005)
    assert got.nodes == pytest.approx(np.mean(nodes), rel=0.005)
    assert got.remote_nodes == pytest.approx(got.nodes * 15 / 16)
    assert got.remote_ranks == pytest.approx(got.ranks * 127 / 128)


def test_node_limited_never_exceeds_its_groups():
    """DeepSeek-V3: 4 of 8 groups; where a group is a node at most 4 nodes are reached."""
    moe = Moe(num_experts=256, top_k=8, ffn_size=2048, num_groups=8, top_groups=4)
    reached = destinations(moe, 64, 8)
    assert reached.nodes <= 4
    unlimited = destinations(moe.model_copy(update={"num_groups": 1, "top_groups": 1}), 64, 8)
    assert reached.nodes < unlimited.nodes


def test_one_node_has_no_remote_node():
    moe = Moe(num_experts=64, top_k=8, ffn_size=1024)
    assert destinations(moe, 8, 8).remote_nodes == 0
    assert destinations(moe, 4, 8).nodes == pytest.approx(1.0)
    assert destinations(moe, 1, 8).remote_ranks == 0


def test_all_experts_reach_all_places():
    assert expected_distinct(64, 16, 64) == 16
    assert expected_distinct(64, 16, 61) == 16


def test_no_real_expert_reaches_nothing():
    moe = Moe(num_experts=8, num_zero_experts=8, top_k=2, ffn_size=8)
    assert destinations(moe, 4, 2, pmf=(1.0, 0.0, 0.0)).ranks == 0


def test_a_fractional_k_lies_between_whole_ones():
    values = [expected_distinct(512, 128, k) for k in (7, 7.5, 8)]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_a_wider_distribution_reaches_fewer_places():
    moe = Moe(num_experts=512, num_zero_experts=256, top_k=12, ffn_size=2048, expected_real_experts=8)
    always_8 = [float(k == 8) for k in range(13)]
    half_4_half_12 = [0.5 * (k in (4, 12)) for k in range(13)]
    fixed = destinations(moe, 128, 8, pmf=always_8)
    spread = destinations(moe, 128, 8, pmf=half_4_half_12)
    assert spread.ranks < fixed.ranks


@pytest.mark.parametrize("limited", [False, True])
def test_arrays_equal_scalars(limited):
    groups = {"num_groups": 8, "top_groups": 4} if limited else {}
    moe = Moe(num_experts=256, top_k=8, ffn_size=2048, **groups)
    ranks = np.array([8.0, 16.0, 64.0, 256.0])
    got = destinations(moe, ranks, 8)
    for i, value in enumerate(ranks):
        one = destinations(moe, float(value), 8)
        assert got.ranks[i] == pytest.approx(one.ranks)
        assert got.remote_nodes[i] == pytest.approx(one.remote_nodes)
    assert expected_distinct(256, ranks, 8) == pytest.approx(
        [expected_distinct(256, float(v), 8) for v in ranks]
    )


def test_an_array_of_means_equals_scalars():
    moe = Moe(num_experts=512, num_zero_experts=256, top_k=12, ffn_size=2048)
    means = np.array([0.0, 7.46, 8.0, 12.0])
    got = destinations(moe, 128, 8, mean_real_experts=means)
    expected = [destinations(moe, 128, 8, mean_real_experts=float(m)).ranks for m in means]
    assert got.ranks == pytest.approx(expected)


@given(top_k=st.integers(1, 16), share=st.floats(0, 1))
def test_binomial_pmf_sums_to_one_with_its_mean(top_k, share):
    pmf = binomial_pmf(top_k, share * top_k)
    assert math.fsum(pmf) == pytest.approx(1)
    assert sum(k * p for k, p in enumerate(pmf)) == pytest.approx(share * top_k, abs=1e-9)


@given(log_places=st.integers(0, 6), log_held=st.integers(0, 4), k=st.floats(0, 16), more=st.floats(0, 8))
@settings(max_examples=200)
def test_distinct_is_bounded_and_grows(log_places, log_held, k, more):
    places, experts = 2**log_places, 2 ** (log_places + log_held)
    k = min(k, experts)
    distinct = expected_distinct(experts, places, k)
    assert -1e-6 <= distinct <= min(max(k, 1.0), places) + 1e-6
    assert expected_distinct(experts, places, min(k + more, experts)) >= distinct - 1e-6
