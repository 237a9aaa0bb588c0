"""perfmodel plan over pipelines, divided prompts and caches, FFNs apart: what is enumerated, and what is screened."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import question

from perfmodel.engines.launch import launches
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.plan.answer import keys_words, layout_words
from perfmodel.explore.plan.layouts import document_of, legal_layouts
from perfmodel.explore.plan.screen import screen
from perfmodel.explore.plan.simulate import Simulator
from perfmodel.explore.space import (
    CHUNK,
    CP,
    DCP,
    DENSE,
    DP,
    DRAFTS,
    EP,
    FFNS,
    KV,
    OVERLAP,
    PP,
    REPLICAS,
    RUNNING,
    TP,
)
from perfmodel.load import build_scenario

LAYOUTS = {
    TP: [4, 8], DP: [1, 2], PP: [1, 3], DCP: [1, 2, 8, 16], CHUNK: [8192], RUNNING: [64], KV: ["bf16"],
    "weights": ["fp8"], "pools": ["together"],
}  # fmt: skip


@pytest.mark.parametrize(("model", "most"), [("deepseek-v3", 8), ("qwen3-235b-a22b", 2)])
def test_whatever_is_enumerated_loads_and_nothing_else_is_an_error(model, most):
    """Sizes that do not divide, stages beyond the GPUs and copies that are not there are left out in silence."""
    asked = question(model, "16xh200", "vllm", space=LAYOUTS, users=16)
    kind = asked.kinds[0]
    found = list(legal_layouts(asked, kind, asked.space_of(kind)))
    seen = {(one.scenario.deployment.pp, one.scenario.deployment.decode_context_parallel) for one in found}
    assert {pp for pp, _ in seen} == {1, 3}
    assert max(dcp for _, dcp in seen) == most
    for one in found[:: max(1, len(found) // 12)]:
        d = one.scenario.deployment
        assert one.gpus == d.attention_tp * d.attention_dp * d.pp <= 16
        assert build_scenario(document_of(asked.document(kind), one.keys)).hash == one.scenario.hash


def test_the_screen_follows_the_simulation_through_stages():
    """TPOT of screened candidates within a quarter of the simulated one, with one stage as with two."""
    space = {**LAYOUTS, TP: [8], DP: [1], DCP: [1, 8], PP: [1, 2]}
    asked = question(
        "deepseek-v3", "16xh200", "vllm", space=space, isl=20_000, osl=500, users=16, limits=None
    )
    screened = screen(asked)
    simulator = Simulator(asked, seconds=120.0, runs=4)
    told = set()
    for number, candidate in screened.ranked[:40]:
        batch = screened.batches[number]
        deployment = batch.layouts[int(batch.candidates.row[candidate])].scenario.deployment
        mark = deployment.pp, deployment.decode_context_parallel
        if mark in told:
            continue
        told.add(mark)
        run = simulator.first(batch.kind, batch.keys(candidate))
        assert run is not None
        told_s = float(batch.screen.tpot_s[candidate])
        assert told_s == pytest.approx(run.figures[0]["tpot_s"]["mean"], rel=0.25), mark
    assert len(told) >= 3


def test_long_contexts_find_a_divided_cache():
    """16 users of 60,000 tokens on 8 H200: TP8 alone holds 7 of them."""
    space = {**LAYOUTS, TP: [8], DP: [1], PP: [1], DCP: [1, 8]}
    asked = question("deepseek-v3", "8xh200", "vllm", space=space, isl=60_000, osl=500, users=16)
    screened = screen(asked)
    number, candidate = screened.ranked[0]
    batch = screened.batches[number]
    keys = batch.keys(candidate)
    assert keys[DCP] == 8
    best = build_scenario(document_of(asked.document(batch.kind), keys))
    assert "DCP8" in layout_words(best)
    (launch,) = launches(best, "MODEL")
    assert "--decode-context-parallel-size 8" in launch.command
    simulator = Simulator(asked, seconds=120.0, runs=2)
    usd = [
        simulator.first(batch.kind, keys | {DCP: shards}).figures[0]["usd_per_million_output_tokens"]
        for shards in (1, 8)
    ]
    assert usd[1] < usd[0]


# --- divided prompts ------------------------------------------------------------------------------------------------

PROMPTS = {
    **LAYOUTS, TP: [8], DP: [1], PP: [1], DCP: [1], CP: [1, 3, "most"], EP: ["all"], DENSE: ["attention"],
    OVERLAP: ["sequential"], DRAFTS: [0], "pools": ["apart"],
}  # fmt: skip


def test_divided_prompts_are_read_and_nothing_else():
    """A layout that divides prompts is one of prefill replicas; CP3 of 8 GPUs is none. An indexer scores for all heads
    on every GPU of a group unless prompts are divided; plain MLA has heads to divide, and reads as fast by those."""
    for model, best in (("glm-5", 8), ("deepseek-v3", 1)):
        asked = question(model, "16xh200", "sglang", space=PROMPTS, isl=60_000, osl=100, users=4)
        kind = asked.kinds[0]
        found = list(legal_layouts(asked, kind, asked.space_of(kind)))
        assert sorted(one.scenario.deployment.context_parallel for one in found) == [1, 8]
        assert [one.reads_only for one in found] == [
            one.scenario.deployment.context_parallel > 1 for one in found
        ]
        (batch,) = screen(asked).batches
        told = [batch.keys(i) for i in range(batch.score.size)]
        assert {keys[f"prefill.{CP}"] for keys in told} == {best}
        assert {keys[CP] for keys in told} == {1}


def test_a_plan_with_divided_prompts_is_simulated_and_launched():
    asked = question("glm-5", "16xh200", "sglang", space=PROMPTS, isl=60_000, osl=100, users=4)
    (batch,) = screen(asked).batches
    keys = batch.keys(0)
    best = build_scenario(document_of(asked.document(batch.kind), keys))
    assert best.prefill.deployment.context_parallel == 8
    assert "CP8" in layout_words(best).split(";")[0]
    assert "--attn-cp-size 8" in launches(best, "MODEL")[0].command
    run = Simulator(asked, seconds=60.0, runs=1).first(batch.kind, keys)
    assert float(batch.screen.tpot_s[0]) == pytest.approx(run.figures[0]["tpot_s"]["mean"], rel=0.25)


def test_an_engine_without_a_flag_for_it_gets_none():
    space = {CP: [1, 8], "weights": ["fp8"], KV: ["bf16"], CHUNK: [8192], RUNNING: [64], REPLICAS: [1]}
    space |= {OVERLAP: ["sequential"], DRAFTS: [0]}
    for engine, sizes in (("vllm", {1}), ("sglang", {1, 8})):
        asked = question("deepseek-v3", "8xh200", engine, space=space, isl=60_000, osl=100, users=4)
        kind = asked.kinds[0]
        found = legal_layouts(asked, kind, asked.space_of(kind))
        assert {one.scenario.deployment.context_parallel for one in found} == sizes


@pytest.mark.parametrize(
    ("model", "isl", "keys"),
    [
        ("deepseek-v3", 4_000, set()),
        ("deepseek-v3", 60_000, {CP, DCP}),
        ("qwen3.5-397b-a17b", 60_000, {DCP}),  # states are handed from token to token
        ("gpt-oss-120b", 60_000, {CP}),  # windows are not divided
    ],
)
def test_long_requests_have_divided_prompts_and_caches_looked_at(model, isl, keys):
    asked = question(model, "16xh200", "sglang", isl=isl, osl=500, users=16)
    space = asked.space_of(asked.kinds[0])
    assert space.keys.keys() & {CP, DCP} == keys
    assert all(space.keys[key] == (1, "most") for key in keys)


def test_a_cache_is_divided_by_as_many_as_hold_the_same_keys():
    space = {**LAYOUTS, DCP: [1, "most"], PP: [1]}
    for model, most in (("deepseek-v3", {1, 4, 8}), ("qwen3-235b-a22b", {1, 2})):
        asked = question(model, "16xh200", "vllm", space=space, users=16)
        kind = asked.kinds[0]
        found = legal_layouts(asked, kind, asked.space_of(kind))
        assert {one.scenario.deployment.decode_context_parallel for one in found} == most


# --- FFNs on GPUs of their own --------------------------------------------------------------------------------------

APART = {
    TP: [1], DP: [16, 24, 32], FFNS: [0, 16], EP: ["all"], DENSE: [1], OVERLAP: ["sequential"], DRAFTS: [0],
    "deployment.ffn_micro_batches": [2, 3], CHUNK: [4096], RUNNING: [512], KV: ["fp8"], "weights": ["fp8"],
    REPLICAS: [1], "pools": ["together", "apart"],
}  # fmt: skip


def test_the_ratio_of_attention_to_ffns_is_a_dimension():
    asked = question("step-3", "96xh800", "", space=APART, isl=400, osl=600, users=6000, limits=None)
    kind = asked.kinds[0]
    found = list(legal_layouts(asked, kind, asked.space_of(kind)))
    pools = {(one.scenario.deployment.attention_gpus, one.scenario.deployment.ffn_gpus) for one in found}
    assert pools == {(0, 0), (16, 16), (24, 16), (32, 16)}
    for one in found:
        d = one.scenario.deployment
        assert one.gpus == d.attention_dp + d.ffn_gpus
        assert d.ep == (d.ffn_gpus or d.attention_dp)
        words = keys_words({**one.keys, REPLICAS: 1, CHUNK: 8192, "deployment.ffn_micro_batches": 2})
        assert ("2 micro-batches" in words) == bool(d.ffn_gpus)
        assert build_scenario(document_of(asked.document(kind), one.keys)).hash == one.scenario.hash


def test_a_chunk_that_ffns_do_not_hold_leaves_the_smaller_ones():
    """16 GPUs of FFNs behind 64 of attention hold 2,048 tokens of prompts from each, and 65,536 from none."""
    space = {TP: [1], DP: [64], FFNS: [16], EP: ["all"], DENSE: [1], "weights": ["fp8"], KV: ["fp8"]}
    asked = question("step-3", "96xh800", "", space={**space, CHUNK: [2048, 65536], "pools": ["together"]})
    kind = asked.kinds[0]
    (one,) = legal_layouts(asked, kind, asked.space_of(kind))
    assert one.kv_tokens[0] > one.kv_tokens[1] == 0


def test_the_screen_follows_the_simulation_of_pools():
    asked = question("step-3", "96xh800", "", space=APART, isl=200, osl=200, users=512, limits=None)
    screened, simulator = screen(asked), Simulator(asked, seconds=20.0, runs=1)
    told = {}
    for number, candidate in screened.ranked:
        batch = screened.batches[number]
        keys = batch.keys(candidate)
        mark = keys[FFNS] > 0, f"prefill.{REPLICAS}" in keys
        if mark in told:
            continue
        told[mark] = run = simulator.first(batch.kind, keys)
        assert float(batch.screen.tpot_s[candidate]) == pytest.approx(
            run.figures[0]["tpot_s"]["mean"], rel=0.25
        )
        words = f"{keys[DP]} GPUs of attention, {keys[FFNS]} of FFNs"
        assert (words in layout_words(run.scenario)) == bool(keys[FFNS])
    assert {own for own, _ in told} == {True, False}


UNLIKE = {
    TP: [1], DP: [4, 8], FFNS: [0, 8], EP: ["all"], DENSE: [1], OVERLAP: ["sequential"], DRAFTS: [0], PP: [1],
    "deployment.ffn_micro_batches": [2], CHUNK: [4096], RUNNING: [256], KV: ["bf16"], "weights": ["bf16"],
    REPLICAS: [1], "ffns.cluster": ["l40s-pcie", "h20-roce"], "ffns.prices.usd_per_gpu_hour": [1.0],
}  # fmt: skip


def on_h20(space):
    """16 H20 at $1.5 for Mixtral."""
    asked = question("mixtral-8x22b", "16xh20", "", space=space, isl=571, osl=40, users=64, limits=None)
    return replace(asked, overrides=("prices.usd_per_gpu_hour=1.5",))


def test_the_gpus_of_ffns_are_a_dimension():
    """Attention on H20; experts there or on L40S, of which 8 count among the 16 that are asked for. Prompts that have
    replicas of their own are read on one kind."""
    asked = on_h20(UNLIKE | {"pools": ["together", "apart"]})
    kind = asked.kinds[0]
    found = list(legal_layouts(asked, kind, asked.space_of(kind)))
    marks = [(one.scenario.deployment.ffn_gpus, one.scenario.ffn_cluster.gpu.name) for one in found]
    assert {one.scenario.two_clusters for one in found if one.scenario.ffn_cluster.gpu.name == "h20-sxm"} == {
        False
    }
    assert sorted(marks) == sorted([(0, "h20-sxm")] * 2 + [(8, "h20-sxm")] * 2 + [(8, "l40s")] * 2)
    screened, simulator = screen(asked), Simulator(asked, seconds=20.0, runs=1)
    first: dict[str, tuple[int, int]] = {}
    for number, candidate in screened.ranked:
        batch = screened.batches[number]
        keys = batch.keys(candidate)
        assert int(batch.candidates.gpus[candidate]) <= 16
        readers = batch.candidates.prompt_row
        assert readers is None or batch.layouts[int(readers[candidate])].scenario.ffns is None
        first.setdefault(str(keys.get("ffns.cluster") if keys[FFNS] else None), (number, candidate))
    number, candidate = first["l40s-pcie"]
    batch = screened.batches[number]
    keys = batch.keys(candidate)
    run = simulator.first(batch.kind, keys)
    told = run.figures[0]["tpot_s"]["mean"]
    assert float(batch.screen.tpot_s[candidate]) == pytest.approx(told, rel=0.25)
    group = keys[TP] * keys[DP]
    assert "8 of FFNs on l40s-pcie" in keys_words(keys)
    assert "FFNs on l40s-pcie" in layout_words(run.scenario)
    if f"prefill.{REPLICAS}" not in keys:
        mean = (group * 1.5 + 8 * 1.0) / (group + 8)
        assert float(batch.candidates.usd_per_gpu_hour[candidate]) == pytest.approx(mean)
        assert run.scenario.fleet_usd_per_gpu_hour == pytest.approx(mean)


def test_a_cluster_of_ffns_that_there_is_not_is_told():
    asked = on_h20({**UNLIKE, "ffns.cluster": ["l50"]})
    with pytest.raises(SpecError, match="l50"):
        list(legal_layouts(asked, asked.kinds[0], asked.space_of(asked.kinds[0])))


BAD = [
    ({CP: [0]}, "must be a whole number of at least 1, or most"),
    ({CP: ["all"]}, "must be a whole number of at least 1, or most"),
    ({DCP: [2.5]}, "must be a whole number of at least 1, or most"),
    ({FFNS: [-1]}, "must be a whole number of at least 0"),
    ({FFNS: ["most"]}, "must be a whole number of at least 0"),
    ({"deployment.attention_gpus": [16]}, "follows from deployment.attention_tp x deployment.attention_dp"),
]


@pytest.mark.parametrize(("space", "message"), BAD)
def test_bad_choices_are_refused_in_one_line(space, message):
    asked = question("deepseek-v3", "16xh200", "sglang", space=space)
    with pytest.raises(SpecError) as error:
        asked.space_of(asked.kinds[0])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


ANY = st.one_of(
    st.integers(-2, 20), st.just("most"), st.none(), st.booleans(), st.floats(), st.text(max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from([CP, DCP, FFNS]), st.one_of(ANY, st.lists(ANY, max_size=3)), min_size=1)
)
def test_whatever_is_stated_is_enumerated_or_refused_in_one_line(space):
    own = {**PROMPTS, "pools": ["together", "apart"], **space}
    asked = question("deepseek-v3", "32xh200", "sglang", space=own, isl=2_000, osl=100, users=4)
    kind = asked.kinds[0]
    try:
        found = list(legal_layouts(asked, kind, asked.space_of(kind)))
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    for one in found:
        assert one.gpus <= 32
