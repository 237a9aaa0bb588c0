"""The host as a stream: launches, waiting for the GPU, graphs, scheduling; timeline and twin together and by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenarios import BARE
from test_timeline import TIMES, scenarios, segments

from perfmodel.answers.step import answer_step
from perfmodel.engines.launches import kernels_launched, listed
from perfmodel.kernels.timing import Timing
from perfmodel.load import load_scenario
from perfmodel.ops.build import MEMORY_BOUND
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.overlap.analysis import breakdown_s, exposed_communication_s, occupied_s
from perfmodel.overlap.graph import Segment, Task
from perfmodel.overlap.launch import launches_of, with_host
from perfmodel.overlap.timeline import simulate
from perfmodel.overlap.twin import step_times
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.host import Host
from perfmodel.step import predict_steps, simulate_step
from perfmodel.uncertainty import step_interval

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def chain(*gpu_s, stream=Stream.COMPUTE, name="chain", repeat=1, layers=True, dispatch=()):
    """Ops one after another; those numbered in ``dispatch`` are DeepEP's normal dispatch."""
    tasks = tuple(
        Task(
            Op(f"op{i}", OpClass.ATTENTION, "dispatch", Stream.NETWORK, backend="deepep-normal")
            if i in dispatch
            else Op(f"op{i}", OpClass.ATTENTION, "gemm", stream),
            (i - 1,) if i else (),
        )
        for i in range(len(gpu_s))
    )
    return Segment(name, tasks, tuple(Timing(compute_s=s) for s in gpu_s), repeat, layers=layers)


def hosted(*parts, phase="prefill", **host):
    return with_host(parts, Deployment(phase=phase, host=Host(**host)))


def both(parts, contention=True):
    """Step time of the timeline, which the twin's equals."""
    timeline = simulate(parts, contention=contention)
    twin = step_times(parts, contention=contention)
    assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-9)
    assert twin.exposed_communication_s[0] == pytest.approx(exposed_communication_s(timeline), abs=1e-12)
    assert sum(breakdown_s(timeline).values()) == pytest.approx(timeline.step_time_s, rel=1e-9)
    assert sum(occupied_s(timeline).values()) == pytest.approx(timeline.step_time_s, rel=1e-9)
    return timeline.step_time_s


US = 1e-6
ENGINES = st.sampled_from(["", "sglang", "vllm", "trtllm"])


def test_an_eager_chain_takes_the_longest_of_launches_and_what_is_left():
    gpu = [5 * US, 1 * US, 30 * US, 2 * US]
    parts = hosted(chain(*gpu), launch_us=10)
    expected = max((k + 1) * 10 * US + sum(gpu[k:]) for k in range(len(gpu)))
    assert both(parts) == pytest.approx(expected) == pytest.approx(62 * US)


@QUICK
@given(st.lists(TIMES, min_size=1, max_size=8), st.integers(1, 30), st.floats(0.1, 500))
def test_an_eager_chain_over_its_layers_is_max_plus(gpu, repeat, launch_us):
    flat = gpu * repeat
    expected = max((k + 1) * launch_us * US + sum(flat[k:]) for k in range(len(flat)))
    assert both(hosted(chain(*gpu, repeat=repeat), launch_us=launch_us)) == pytest.approx(expected, rel=1e-9)


def test_the_host_runs_ahead_into_later_segments():
    slow, quick = chain(1000 * US), chain(*[1 * US] * 20)
    assert both(hosted(slow, quick, launch_us=10)) == pytest.approx(10 * US + 1000 * US + 20 * US)
    assert both(hosted(quick, slow, launch_us=10)) == pytest.approx(21 * 10 * US + 1000 * US)


def test_the_host_waits_for_the_counts_of_a_normal_dispatch():
    """Launches of 10 us; op 1 is the dispatch: launched only when op 0 is over, and what follows comes after it."""
    gpu = (100 * US, 1 * US, 1 * US)
    parts = hosted(chain(*gpu, dispatch=(1,)), launch_us=10)
    assert both(parts) == pytest.approx((10 + 100 + 10 + 10 + 1) * US)
    assert both(hosted(chain(*gpu), launch_us=10)) == pytest.approx((10 + 100 + 1 + 1) * US)


def test_preparing_a_step_comes_first_or_beside_it():
    parts = chain(100 * US, 50 * US)
    for phase, mode in (("decode", "graph"), ("prefill", "graph")):
        one = hosted(parts, phase=phase, prepare_us=40, decode=mode, prompts=mode)
        assert both(one) == pytest.approx(190 * US)
        beside = hosted(parts, phase=phase, prepare_us=40, decode=mode, prompts=mode, asynchronous=True)
        assert both(beside) == pytest.approx(150 * US)
        longer = hosted(parts, phase=phase, prepare_us=400, decode=mode, prompts=mode, asynchronous=True)
        assert both(longer) == pytest.approx(400 * US)
    assert both(hosted(parts, prepare_us=40, launch_us=10)) == pytest.approx((40 + 10 + 150) * US)
    assert both(hosted(parts, prepare_us=400, launch_us=10, asynchronous=True)) == pytest.approx(420 * US)


def test_what_nobody_counted_shows_in_a_short_prompt_and_hides_in_a_long_one():
    short, long = chain(1 * US, repeat=50), chain(3000 * US, repeat=50)
    more = {"launch_us": 30.0, "uncounted_us": 50.0}
    assert both(hosted(short, **more)) == pytest.approx((50 * 80 + 1) * US)
    without = both(hosted(long))
    assert both(hosted(long, **more)) == pytest.approx(without + 80 * US)
    # steps that only decode launch no more than is counted
    assert both(hosted(short, phase="decode", decode="eager", **more)) == pytest.approx((50 * 30 + 1) * US)


def test_gaps_in_a_graph_are_latencies():
    fork = [
        Task(Op("a", OpClass.ATTENTION, "gemm", Stream.COMPUTE), ()),
        Task(Op("b", OpClass.EXPERTS, "gemm", Stream.EXPERTS), (0,)),
        Task(Op("c", OpClass.ATTENTION, "gemm", Stream.COMPUTE), (0,)),
        Task(Op("d", OpClass.ATTENTION, "gemm", Stream.COMPUTE), (1, 2)),
    ]
    part = Segment("fork", tuple(fork), (Timing(latency_s=10 * US),) * 4, repeat=3, layers=True)
    host = {"phase": "decode", "decode": "graph"}
    assert both(hosted(part, **host)) == pytest.approx(90 * US)
    assert both(hosted(part, node_us=1, **host)) == pytest.approx(99 * US)
    assert both(hosted(part, node_us=1, join_us=2, **host)) == pytest.approx(111 * US)
    line = chain(10 * US, 10 * US)
    assert both(hosted(line, join_us=2, **host)) == pytest.approx(20 * US)


def test_nothing_is_launched_where_no_host_is_described():
    parts = (chain(1 * US, repeat=3),)
    assert hosted(*parts) == parts


@st.composite
def hosts(draw):
    return Host(
        decode=draw(st.sampled_from(["graph", "eager"])),
        prompts=draw(st.sampled_from(["graph", "eager", "eager"])),
        prepare_us=draw(st.sampled_from([0.0, 300.0, 5000.0])),
        asynchronous=draw(st.booleans()),
        launch_us=draw(st.sampled_from([0.0, 3.0, 17.0, 60.0, 400.0])),
        uncounted_us=draw(st.sampled_from([0.0, 45.0])),
        node_us=draw(st.sampled_from([0.0, 0.7])),
        join_us=draw(st.sampled_from([0.0, 2.0])),
    )


def with_waits(draw, part):
    """Some of the ops as DeepEP's normal dispatch, which the host waits before."""
    count = len(part.tasks)
    which = draw(st.sets(st.integers(0, count - 1), max_size=2))
    tasks = tuple(
        replace(task, op=replace(task.op, kernel="dispatch", backend="deepep-normal")) if i in which else task
        for i, task in enumerate(part.tasks)
    )
    return replace(part, tasks=tasks, layers=True)


@st.composite
def steps(draw):
    parts = draw(st.lists(st.one_of(segments(), segments(carries=True)), min_size=1, max_size=4))
    return [with_waits(draw, replace(p, repeat=draw(st.integers(1, 40)))) for p in parts]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps(), hosts(), st.sampled_from(["decode", "prefill", "mixed"]), st.booleans())
def test_timeline_and_twin_agree_on_random_graphs_with_a_host(parts, host, phase, contention):
    parts = with_host(parts, Deployment(phase=phase, host=host))
    timeline = simulate(parts, contention=contention)
    twin = step_times(parts, contention=contention)
    assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-3)
    assert sum(breakdown_s(timeline).values()) == pytest.approx(timeline.step_time_s, rel=1e-9)
    assert sum(occupied_s(timeline).values()) == pytest.approx(timeline.step_time_s, rel=1e-9)
    if not any(part.carries for part in parts):
        assert twin.step_time_s[0] == pytest.approx(timeline.step_time_s, rel=1e-6)
        exposed = exposed_communication_s(timeline)
        assert twin.exposed_communication_s[0] == pytest.approx(exposed, rel=1e-5, abs=1e-12)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    scenarios(),
    hosts(),
    st.sampled_from(["auto", "deepep-normal"]),
    st.sampled_from(["", "sglang", "vllm", "trtllm"]),
)
def test_timeline_and_twin_agree_on_random_scenarios_with_a_host(scenario, host, all_to_all, engine):
    d = scenario.deployment
    changed = {"host": host, "engine": engine}
    if d.moe_tp == 1:
        changed["all_to_all"] = all_to_all
    scenario = scenario.model_copy(update={"deployment": d.model_copy(update=changed)})
    truth = simulate_step(scenario)
    assert predict_steps(scenario).step_time_s[0] == pytest.approx(truth.step_time_s, rel=1e-3)
    assert sum(breakdown_s(truth.timeline).values()) == pytest.approx(truth.step_time_s, rel=1e-9)


@pytest.mark.parametrize("overlap", ["sequential", "sbo", "sbo-engine", "tbo"])
def test_twin_over_an_array_equals_one_timeline_each_with_a_host(overlap):
    base = [
        *BARE,
        f"deployment.overlap={overlap}",
        "deployment.phase=prefill",
        "deployment.mtp.draft_tokens=0",
    ]
    prompts, launches = np.array([100.0, 2000.0, 30000.0]), np.array([40.0, 10.0, 20.0])
    many = predict_steps(
        with_arrays(
            load_scenario("longcat-flash-h800", base),
            {"deployment.prefill_tokens": prompts, "deployment.host.launch_us": launches},
        )
    )
    for prompt, launch, seconds in zip(prompts, launches, many.step_time_s, strict=True):
        own = [f"deployment.prefill_tokens={prompt:g}", f"deployment.host.launch_us={launch}"]
        one = simulate_step(load_scenario("longcat-flash-h800", [*base, *own]))
        assert seconds == pytest.approx(one.step_time_s, rel=1e-3)


def prefill(*set_):
    node = [
        "cluster=h200-ib",
        "deployment.attention_dp=1",
        "deployment.attention_tp=8",
        "deployment.dense_tp=8",
    ]
    node += ["deployment.ep=8", "deployment.overlap=sequential", "deployment.phase=prefill"]
    return load_scenario("deepseek-v3-h800", [*BARE, *node, "deployment.mtp.draft_tokens=0", *set_])


def test_a_short_prompt_takes_the_hosts_time_and_a_long_one_the_gpus():
    def seconds(tokens, launch_us):
        set_ = (f"deployment.prefill_tokens={tokens}", f"deployment.host.launch_us={launch_us}")
        return simulate_step(prefill(*set_)).step_time_s

    segments_ = simulate_step(prefill()).segments
    launches = sum(s.repeat * sum(launches_of(s, "")) for s in segments_)
    assert seconds(16, 100.0) == pytest.approx(launches * 100e-6, rel=0.02)
    assert seconds(30_000, 20.0) == pytest.approx(seconds(30_000, 0.0), rel=0.01)
    assert seconds(30_000, 20.0) > seconds(30_000, 0.0)


def test_two_batches_launch_twice_eagerly_and_once_in_a_graph():
    def counted(mode):
        set_ = [
            *BARE,
            "deployment.overlap=tbo",
            "deployment.mtp.draft_tokens=0",
            f"deployment.host.decode={mode}",
        ]
        step = simulate_step(load_scenario("deepseek-v3-h800", [*set_, "deployment.host.launch_us=5"]))
        return sum(task.op.stream == Stream.HOST for s in step.segments if s.layers for task in s.tasks)

    one = sum(
        task.op.stream == Stream.HOST
        for s in simulate_step(
            load_scenario("deepseek-v3-h800", [*BARE, "deployment.overlap=sequential", "deployment.mtp.draft_tokens=0",
                "deployment.host.decode=eager", "deployment.host.launch_us=5"])).segments
        if s.layers
        for task in s.tasks
    )  # fmt: skip
    assert counted("eager") == 2 * one > 0
    assert counted("graph") == 0


def test_every_rank_has_a_host_and_a_collective_waits_for_the_slowest():
    set_ = ["deployment.attention_dp=16", "deployment.ep=16", "deployment.host.decode=eager"]
    set_ += ["deployment.host.launch_us=30"]
    one = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *set_])).step_time_s
    every = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *set_, "deployment.ranks=all"]))
    assert every.step_time_s == pytest.approx(one, rel=1e-9)
    hosts_ = {span.rank for span in every.timeline.spans
              if every.segments[span.segment].tasks[span.task].op.stream == Stream.HOST}  # fmt: skip
    assert hosts_ == set(range(16))


def test_a_slow_gpu_does_not_slow_its_host():
    def seconds(slow):
        set_ = (
            "deployment.prefill_tokens=1",
            "deployment.host.launch_us=1000",
            f"deployment.slowdown.kernels={slow}",
        )
        return simulate_step(prefill(*set_)).step_time_s

    assert seconds(2.0) == pytest.approx(seconds(1.0), rel=0.01)


def test_a_lead_that_grows_unseen_is_there_for_what_comes_later():
    """No op waits for its launch from some layer on, but the host gets further ahead in every one of them."""
    tasks = (
        Task(Op("a", OpClass.ATTENTION, "gemm", Stream.COMPUTE), ()),
        Task(Op("b", OpClass.ATTENTION, "all_gather", Stream.LINK), ()),
        Task(Op("c", OpClass.ATTENTION, "gemm", Stream.COMPUTE), (0,)),
    )
    timings = (Timing(compute_s=90 * US), Timing(link_s=60 * US), Timing(compute_s=45 * US))
    layers = Segment("layers", tasks, timings, repeat=40, layers=True)
    parts = hosted(chain(1 * US), layers, chain(*[1 * US] * 30), launch_us=44)
    lead = 40 * 135 * US - (3 * 40 - 1) * 44 * US
    assert lead > 0.0
    assert both(parts) == pytest.approx(
        (88 + 40 * 135) * US + max(30 * 44 * US - lead, 0.0) + 1 * US, rel=0.02
    )


def test_launches_err_with_the_engine():
    """A step that is all host is as uncertain as what all its ops share, and no more."""
    parts = hosted(chain(1 * US, repeat=200), launch_us=50)
    parts = [
        replace(p, timings=tuple(replace(t, source=t.source or "roofline", spread_key=t.source or "k", log_std=0.3)
                                 if t.source != "given" else t for t in p.timings))
        for p in parts
    ]  # fmt: skip
    low, high = step_interval(parts, common_log_std=0.2, contention=True)
    assert np.log(high / low) == pytest.approx(2 * 1.2816 * 0.2, rel=0.1)


ENGINE_NAMES = ("sglang", "vllm", "trtllm")


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_every_entry_of_launches_is_for_an_op_of_ours_and_has_its_source(engine):
    kernels = {
        "gemm",
        "bmm",
        "grouped_gemm",
        "mla_prefill",
        "mla_decode",
        "gqa_prefill",
        "gqa_decode",
        "dispatch",
    }
    kernels |= {"combine", "all_reduce", "all_gather", "reduce_scatter", *MEMORY_BOUND} - {"reorder"}
    kernels -= {
        "gated_norm",
        "mhc_pre",
        "mhc_post",
        "conv_prefill",
        "conv_update",
        "compress",
    }  # nobody read: one each
    if engine == "sglang":
        kernels |= {"gdn_prefill", "conv_prefill"}
    rows = listed(engine)
    assert {row.kernel for row in rows} == kernels
    assert len({(row.kernel, row.dtype, row.backend) for row in rows}) == len(rows)
    for row in rows:
        assert row.source.startswith("https://github.com/")
        assert any(tag in row.source for tag in ("/v0.5.9/", "/v0.17.0/", "/v1.2.0rc6/"))
        assert 1 <= row.kernels <= 14


def test_the_entry_that_says_most_answers():
    assert kernels_launched("sglang", "gemm", "bf16") == 1
    assert kernels_launched("sglang", "gemm", "fp8") == 2
    assert kernels_launched("sglang", "dispatch", "fp8", "deepep-normal") == 5
    assert kernels_launched("sglang", "grouped_gemm", "fp8", "fused") == 8
    assert kernels_launched("sglang", "grouped_gemm", "fp8", "contiguous") == 5
    assert kernels_launched("sglang", "send_recv") == kernels_launched("", "gemm", "fp8") == 1


def per_layer(*set_):
    layers = [s for s in simulate_step(prefill(*set_)).segments if s.layers]
    engine = set_[0].partition("=")[2]
    return sum(s.repeat * sum(launches_of(s, engine)) for s in layers) / sum(s.repeat for s in layers)


def test_launches_of_a_layer_by_hand():
    """DeepSeek-V3, FP8, TP8: a layer's kernels as SGLang launches them."""
    attention = 2 + 2 + 2 + 2 + 2 + 3 + 2  # qkv_a, latents' norms, q_b, rotation and cache, kv_b, core, o
    dense = 2 + 1 + 2 + 1  # gate and up, activation, down, all-reduce
    moe = 1 + 2 + (2 + 1 + 2) + 8 + 1  # router, top-k, shared, routed, all-reduce
    both_kinds = 1 + attention + 1 + 1  # norms before and after, all-reduce between
    expected = (3 * (both_kinds + dense) + 58 * (both_kinds + moe)) / 61
    apart = per_layer("deployment.engine=sglang", "deployment.fused_norms=false")
    assert apart == pytest.approx(expected)
    fused = per_layer("deployment.engine=sglang", "deployment.fused_norms=true")
    assert fused == pytest.approx(expected - 2)  # both norms are inside the all-reduces


def test_without_an_engine_an_op_is_a_launch():
    segment = next(s for s in simulate_step(prefill()).segments if s.layers)
    assert set(launches_of(segment, "")) == {1.0}


def test_ops_of_a_step_say_what_they_launch_and_the_host_is_one_row_per_segment():
    values = answer_step(
        prefill("deployment.engine=sglang", "deployment.host={launch_us: 20, uncounted_us: 0}"),
        over_steps=False,
    ).values
    rows = {(row["segment"], row["name"]): row for row in values["ops"]}
    assert rows["layers 1", "attention0.q_b"]["launches"] == 2
    host = rows["layers 1", "host.launches"]
    own = [
        row["launches"] for row in values["ops"] if row["segment"] == "layers 1" and row["op_class"] != "host"
    ]
    assert host["time_s"] == pytest.approx(20e-6 * sum(own))
    assert not any(name.startswith("launch.") for _, name in rows)


def test_a_host_that_is_waited_for_is_on_the_critical_path():
    step = simulate_step(prefill("deployment.prefill_tokens=1", "deployment.host.launch_us=100"))
    breakdown = breakdown_s(step.timeline)
    assert breakdown["host"] > 0.95 * step.step_time_s
