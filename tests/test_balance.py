"""From popularity to the step: shares against draws, one rank against all ranks, tails, EPLB's published gains."""

import numpy as np
import pytest

from calibrate import skew
from perfmodel.answer import warnings
from perfmodel.errors import SpecError
from perfmodel.ops.moe import routed_pairs, scenario_balance
from perfmodel.ops.work import step_work
from perfmodel.routing import loads
from perfmodel.routing.balance import busiest, drawn_loads, pair_shares, rank_shares
from perfmodel.routing.popularity import power_law
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.load import load_scenario
from perfmodel.step import predict_steps, simulate_step
from perfmodel.tails import step_tails
from perfmodel.validation import roles
from perfmodel.validation.serving import fitted_skew

SKEWED = ("routing.popularity=power-law", "routing.skew=0.6")
EPLB = (*SKEWED, "routing.placement=eplb", "deployment.redundant_experts=128")


def scenario(*overrides, base="longcat-flash-h800"):
    return load_scenario(base, list(overrides))


def step_s(*overrides):
    return float(simulate_step(scenario(*overrides)).step_time_s)


def balance_and_pairs(described):
    tokens = float(step_work(described.deployment).tokens)
    return scenario_balance(described.model.moe, described), routed_pairs(tokens, described)


@pytest.mark.parametrize(
    ("exponent", "num_experts", "k"), [(0.0, 64, 8), (0.6, 512, 8), (1.2, 256, 8), (1.0, 32, 4)]
)
def test_shares_of_pairs_are_those_of_drawn_tokens(exponent, num_experts, k):
    popularity = power_law(num_experts, exponent)
    ids, _ = loads.sample_experts(np.random.default_rng(1), popularity, np.full(40_000, k))
    drawn = loads.expert_counts(ids, num_experts) / len(ids)
    pmf = [0.0] * k + [1.0]
    noise = np.sqrt(drawn.max() / len(ids))
    assert pair_shares(popularity, pmf) == pytest.approx(drawn, rel=0.05, abs=5 * noise)
    assert pair_shares(popularity, pmf).max() <= 1 / k + 1e-9


def test_a_popular_expert_is_picked_once_per_token_at_most():
    shares = pair_shares(power_law(16, 4.0), [0.0, 0.0, 0.0, 0.0, 1.0])
    assert shares[0] == pytest.approx(1 / 4, rel=1e-3)  # of four experts one is always the first
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("overrides", [("routing.popularity=uniform",), SKEWED, EPLB])
def test_the_expected_maximum_is_the_mean_of_drawn_steps(overrides):
    balance, pairs = balance_and_pairs(scenario(*overrides))
    drawn = drawn_loads(balance, round(pairs), 50 * len(rank_shares(balance)), seed=3)
    assert drawn.mean() == pytest.approx(1.0)
    assert busiest(balance, pairs) == pytest.approx(drawn.max(axis=1).mean(), rel=0.03)


@pytest.mark.parametrize("overrides", [("routing.popularity=uniform",), EPLB])
def test_a_representative_rank_stands_for_all_ranks(overrides):
    """All ranks with drawn loads, barriers and stragglers included, against the rank with the expected maximum."""
    representative = step_s(*overrides)
    every = np.mean([step_s(*overrides, "deployment.ranks=all", f"seed={seed}") for seed in range(2)])
    assert representative == pytest.approx(every, rel=0.03)


def test_arrays_of_batches_are_done_element_by_element():
    batches = np.array([4.0, 32.0, 96.0])
    many = predict_steps(with_arrays(scenario(*SKEWED), {"deployment.batch_per_gpu": batches})).step_time_s
    for batch, together in zip(batches, many, strict=True):
        assert step_s(*SKEWED, f"deployment.batch_per_gpu={batch}") == pytest.approx(together, rel=1e-6)


def test_skew_costs_and_eplb_with_room_repairs_it_until_popularity_drifts():
    even, skewed, balanced = step_s("routing.popularity=uniform"), step_s(*SKEWED), step_s(*EPLB)
    drifted = step_s(*EPLB, "routing.drift=0.3")
    assert even < balanced < drifted < skewed
    assert balanced < 1.05 * even
    assert skewed > 1.5 * even


def test_tails_hold_the_representative_step():
    described = scenario(*EPLB, "routing.drift=0.3")
    found = step_tails(described)
    step = found["step_time_s"]
    assert step["p50"] <= step["p99"]
    assert step["mean"] == pytest.approx(float(simulate_step(described).step_time_s), rel=0.03)
    assert found["imbalance"]["p99"] > found["imbalance"]["p50"] > 1.0
    assert step_tails(described) == found  # the same seed draws the same
    assert step_tails(scenario()) is None


def test_fewer_tokens_are_less_even():
    few, many = (
        step_tails(scenario("routing.popularity=uniform", f"deployment.batch_per_gpu={batch}"))["imbalance"][
            "mean"
        ]
        for batch in (4, 128)
    )
    assert few > many > 1.0


def test_a_histogram_is_taken_as_it_is():
    counts = [3.0] * 4 + [1.0] * 508
    described = scenario("routing.popularity=histogram", f"routing.histogram={counts}")
    balance, _ = balance_and_pairs(described)
    (first, *_) = rank_shares(balance)
    assert first[0] == pytest.approx(3 * first[1], rel=0.05)


def test_the_answer_says_what_is_assumed():
    def said(*overrides, base="longcat-flash-h800"):
        return " ".join(warnings(simulate_step(scenario(*overrides, "deployment.engine=''", base=base))))

    assert "taken as balanced" in said()
    assert "taken as balanced" not in said("routing.imbalance=1.5")
    stated = said(*SKEWED)
    assert "taken as balanced" not in stated
    assert "power-law is an assumption" in stated
    assert "group-limited" not in stated
    assert "group-limited" in said(
        "routing.imbalance=null", "routing.popularity=uniform", base="deepseek-v3-h800"
    )


# --- EPLB's published gains ------------------------------------------------------------------------------------


def test_the_skew_on_file_is_the_one_that_gives_the_prefill_gain():
    published = {
        row["id"]: float(row["value"])
        for row in roles.read_published("serving.csv")
        if "eplb_gain" in row["id"]
    }
    assert skew.gain(skew.PREFILL, fitted_skew("deepseek-v3")) == pytest.approx(
        published[skew.PREFILL], rel=0.01
    )


def test_it_predicts_the_decode_gain():
    """2.54 was published and set nothing; a power law that was fitted on prefill gives it within 10 %."""
    assert skew.gain(skew.DECODE, fitted_skew("deepseek-v3")) == pytest.approx(2.54, rel=0.10)


def test_more_skew_gains_more():
    gains = skew.curve([0.3, 0.6, 0.9])
    assert [prefill for _, prefill, _ in gains] == sorted(prefill for _, prefill, _ in gains)
    assert [decode for _, _, decode in gains] == sorted(decode for _, _, decode in gains)


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["routing.popularity=power-law"], "needs skew"),
        (["routing.skew=1"], "belongs to popularity"),
        (["routing.popularity=uniform", "routing.skew=1"], "belongs to popularity"),
        (["routing.popularity=histogram"], "belong together"),
        (["routing.popularity=histogram", "routing.histogram=[1,2]"], "512 experts need one each"),
        (["routing.popularity=histogram", f"routing.histogram={[0.0] * 512}"], "all zero"),
        (["routing.placement=eplb"], "does nothing without popularity"),
        (["routing.drift=0.5"], "does nothing without popularity"),
        (["routing.popularity=uniform", "routing.imbalance=2"], "leave imbalance out"),
        (["routing.popularity=zipf"], "popularity"),
        (["routing.popularity=uniform", "deployment.redundant_experts=100"], "must divide"),
    ],
)
def test_bad_input_says_what_is_allowed(overrides, message):
    with pytest.raises(SpecError, match=message):
        scenario(*overrides)
