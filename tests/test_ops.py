"""Op counts against things counted otherwise: transformers' FLOP counter, closed forms, conservation."""

import numpy as np
import pytest
from oracle_env import COUNTED, oracle_flops

from perfmodel.load import load_scenario
from perfmodel.ops.limits import limits
from perfmodel.ops.memory import step_memory, usable_bytes
from perfmodel.ops.op import OpClass
from perfmodel.ops.work import Group, tokens_per_step
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import step_segments

SINGLE = {"attention_dp": 1, "attention_tp": 1, "dense_tp": 1, "ep": 1, "batch_per_gpu": 1}


def prefill_of(model, tokens):
    set_ = [f"deployment.{key}={value}" for key, value in SINGLE.items()]
    set_ += [f"model={model}", "deployment.phase=prefill", f"deployment.prefill_tokens={tokens}"]
    set_ += ["deployment.mtp.draft_tokens=0", "deployment.overlap=sequential"]
    return load_scenario("longcat-flash-h800", set_)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "model", [name for name in COUNTED if name != "longcat-2.0"]
)  # transformers has no LSA
def test_matmul_flops_equal_transformers(model):
    """The counter takes attention as the full square; a causal core is (S + 1) / 2S of it (windows apart)."""
    expected = oracle_flops()[model]
    tokens = expected["tokens"]
    scenario = prefill_of(model, tokens)
    head = 2 * scenario.model.vocab_size * scenario.model.hidden_size
    linear = core = 0.0
    for segment in step_segments(scenario):
        for task in segment.tasks:
            flops = segment.repeat * float(task.op.flops)
            if task.op.op_class == OpClass.EMBEDDING:
                continue  # transformers has no n-gram embedding
            if task.op.name.endswith("prefill_core"):
                core += flops
            elif task.op.name == "head.logits":
                linear += head * tokens  # ours needs logits for the last token alone, the counter ran all
                assert flops == pytest.approx(head)
            else:
                linear += flops
    assert linear == pytest.approx(expected["linear"], rel=1e-9)
    if all(getattr(layer.attention, "sliding_window", None) is None for layer in scenario.model.layers):
        assert core * 2 * tokens / (tokens + 1) == pytest.approx(expected["attention"], rel=1e-9)


@pytest.mark.parametrize("window", [None, 1, 5, 16, 100])
@pytest.mark.parametrize(("new", "cached"), [(1, 0), (1, 30), (7, 0), (7, 3), (20, 12), (3, 40)])
def test_attended_pairs_equal_a_mask(window, new, cached):
    positions = np.arange(cached, cached + new)[:, None]
    keys = np.arange(cached + new)[None, :]
    mask = (keys <= positions) & (True if window is None else keys > positions - window)
    group = Group("prefill", 3.0, float(new), float(cached))
    assert group.attended_pairs(window) == 3 * mask.sum()
    assert group.keys_per_request(window) == mask.any(axis=0).sum()


def test_absorbed_decode_reads_the_cache_once_per_request():
    scenario = load_scenario("longcat-flash-h800")
    core = next(t.op for s in step_segments(scenario) for t in s.tasks if t.op.name == "attention0.core")
    cache = 96 * 5002 * 576 * 2
    assert cache < core.hbm_bytes < 1.1 * cache
    assert core.flops == 2 * 96 * (2 * 5000 + 3) * 64 * (576 + 512)


def test_a_mixed_step_is_its_groups_together():
    def flops(phase):
        set_ = [f"deployment.phase={phase}", "deployment.prefill_tokens=512", "deployment.mtp.draft_tokens=0"]
        set_.append("routing.popularity=''")  # more tokens are more even
        scenario = load_scenario("longcat-flash-h800", set_)
        parts = [
            s.repeat * t.op.flops
            for s in step_segments(scenario)
            for t in s.tasks
            if t.op.op_class in (OpClass.DENSE_FFN, OpClass.EXPERTS, OpClass.ROUTER, OpClass.ATTENTION)
        ]
        return sum(parts)

    assert flops("mixed") == pytest.approx(flops("decode") + flops("prefill"))


@pytest.mark.parametrize(
    ("drafts", "acceptance", "expected"), [(0, 0.0, 1), (1, 0.9, 1.9), (3, 1.0, 4), (2, 0.5, 1.75)]
)
def test_tokens_per_step(drafts, acceptance, expected):
    set_ = [f"deployment.mtp.draft_tokens={drafts}", f"deployment.mtp.acceptance={acceptance}"]
    assert tokens_per_step(load_scenario("longcat-flash-h800", set_).deployment) == pytest.approx(expected)


def test_tensor_parallelism_keeps_flops_and_divides_weights():
    def total(tp):
        set_ = ["model=llama-3.1-70b", "deployment.overlap=sequential", "deployment.mtp.draft_tokens=0"]
        set_ += [f"deployment.{key}={tp}" for key in ("attention_tp", "dense_tp", "moe_tp")]
        set_ += ["deployment.attention_dp=1", "deployment.ep=1", f"deployment.batch_per_gpu={8 / tp}"]
        scenario = load_scenario("longcat-flash-h800", set_)
        flops = sum(s.repeat * t.op.flops for s in step_segments(scenario) for t in s.tasks)
        return flops * tp, step_memory(scenario).weights * tp

    flops, weights = zip(*(total(tp) for tp in (1, 2, 8)), strict=True)
    assert flops[1] == pytest.approx(flops[0])
    assert flops[2] == pytest.approx(flops[0])
    assert weights[2] == pytest.approx(weights[0], rel=1e-6)


def test_largest_batch_fits_and_one_more_does_not():
    scenario = load_scenario("longcat-flash-h800")
    most = limits(scenario).memory
    sized = with_arrays(scenario, {"deployment.batch_per_gpu": np.array([most, most + 1.0])})
    fits = step_memory(sized).total <= usable_bytes(sized)
    assert list(fits) == [True, False]


def test_pipeline_divides_weights_and_adds_sends():
    def segments(pp):
        return step_segments(load_scenario("longcat-flash-h800", [f"deployment.pp={pp}"]))

    assert not any(s.name == "pipeline" for s in segments(1))
    send = next(s for s in segments(3) if s.name == "pipeline")
    assert send.repeat == 3
    assert (
        sum(s.repeat for s in segments(3) if s.name.startswith("layers")) == 30
    )  # 28 in stages of at most 10


def names_and_bytes(scenario):
    return {
        task.op.name: float(task.op.hbm_bytes)
        for segment in step_segments(scenario)
        for task in segment.tasks
    }


def test_zero_experts_identity_is_a_kernel_where_no_other_adds_it():
    """Two rows read, one written (BF16), after low-latency combine and by engines; not where a combine adds it."""
    own = "combine.identity"
    ops = names_and_bytes(load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=8"]))
    assert ops[own] == 3 * 2 * 16 * 6144  # a draft beside each token
    assert own not in names_and_bytes(
        load_scenario(
            "longcat-flash-h800", ["deployment.phase=prefill", "deployment.all_to_all=deepep-normal"]
        )
    )
    assert own not in names_and_bytes(load_scenario("reference-cpu"))  # its un-permutation sums it
    assert own not in names_and_bytes(load_scenario("deepseek-v3-h800"))


def test_an_engine_samples_in_passes_over_all_logits():
    base = ["deployment.batch_per_gpu=8"]
    ops = names_and_bytes(load_scenario("longcat-flash-h800", base))
    head = {name: moved / (16 * 131072) for name, moved in ops.items() if name.startswith("head.")}
    assert {name: head[f"head.{name}"] for name in ("to_fp32", "temperature", "softmax", "sample")} == {
        "to_fp32": 6.0, "temperature": 8.0, "softmax": 12.0, "sample": 4.0,
    }  # fmt: skip
    assert "draft.head.softmax" in ops
    assert "draft.head.temperature" not in ops
    alone = names_and_bytes(load_scenario("longcat-flash-h800", [*base, 'deployment.engine=""']))
    assert alone["head.sample"] == 4.0 * 16 * 131072
    assert "head.softmax" not in alone


def test_a_vocabulary_cut_over_tensor_parallel_ranks_is_gathered_before_an_engine_samples():
    cut = ["deployment.attention_dp=32", "deployment.attention_tp=4", "deployment.batch_per_gpu=8"]
    ops = names_and_bytes(load_scenario("longcat-flash-h800", cut))
    assert "head.gather_logits" in ops
    assert ops["head.softmax"] == 12.0 * 16 * 131072  # its own rows, the whole vocabulary
