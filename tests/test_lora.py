"""LoRA adapters: their products, what they weigh, and whose beginnings of prompts are alike."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import InfeasibleError, PerfModelError, SpecError
from perfmodel.load import load_scenario
from perfmodel.ops.limits import check_runs
from perfmodel.ops.lora import adapter_bytes, distinct
from perfmodel.ops.memory import weight_bytes
from perfmodel.serving.requests import for_adapters, requests_of
from perfmodel.serving.serve import serve
from perfmodel.step import predict_steps, step_segments

BASE = "qwen3-235b-h100-vllm"
"""94 layers, hidden 4096, 64 heads and 4 KV heads of 128, 128 experts of 1,536; TP8, EP8."""
SMALL = "gpt-oss-120b-h100"


def adapted(*sets, base=BASE, **keys):
    return load_scenario(
        base, [*sets, *(f"deployment.{key}={json.dumps(value)}" for key, value in keys.items())]
    )


def ops(scenario):
    found = [(task.op, one.repeat) for one in step_segments(scenario) if one.layers for task in one.tasks]
    return {op.name: (op, repeat) for op, repeat in found}


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 60))
def test_adapters_in_use_are_the_mean_of_draws(kinds, draws):
    rng = np.random.default_rng(kinds * 100 + draws)
    seen = [len(set(rng.integers(0, kinds, size=draws).tolist())) for _ in range(400)]
    assert distinct(kinds, draws) == pytest.approx(
        np.mean(seen), abs=5.0 * (np.std(seen) + 0.01) / 20.0 + 1e-9
    )


def test_products_of_attention_have_the_shapes_of_their_base():
    rank, adapters = 32, 8
    scenario = adapted(lora_adapters=adapters, lora_rank=rank, lora_targets=["attention"], batch_per_gpu=4)
    found = ops(scenario)
    requests = 4 * 8
    used = adapters * (1.0 - (1.0 - 1.0 / adapters) ** requests)
    for name, stacked in (("attention0.qkv", 3), ("attention0.o", 1)):
        base = found[name][0].shape
        shrink, expand = (found[f"{name}.{part}"][0] for part in ("lora_shrink", "lora_expand"))
        assert shrink.flops == pytest.approx(2.0 * requests * base["k"] * stacked * rank)
        assert expand.flops == pytest.approx(2.0 * requests * base["n"] * rank)
        assert shrink.shape["groups"] == expand.shape["groups"] == pytest.approx(used)
        least = (
            2.0 * used * (shrink.shape["n"] * shrink.shape["k"] + base["n"] * rank)
        )  # BF16 weights that are read
        assert (
            least
            < shrink.hbm_bytes + expand.hbm_bytes
            < least + requests * (2 * base["k"] + 8 * rank * 4 + 4 * base["n"])
        )
    assert not [name for name in found if "experts" in name and "lora" in name]


def test_experts_have_adapters_of_their_own():
    scenario = adapted(lora_adapters=4, lora_targets=["experts"], batch_per_gpu=4)
    found = ops(scenario)
    for name, stacked in (("experts.gate_up", 2), ("experts.down", 1)):
        base, shrink = found[name][0], found[f"{name}.lora_shrink"][0]
        rows = base.shape["rows"]
        assert shrink.flops == pytest.approx(2.0 * rows * base.shape["k"] * stacked * 16)
        assert base.shape["groups"] <= shrink.shape["groups"] <= min(4 * 16, rows)
    assert not [name for name in found if "attention" in name and "lora" in name]


def test_adapters_weigh_what_engines_allocate():
    """Qwen3-235B over TP8 and EP8 at rank 16: of qkv three A of 4096 and a B of 8 x 128 + 2 x 128 rows, of o an A of
    8 x 128 and a B of 4096; of 16 experts each 2 x 4096 + 2 x 1536 + 1536 + 4096; BF16."""
    own, without = adapted(lora_adapters=2), adapted()
    attention = 3 * 4096 + 10 * 128 + 8 * 128 + 4096
    experts = 16 * (2 * (4096 + 1536) + 1536 + 4096)
    expected = 2 * 2 * 16 * 94 * (attention + experts)
    assert adapter_bytes(own.model, own.deployment) == pytest.approx(expected)
    more = weight_bytes(own.model, own.deployment) - weight_bytes(without.model, without.deployment)
    assert more == pytest.approx(expected)
    half = adapted(lora_adapters=2, lora_rank=8)
    assert adapter_bytes(half.model, half.deployment) == pytest.approx(expected / 2)


def test_what_does_not_fit_says_how_much_adapters_are():
    with pytest.raises(
        InfeasibleError, match=r"[0-9.]+ of the weights are adapters, fewer with deployment.lora_targets"
    ):
        check_runs(adapted(lora_adapters=200))


def test_more_adapters_never_make_a_step_shorter_and_none_changes_nothing():
    plain = adapted()
    times = [
        float(predict_steps(adapted(lora_adapters=n, lora_targets=["attention"])).step_time_s[0])
        for n in (0, 1, 4, 64)
    ]
    assert times[0] == float(predict_steps(plain).step_time_s[0])
    assert times == sorted(times)
    assert times[1] > times[0]
    assert adapted(lora_adapters=0).hash == plain.hash
    assert adapted(lora_adapters=1).hash != plain.hash


def test_draft_layers_have_no_adapters():
    sets = ["deployment.mtp={draft_tokens: 1, acceptance: 0.8}", "deployment.lora_adapters=4"]
    segments = step_segments(load_scenario("deepseek-v3-h200-sglang", sets))
    named = {one.name for one in segments for task in one.tasks if "lora" in task.op.name}
    assert named
    assert not [name for name in named if "draft" in name]


TRAFFIC = [
    "workload={num_requests: 240, request_rate: 6, input_tokens: 40, output_tokens: 5, prefix_tokens: 2048}",
]


@pytest.mark.parametrize("core", ["plain", "compiled"])
def test_a_shared_beginning_is_computed_once_per_adapter(core):
    """The prefix is one of 2,048 tokens; each of n adapters computes it once per rank, so n x 2,048 more are."""
    computed = []
    for adapters in (0, 1, 5):
        scenario = adapted(*TRAFFIC, base=SMALL, lora_adapters=adapters, lora_targets=["attention"])
        found = serve(scenario, core=core)
        computed.append(int((found.records.input_tokens - found.records.cached_tokens).sum()))
    assert computed[0] == computed[1]  # one adapter for all: as without
    assert computed[2] - computed[1] == pytest.approx(4 * 2048, abs=2 * 2048)


def test_both_cores_agree_with_adapters():
    scenario = adapted(*TRAFFIC, base=SMALL, lora_adapters=5, lora_targets=["attention"])
    one, other = (serve(scenario, core=core).records for core in ("plain", "compiled"))
    for name in ("first_token_s", "end_s", "cached_tokens"):
        assert (getattr(one, name) == getattr(other, name)).all()


def test_sessions_keep_their_adapter_and_hashes_are_told_apart():
    workload = load_scenario(
        SMALL, ["workload={num_requests: 60, turns: 4, request_rate: 1, input_tokens: 50, turn_tokens: 20}"]
    ).workload
    requests = requests_of(workload, 3)
    salted = for_adapters(requests, 7, 3)
    child = salted.child
    rows = np.flatnonzero(child >= 0)
    assert (salted.adapter[rows] == salted.adapter[child[rows]]).all()
    assert len(set(salted.adapter.tolist())) > 1
    hashed = replace(requests, hash_ids=np.arange(120) % 9, hash_offsets=np.arange(61) * 2)
    told = for_adapters(hashed, 7, 3).hash_ids
    owner = np.repeat(salted.adapter, 2)
    assert len(set(told.tolist())) == len(
        set(zip((np.arange(120) % 9).tolist(), owner.tolist(), strict=True))
    )
    assert for_adapters(salted, 7, 3) is salted
    assert for_adapters(requests, 0, 3) is requests


BAD = [
    ("lora_adapters", -1, "deployment.lora_adapters"),
    ("lora_adapters", 2.5, "deployment.lora_adapters"),
    ("lora_adapters", 10_001, "deployment.lora_adapters"),
    ("lora_rank", 0, "deployment.lora_rank"),
    ("lora_rank", "16", "deployment.lora_rank"),
    ("lora_targets", [], "lora_targets must name"),
    ("lora_targets", ["attention", "attention"], "lora_targets must name"),
    ("lora_targets", ["head"], "deployment.lora_targets"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_bad_adapters_are_refused_in_one_line(key, value, message):
    with pytest.raises(SpecError) as error:
        adapted(**{key: value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(st.integers(-2, 20_000), st.booleans(), st.none(), st.text(max_size=3)),
    st.one_of(st.integers(-2, 3000), st.floats(allow_nan=False)),
    st.lists(st.sampled_from(["attention", "dense", "experts", "head"]), max_size=4),
)
def test_whatever_is_stated_is_answered_or_refused_in_one_line(adapters, rank, targets):
    scenario = told = None
    try:
        scenario = adapted(lora_adapters=adapters, lora_rank=rank, lora_targets=targets)
    except PerfModelError as error:
        told = str(error)
    if scenario is None:
        assert len(told.splitlines()) == 1
    else:
        assert adapter_bytes(scenario.model, scenario.deployment) >= 0.0
