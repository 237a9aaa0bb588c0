"""Plans whose prompts and decodes are on GPUs of two kinds: what is proposed, and what it costs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import SMALL, question

from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.plan.answer import plan
from perfmodel.explore.plan.layouts import document_of
from perfmodel.explore.plan.screen import _apart, lengths_of, screen, stepped
from perfmodel.explore.space import REPLICAS
from perfmodel.load import build_scenario
from perfmodel.output.plan.table import difference_words
from perfmodel.serving.serve import serve

UNLIKE = SMALL | {"pools": ["unlike"], REPLICAS: [1, 2]}
H100, H200 = 2.95, 4.54
"""$ per GPU hour, as the catalogue has them."""


@pytest.fixture(scope="module")
def found():
    asked = question(gpus="4xh100,2xh200", space=UNLIKE)
    return asked, screen(asked)


def test_both_ways_round_within_the_gpus_of_each_kind_at_the_price_of_each(found):
    asked, screened = found
    ways = set()
    for b, i in screened.ranked[:400]:
        batch = screened.batches[b]
        keys, c = batch.keys(i), batch.candidates
        scenario = build_scenario(document_of(asked.document(batch.kind), keys))
        side = scenario.prefill_side
        assert (scenario.cluster.name, side.cluster.name) == (batch.kind.cluster, keys["prefill.cluster"])
        ways.add((scenario.cluster.name, side.cluster.name))
        decodes = scenario.deployment.num_gpus * scenario.serving.replicas
        prompts = side.deployment.num_gpus * side.serving.replicas
        most = {"h100-ib": 4, "h200-ib": 2}
        assert decodes <= most[scenario.cluster.name]
        assert prompts <= most[side.cluster.name]
        assert c.gpus[i] == decodes + prompts == scenario.fleet_gpus
        price = {"h100-ib": H100, "h200-ib": H200}
        usd = decodes * price[scenario.cluster.name] + prompts * price[side.cluster.name]
        assert c.usd_per_gpu_hour[i] * c.gpus[i] == pytest.approx(usd)
        assert scenario.fleet_usd_per_gpu_hour * scenario.fleet_gpus == pytest.approx(usd)
        assert "prompts on" in batch.words
    assert ways == {("h100-ib", "h200-ib"), ("h200-ib", "h100-ib")}


def test_unlike_pools_of_like_gpus_are_pools_apart():
    """The same layouts as their own other kind: every candidate apart is there, with the same figures."""
    asked = question(gpus="4xh200", space=SMALL | {"pools": ["apart"], REPLICAS: [1, 2]})
    lengths = lengths_of(asked)
    side = stepped(asked, asked.kinds[0], lengths)
    like, unlike = _apart(asked, side, side, lengths), _apart(asked, side, replace(side), lengths)

    def rows(batch):
        c = batch.candidates
        places = zip(c.row, c.prompt_row, c.chunk, c.cap, c.replicas, c.prompt_replicas, strict=True)
        return dict(
            zip(
                places,
                zip(batch.usd, batch.screen.ttft_at_s, batch.screen.tpot_at_s, strict=True),
                strict=True,
            )
        )

    first, second = rows(like), rows(unlike)
    common = first.keys() & second.keys()
    assert len(common) >= 0.8 * len(first)  # with GPUs for themselves either side may keep other layouts
    for place in common:
        assert first[place] == pytest.approx(second[place])


def test_the_winner_is_served_by_both_and_both_are_paid():
    asked = question(gpus="2xh100,2xh200", space=UNLIKE, users=24)
    answer = plan(asked, simulate=2, seconds=60.0)
    run = answer.runs[0]
    assert run.scenario.prefill.cluster.name != run.scenario.cluster.name
    assert answer.document["prefill"]["cluster"] == run.keys["prefill.cluster"]
    again = serve(
        build_scenario({k: v for k, v in answer.document.items() if k != "title"}),
        requests=run.served.requests,
    )
    assert again.records.end_s.max() == pytest.approx(run.served.records.end_s.max(), rel=1e-6)
    hours = {"h100-ib": H100, "h200-ib": H200}
    side, own = run.scenario.prefill_side, run.scenario
    usd = hours[own.cluster.name] * own.deployment.num_gpus * own.serving.replicas
    usd += hours[side.cluster.name] * side.deployment.num_gpus * side.serving.replicas
    figures = run.figures[0]
    tokens_per_hour = figures["output_tokens_per_s_per_gpu"] * own.fleet_gpus * 3600
    assert figures["usd_per_million_output_tokens"] == pytest.approx(usd / tokens_per_hour * 1e6)
    launched = answer.values["launch"]["replicas"]
    assert [one["role"] for one in launched] == ["prefill", "decode"]
    assert "prompts on" in answer.values["candidates"][0]["kind"]


def test_one_kind_alone_has_no_unlike_pools():
    with pytest.raises(InfeasibleError, match="no deployment of qwen3-30b-a3b"):
        screen(question(space=UNLIKE))


@given(st.one_of(st.text(max_size=6), st.integers(), st.lists(st.text(min_size=1, max_size=4), max_size=2)))
@settings(max_examples=25, deadline=None)
def test_pools_that_are_none_are_one_line(value):
    if value in ("together", "apart", "unlike"):
        return
    with pytest.raises(SpecError, match=r"space: pools") as refused:
        question(space={"pools": value}).space_of(question().kinds[0])
    assert "\n" not in str(refused.value).replace("\\n", "")


def test_a_change_of_no_dollar_is_none():
    """Components of two candidates differ in the order of their sums alone."""
    assert difference_words(-6e-16, 5.9) == difference_words(0.0, 0.0) == "+$0"
    assert (difference_words(-0.05, 5.9), difference_words(6e-6, 5.9)) == ("-$0.0500", "+$0.00000600")
