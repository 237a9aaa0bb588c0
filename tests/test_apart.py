"""Attention and FFNs on GPUs of their own: what runs where, what is sent, how micro-batches take turns, the cost."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.answers.step import answer_step
from perfmodel.errors import InfeasibleError, PerfModelError, SpecError
from perfmodel.load import load_scenario
from perfmodel.ops.limits import check_runs, limits, with_batch
from perfmodel.ops.memory import ffn_side_bytes, weight_bytes
from perfmodel.ops.op import OpClass
from perfmodel.overlap.schedules import AFD_PARTS
from perfmodel.overlap.twin import step_times
from perfmodel.spec.deployment import Deployment
from perfmodel.step import predict_steps, simulate_step, step_segments

BARE = "deployment={phase: decode, attention_gpus: 16, ffn_gpus: 16, batch_per_gpu: 64, context_tokens: 4096}"


def apart(*sets, base="deepseek-v3-h800"):
    return load_scenario(base, [BARE, *sets])


def parts_of(segment):
    """Seconds of one micro-batch in each part of a layer."""
    found = dict.fromkeys(AFD_PARTS, 0.0)
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        if task.micro_batch == 0:
            found[task.stage] += float(np.max(timing.seconds))
    return found


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 4])
@pytest.mark.parametrize("sets", [(), ("deployment.attention_gpus=48",), ("deployment.batch_per_gpu=16",)])
def test_layers_take_what_their_slowest_part_or_a_whole_round_takes(micro_batches, sets):
    """m micro-batches share four places that each serves one at a time: max(m x the longest part, all parts) per layer
    (MegaScale-Infer's pipeline, arXiv 2504.02263, 4.1), and the first round's way in."""
    scenario = apart(f"deployment.ffn_micro_batches={micro_batches}", *sets)
    segments, expected, fill = step_segments(scenario), 0.0, 0.0
    for one in segments:
        if not one.carries:
            expected += one.repeat * sum(float(np.max(timing.seconds)) for timing in one.timings)
            continue
        parts = parts_of(one)
        expected += one.repeat * max(micro_batches * max(parts.values()), sum(parts.values()))
        fill += sum(parts.values())
    found = float(predict_steps(scenario).step_time_s[0])
    assert expected * (1.0 - 1e-9) <= found <= expected + fill
    assert simulate_step(scenario).step_time_s == pytest.approx(found, rel=1e-6)


def test_each_side_has_its_own_ops_and_tokens():
    """64 requests per attention GPU, in three parts; 32 attention GPUs send to 16: twice as many tokens on each."""
    scenario = apart("deployment.attention_gpus=32")
    moe = next(one for one in step_segments(scenario) if one.layers and one.repeat == 58)
    by_name = {task.op.name: task.op for task in moe.tasks if task.micro_batch == 0}
    queued = {task.op.name: str(task.op.stream) for task in moe.tasks}
    assert by_name["router.logits"].shape["m"] == pytest.approx(64 / 3)
    assert by_name["shared.gate_up"].shape["m"] == pytest.approx(2 * 64 / 3)
    assert float(np.max(by_name["experts.gate_up"].shape["rows"])) >= 2 * 64 / 3 * 8
    assert queued["attention0.core"] == "compute"
    assert queued["experts.gate_up"] == queued["shared.down"] == "experts"
    assert (queued["to_ffn"], queued["from_ffn"]) == ("network", "link")


def test_tokens_go_to_each_gpu_that_has_an_expert_of_theirs():
    """DeepSeek-V3's routing over 16 GPUs reaches between 4 (its groups) and 8 of them; each gets hidden FP8 and scales,
    and gives hidden BF16."""
    for attention_gpus, crowd in ((16, 1.0), (8, 1.0), (48, 3.0)):
        scenario = apart(
            f"deployment.attention_gpus={attention_gpus}", "routing={}", "routing.popularity=uniform"
        )
        moe = next(one for one in step_segments(scenario) if one.layers and one.repeat == 58)
        ops = {task.op.name: task.op for task in moe.tasks if task.micro_batch == 0}
        tokens = 64 / 3
        for name, message in (("to_ffn", 7168 + 4 * 56 + 16), ("from_ffn", 2 * 7168)):
            nbytes = float(np.max(ops[name].link_bytes + ops[name].network_bytes))
            assert (
                4.0 <= nbytes / (tokens * message * crowd) <= 8.0 * 1.6
            )  # the busiest GPU of experts has more


def test_weights_lie_where_they_are_used():
    scenario, together = (
        apart(),
        load_scenario("deepseek-v3-h800", ["deployment={phase: decode, attention_dp: 16, ep: 16}"]),
    )
    attention = weight_bytes(scenario.model, scenario.deployment)
    whole = weight_bytes(together.model, together.deployment)
    experts = 58 * (256 / 16 + 1) * 3 * 7168 * 2048 + 3 * 3 * 7168 * 18432
    assert whole - attention == pytest.approx(experts, rel=1e-3)  # FP8: a byte each
    kept, step = (float(part) for part in ffn_side_bytes(scenario))
    assert experts < kept < experts + 6e9
    tokens, pairs = 64, 64 * 8  # of equal pools, spread evenly
    assert step == (2 * (tokens + pairs) * 7168 + pairs * (2 * 7168 + 3 * 2048)) * 2  # no heads, no logits


def test_all_gpus_divide_tokens_and_money():
    scenario = apart("deployment.attention_gpus=24")
    values = answer_step(scenario).values
    assert values["num_gpus"] == 40
    per_s = 64 * 24 / values["step_time_s"]
    assert values["output_tokens_per_s_per_gpu"] == pytest.approx(per_s / 40)
    assert values["usd_per_million_output_tokens"] == pytest.approx(40 * 2.0 / 3600.0 / per_s * 1e6)
    assert sum(values["breakdown_s"].values()) == pytest.approx(values["step_time_s"])
    assert 0.0 < values["mfu"] < 1.0


def test_what_is_not_used_changes_no_hash():
    plain = load_scenario("deepseek-v3-h800")
    assert (
        plain.hash
        == load_scenario("deepseek-v3-h800", ["deployment.attention_gpus=0", "deployment.ffn_gpus=0"]).hash
    )
    assert plain.hash != apart().hash
    assert Deployment().gpu_share(ffn=True) == Deployment().gpu_share(ffn=False) == 1.0


@pytest.mark.parametrize(
    "sets",
    [
        "deployment={attention_gpus: 32, ffn_gpus: 16, phase: prefill, prefill_tokens: 4096}",
        "deployment={attention_gpus: 96, ffn_gpus: 16, context_tokens: 10}",
        "deployment={attention_gpus: 16, ffn_gpus: 16, context_tokens: 4096}",
    ],
)
def test_the_largest_batch_is_the_largest_of_both_pools(sets):
    """One more is refused, by FFNs where many GPUs of attention stand before few of them."""
    scenario = load_scenario("deepseek-v3-h800", [sets, "serving.max_running=100000"])
    most = limits(scenario)
    assert most.bound_by == "memory"
    check_runs(with_batch(scenario, most.fits))
    with pytest.raises(InfeasibleError, match="does not fit"):
        check_runs(with_batch(scenario, most.fits + 1))


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm", "atom", "deepseek"])
def test_an_engines_all_to_all_is_of_one_pool(engine):
    """Tokens go from pool to pool, whatever the engine sends between GPUs that have both; stated, it is refused."""
    pools = "deployment={attention_gpus: 4, ffn_gpus: 4, precision: {linear: bf16, experts: bf16}}"
    sets = ["model=qwen3-30b-a3b", "cluster=h100", pools, f"deployment.engine={engine}"]
    scenario = load_scenario("deepseek-v3-h800", sets)
    assert (scenario.deployment.all_to_all, scenario.deployment.backend) == ("auto", "m-to-n")
    assert float(predict_steps(scenario).step_time_s[0]) > 0.0
    with pytest.raises(SpecError, match="all_to_all = all-gather: where FFNs have GPUs of their own"):
        load_scenario("deepseek-v3-h800", [*sets, "deployment.all_to_all=all-gather"])


def test_experts_that_do_not_fit_are_refused():
    with pytest.raises(
        InfeasibleError, match=r"FFNs and experts need [0-9.]+ GB on each of deployment.ffn_gpus = 8"
    ):
        answer_step(apart("deployment.ffn_gpus=8"))


BAD = [
    ("deployment.ffn_gpus=0", "state both, or neither"),
    ("deployment.attention_gpus=0", "state both, or neither"),
    ("deployment.attention_dp=8", "must equal attention_tp x attention_dp = 1 x 8 = 8"),
    ("deployment.ep=3", "ffn_gpus = 16 must equal moe_tp x ep"),
    ("deployment.dense_tp=3", "dense_tp = 3 must divide it"),
    ("deployment.overlap=tbo", "overlap = tbo"),
    ("deployment.mtp={draft_tokens: 2, drafter: deepseek-v3-eagle3}", "mtp.drafter = eagle3"),
    ("deployment.ffn_micro_batches=0", "deployment.ffn_micro_batches"),
    ("deployment.ffn_gpus=-1", "deployment.ffn_gpus"),
    ("deployment.ffn_gpus=1.5", "deployment.ffn_gpus"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_pools_are_refused_in_one_line(change, message):
    with pytest.raises(SpecError) as error:
        apart(change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shortcut_model_is_refused():
    with pytest.raises(SpecError, match="not modelled for layers as those of model longcat-flash"):
        load_scenario("longcat-flash-h800", [BARE])


# --- drafts ---------------------------------------------------------------------------------------------------------

DRAFTS = "deployment.mtp={draft_tokens: 2, acceptance: 0.8}"


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_pass_of_the_draft_layer_fills_the_four_places_once(micro_batches):
    """m equal jobs through four places that serve one at a time: all four, and m - 1 times the longest (a permutation
    flow shop of equal jobs). What comes before, between and after is one after the other."""
    scenario = apart(f"deployment.ffn_micro_batches={micro_batches}", DRAFTS)
    segments = step_segments(scenario)
    names = [one.name for one in segments if one.name.startswith("draft")]
    assert names == [f"draft {n}{part}" for n in (0, 1) for part in (", before", "", ", head")]
    plain = segments[: -len(names)]
    without = apart(f"deployment.ffn_micro_batches={micro_batches}")
    assert [one.name for one in step_segments(without)] == [one.name for one in plain]
    expected = float(step_times(plain, contention=False).step_time_s[0])
    for one in segments[-len(names) :]:
        if one.layers:
            places = parts_of(one).values()
            expected += sum(places) + (micro_batches - 1) * max(places)
        else:
            expected += sum(float(np.max(timing.seconds)) for timing in one.timings)
    assert float(predict_steps(scenario).step_time_s[0]) == pytest.approx(expected, rel=1e-9)
    assert simulate_step(scenario).step_time_s == pytest.approx(expected, rel=1e-6)


def test_the_draft_layer_has_its_ops_where_the_others_have_theirs():
    """The first pass takes the step's three positions of each request, the second one; 32 GPUs send to 16."""
    scenario = apart("deployment.attention_gpus=32", DRAFTS)
    segments = {one.name: one for one in step_segments(scenario)}
    moe = next(one for one in segments.values() if one.layers and one.repeat == 58)
    of_layer = {task.op.name: task.op for task in moe.tasks}
    for number, tokens in ((0, 3.0), (1, 1.0)):
        ops = {task.op.name: task.op for task in segments[f"draft {number}"].tasks}
        assert {name.removeprefix("draft.") for name in ops} == set(of_layer)
        for name, op in ops.items():
            like = of_layer[name.removeprefix("draft.")]
            assert op.stream == like.stream
            assert op.op_class == (like.op_class if like.is_communication else OpClass.DRAFT)
        assert ops["draft.router.logits"].shape["m"] == pytest.approx(tokens * 64 / 3)
        assert ops["draft.shared.gate_up"].shape["m"] == pytest.approx(tokens * 2 * 64 / 3)
        sent = ops["draft.to_ffn"], of_layer["to_ffn"]
        assert [float(np.max(op.network_bytes)) for op in sent] == [
            pytest.approx(float(np.max(sent[1].network_bytes)) * tokens / 3.0, rel=0.05),
            float(np.max(sent[1].network_bytes)),
        ]  # the busiest GPU of few tokens is busier


def test_the_draft_layer_is_held_by_both_pools():
    one, other = apart("deployment.batch_per_gpu=8"), apart("deployment.batch_per_gpu=8", DRAFTS)
    moe = one.model.moe
    expert = 3 * 7168 * moe.ffn_size
    kept = [float(ffn_side_bytes(each)[0]) for each in (one, other)]
    assert kept[1] - kept[0] == pytest.approx((256 / 16 + 1) * expert)
    weights = [float(weight_bytes(each.model, each.deployment)) for each in (one, other)]
    assert 0.0 < weights[1] - weights[0] < expert * 16  # its attention, the join and the router


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["attention_gpus", "ffn_gpus", "ffn_micro_batches", "ep", "moe_tp", "attention_tp"]),
        st.one_of(
            st.integers(-2, 40), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=3)
        ),
        max_size=4,
    )
)
def test_whatever_is_stated_is_answered_or_refused_in_one_line(deployment):
    scenario = told = None
    try:
        scenario = apart(*(f"deployment.{key}={json.dumps(value)}" for key, value in deployment.items()))
    except PerfModelError as error:
        told = str(error)
    if scenario is None:
        assert len(told.splitlines()) == 1
    else:
        assert float(predict_steps(scenario).step_time_s[0]) > 0.0
