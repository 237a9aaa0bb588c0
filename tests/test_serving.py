"""The serving simulator: queueing theory, conservation, steps together against one by one, KV blocks, sessions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queues import (
    ONE_AT_A_TIME,
    Drawn,
    customers,
    expected_wait,
    open_queue,
    repair_shop,
    repairs_per_s,
    wait_of,
    waits_by_recursion,
    waits_of,
)
from serving_laws import number_in_system

from perfmodel.errors import InfeasibleError
from perfmodel.ops.memory import Beside
from perfmodel.serving import drafts as drafts_module
from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import simulate
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.pool import Layout
from perfmodel.serving.rank import Rank
from perfmodel.serving.requests import Requests


class Linear:
    """Step times that can be added up by hand."""

    def __init__(self, base=0.01, per_request=0.001, per_token=1e-6, per_prompt=1e-4):
        self.base, self.per_request, self.per_token, self.per_prompt = (
            base,
            per_request,
            per_token,
            per_prompt,
        )

    def decode_s(self, requests, tokens, even=1.0, stretch=1.0):
        return self.base + self.per_request * requests + self.per_token * tokens

    def decode_run_s(self, requests, tokens, growth, steps, even=1.0, stretch=1.0):
        return steps * self.decode_s(requests, tokens + growth * (steps - 1) / 2)

    def prompt_s(self, prompt, attended, requests, tokens, even=1.0):
        return self.base + self.per_prompt * prompt + 1e-8 * attended + self.per_token * tokens


def requests_of(arrival, inputs, outputs, parent=None, **more):
    n = len(arrival)
    none = np.full(n, -1)
    return Requests(
        arrival_s=np.asarray(arrival, dtype=float),
        input_tokens=np.asarray(inputs, dtype=np.int64),
        output_tokens=np.asarray(outputs, dtype=np.int64),
        parent=none if parent is None else np.asarray(parent),
        prefix=none,
        prefix_tokens=np.zeros(n, dtype=np.int64),
        think_s=np.zeros(n),
        **more,
    )


def served(requests, *, policy="mixed", budget=64, together=True, layout=None, steps=None, times=None):
    return simulate(
        requests,
        lambda _: times or Linear(),
        layout or Layout(),
        Batching(policy, budget, 1, together=together),
        requests.output_tokens - 1 if steps is None else steps,
    )


# --- against queueing theory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "load", "servers"),
    [("M", 0.5, 1), ("M", 0.8, 1), ("D", 0.5, 1), ("D", 0.8, 1), ("G", 0.5, 1), ("M", 0.5, 3), ("M", 0.8, 3)],
)
def test_waits_are_those_of_theory(kind, load, servers):
    """Four standard errors over eight runs, and that must be a narrow claim. make bench-theory is the longer form."""
    waits = [wait_of(open_queue(kind, load, servers, 8_000, seed)) for seed in range(8)]
    error = np.std(waits, ddof=1) / np.sqrt(len(waits))
    assert np.mean(waits) == pytest.approx(expected_wait(kind, load, servers), abs=4 * error)
    assert 4 * error < 0.25 * np.mean(waits)


@pytest.mark.parametrize(("kind", "servers"), [("M", 1), ("D", 3), ("G", 4)])
def test_every_wait_is_that_of_the_textbook_recursion(kind, servers):
    """The same customers, one by one, without an event or a clock."""
    records = open_queue(kind, 0.8, servers, 5_000, 2)
    assert waits_of(records) == pytest.approx(waits_by_recursion(kind, 0.8, servers, 5_000, 2), abs=1e-9)


def test_round_robin_is_worse_than_a_central_queue():
    """Queues of their own, each with every third customer, wait longer than one queue before three servers."""
    central, apart = (
        wait_of(open_queue("M", 0.8, 3, 20_000, 1, router=r)) for r in ("central", "round-robin")
    )
    assert apart > 1.5 * central


def test_a_central_queue_is_no_worse_than_queues_apart_where_many_run_at_once():
    """Two replicas with budgets of several prompts: the queue is not hoarded by the first that looks."""
    n = 600
    asked = requests_of(np.zeros(n), np.full(n, 60), np.full(n, 12))
    central = served(asked, layout=Layout(replicas=2, router="central"), budget=200)
    assert abs(np.bincount(central.replica)[0] - n / 2) < 0.1 * n
    arrivals = np.cumsum(np.random.default_rng(1).exponential(0.02, n))
    asked = requests_of(arrivals, np.full(n, 60), np.full(n, 12))
    together, apart = (
        served(asked, layout=Layout(replicas=2, router=router), budget=200)
        for router in ("central", "round-robin")
    )
    waits = [float((one.first_token_s - one.arrival_s).mean()) for one in (together, apart)]
    assert waits[0] < 1.02 * waits[1]


def test_requests_that_come_together_start_together():
    times = Linear()
    records = served(requests_of(np.zeros(8), np.full(8, 20), np.ones(8)), budget=500, times=times)
    assert records.first_token_s == pytest.approx(np.full(8, times.prompt_s(160, 8 * 200, 0, 0)))


def test_gaps_of_a_long_run_have_their_spread():
    """Steps grow from 11 to 14 ms as the cache fills; percentiles are those of single steps, not of their mean."""
    asked = requests_of([0.0], [10], [3_001])
    together, single = (served(asked, together=how) for how in (True, False))

    def percentile(records, q):
        order = np.argsort(records.gap_s)
        upto = np.cumsum(records.gap_count[order])
        return records.gap_s[order][np.searchsorted(upto, q * upto[-1])]

    for q in (0.1, 0.5, 0.9):
        assert percentile(together, q) == pytest.approx(percentile(single, q), rel=0.04)
    assert percentile(together, 0.9) > 1.1 * percentile(together, 0.1)


@given(
    st.integers(0, 500),
    st.sampled_from([(1, 0), (3, 0), (8, 0), (1, 5), (1, 20)]),
    st.sampled_from([2, 1000]),
    st.sampled_from(["mixed", "prefill-first"]),
)
@settings(max_examples=40, deadline=None)
def test_holding_and_polling_do_not_depend_on_how_steps_are_advanced(seed, looking, running, policy):
    poll, hold = looking
    rng = np.random.default_rng(seed)
    asked = requests_of(np.sort(rng.exponential(0.5, 25)), rng.integers(1, 90, 25), rng.integers(1, 60, 25))
    both = [
        simulate(
            asked, lambda _: Linear(), Layout(ranks=3, max_running=running),
            Batching(policy, 64, 1, poll_steps=poll, hold_steps=hold, together=together), asked.output_tokens - 1,
        )
        for together in (True, False)
    ]  # fmt: skip
    assert both[0].end_s == pytest.approx(both[1].end_s, rel=1e-9)


def test_a_closed_network_repairs_as_many_as_theory_says():
    rates = []
    for seed in range(6):
        records = repair_shop(5, 4.0, 10_000, seed)
        rates.append(len(records.end_s) / records.end_s.max())
    error = np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert np.mean(rates) == pytest.approx(repairs_per_s(5, 4.0), abs=4 * error)
    assert 4 * error < 0.03


def test_littles_law_holds_exactly():
    records = open_queue("G", 0.8, 2, 5_000, 3)
    inside, span = number_in_system(records)
    assert inside == pytest.approx((records.end_s - records.arrival_s).sum() / span, rel=1e-9)


# --- one request, by hand -----------------------------------------------------------------------------------------


def test_one_request_takes_its_prompt_in_chunks_and_then_its_steps():
    times = Linear()
    records = served(requests_of([1.0], [150], [4]), budget=64, times=times)
    chunks = [(64, 64 * 32), (64, 64 * 96), (22, 22 * (128 + 11))]
    prompt = sum(times.prompt_s(p, a, 0, 0) for p, a in chunks)
    assert records.first_token_s[0] == pytest.approx(1.0 + prompt)
    decode = sum(times.decode_s(1, 150 + i) for i in range(3))
    assert records.end_s[0] == pytest.approx(1.0 + prompt + decode)
    assert records.scheduled_s[0] == 1.0
    assert (records.gap_s * records.gap_count).sum() == pytest.approx(decode)
    assert records.gap_count.sum() == 3


def test_a_prompt_stops_decodes_or_joins_them():
    """Two requests, the second comes while the first decodes."""
    asked = requests_of([0.0, 0.2], [10, 60], [200, 2])
    alone, mixed = (served(asked, policy=policy, budget=64) for policy in ("prefill-first", "mixed"))
    gaps = alone.gap_s[alone.gap_count == 1]
    stall = Linear().prompt_s(60, 1800, 0, 0)
    assert gaps.max() == pytest.approx(
        stall + Linear().decode_s(2, 85), rel=0.01
    )  # one holds the other's prompt
    assert mixed.gap_s.max() < alone.gap_s.max()
    assert mixed.end_s[0] < alone.end_s[0]


def test_a_request_that_arrives_waits_for_the_end_of_the_step():
    times = Linear(base=0.1, per_request=0.0, per_token=0.0, per_prompt=0.0)
    records = served(requests_of([0.0, 0.55], [1, 1], [50, 1]), policy="prefill-first", times=times)
    assert records.scheduled_s[1] == pytest.approx(0.6)  # prompt 0.1, then steps of 0.1
    assert records.first_token_s[1] == pytest.approx(0.7, abs=1e-6)
    assert records.end_s[0] == pytest.approx(0.1 + 49 * 0.1 + 0.1, abs=1e-6)


def test_a_session_sends_its_next_turn_after_a_pause():
    records = served(requests_of([0.0, 5.0, 2.0], [10, 30, 50], [5, 5, 5], parent=[-1, 0, 1]))
    assert records.arrival_s[1] == pytest.approx(records.end_s[0] + 5.0)
    assert records.arrival_s[2] == pytest.approx(records.end_s[1] + 2.0)


def test_a_closed_loop_keeps_so_many_in_flight():
    asked = requests_of(np.zeros(200), np.full(200, 20), np.full(200, 30), max_concurrency=8)
    records = served(asked)
    events = np.sort(np.concatenate([records.arrival_s + 1e-12, records.end_s]))
    inside = [((records.arrival_s < t) & (records.end_s >= t)).sum() for t in events]
    assert max(inside) == 8
    assert np.median(inside) == 8


# --- KV blocks -----------------------------------------------------------------------------------------------------


TIGHT = Layout(blocks=30, block_tokens=16, max_running=64)


def test_without_blocks_the_youngest_is_computed_again():
    asked = requests_of(np.zeros(8), np.full(8, 60), np.full(8, 200))
    records = served(asked, layout=TIGHT)
    assert records.preemptions.sum() > 0
    assert records.preemptions[0] == 0  # the oldest keeps what it has
    assert (records.end_s > 0).all()
    assert records.load.prefilled_tokens > 8 * 60
    roomy = served(asked)
    assert roomy.preemptions.sum() == 0
    assert roomy.end_s.max() < records.end_s.max()
    assert records.gap_count.sum() == roomy.gap_count.sum() == 8 * 199


def test_what_a_request_keeps_whatever_its_length_takes_blocks():
    """Of 60 blocks four requests of 4 blocks hold 11 more each; without those ten times as many would fit."""
    asked = requests_of(np.zeros(40), np.full(40, 10), np.full(40, 50))
    layout = Layout(blocks=60, block_tokens=16)
    at_once = {}
    for fixed in (0, 11):
        records = served(asked, layout=dataclasses.replace(layout, beside=Beside(fixed)))
        at_once[fixed] = max(
            ((records.scheduled_s <= t) & (records.end_s > t)).sum() for t in records.scheduled_s
        )
        assert (records.end_s > 0).all()
    assert at_once[11] <= 60 // 12
    assert at_once[0] > 2 * at_once[11]
    with pytest.raises(InfeasibleError, match=r"need 64 KV blocks of 16 \(60 for states and windows\)"):
        served(asked, layout=dataclasses.replace(layout, beside=Beside(60)))


def test_a_window_takes_blocks_of_the_tokens_that_it_has():
    """As if each token took three blocks' worth up to 32 tokens, and one beyond."""
    layout = Layout(blocks=1000, block_tokens=16, beside=Beside(windows=((32, 2 / 16),)))
    rank = Rank(layout.blocks, layout.block_tokens, 10, 0.0, beside=layout.beside)
    assert [rank.blocks_of(tokens) for tokens in (15, 31, 160)] == [1 + 2, 2 + 4, 11 + 4]
    rank.join(0, 10, step=0, steps=50, growth=1.0)
    assert rank.used_blocks(0) == 1 + 4, "its window will be full before it ends"
    rank.leave(0)
    assert rank.used_blocks(0) == 0


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(
        InfeasibleError, match=r"request 1: 400 \+ 100 tokens need 32 KV blocks of 16, one rank has 30"
    ):
        served(requests_of([0, 0], [10, 400], [10, 100]), layout=TIGHT)


class Watching(Linear):
    """Step times that look at the ranks whenever they are asked, so in every step."""

    def __init__(self, check):
        super().__init__()
        self.check = check

    def prompt_s(self, prompt, attended, requests, tokens, even=1.0):
        self.check()
        return super().prompt_s(prompt, attended, requests, tokens)

    def decode_s(self, requests, tokens, even=1.0, stretch=1.0):
        self.check()
        return super().decode_s(requests, tokens)


# --- over random traffic --------------------------------------------------------------------------------------------


@st.composite
def traffic(draw):
    n = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.exponential(draw(st.sampled_from([0.0, 0.02, 0.5])), n).cumsum())
    outputs = rng.integers(1, draw(st.sampled_from([2, 40, 150])), n)
    inputs = rng.integers(1, draw(st.sampled_from([2, 60, 200])), n)
    concurrency = draw(st.sampled_from([None, 1, 5]))
    return requests_of(arrival, inputs, outputs, max_concurrency=concurrency), seed


LAYOUTS = st.builds(
    Layout,
    replicas=st.integers(1, 3),
    ranks=st.integers(1, 3),
    blocks=st.sampled_from([30, 60, 100_000]),
    block_tokens=st.just(16),
    max_running=st.sampled_from([1, 4, 1000]),
    watermark=st.sampled_from([0.0, 0.05]),
    router=st.sampled_from(["central", "round-robin", "least-tokens", "prefix-aware"]),
    rank_router=st.sampled_from(["round-robin", "least-tokens"]),
)


@given(traffic(), LAYOUTS, st.sampled_from(["mixed", "prefill-first"]), st.sampled_from([16, 64, 500]))
@settings(max_examples=60, deadline=None)
def test_everything_that_comes_is_served_once_and_in_order(asked, layout, policy, budget):
    requests, seed = asked
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    records = served(requests, policy=policy, budget=budget, layout=layout, steps=steps)
    assert (records.arrival_s >= requests.arrival_s - 1e-9).all()
    assert (records.scheduled_s >= records.arrival_s).all()
    assert (records.first_token_s > records.scheduled_s).all()
    assert (records.end_s >= records.first_token_s).all()
    assert ((records.end_s == records.first_token_s) == (requests.output_tokens == 1)).all()
    assert records.gap_count.sum() == steps.sum()  # one output per step of each request, none twice
    whole = (records.end_s - records.first_token_s).sum()
    assert (records.gap_s * records.gap_count).sum() == pytest.approx(whole, rel=1e-9, abs=1e-9)
    computed = records.load.prefilled_tokens - requests.input_tokens.sum()
    assert computed == 0 if records.preemptions.sum() == 0 else computed > 0
    inside, span = number_in_system(records) if records.end_s.max() > records.arrival_s.min() else (0, 1)
    assert inside * span == pytest.approx((records.end_s - records.arrival_s).sum(), rel=1e-9)


@given(traffic(), LAYOUTS, st.sampled_from(["mixed", "prefill-first"]))
@settings(max_examples=40, deadline=None)
def test_steps_together_give_the_records_of_single_steps(asked, layout, policy):
    requests, seed = asked
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    both = [
        served(requests, policy=policy, layout=layout, steps=steps, together=together)
        for together in (True, False)
    ]
    for name in ("arrival_s", "scheduled_s", "first_token_s", "end_s", "preemptions", "replica"):
        first, second = (getattr(one, name) for one in both)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9), name
    assert both[0].load.runs.steps.sum() == both[1].load.runs.steps.sum()


@given(
    traffic(), st.sampled_from(["mixed", "prefill-first"]), st.integers(1, 3), st.sampled_from([0, 0, 1, 3])
)
@settings(max_examples=60, deadline=None)
def test_no_rank_ever_holds_more_blocks_than_it_has(asked, policy, ranks, fixed):
    requests, _ = asked
    requests = dataclasses.replace(requests, output_tokens=requests.output_tokens + 40)
    cluster = []

    def check():
        for replica in cluster[0].replicas:
            for rank in replica.ranks:
                assert 0 <= rank.used_blocks(replica.step) <= rank.blocks
                assert len(rank.running) + len(rank.prompts) <= rank.max_running

    from perfmodel.serving import cluster as module

    run = module._Cluster(
        requests,
        lambda _: Watching(check),
        Layout(ranks=ranks, blocks=30, block_tokens=16, max_running=6, watermark=0.02, beside=Beside(fixed)),
        Batching(policy, 64, 1, together=False),
        requests.output_tokens - 1,
    )
    cluster.append(run.decode)
    run.run()
    for rank in run.decode.replicas[0].ranks:
        assert rank.used_blocks(run.decode.replicas[0].step) == rank.outstanding == rank.waiting_blocks == 0


def test_two_runs_side_by_side_do_not_disturb_each_other():
    asked = requests_of(np.linspace(0, 1, 30), np.full(30, 50), np.full(30, 20))
    first = served(asked)
    served(requests_of([0.0], [5], [5]))
    again = served(asked)
    assert (first.end_s == again.end_s).all()


# --- drafts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance", [0.01, 0.5, 0.66, 2 / 3, 0.67, 0.9, 0.999999])
@pytest.mark.parametrize("drafts", [1, 2, 64])
def test_drafts_are_accepted_as_geometric_numbers_say(drafts, acceptance):
    """What is drawn, and how much of the stream it takes, is numpy's own."""
    wanted = np.random.default_rng(1).integers(1, 300, 500)
    rng, own = np.random.default_rng(2), np.random.default_rng(2)
    accepted = rng.geometric(1.0 - acceptance, size=int(wanted.sum())) - 1
    assert (
        drafts_module._accepted(own, len(accepted), drafts, acceptance) == np.minimum(accepted, drafts)
    ).all()
    assert rng.random() == own.random()
    row, steps = iter(1 + np.minimum(accepted, drafts)), []
    for tokens in wanted:
        count = 0
        while tokens > 0:
            tokens, count = tokens - next(row), count + 1
        steps.append(count)
    again = drafts_module._steps(np.random.default_rng(2), wanted, drafts, acceptance)
    assert again.tolist() == steps


@pytest.mark.parametrize(("drafts", "acceptance"), [(1, 0.9), (3, 0.5)])
def test_accepted_drafts_save_steps_as_expected(drafts, acceptance):
    outputs = np.full(2_000, 400)
    steps = decode_steps(outputs, drafts, acceptance, seed=1)
    per_step = sum(acceptance**i for i in range(drafts + 1))
    assert 399 / steps.mean() == pytest.approx(per_step, rel=0.01)
    assert steps.std() > 0
    assert (steps >= np.ceil(399 / (1 + drafts))).all()
    assert (steps <= 399).all()
    assert (decode_steps(outputs, drafts, acceptance, seed=1) == steps).all()


def test_drafts_at_their_limits():
    assert decode_steps(np.array([1, 2, 5]), 0, 0.0, 0).tolist() == [0, 1, 4]
    assert decode_steps(np.array([1, 2, 5, 6]), 1, 1.0, 0).tolist() == [0, 1, 2, 3]
    assert decode_steps(np.array([1, 2, 5]), 3, 0.0, 0).tolist() == [0, 1, 4]


def test_the_queue_helper_serves_in_order_of_arrival():
    records = simulate(
        customers([0.0, 0.1, 0.2]),
        lambda _: Drawn(np.ones(3)),
        Layout(max_running=1),
        ONE_AT_A_TIME,
        np.zeros(3, int),
    )
    assert records.end_s.tolist() == pytest.approx([1.0, 2.0, 3.0])
