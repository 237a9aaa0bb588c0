"""Numbers of real experts: the beta-binomial against scipy's, published means and bounds, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from perfmodel.answers.step import answer_step
from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.ops.parameters import active, active_parameters
from perfmodel.routing.activation import activation, beta_binomial, moments
from perfmodel.spec import catalogue
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.routing import theta_of
from perfmodel.step import predict_steps, simulate_step

LONGCAT = catalogue.model("longcat-flash")
WORKLOADS = {"gsm8k": 7.46, "cmmlu": 7.71, "math": 8.03, "humaneval": 8.13, "mbpp": 8.24, "mmlu": 8.32}
"""arXiv 2509.01322, figure 11."""


def pmf_of(*overrides, scenario="longcat-flash-h800"):
    found = load_scenario(scenario, list(overrides))
    return activation(found.model.moe, found.routing, found.mean_real_experts)


@given(st.integers(1, 16), st.floats(0.01, 0.99), st.floats(0.01, 3.0))
def test_it_is_scipys_beta_binomial(top_k, real, theta):
    expected = betabinom(top_k, real / theta, (1.0 - real) / theta).pmf(range(top_k + 1))
    assert beta_binomial(top_k, real * top_k, theta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_without_spread_it_is_the_binomial_and_without_zero_experts_a_constant():
    assert beta_binomial(12, 8.0, 0.0) == pytest.approx(binom(12, 2 / 3).pmf(range(13)))
    assert pmf_of(scenario="deepseek-v3-h800") == (*(0.0,) * 8, 1.0)


@given(st.integers(2, 16), st.floats(0.05, 0.95), st.floats(0.0, 0.95))
def test_theta_gives_the_stated_spread(top_k, real, wide):
    low = (top_k * real * (1.0 - real)) ** 0.5
    std = low * (1.0 + wide * (top_k**0.5 - 1.0))
    mean, found = moments(beta_binomial(top_k, real * top_k, theta_of(top_k, real * top_k, std)))
    assert (mean, found) == pytest.approx((real * top_k, std), rel=1e-6)


def test_published_spread_gives_the_published_beta():
    """a = 4.43, b = 2.22 at a standard deviation of 2.55; 2.42, 1.21 at 3."""
    for std, a, b in ((2.55, 4.43, 2.22), (3.0, 2.42, 1.21)):
        theta = theta_of(12, 8.0, std)
        assert (2 / 3 / theta, 1 / 3 / theta) == pytest.approx((a, b), rel=0.005)


def test_arrays_are_done_element_by_element():
    means = np.array([0.0, 6.5, 8.0, 12.0])
    found = load_scenario("longcat-flash-h800")
    together = np.array(activation(found.model.moe, found.routing, means))
    for i, mean in enumerate(means):
        assert together[:, i] == pytest.approx(activation(found.model.moe, found.routing, float(mean)))
    prefill = load_scenario(
        "longcat-flash-h800", ["deployment.phase=prefill", "deployment.prefill_tokens=1024"]
    )
    many = predict_steps(with_arrays(prefill, {"routing.mean_real_experts": means})).step_time_s
    for i, mean in enumerate(means):
        one = load_scenario(
            "longcat-flash-h800",
            [
                "deployment.phase=prefill",
                "deployment.prefill_tokens=1024",
                f"routing.mean_real_experts={mean}",
            ],
        )
        assert simulate_step(one).step_time_s == pytest.approx(many[i], rel=1e-9)


@pytest.mark.parametrize(("workload", "mean"), WORKLOADS.items())
def test_workloads_have_their_published_means(workload, mean):
    pmf = pmf_of(f"routing.workload={workload}")
    assert moments(pmf)[0] == pytest.approx(mean)
    assert sum(pmf) == pytest.approx(1.0)


def test_more_real_experts_cost_more():
    times = [
        simulate_step(load_scenario("longcat-flash-h800", [f"routing.workload={name}"])).step_time_s
        for name in WORKLOADS
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_active_parameters_are_as_published():
    """18.69 to 31.38 B, mean 27.15 B; sampled over tokens whose layers are independent, and equal."""
    pmf = pmf_of()
    found = active_parameters(LONGCAT, [pmf], 0.0)
    assert (found.least / 1e9, found.mean / 1e9, found.most / 1e9) == pytest.approx(
        (18.69, 27.15, 31.38), abs=0.005
    )
    rng = np.random.default_rng(0)
    real = rng.choice(13, p=np.array(pmf) / sum(pmf), size=(20_000, 28))
    per_layer = (active(LONGCAT, 12) - active(LONGCAT, 0)) / 12 / 28
    assert found.std == pytest.approx((per_layer * real.sum(axis=1)).std(), rel=0.03)
    equal = active_parameters(LONGCAT, [pmf], 1.0)
    assert equal.std == pytest.approx((per_layer * 28 * real[:, 0]).std(), rel=0.03)


def test_a_wider_spread_reaches_fewer_ranks():
    """Distinct places are concave in the number of experts, so prefill's bytes fall a little."""
    prefill = ["deployment.phase=prefill", "deployment.prefill_tokens=4096", "deployment.overlap=sequential"]
    constant = "routing.activation=[0,0,0,0,0,0,0,0,1,0,0,0,0]"
    times = [
        simulate_step(load_scenario("longcat-flash-h800", [*prefill, change])).step_time_s
        for change in (constant, "routing.std_real_experts=1.633", "routing.std_real_experts=3.5")
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1] * 1.005


def test_the_answer_has_the_distribution():
    values = answer_step(load_scenario("longcat-flash-h800", ["routing.workload=mmlu"])).values
    assert values["real_experts"]["mean"] == pytest.approx(8.32)
    assert len(values["real_experts"]["probabilities"]) == 13
    assert values["active_parameters"]["mean"] == pytest.approx(active(LONGCAT, 8.32))
    assert answer_step(load_scenario("deepseek-v3-h800")).values["real_experts"]["std"] == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("routing.workload=foo", "allowed: cmmlu, gsm8k"),
        ("routing.std_real_experts=9", "to below 5.657"),
        ("routing.std_real_experts=1", "must be from 1.633"),
        ("routing.activation=[0.5,0.6]", "sum to 1.1, which must be 1"),
        ("routing.activation=[0.5,0.5]", "needs 13: of 0 to 12"),
        ("routing.activation=[-1,2]", "activation"),
        ("routing.layer_correlation=2", "layer_correlation"),
        ("routing.mean_real_experts=13", "exceeds the model's top_k = 12"),
    ],
)
def test_bad_input_says_what_is_allowed(override, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        simulate_step(load_scenario("longcat-flash-h800", [override]))


def test_a_workload_and_a_mean_contradict():
    with pytest.raises(SpecError, match="leave mean_real_experts out"):
        load_scenario("longcat-flash-h800", ["routing.workload=mmlu", "routing.mean_real_experts=8"])
    with pytest.raises(SpecError, match=r"nothing is published for deepseek-v3"):
        load_scenario("deepseek-v3-h800", ["routing.workload=mmlu"])
