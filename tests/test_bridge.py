"""From full batches to a traffic: the parts add up, each has a meaning of its own, and full machines pay for none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.economics.bridge import bridge
from perfmodel.load import load_scenario


def bridged(name, *sets):
    scenario = load_scenario(name, sets)
    values = answer_serve(scenario).values
    step = answer_step(scenario, over_steps=False).values
    return bridge(values, step["output_tokens_per_s_per_gpu"], scenario), values, step


@pytest.mark.parametrize("name", ["longcat-flash-h800", "longcat-flash-h800-pd", "deepseek-v3-h200-vllm"])
def test_it_starts_at_the_steps_price_ends_at_the_traffics_and_adds_up(name):
    found, values, step = bridged(name, "workload.num_requests=300")
    scenario = load_scenario(name)
    own = scenario.serving.replicas * scenario.deployment.num_gpus / scenario.fleet_gpus
    # the step's own price charges its GPUs alone; so does the bridge's first part
    assert found.full == pytest.approx(step["usd_per_million_output_tokens"])
    assert found.served == values["usd_per_million_output_tokens"]
    assert found.full + sum(row["delta"] for row in found.rows) == pytest.approx(found.served)
    assert found.prompts > 0.0
    busy = own * values["busy_pct"] + (1.0 - own) * (values["prefill_busy_pct"] or 0.0)
    assert found.idle == pytest.approx(found.served * (1.0 - busy / 100.0))


def test_more_traffic_leaves_less_idle_and_fuller_steps():
    slow, _, _ = bridged("longcat-flash-h800", "workload.num_requests=300")
    fast, _, _ = bridged("longcat-flash-h800", "workload.num_requests=300", "workload.time_scale=50")
    assert fast.full == pytest.approx(slow.full)
    assert fast.idle < slow.idle
    assert fast.small < slow.small


@settings(max_examples=80, deadline=None)
@given(
    busy=st.floats(0, 100),
    other=st.floats(0, 100),
    used=st.floats(0.01, 100),
    reads=st.floats(0, 100),
    apart=st.booleans(),
)
def test_parts_add_up_whatever_the_run(busy, other, used, reads, apart):
    scenario = load_scenario("longcat-flash-h800-pd" if apart else "longcat-flash-h800")
    values = {
        "capacity_used_pct": used,
        "prefill_capacity_used_pct": reads if apart else None,
        "busy_pct": busy,
        "prefill_busy_pct": other if apart else None,
        "num_gpus": scenario.fleet_gpus,
        "output_tokens_per_s": 1000.0,
        "usd_per_million_output_tokens": 3.0,
    }
    found = bridge(values, 500.0, scenario)
    assert found.full + found.prompts + found.small + found.idle == pytest.approx(3.0)
    assert found.idle >= -1e-12


def test_without_a_known_capacity_there_is_none():
    assert bridge({"capacity_used_pct": None}, 500.0, load_scenario("longcat-flash-h800")) is None
