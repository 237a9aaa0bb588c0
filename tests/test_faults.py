"""Faults, drifting experts and prefill apart from decode as a scenario states them."""

import itertools

import numpy as np
import pytest
from test_serve import node

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.serving.conditions import HEALTHY, Condition, Fleet, changes_of, drift_at
from perfmodel.serving.serve import serve
from perfmodel.step import predict_steps, simulate_step

TRAFFIC = ["workload.trace=''", "workload.request_rate=20", "workload.num_requests=300"]
NO_FLOOR = ["deployment.host={launch_us: 0, uncounted_us: 0}"]
"""Else slow steps gather prompts, whose launches are then paid once, and a short fault can even help."""
APART = "prefill={deployment: {engine: sglang, attention_tp: 8, dense_tp: 8, ep: 8}, serving: {replicas: 2}}"
SKEWED = ["routing.imbalance=null", "routing.popularity=power-law", "routing.skew=0.8"]


def fault(kind, at_s=2.0, for_s=3.0, **more):
    values = {"kind": kind, "at_s": at_s, "for_s": for_s, **more}
    return "faults=[{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}]"


def mean(served, name="e2e_s"):
    values = {
        "e2e_s": served.records.end_s - served.records.arrival_s,
        "ttft_s": served.records.first_token_s - served.records.arrival_s,
    }
    return float(values[name].mean())


# --- a step on a cluster with a slow GPU ------------------------------------------------------------------------------


def test_a_slow_gpu_slows_what_it_does_and_nothing_else():
    """Sequential: the step is longer by what the slowed part takes."""
    base = load_scenario(
        "longcat-flash-h800", ["deployment.overlap=sequential", "deployment.contention=false"]
    )
    healthy = simulate_step(base)
    times = {"network": 0.0, "kernels": 0.0}
    for segment in healthy.segments:
        for task, timing in zip(segment.tasks, segment.timings, strict=True):
            if task.op.is_communication:
                slowed = timing.latency_s + max(timing.memory_s, timing.link_s, 2.0 * timing.network_s)
                times["network"] += (slowed - timing.seconds) * segment.repeat
            elif task.op.kernel != "host":
                times["kernels"] += (timing.seconds - timing.gap_s) * segment.repeat  # a gap is the host's
    for part, extra in times.items():
        slow = load_scenario(
            "longcat-flash-h800",
            ["deployment.overlap=sequential", "deployment.contention=false", f"deployment.slowdown.{part}=2"],
        )
        assert simulate_step(slow).step_time_s == pytest.approx(healthy.step_time_s + extra, rel=1e-6), part
        assert float(predict_steps(slow).step_time_s[0]) == pytest.approx(
            healthy.step_time_s + extra, rel=1e-6
        )
    assert times["kernels"] > 0.3 * healthy.step_time_s


def test_overlap_hides_part_of_a_slow_network():
    """Where compute is long enough to hide transfers, a slow adapter costs less time than without overlap; where it is
    not, single-batch overlap keeps the lead."""
    lost, times = {}, {}
    for schedule in ("sequential", "sbo"):
        for batch in (8, 96):
            times[schedule, batch] = [
                simulate_step(
                    load_scenario(
                        "longcat-flash-h800",
                        [
                            f"deployment.overlap={schedule}",
                            f"deployment.slowdown.network={x}",
                            f"deployment.batch_per_gpu={batch}",
                        ],
                    )
                ).step_time_s
                for x in (1.0, 2.0)
            ]
            healthy, slow = times[schedule, batch]
            lost[schedule, batch] = slow - healthy
    assert 0.0 < lost["sbo", 8] < 0.5 * lost["sequential", 8]
    assert lost["sbo", 96] > 0.0
    assert times["sbo", 96][1] < 0.9 * times["sequential", 96][1]


# --- under traffic ----------------------------------------------------------------------------------------------------


def test_faults_cost_what_they_should():
    """A straggler costs while it lasts; a lost only replica costs the wait for its recovery; a drained one of two costs
    little and retries nothing."""
    traffic = [*TRAFFIC, *NO_FLOOR]
    healthy = serve(node(*traffic))
    slow = serve(node(*traffic, fault("straggler", slowdown=2.0)))
    brief = serve(node(*traffic, fault("straggler", for_s=0.5, slowdown=2.0)))
    assert mean(healthy) < mean(brief) < mean(slow)
    before = healthy.records.end_s < 2.0
    assert slow.records.end_s[before] == pytest.approx(healthy.records.end_s[before], rel=1e-9)
    lost = serve(node(*TRAFFIC, fault("lost-node")))
    assert lost.records.retries.sum() > 0
    assert not ((lost.records.end_s > 2.0) & (lost.records.end_s < 5.0)).any()
    two = node(*TRAFFIC, fault("drain", replica=1), "serving.replicas=2")
    drained = serve(two)
    inside = (drained.records.arrival_s > 2.0) & (drained.records.arrival_s < 5.0)
    assert (drained.records.replica[inside] == 0).all()
    assert drained.records.retries.sum() == 0
    assert (drained.records.replica[drained.records.arrival_s > 5.0] == 1).any()


def test_a_slow_link_slows_caches_and_dispatch():
    apart = [*TRAFFIC, APART, "prefill.transfer=whole"]
    healthy, slow = (
        serve(node(*apart)),
        serve(node(*apart, fault("slow-link", at_s=0.0, for_s=1e6, slowdown=50))),
    )
    waits = [float((one.records.first_token_s - one.records.prefilled_s).mean()) for one in (healthy, slow)]
    assert waits[1] > 5.0 * waits[0] > 0.0


def test_what_faults_cost_is_in_the_answer():
    values = answer_serve(node(*TRAFFIC, fault("straggler", slowdown=2.0), "slo.tpot_ms=50")).values
    healthy = values["without_faults"]
    assert values["e2e_s"]["mean"] > healthy["e2e_s"]["mean"]
    assert values["retries"] == 0
    assert set(healthy) >= {
        "ttft_s",
        "tpot_s",
        "e2e_s",
        "goodput_requests_per_s",
        "usd_per_million_output_tokens",
    }
    assert answer_serve(node(*TRAFFIC)).values["without_faults"] is None


# --- what changes when ------------------------------------------------------------------------------------------------


def changes(*overrides, at_most=50):
    scenario = node(*overrides)
    fleet = Fleet(lambda condition: condition, (lambda condition: condition) if scenario.prefill else None)
    return list(itertools.islice(changes_of(scenario, fleet, None), at_most))


def test_faults_begin_and_end_and_the_worst_of_two_counts():
    two = (
        "faults=[{kind: straggler, at_s: 1, for_s: 10, slowdown: 2}, {kind: straggler, at_s: 3, for_s: 2, slowdown: 5},"
        " {kind: slow-link, at_s: 4, for_s: 2, slowdown: 3}]"
    )
    found = [(one.at_s, one.times) for one in changes(two)]
    assert found == [
        (1.0, Condition(kernels=2.0)),
        (3.0, Condition(kernels=5.0)),
        (4.0, Condition(kernels=5.0, network=3.0)),
        (5.0, Condition(kernels=2.0, network=3.0)),
        (6.0, Condition(kernels=2.0)),
        (11.0, HEALTHY),
    ]
    lost = changes(APART, "serving.replicas=3", fault("lost-node", pool="prefill", replica=1))
    assert [(one.at_s, one.replica, one.state) for one in lost] == [(2.0, 4, "lost"), (5.0, 4, "up")]


def test_experts_drift_until_they_are_placed_anew():
    drift = ["routing.drift=0.1", "serving.expert_drift={share_per_hour: 0.5, rebalance_s: 1600}"]
    found = changes(*SKEWED, *drift, at_most=20)
    assert [one.at_s for one in found] == [200.0 * i for i in range(1, 21)]
    assert [one.times.drift for one in found] == pytest.approx(
        [0.5 * 200 * (i % 8) / 3600 for i in range(1, 21)]
    )
    endless = changes(*SKEWED, "routing.drift=0.1", "serving.expert_drift={share_per_hour: 1.8}")
    assert [one.times.drift for one in endless] == pytest.approx([0.1125 * i for i in range(1, 9)])
    assert endless[-1].times.of(node(*SKEWED, *drift)).routing.drift == 1.0
    assert drift_at(node(*SKEWED, *drift), 1700.0) == pytest.approx(0.5 * 100 / 3600)


def test_drifting_experts_make_steps_longer(monkeypatch):
    """EPLB's placement is for a load that is there no more."""
    monkeypatch.setattr("perfmodel.serving.conditions.DRIFT_LEVELS", 2)  # a second each
    placed = [
        "deployment.attention_dp=32", "deployment.ep=32", "workload.trace=''", "workload.max_concurrency=2000",
        "workload.num_requests=2000", "workload.input_tokens=100", "workload.output_tokens=300", *SKEWED,
        "routing.placement=eplb",
    ]  # fmt: skip
    still, moved = (
        serve(load_scenario("longcat-flash-h800", [*placed, *more]))
        for more in ((), ["serving.expert_drift={share_per_hour: 900}"])
    )
    assert mean(moved) > 1.02 * mean(still)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([fault("straggler")], "needs slowdown, how many times as slow"),
        ([fault("drain", slowdown=2)], "slowdown = 2 belongs to straggler and slow-link, not to drain"),
        ([fault("meteor")], "faults.0.kind"),
        ([fault("lost-node", replica=1)], r"faults.0.replica = 1: there are 1 of them, counted from 0"),
        ([fault("lost-node", pool="prefill")], "faults.0.pool = prefill: the scenario has no prefill replicas"),
        ([fault("lost-node", for_s=0)], "faults.0.for_s"),
        (["serving.expert_drift={share_per_hour: 1}"], "does nothing without routing.popularity"),
        (["prefill={deployment: {attention_tp: 7, ep: 7}}"], "prefill.deployment.attention_tp = 7 must divide"),
        (["prefill={serving: {replicas: 2}}"], "prefill.deployment: missing"),
        (["deployment.slowdown.kernels=0.5"], "deployment.slowdown.kernels"),
        (["serving.preemption=swap", "cluster.gpu.host_gb_per_s=null"], "host_gb_per_s, which h200-sxm does not state"),
        ([APART, "cluster.num_gpus=16"], "all replicas need 24 GPUs, cluster.num_gpus = 16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(overrides, message):
    with pytest.raises(SpecError, match=message):
        serve(node(*TRAFFIC, *overrides))


def test_a_replica_is_not_lost_while_it_is_lost():
    twice = "faults=[{kind: lost-node, at_s: 1, for_s: 5}, {kind: drain, at_s: 3, for_s: 1}]"
    with pytest.raises(SpecError, match="replica 0 is lost or drained twice at 3 s"):
        node(twice)


def test_swapping_moves_caches_at_the_host_links_pace():
    tight = [*TRAFFIC, "workload.request_rate=200", "serving.kv_tokens=40000", "workload.output_tokens=400"]
    found = {
        key: serve(node(*tight, "serving.preemption=swap", f"cluster.gpu.host_gb_per_s={key}"))
        for key in (1, 64)
    }
    assert found[64].records.preemptions.sum() > 0
    assert mean(found[1]) > mean(found[64])
    per_token = found[64].pool.batching.swap_s_per_token
    assert per_token == pytest.approx(
        61 * 576 * 2 / 64e9
    )  # DeepSeek-V3's latent in bf16, whole on each of 8 GPUs
    assert np.isfinite(mean(found[1]))
