"""Attention and FFNs on GPUs of their own under traffic: step times, cache, conservation, money."""

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_laws import keeps_the_laws

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step, utilisation
from perfmodel.economics.peaks import peak_seconds
from perfmodel.economics.work import work_of_runs
from perfmodel.errors import InfeasibleError, PerfModelError
from perfmodel.load import load_scenario
from perfmodel.ops.lora import adapter_bytes
from perfmodel.ops.memory import ffn_side_bytes, weight_bytes
from perfmodel.ops.op import OpClass, Stream
from perfmodel.ops.routed import rank_load
from perfmodel.serving.records import StepRuns
from perfmodel.serving.serve import kv_tokens_of, layout_of, serve
from perfmodel.serving.spread import run_spread
from perfmodel.serving.step_times import TwinStepTimes, with_uneven_ranks
from perfmodel.step import predict_steps, simulate_step, step_segments

POOLS = "deployment={attention_gpus: 16, ffn_gpus: 16, low_latency_max_tokens_per_gpu: 1024}"
EVEN_LOAD = ("routing={}", "routing.popularity=uniform")
TRAFFIC = (
    "workload={num_requests: 40, request_rate: 30, input_tokens: {mean: 600, std: 300}, output_tokens: 40}"
)
APART = "prefill={deployment: {attention_dp: 16, ep: 16}}"


def pools(*sets, base="deepseek-v3-h800"):
    return load_scenario(base, [POOLS, TRAFFIC, *sets])


def step_s(scenario, **deployment):
    own = scenario.deployment.model_copy(update=deployment)
    return float(predict_steps(scenario.model_copy(update={"deployment": own})).step_time_s[0])


def ops_of(scenario, phase="decode", **deployment):
    own = scenario.deployment.model_copy(update={"phase": phase, **deployment})
    segments = step_segments(scenario.model_copy(update={"deployment": own}))
    return [
        (one.repeat, task, timing)
        for one in segments
        for task, timing in zip(one.tasks, one.timings, strict=True)
    ]


# --- steps of traffic are steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("requests", [16, 128])
def test_a_grid_point_is_the_step_of_that_batch(tp, requests):
    scenario = pools(f"deployment.attention_tp={tp}")
    times = TwinStepTimes(scenario, most_requests=requests, most_prompt=4096, most_context=4096)
    alone = step_s(scenario, phase="decode", batch_per_gpu=requests / tp, context_tokens=4096.0)
    assert times.decode_s(requests, requests * 4096.0) == pytest.approx(alone, rel=1e-9)
    prompt = step_s(
        scenario,
        phase="prefill",
        prefill_requests_per_gpu=1.0 / tp,
        prefill_tokens=4096.0,
        prefill_cached_tokens=2048.0,
    )
    assert times.prompt_s(4096.0, 4096.0 * 4096.0, 0, 0.0) == pytest.approx(prompt, rel=1e-9)


def test_full_batches_take_what_step_says():
    """64 requests on each of 16 GPUs all the time: the mean gap is the step at their mean context."""
    load = "workload={num_requests: 1024, max_concurrency: 1024, input_tokens: 4000, output_tokens: 200}"
    scenario = pools(load, APART, "prefill.serving.replicas=16")
    records = serve(scenario).records
    outputs = records.output_tokens - 1
    full = records.end_s - records.first_token_s > 0.0
    tpot = ((records.end_s - records.first_token_s) / outputs)[full]
    alone = step_s(scenario, phase="decode", batch_per_gpu=64.0, context_tokens=4100.0)
    assert float(np.median(tpot)) == pytest.approx(alone, rel=0.02)


def test_ffns_get_what_the_mean_rank_sends():
    """One of 16 ranks has requests: attention and what it sends are as if all had, FFNs have a sixteenth of them."""
    scenario = pools(*EVEN_LOAD)
    whole, one = (with_uneven_ranks(scenario, even) for even in (1.0, 1 / 16))
    full, few = (
        {task.op.name: task.op for _, task, _ in ops_of(own, batch_per_gpu=768.0)} for own in (whole, one)
    )
    assert few["shared.gate_up"].shape["m"] == pytest.approx(full["shared.gate_up"].shape["m"] / 16)
    assert few["ffn.gate_up"].shape["m"] == pytest.approx(full["ffn.gate_up"].shape["m"] / 16)
    busiest = rank_load(scenario.model.moe, 256.0, scenario.ffn_side)
    assert few["attention0.core"].flops == full["attention0.core"].flops
    assert few["to_ffn"].network_bytes == pytest.approx(
        full["to_ffn"].network_bytes / busiest, rel=1e-9
    )  # of equal pools the busiest GPU of experts receives more than any sends
    times = TwinStepTimes(scenario, most_requests=64, most_prompt=2048, most_context=2048)
    assert times.decode_s(64, 64 * 1024.0, 1 / 16) < times.decode_s(64, 64 * 1024.0, 1.0)


# --- the same machine -----------------------------------------------------------------------------------------------


DRAFTS, ADAPTERS = "deployment.mtp={draft_tokens: 2, acceptance: 0.8}", "deployment.lora_adapters=8"


@pytest.mark.parametrize(
    ("phase", "more"),
    [
        ("decode", ()),
        ("prefill", ()),
        ("decode", (DRAFTS,)),
        ("decode", (ADAPTERS,)),
        ("prefill", (ADAPTERS, "deployment.lora_targets=[dense, experts]")),
        ("decode", (DRAFTS, ADAPTERS)),
    ],
)
def test_equal_pools_and_one_micro_batch_are_the_same_machine_twice(phase, more):
    """Half of the GPUs have a together machine's attention, half its FFNs: without what either sends, a step of one is
    a step of the other, and all FLOPs are the same."""
    own = {
        "batch_per_gpu": 64.0,
        "context_tokens": 4096.0,
        "prefill_requests_per_gpu": 2.0,
        "prefill_tokens": 512.0,
    }
    apart = pools(*EVEN_LOAD, "deployment.ffn_micro_batches=1", *more)
    together = load_scenario("deepseek-v3-h800", ["deployment={attention_dp: 16, ep: 16}", *EVEN_LOAD, *more])
    sums, flops = [], []
    for scenario in (apart, together):
        ops = ops_of(scenario, phase, **own)
        sent = (OpClass.DISPATCH, OpClass.COMBINE)
        sums.append(
            sum(repeat * float(np.max(t.seconds)) for repeat, task, t in ops if task.op.op_class not in sent)
        )
        flops.append(16 * sum(repeat * float(np.max(task.op.flops)) for repeat, task, _ in ops))
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)
    assert flops[0] == pytest.approx(flops[1], rel=1e-9)
    transfers = sum(
        repeat * float(np.max(t.seconds))
        for repeat, task, t in ops_of(apart, phase, **own)
        if task.op.op_class in (OpClass.DISPATCH, OpClass.COMBINE)
    )
    assert step_s(apart, phase=phase, **own) == pytest.approx(sums[0] + transfers, rel=1e-9)


def test_work_of_the_mean_gpu_is_that_of_a_step():
    """What a run's steps ask of the mean of 40 GPUs is what ``step`` says of one such step."""
    scenario = pools(*EVEN_LOAD, "deployment.attention_gpus=24")
    own = {"phase": "decode", "batch_per_gpu": 64.0, "context_tokens": 4096.0}
    changed = {
        "deployment": scenario.deployment.model_copy(update=own),
        "routing": scenario.routing.model_copy(update={"rank_loads": (1.0,)}),  # the mean GPU's
    }
    step = simulate_step(scenario.model_copy(update=changed))
    rows = {name: np.zeros(1) for name in StepRuns.__slots__}
    rows |= {
        "steps": np.ones(1),
        "requests": np.full(1, 64.0),
        "held": np.full(1, 24 * 64.0),
        "even": np.ones(1),
    }
    rows |= {"tokens": np.full(1, 64 * 4096.0)}
    work = work_of_runs(scenario, StepRuns(**rows))
    assert float(work.peak_s[0]) == pytest.approx(
        utilisation(step, peak_seconds) * step.step_time_s, rel=1e-6
    )


# --- the cache ------------------------------------------------------------------------------------------------------


def test_the_cache_lies_with_attention_alone():
    """More GPUs of FFNs hold no more of it, and what experts leave is free for it."""
    few, many = pools(), pools("deployment.ffn_gpus=32")
    together = load_scenario("deepseek-v3-h800", ["deployment={attention_dp: 16, ep: 16}"])
    assert kv_tokens_of(few) == kv_tokens_of(many)
    assert layout_of(few).ranks == 16
    room = (kv_tokens_of(few) - kv_tokens_of(together)) * 61 * 576 * 2
    experts = 58 * (256 / 16 + 1) * 3 * 7168 * 2048 + 3 * 3 * 7168 * 18432
    assert room == pytest.approx(experts, rel=0.25)  # and buffers, NVSHMEM and activations of experts


def test_adapters_lie_where_their_products_are():
    """What one GPU that does both would hold is what one of either pool holds together, by products."""
    together = load_scenario("deepseek-v3-h800", ["deployment={attention_dp: 16, ep: 16}", ADAPTERS])
    apart = pools(ADAPTERS)
    side = apart.ffn_side.deployment
    parts = adapter_bytes(apart.model, apart.deployment), adapter_bytes(apart.model, side, ffns_alone=True)
    assert min(parts) > 0.0
    assert sum(parts) == pytest.approx(adapter_bytes(together.model, together.deployment), rel=1e-12)
    none = pools()
    assert ffn_side_bytes(apart)[0] - ffn_side_bytes(none)[0] == pytest.approx(parts[1])
    own = (weight_bytes(one.model, one.deployment) for one in (apart, none))
    assert next(own) - next(own) == pytest.approx(parts[0])


def test_ffns_that_do_not_fit_under_traffic_are_refused():
    with pytest.raises(
        InfeasibleError, match=r"FFNs and experts need [0-9.]+ GB on each of deployment.ffn_gpus = 8"
    ):
        serve(pools("deployment.ffn_gpus=8"))


def test_a_refusal_says_what_adapters_take_there():
    many = "deployment.lora_adapters=200"
    with pytest.raises(
        InfeasibleError, match=r"FFNs and experts need .*; [0-9.]+ of the weights are adapters"
    ):
        answer_step(pools(many, "deployment.lora_targets=[experts]", "deployment.batch_per_gpu=8"))


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("serving.max_running=300000",), "or lower serving.max_running$"),
        (("serving.max_batched_tokens=1000000",), "or lower serving.max_batched_tokens$"),
        (
            ("deployment.ffn_gpus=4",),
            r"runtime: spread them over more, or divide dense FFNs \(deployment.dense_tp = 1\)$",
        ),
    ],
)
def test_a_refusal_says_what_makes_the_step_of_ffns_smaller(sets, says):
    with pytest.raises(InfeasibleError, match="FFNs and experts need") as refused:
        kv_tokens_of(pools(*sets))
    assert re.search(says, str(refused.value))


def test_prompts_that_share_wires_are_drawn_beside_decodes_that_do_not():
    """Decode in pools, whose ops slow nothing, prompts under two-batch overlap, whose transfers slow compute: prompt
    steps are drawn as those of a run that has no others.
    """
    served = serve(load_scenario("step-3-h800-afd", ["workload.num_requests=100"]))
    runs, own = served.records.load.runs, served.scenario
    prompts = StepRuns(
        **{one.name: getattr(runs, one.name)[runs.prompt > 0.0] for one in dataclasses.fields(runs)}
    )
    both = run_spread(own, runs, common_log_std=0.0)
    alone = run_spread(own.prefill_side, prompts, common_log_std=0.0)
    assert both.prompt_mean == pytest.approx(
        alone.prompt_mean, abs=0.005
    )  # other draws, for there are more kernels


# --- traffic --------------------------------------------------------------------------------------------------------

KINDS = {
    "prompts there": (),
    "two replicas, prompts apart": (APART, "serving.replicas=2"),
    "prompts in pools of their own": ("prefill={deployment: {attention_gpus: 8, ffn_gpus: 16}}",),
    "attention in groups": ("deployment.attention_tp=2", "deployment.attention_gpus=32"),
    "drafts": (DRAFTS,),
    "adapters": (ADAPTERS,),
    "one attention group": ("deployment.attention_tp=16", "deployment.engine=sglang"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_holds_under_traffic(kind):
    own = pools(*KINDS[kind])
    keeps_the_laws(own)


def test_all_gpus_of_both_pools_divide_tokens_and_money():
    scenario = pools("deployment.attention_gpus=24", APART)
    values = answer_serve(scenario).values
    assert values["num_gpus"] == scenario.fleet_gpus == 24 + 16 + 16
    per_s = values["output_tokens_per_s"]
    assert values["output_tokens_per_s_per_gpu"] == pytest.approx(per_s / 56)
    assert values["usd_per_million_output_tokens"] == pytest.approx(56 * 2.0 / 3600.0 / per_s * 1e6)
    assert 0.0 < values["mfu"] < 1.0
    assert values["energy_j"] > 0.0


def test_a_step_of_prompts_counts_both_pools_too():
    scenario = pools("deployment={attention_gpus: 24, ffn_gpus: 16, phase: prefill, prefill_tokens: 1000}")
    values = answer_step(scenario).values
    assert values["input_tokens_per_s_per_gpu"] == pytest.approx(24 * 1000 / values["step_time_s"] / 40)


def test_hosts_of_ffns_launch_their_own_kernels():
    """An eager step's host launches what attention's GPUs run, nothing of the other pool's."""
    ops = ops_of(pools("deployment.engine=sglang"), "prefill")
    launched = {task.op.name.removeprefix("launch.") for _, task, _ in ops if task.op.stream == Stream.HOST}
    assert {"attention0.prefill_core", "router.logits", "to_ffn"} <= launched
    assert not launched & {"experts.gate_up", "shared.gate_up", "from_ffn"}


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from([1, 2, 16, 24, 40]),
    st.integers(1, 20),
    st.sampled_from(["decode", "prefill", "mixed"]),
    st.booleans(),
)
def test_whatever_is_served_is_answered_or_refused_in_one_line(micro_batches, ffns, requests, phase, apart):
    sets = {"ffn_micro_batches": micro_batches, "ffn_gpus": ffns, "phase": phase}
    changed = [f"deployment.{key}={json.dumps(value)}" for key, value in sets.items()]
    try:
        load = f"workload={{num_requests: {requests}, request_rate: 30, input_tokens: 60, output_tokens: 4}}"
        found = serve(pools(*changed, load, *([APART] if apart else [])))
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert (found.records.end_s > found.records.arrival_s).all()
