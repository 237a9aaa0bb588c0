"""Utilisation and energy of a serving run: from its table of steps, beside those of a single step."""

import numpy as np
import pytest
from test_serve import node

from perfmodel.answer import answer_step
from perfmodel.answer_serve import answer_serve
from perfmodel.economics.energy import pool_use
from perfmodel.serving.records import StepRuns
from perfmodel.spec.load import load_scenario
from perfmodel.spec.power import power

TRAFFIC = ["workload.trace=''", "workload.request_rate=20", "workload.num_requests=200"]


def row(*, seconds, steps=1, requests=0, tokens=0.0, prompt=0.0, attended=0.0, even=1.0):
    return StepRuns.of([[0.0, 0, seconds, steps, 0, requests, requests, tokens, prompt, attended, even]])


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_step_is_as_busy_as_perfmodel_step_says(phase):
    scenario = node(
        f"deployment.phase={phase}", "deployment.prefill_requests_per_gpu=0.125", "routing.imbalance=1"
    )
    step = answer_step(scenario).values
    seconds, requests = step["step_time_s"], scenario.deployment.batch_per_gpu * 8
    work = (
        {"requests": requests, "tokens": requests * scenario.deployment.context_tokens}
        if phase == "decode"
        else {"prompt": 2048.0, "attended": 2048.0 * 1024.0}
    )
    use = pool_use(scenario, row(seconds=10 * seconds, steps=10, **work), 10 * seconds)
    assert use.peak_s / use.total_s == pytest.approx(step["mfu"], rel=1e-6)
    assert use.memory_s / use.total_s == pytest.approx(step["mbu"], rel=1e-6)


def test_work_counts_for_the_mean_rank_and_grows_with_steps():
    scenario = load_scenario("longcat-flash-h800")
    alike, uneven = (
        pool_use(scenario, row(seconds=1.0, steps=20, requests=96, tokens=480_000.0, even=even), 1.0)
        for even in (1.0, 0.25)
    )
    assert uneven.peak_s < 0.5 * alike.peak_s
    assert uneven.memory_s > 0.25 * alike.memory_s  # weights are read all the same
    twice = pool_use(scenario, row(seconds=2.0, steps=40, requests=96, tokens=480_000.0), 2.0)
    assert twice.above_idle_s == pytest.approx(
        {name: 2 * value for name, value in alike.above_idle_s.items()}
    )
    assert alike.total_s == 128.0


def test_power_lies_between_idle_and_the_boards_limit():
    draws = power()
    idle, compute = draws.idle.share * 700.0, draws.compute.share * 700.0
    assert draws.idle.share < draws.communication.share < draws.memory.share < draws.compute.share < 1.0
    slow, fast = (
        answer_serve(
            node("workload.trace=''", f"workload.request_rate={rate}", "workload.num_requests=200")
        ).values
        for rate in (0.1, 100)
    )
    assert idle < slow["power_w_per_gpu"] < fast["power_w_per_gpu"] < compute
    for values in (slow, fast):
        assert sum(values["energy_split_j"].values()) == pytest.approx(values["energy_j"])
        assert values["energy_j"] == pytest.approx(values["power_w_per_gpu"] * values["gpu_hours"] * 3600.0)
        outputs = values["output_tokens_per_s"] * values["duration_s"]
        assert values["energy_j_per_output_token"] == pytest.approx(values["energy_j"] / outputs)
        assert all(part >= 0.0 for part in values["energy_split_j"].values())
    assert slow["energy_j_per_output_token"] > 3.0 * fast["energy_j_per_output_token"]


def test_prefill_replicas_draw_power_too():
    apart = (
        "prefill={deployment: {engine: sglang, attention_tp: 8, dense_tp: 8, ep: 8}, serving: {replicas: 2}}"
    )
    together, own = (answer_serve(node(*TRAFFIC, *more)).values for more in ((), (apart,)))
    assert own["energy_split_j"]["idle"] == pytest.approx(
        3.0 * together["energy_split_j"]["idle"] * own["duration_s"] / together["duration_s"]
    )
    computed = [one["energy_split_j"]["compute"] for one in (together, own)]
    assert computed[1] == pytest.approx(computed[0], rel=0.3)


def test_without_a_limit_energy_is_unknown():
    values = answer_serve(node(*TRAFFIC, "cluster.gpu.tdp_w=null")).values
    assert values["energy_j"] is values["power_w_per_gpu"] is None
    assert values["mfu"] > 0.0
    assert any("states no cluster.gpu.tdp_w" in text for text in values["warnings"])


def test_many_steps_are_represented_by_some():
    """A long run's use, from every step and from a thousand of them."""
    scenario, rng = node(), np.random.default_rng(0)
    n = 5_000
    requests = rng.integers(1, 60, n).astype(float)
    rows = np.stack(
        [np.arange(n), np.zeros(n), 0.02 + requests * 1e-4, np.ones(n), np.zeros(n), requests, requests,
         requests * 2_000.0, np.zeros(n), np.zeros(n), np.ones(n)], axis=1
    )  # fmt: skip
    some = pool_use(scenario, StepRuns.of(rows), 1.0)
    parts = [pool_use(scenario, StepRuns.of(rows[i : i + 500]), 1.0) for i in range(0, n, 500)]
    assert some.peak_s == pytest.approx(sum(part.peak_s for part in parts), rel=0.03)
    assert some.memory_s == pytest.approx(sum(part.memory_s for part in parts), rel=0.03)
