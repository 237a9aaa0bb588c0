"""The timeline, its twin and their laws, over random graphs and over real scenarios."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scenarios import BARE

from perfmodel.kernels.timing import Timing
from perfmodel.load import load_scenario
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Op, OpClass, Stream
from perfmodel.overlap import timeline as timeline_module
from perfmodel.overlap.analysis import breakdown_s, exposed_communication_s, overlap_pct, stream_busy_s
from perfmodel.overlap.graph import Segment, Task
from perfmodel.overlap.state import State
from perfmodel.overlap.timeline import simulate
from perfmodel.overlap.twin import step_times
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import has_contention, predict_steps, simulate_step, step_segments

TIMES = st.floats(1e-7, 1e-3)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def task(stream, after=()):
    return Task(Op("op", OpClass.ATTENTION, "gemm", stream), tuple(after))


GPU_STREAMS = (*COMPUTE_STREAMS, *COMMUNICATION_STREAMS)


@st.composite
def segments(draw, carries=False, streams=GPU_STREAMS):
    count = draw(st.integers(1, 12))
    tasks, timings = [], []
    for index in range(count):
        stream = draw(st.sampled_from(streams))
        after = draw(st.sets(st.integers(0, index - 1), max_size=2)) if index else ()
        tasks.append(task(stream, sorted(after)))
        if stream is Stream.HOST:
            timings.append(Timing(latency_s=draw(TIMES)))
            continue
        communicates = stream in COMMUNICATION_STREAMS
        timings.append(
            Timing(
                latency_s=draw(TIMES) / 10,
                compute_s=0.0 if communicates else draw(TIMES),
                memory_s=draw(TIMES),
                link_s=draw(TIMES) if communicates else 0.0,
                network_s=draw(TIMES) if communicates else 0.0,
                held_sms=draw(st.sampled_from([0.0, 0.15])) if communicates else 0.0,
            )
        )
    if carries:
        tasks[0] = replace(tasks[0], after_previous=(count - 1,))
        for index in draw(st.sets(st.integers(0, count - 1), max_size=2)):
            others = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=2))
            tasks[index] = replace(tasks[index], after_previous=tuple(sorted(others)))
    repeat = draw(st.integers(1, 40 if carries else 4))
    return Segment("random", tuple(tasks), tuple(timings), repeat, carries)


@QUICK
@given(st.lists(segments(), min_size=1, max_size=3), st.booleans())
def test_timeline_and_twin_agree_on_random_graphs(parts, contention):
    timeline = simulate(parts, contention=contention)
    twin = step_times(parts, contention=contention)
    assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-9)
    assert twin.exposed_communication_s[0] == pytest.approx(
        exposed_communication_s(timeline), rel=1e-6, abs=1e-12
    )
    assert sum(breakdown_s(timeline).values()) == pytest.approx(timeline.step_time_s, rel=1e-9)


RUNS_AHEAD = Segment(
    "the compute stream runs ahead, and is out of tasks when the link's have two to go",
    (replace(task(Stream.LINK), after_previous=(1,)), task(Stream.COMPUTE)),
    (
        Timing(latency_s=1e-6, memory_s=1e-3, link_s=0.5252503e-3, network_s=0.9622256e-3),
        Timing(latency_s=1e-6, compute_s=1e-3, memory_s=0.4530945e-3),
    ),
    repeat=5,
    carries=True,
)


@QUICK
@given(segments(carries=True), st.booleans())
@example(RUNS_AHEAD, True)
@example(replace(RUNS_AHEAD, repeat=40), True)
def test_timeline_and_twin_agree_where_iterations_carry_over(part, contention):
    timeline = simulate([part], contention=contention)
    twin = step_times([part], contention=contention)
    assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-5)
    assert twin.exposed_communication_s[0] == pytest.approx(
        exposed_communication_s(timeline), rel=1e-4, abs=1e-5 * timeline.step_time_s
    )


@QUICK
@given(segments(carries=True, streams=(*GPU_STREAMS, Stream.HOST)), st.booleans())
def test_timeline_and_twin_agree_with_a_host_in_the_way(part, contention):
    timeline = simulate([part], contention=contention)
    twin = step_times([part], contention=contention)
    assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-4)
    assert twin.exposed_communication_s[0] == pytest.approx(
        exposed_communication_s(timeline), rel=1e-3, abs=1e-3 * timeline.step_time_s
    )


@pytest.mark.parametrize("launch_us", [3.0, 40.0, 70.0])
def test_a_host_that_runs_ever_further_ahead_hides_no_settled_gpu(launch_us, monkeypatch):
    """Three launches per iteration, three kernels of 20, 100 and 50 us: with launches of 3 and 40 us the host runs
    ahead for ever (with 40 it holds the first kernels up), with 70 the GPU waits. None needs all 60 iterations.
    """
    streams = (Stream.COMPUTE, Stream.NETWORK, Stream.COMPUTE)
    launches = tuple(task(Stream.HOST) for _ in streams)
    kernels = tuple(
        task(stream, (place, *((place + 2,) if place else ()))) for place, stream in enumerate(streams)
    )
    kernels = (replace(kernels[0], after_previous=(5,)), *kernels[1:])
    timings = (
        *(Timing(latency_s=launch_us * 1e-6) for _ in launches),
        Timing(latency_s=2e-6, memory_s=18e-6),
        Timing(latency_s=5e-6, network_s=95e-6, held_sms=0.1),
        Timing(latency_s=2e-6, compute_s=48e-6),
    )
    part = Segment("eager", (*launches, *kernels), timings, repeat=60, carries=True)
    rounds = []
    advance = State.advance
    monkeypatch.setattr(State, "advance", lambda state: rounds.append(state) or advance(state))
    twin = step_times([part], compiled=False).step_time_s[0]
    assert twin == pytest.approx(simulate([part]).step_time_s, rel=1e-9)
    assert len(rounds) < 0.4 * part.repeat * len(part.tasks)


@pytest.mark.parametrize("overlap", ["tbo", "sbo"])
def test_of_equal_layers_the_twin_simulates_two_at_most(overlap, monkeypatch):
    """28 layers: one by itself where layers join, and where they carry over until the second is as the first was, and
    what is left when the last begins.
    """
    rounds = []
    advance = State.advance
    monkeypatch.setattr(State, "advance", lambda state: rounds.append(state) or advance(state))
    segments_ = step_segments(load_scenario("longcat-flash-h800", [*BARE, f"deployment.overlap={overlap}"]))
    step_times(segments_, compiled=False)
    layer = max(len(segment.tasks) for segment in segments_ if not segment.is_chain)
    assert len(rounds) <= (3 if overlap == "tbo" else 1) * layer + 1


@QUICK
@given(segments())
def test_bounds_of_any_graph(part):
    alone = simulate([part], contention=False)
    shared = simulate([part], contention=True)
    total = part.repeat * sum(timing.seconds for timing in part.timings)
    busiest = max(stream_busy_s(alone).values())
    assert busiest <= alone.step_time_s * (1 + 1e-12)
    assert alone.step_time_s <= total * (1 + 1e-12)
    assert 0.0 <= overlap_pct(shared) <= 100.0 + 1e-9


def test_contention_by_hand():
    compute = Timing(compute_s=1.0)
    memory = Timing(memory_s=1.0)
    holder = Timing(network_s=1.0, held_sms=0.25)
    assert run_together([compute, holder]) == pytest.approx(
        1.25, rel=1e-6
    )  # 1 s at 3/4 speed, then 1/4 alone
    assert run_together([memory, holder]) == pytest.approx(1.0)
    assert run_together([memory, memory]) == pytest.approx(2.0)
    assert run_together([compute, memory]) == pytest.approx(1.0)


def run_together(timings):
    streams = [Stream.COMPUTE, Stream.EXPERTS if not timings[1].network_s else Stream.NETWORK]
    tasks = tuple(task(stream) for stream in streams)
    return simulate([Segment("pair", tasks, tuple(timings))]).step_time_s


SCHEDULES = ("sequential", "sbo", "sbo-engine", "tbo")
MODELS = {
    "longcat-flash": ("sequential", "sbo", "sbo-engine", "tbo"),
    "longcat-flash-lite": ("sequential", "sbo", "sbo-engine"),
    "deepseek-v3": ("sequential", "tbo"),
    "qwen3-30b-a3b": ("sequential", "tbo"),
    "gpt-oss-120b": ("sequential", "tbo"),
    "mixtral-8x22b": ("sequential", "tbo"),
    "llama-3.1-70b": ("sequential", "tbo"),
}
CLUSTERS = ("h800-ib", "h100-ib", "h200-ib", "b200-ib", "gb200-nvl72", "a100-ib")


@st.composite
def scenarios(draw):
    model = draw(st.sampled_from(sorted(MODELS)))
    gpus = 8
    tp = draw(st.sampled_from([1, 2, 8]))
    dense_tp = draw(st.sampled_from([1, 2, 4]))
    if tp == 8:
        layout = {"attention_dp": 1, "attention_tp": 8, "dense_tp": 8, "ep": 1, "moe_tp": 8}
    else:
        layout = {"attention_dp": gpus // tp, "attention_tp": tp, "dense_tp": dense_tp, "ep": gpus}
    phase = draw(st.sampled_from(["decode", "prefill", "mixed"]))
    fields = {
        **layout,
        "overlap": draw(st.sampled_from(MODELS[model])),
        "phase": phase,
        "batch_per_gpu": draw(st.integers(1, 200)),
        "context_tokens": draw(st.integers(0, 20000)),
        "prefill_tokens": draw(st.integers(1, 8000)),
        "prefill_cached_tokens": draw(st.integers(0, 8000)),
        "contention": draw(st.booleans()),
    }
    overrides = [f"deployment.{key}={str(value).lower()}" for key, value in fields.items()]
    overrides += [
        f"model={model}",
        f"cluster={draw(st.sampled_from(CLUSTERS))}",
        "deployment.mtp.draft_tokens=0",
    ]
    return load_scenario("longcat-flash-h800", [*BARE, *overrides])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_timeline_and_twin_agree_on_random_scenarios(scenario):
    truth = simulate_step(scenario).step_time_s
    assert predict_steps(scenario).step_time_s[0] == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_twin_over_an_array_equals_one_timeline_each(overlap):
    batches, contexts = np.array([1.0, 37.0, 96.0]), np.array([100.0, 5000.0, 9000.0])
    base = load_scenario("longcat-flash-h800", [*BARE, f"deployment.overlap={overlap}"])
    many = predict_steps(
        with_arrays(base, {"deployment.batch_per_gpu": batches, "deployment.context_tokens": contexts})
    )
    for batch, context, seconds in zip(batches, contexts, many.step_time_s, strict=True):
        one = load_scenario(
            "longcat-flash-h800",
            [
                *BARE,
                f"deployment.overlap={overlap}",
                f"deployment.batch_per_gpu={batch}",
                f"deployment.context_tokens={context}",
            ],
        )
        assert seconds == pytest.approx(simulate_step(one).step_time_s, rel=1e-3)


@pytest.mark.parametrize("batch", [1, 8, 32, 96, 128])
def test_sbo_is_between_sequential_and_its_longest_stream(batch):
    set_ = [f"deployment.batch_per_gpu={batch}", "deployment.contention=false"]
    sequential = simulate_step(
        load_scenario("longcat-flash-h800", [*BARE, *set_, "deployment.overlap=sequential"])
    )
    sbo = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *set_]))
    assert max(stream_busy_s(sbo.timeline).values()) <= sbo.step_time_s <= sequential.step_time_s


MORE = (
    "cluster.gpu.hbm_gb_per_s",
    "cluster.gpu.fp8_tflops",
    "cluster.gpu.bf16_tflops",
    "cluster.node.link_gb_per_s",
)


@pytest.mark.parametrize("overlap", SCHEDULES)
@pytest.mark.parametrize("path", [*MORE, "cluster.network.gb_per_s_per_gpu"])
def test_more_hardware_never_slows_a_step_without_contention(overlap, path):
    set_ = ["deployment.contention=false", f"deployment.overlap={overlap}"]
    swept = with_arrays(
        load_scenario("longcat-flash-h800", [*BARE, *set_]), {path: np.geomspace(10, 20000, 40)}
    )
    times = predict_steps(swept).step_time_s
    assert np.all(np.diff(times) <= 1e-9 * times[:-1])


@pytest.mark.parametrize("overlap", SCHEDULES)
@pytest.mark.parametrize("path", ["deployment.batch_per_gpu", "deployment.context_tokens"])
def test_less_work_never_slows_a_step_without_contention(overlap, path):
    set_ = ["deployment.contention=false", f"deployment.overlap={overlap}"]
    swept = with_arrays(load_scenario("longcat-flash-h800", [*BARE, *set_]), {path: np.linspace(1, 128, 128)})
    assert np.all(np.diff(predict_steps(swept).step_time_s) >= -1e-12)


@pytest.mark.parametrize("path", [*MORE, "cluster.network.gb_per_s_per_gpu"])
def test_with_contention_solo_times_are_monotone_and_step_anomalies_stay_below_one_percent(path):
    values = np.geomspace(20, 20000, 200)
    for overlap in SCHEDULES:
        swept = with_arrays(
            load_scenario("longcat-flash-h800", [*BARE, f"deployment.overlap={overlap}"]), {path: values}
        )
        for segment in step_segments(swept):
            for timing in segment.timings:
                seconds = np.broadcast_to(np.asarray(timing.seconds), values.shape)
                assert np.all(np.diff(seconds) <= 1e-15)
        times = predict_steps(swept).step_time_s
        assert np.all(times[1:] <= 1.01 * np.minimum.accumulate(times)[:-1])


def test_all_ranks_alike_equal_the_representative_rank():
    small = ["deployment.attention_dp=16", "deployment.ep=16"]
    one = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *small])).step_time_s
    every = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *small, "deployment.ranks=all"]))
    assert every.step_time_s == pytest.approx(one, rel=1e-9)
    assert every.timeline.num_ranks == 16


@pytest.mark.parametrize("overlap", ["sbo", "tbo"])
def test_ranks_that_are_alike_run_as_one_and_end_as_each(overlap, monkeypatch):
    """Four kinds of load over 16 ranks, against all 16 run by themselves: each rank's ops, to the last bit."""
    loads = [1.3, 1.0, 0.9, 0.8] * 4
    scenario = load_scenario(
        "longcat-flash-h800",
        [
            *BARE,
            "deployment.attention_dp=16",
            "deployment.ep=16",
            f"routing.rank_loads={loads}",
            "deployment.ranks=all",
            f"deployment.overlap={overlap}",
        ],
    )
    parts = step_segments(scenario)
    assert len(timeline_module._alike(parts, 16)) == 4
    together = simulate(parts, num_ranks=16)
    monkeypatch.setattr(timeline_module, "_alike", lambda _, ranks: [(rank,) for rank in range(ranks)])
    apart = simulate(parts, num_ranks=16)
    assert together.step_time_s == apart.step_time_s
    assert len(together.spans) == len(apart.spans)
    assert set(together.spans) == set(apart.spans)


def test_unequal_loads_the_slowest_rank_sets_the_pace():
    loads = [2.0] + [14.0 / 15.0] * 15
    small = ["deployment.attention_dp=16", "deployment.ep=16", f"routing.rank_loads={loads}"]
    balanced = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *small[:2]])).step_time_s
    one = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *small])).step_time_s
    every = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *small, "deployment.ranks=all"]))
    assert balanced < every.step_time_s <= one * (1 + 1e-9)
    assert every.step_time_s == pytest.approx(one, rel=0.03)
    waits = breakdown_s(every.timeline, rank=5).get("waiting", 0.0)
    assert waits > 0.0  # a lightly loaded rank waits at the barriers


def test_report_costs_have_no_contention():
    assert not has_contention(load_scenario("table7-longcat-flash"))
    assert COMPUTE_STREAMS[0] is Stream.COMPUTE
