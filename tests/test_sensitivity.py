"""Levers of cost: laws that any simulator must keep, ranges with a reason, and what is left out."""

import pytest

from perfmodel.economics.utilisation import break_even, usd_at_utilisation
from perfmodel.explore.levers import LEVERS, with_value
from perfmodel.explore.sensitivity import sensitivity
from perfmodel.load import load_scenario
from perfmodel.ops.work import tokens_per_step
from perfmodel.spec import catalogue
from perfmodel.step import simulate_step

NAMES = [lever.name for lever in LEVERS]


@pytest.fixture(scope="module")
def main_job():
    return sensitivity(load_scenario("longcat-flash-h800"))


def swing(found, name):
    return next(one for one in found.swings if one.lever == name)


def test_every_lever_applies_to_the_main_job(main_job):
    assert sorted(one.lever for one in main_job.swings) == sorted(NAMES)
    assert not main_job.left_out
    widths = [one.width_usd for one in main_job.swings]
    assert widths == sorted(widths, reverse=True)
    assert all(one.reason for one in main_job.swings)
    sourced = ("utilisation", "expert load", "real experts per token", "draft acceptance")
    assert all(swing(main_job, name).source for name in sourced)


def test_price_is_linear(main_job):
    price = swing(main_job, "GPU price")
    for end in (price.low, price.high):
        assert end.usd_per_million_tokens / main_job.usd_per_million_tokens == pytest.approx(end.value / 2.0)
        assert end.tpot_s == main_job.tpot_s


def test_price_range_is_the_catalogues():
    found = sensitivity(
        load_scenario(
            "longcat-flash-h800", ["cluster=h200-ib", "calibration=h200-sxm", "prices=h200-kimi-lease"]
        )
    )
    quoted = [
        entry["usd_per_gpu_hour"]
        for entry in (catalogue.entry("prices", name) for name in catalogue.names("prices"))
        if entry["gpu"] == "H200"
    ]
    price = swing(found, "GPU price")
    assert (price.low.value, price.high.value) == (min(quoted), max(quoted))


def test_acceptance_changes_tokens_per_step_alone(main_job):
    acceptance = swing(main_job, "draft acceptance")
    assert (acceptance.low.value, acceptance.high.value) == (0.8, 0.92)
    for end in (acceptance.low, acceptance.high):
        assert end.tpot_s == pytest.approx(main_job.tpot_s * 1.9 / (1.0 + end.value), rel=1e-12)
    certain = load_scenario("longcat-flash-h800", ["deployment.mtp.acceptance=1"])
    assert tokens_per_step(certain.deployment) == 2.0


@pytest.mark.parametrize("lever", ["HBM bandwidth", "network bandwidth", "link bandwidth"])
def test_more_bandwidth_is_never_dearer(main_job, lever):
    found = swing(main_job, lever)
    base = main_job.usd_per_million_tokens
    assert found.low.value < found.high.value
    # Graham's anomalies of contention stay below 1 % (design)
    assert found.high.usd_per_million_tokens <= base * 1.01
    assert found.low.usd_per_million_tokens >= base * 0.99
    assert found.high.usd_per_million_tokens < found.low.usd_per_million_tokens


def test_network_bandwidth_over_a_wide_range():
    scenario = load_scenario("longcat-flash-h800")
    times = [
        simulate_step(with_value(scenario, "cluster.network.gb_per_s_per_gpu", gb)).step_time_s
        for gb in (10.0, 25.0, 50.0, 200.0)
    ]
    assert times == sorted(times, reverse=True)


def test_expert_load_and_real_experts(main_job):
    load, real = swing(main_job, "expert load"), swing(main_job, "real experts per token")
    assert (
        load.low.usd_per_million_tokens < main_job.usd_per_million_tokens < load.high.usd_per_million_tokens
    )
    assert (
        real.low.usd_per_million_tokens < main_job.usd_per_million_tokens < real.high.usd_per_million_tokens
    )
    assert (real.low.value, real.high.value) == (7.46, 8.32)


def test_utilisation_is_as_published_or_as_stated(main_job):
    found = swing(main_job, "utilisation")
    assert found.low.value == pytest.approx(100.0 * 226.75 / 278.0)
    assert found.high.usd_per_million_tokens == main_job.usd_per_million_tokens
    stated = swing(sensitivity(load_scenario("longcat-flash-h800"), peak_to_mean=4.0), "utilisation")
    assert stated.low.usd_per_million_tokens == pytest.approx(4.0 * main_job.usd_per_million_tokens)


@pytest.mark.parametrize(
    ("name", "sets", "left_out"),
    [
        ("deepseek-v3-h800", [], {"real experts per token", "draft acceptance"}),
        (
            "reference-cpu",
            [],
            {
                "GPU price",
                "utilisation",
                "expert load",
                "draft acceptance",
                "network bandwidth",
                "link bandwidth",
            },
        ),
        ("longcat-flash-h800", ["routing.std_real_experts=3"], {"real experts per token"}),
        ("longcat-flash-h800", ["deployment.phase=prefill"], {"draft acceptance"}),
        ("table7-longcat-flash", [], {"HBM bandwidth", "network bandwidth", "link bandwidth"}),
    ],
)
def test_what_does_not_apply_has_its_reason(name, sets, left_out):
    found = sensitivity(load_scenario(name, sets))
    assert set(found.left_out) == left_out
    assert all(found.left_out.values())


def test_break_even_is_where_the_costs_meet():
    found = break_even(0.155, 0.7, [0.128, 0.191])
    assert usd_at_utilisation(0.155, found.utilisation_pct) == pytest.approx(0.7)
    assert found.interval_pct == pytest.approx((100 * 0.128 / 0.7, 100 * 0.191 / 0.7))
    assert break_even(0.155, 0.1).utilisation_pct > 100.0
    assert break_even(0.155, 0.1).interval_pct is None
