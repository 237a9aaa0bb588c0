"""perfmodel plan over pipelines and divided caches: what is enumerated loads, the screen follows the simulation."""

import pytest
from test_plan import question

from perfmodel.engines.launch import launches
from perfmodel.explore.plan.answer import layout_words
from perfmodel.explore.plan.layouts import document_of, legal_layouts
from perfmodel.explore.plan.screen import screen
from perfmodel.explore.plan.simulate import Simulator
from perfmodel.explore.space import CHUNK, DCP, DP, KV, PP, RUNNING, TP
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
