"""Prefill and decode in pools of their own: caches on their way, backpressure, conservation, faults, swapping."""

import dataclasses

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_laws import number_in_system
from test_serving import LAYOUTS, Linear, Watching, requests_of, served, traffic

from perfmodel.errors import InfeasibleError
from perfmodel.ops.memory import Beside
from perfmodel.serving import cluster as module
from perfmodel.serving.batching import Batching
from perfmodel.serving.changes import Change
from perfmodel.serving.cluster import PrefillSide, simulate
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.links import Flow, Link, Links
from perfmodel.serving.pool import Layout

FAST = KvPath(1.0, 1e12, 1e12, 0.0, layers=10)


def apart(
    requests,
    *,
    path=FAST,
    times=lambda _: Linear(),
    layout=None,
    prefill=None,
    budget=64,
    steps=None,
    together=True,
    changes=(),
    **more,
):
    """Served by a pool of each kind."""
    return simulate(
        requests, times, layout or Layout(), Batching("mixed", budget, 1, together=together, **more),
        requests.output_tokens - 1 if steps is None else steps,
        prefill=PrefillSide(
            prefill or Layout(), Batching("prefill-first", budget, 1, together=together), times, path
        ),
        changes=changes,
    )  # fmt: skip


def unlike_prompts(requests):
    """No two prompts of one length, for the same reason."""
    return dataclasses.replace(
        requests, input_tokens=requests.input_tokens + np.arange(requests.num_requests)
    )


def unlike(number):
    """Replicas of slightly different speed, so that nothing happens at two of them at once and rounding decides."""
    return Linear(base=0.01 + 0.000137 * number)


# --- links ----------------------------------------------------------------------------------------------------------


def arrivals(latency_s, *plans):
    """When flows arrive: each is (source, target, [(at, bytes, cap)], closed at with bytes)."""
    env, found = simpy.Environment(), {}
    links = Links(env, latency_s)
    for number, (source, target, pieces, (closed_s, last)) in enumerate(plans):
        flow = Flow(source, target, lambda n=number: found.update({n: env.now}))
        for at, size, cap in pieces:
            env.timeout(at).callbacks.append(lambda _, f=flow, s=size, c=cap: links.more(f, s, c))
        env.timeout(closed_s).callbacks.append(lambda _, f=flow, s=last: links.close(f, s))
    env.run()
    return [found[n] for n in range(len(plans))]


def test_a_flow_alone_takes_bytes_over_bandwidth_and_the_latency():
    assert arrivals(0.5, (Link(10.0), Link(20.0), [], (1.0, 40.0))) == pytest.approx([1.0 + 4.0 + 0.5])
    assert arrivals(0.0, (Link(10.0), Link(5.0), [], (1.0, 40.0))) == pytest.approx([9.0])


def test_flows_share_a_link_and_get_the_rest_when_one_ends():
    link = Link(10.0)
    ends = arrivals(0.0, (link, Link(1e9), [], (0.0, 20.0)), (link, Link(1e9), [], (0.0, 60.0)))
    assert ends == pytest.approx([4.0, 8.0])  # half each for 4 s, then the second alone


def test_what_is_made_slowly_arrives_with_its_last_piece():
    """40 bytes in 10 s and 4 at the end on a link of 100 bytes/s: only the last 4 are left."""
    assert arrivals(0.0, (Link(100.0), Link(100.0), [(0.0, 40.0, 4.0)], (10.0, 4.0))) == pytest.approx(
        [10.04]
    )
    assert arrivals(0.0, (Link(2.0), Link(100.0), [(0.0, 40.0, 4.0)], (10.0, 4.0))) == pytest.approx([22.0])


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 2), st.floats(0, 5), st.floats(1, 100), st.floats(0.5, 5)
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_link_carries_more_than_it_can_and_everything_arrives(flows):
    sources, targets = [Link(10.0), Link(7.0), Link(3.0)], [Link(5.0), Link(10.0), Link(20.0)]
    plans = [
        (sources[s], targets[t], [(at, size, size)], (at + more, size)) for s, t, at, size, more in flows
    ]
    ends = arrivals(0.0, *plans)
    for link, side in [(one, 0) for one in sources] + [(one, 1) for one in targets]:
        own = [i for i, (s, t, *_) in enumerate(flows) if (sources[s], targets[t])[side] is link]
        if own:
            carried = sum(2 * flows[i][3] for i in own)
            assert carried <= link.bytes_per_s * (
                max(ends[i] for i in own) - min(flows[i][2] for i in own)
            ) * (1 + 1e-9)
        assert not link.active


# --- one request, by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer_wise", "left"), [(True, 0.1), (False, 1.0)])
def test_one_request_is_computed_sent_and_decoded(layer_wise, left):
    """Its chunks, the last layer's cache (or all of it), and its steps; a step that runs delays nobody here."""
    times = Linear()
    path = KvPath(100.0, 1e6, 2e6, 0.003, layers=10, layer_wise=layer_wise)
    records = apart(requests_of([1.0], [50], [4]), path=path)
    prompt = times.prompt_s(50, 50 * 25, 0, 0)
    assert records.prefilled_s[0] == pytest.approx(1.0 + prompt)
    assert records.first_token_s[0] == pytest.approx(1.0 + prompt + left * 50 * 100 / 1e6 + 0.003)
    decode = sum(times.decode_s(1, 50 + i) for i in range(3))
    assert records.end_s[0] == pytest.approx(records.first_token_s[0] + decode)
    assert (records.replica[0], records.prefill_replica[0]) == (0, 1)


@pytest.mark.parametrize("layer_wise", [True, False])
def test_a_state_is_sent_once_and_last(layer_wise):
    whole = KvPath(100.0, 1e6, 2e6, 0.003, layers=10, layer_wise=layer_wise)
    waits = []
    for size in (0.0, 5000.0):
        path = dataclasses.replace(whole, beside=Beside(size))
        records = apart(requests_of([1.0], [50], [4]), path=path)
        waits.append(records.first_token_s[0] - records.prefilled_s[0])
    assert waits[1] - waits[0] == pytest.approx(5000 / 1e6)


def test_a_request_of_one_token_never_reaches_decode():
    records = apart(requests_of([0.0, 0.0], [50, 50], [1, 5]))
    assert records.replica.tolist() == [1, 0]
    assert records.end_s[0] == records.first_token_s[0]


def test_many_senders_to_one_rank_wait_for_its_link():
    """Four prefill replicas end together; the decode rank's link takes their caches one fourth each."""
    path = KvPath(1000.0, 1e6, 1e6, 0.0, layers=10, layer_wise=False)
    asked = requests_of(np.zeros(4), np.full(4, 60), np.full(4, 5))
    records = apart(asked, path=path, prefill=Layout(replicas=4, router="round-robin"))
    waits = records.first_token_s - records.prefilled_s
    assert waits == pytest.approx(np.full(4, 4 * 60 * 1000 / 1e6))


def test_decodes_are_not_held_up_by_prompts():
    """A stream of prompts slows down one engine's decodes, and none of a pool of their own."""
    asked = requests_of(np.linspace(0, 1.5, 60), np.full(60, 60), np.full(60, 20))
    together, own = served(asked, policy="prefill-first"), apart(asked)
    step = Linear().decode_s(60, 60 * 80)
    assert own.gap_s.max() < 2 * step  # it waits for the step under way, and for its own
    mean_together, mean_own = (np.average(one.gap_s, weights=one.gap_count) for one in (together, own))
    assert mean_together > 1.5 * mean_own


@pytest.mark.parametrize("layer_wise", [True, False])
def test_a_full_decode_pool_holds_prompts_back(layer_wise):
    """Blocks for four requests: a fifth waits before its prefill (layer-wise) or between (whole)."""
    path = dataclasses.replace(FAST, layer_wise=layer_wise)
    layout = Layout(blocks=16, block_tokens=16)
    records = apart(
        requests_of(np.zeros(12), np.full(12, 50), np.full(12, 12)), path=path, layout=layout, budget=500
    )
    inside = [
        ((records.first_token_s <= t) & (records.end_s > t)).sum()
        for t in np.linspace(0, records.end_s.max(), 500)
    ]
    assert max(inside) == 4
    late = records.prefilled_s > 0.5 * records.end_s.max()
    assert late.any() == layer_wise
    assert records.preemptions.sum() == 0


# --- over random traffic --------------------------------------------------------------------------------------------

PATHS = st.builds(
    KvPath,
    st.sampled_from([1.0, 100.0]),
    st.sampled_from([1e3, 1e9]),
    st.sampled_from([1e3, 1e9]),
    st.sampled_from([0.0, 0.01]),
    layers=st.sampled_from([1, 10]),
    layer_wise=st.booleans(),
)
SWAPS = st.sampled_from([None, 1e-5])


def assert_served(records, requests, steps):
    assert (records.scheduled_s >= records.arrival_s).all()
    assert (records.prefilled_s > records.scheduled_s).all()
    assert (records.end_s >= records.first_token_s).all()
    assert (
        records.gap_count.sum() == steps.sum()
    )  # one output per step of each request, none lost, none twice
    whole = (records.end_s - records.first_token_s).sum()
    assert (records.gap_s * records.gap_count).sum() == pytest.approx(whole, rel=1e-9, abs=1e-9)
    inside, span = number_in_system(records) if records.end_s.max() > records.arrival_s.min() else (0, 1)
    assert inside * span == pytest.approx((records.end_s - records.arrival_s).sum(), rel=1e-9)


@given(traffic(), LAYOUTS, LAYOUTS, PATHS, SWAPS)
@settings(max_examples=80, deadline=None)
def test_everything_is_served_once_and_steps_together_change_nothing(asked, layout, prefill, path, swap):
    requests, seed = unlike_prompts(asked[0]), asked[1]
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    both = [
        apart(
            requests, layout=layout, prefill=prefill, path=path, steps=steps, together=together,
            swap_s_per_token=swap, times=unlike,
        )
        for together in (True, False)
    ]  # fmt: skip
    assert_served(both[0], requests, steps)
    again = both[0].load.prefilled_tokens - requests.input_tokens.sum()
    assert again == 0 if swap or not both[0].preemptions.sum() else again > 0
    for name in ("scheduled_s", "prefilled_s", "first_token_s", "end_s", "preemptions", "replica"):
        first, second = (getattr(one, name) for one in both)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9), name


@given(traffic(), st.booleans(), SWAPS, st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_no_rank_of_either_pool_holds_more_blocks_than_it_has(asked, layer_wise, swap, ranks):
    requests, _ = asked
    requests = dataclasses.replace(requests, output_tokens=requests.output_tokens + 40)
    clusters = []

    def check():
        for pool in clusters[0].pools:
            for replica in pool.replicas:
                for rank in replica.ranks:
                    assert 0 <= rank.used_blocks(replica.step) <= rank.blocks
                    assert rank.held <= rank.max_running

    small = Layout(replicas=2, ranks=ranks, blocks=30, block_tokens=16, max_running=6, watermark=0.02)
    batching = Batching("mixed", 64, 1, together=False, swap_s_per_token=swap)
    path = KvPath(1.0, 3e3, 3e3, 0.001, layers=5, layer_wise=layer_wise)
    run = module._Cluster(
        requests, lambda _: Watching(check), small, batching, requests.output_tokens - 1,
        PrefillSide(small, batching, lambda _: Watching(check), path),
    )  # fmt: skip
    clusters.append(run)
    run.run()
    for pool in run.pools:
        assert not pool.place
        for replica in pool.replicas:
            assert replica.outstanding == replica._present == replica._taken == 0
            for rank in replica.ranks:
                assert rank.used_blocks(replica.step) == rank.outstanding == rank.promised_tokens == 0
                assert rank.waiting_blocks == rank.held == 0
    assert not run.handoff._hands


# --- swapping -------------------------------------------------------------------------------------------------------


def test_swapping_computes_nothing_again_and_costs_its_copies():
    asked = requests_of(np.zeros(8), np.full(8, 60), np.full(8, 200))
    tight = Layout(blocks=30, block_tokens=16, max_running=64)
    found = {}
    for seconds in (None, 0.0, 1e-3):
        found[seconds] = simulate(
            asked, lambda _: Linear(), tight, Batching("mixed", 64, 1, swap_s_per_token=seconds),
            asked.output_tokens - 1,
        )  # fmt: skip
    assert found[None].load.prefilled_tokens > found[0.0].load.prefilled_tokens == 8 * 60
    assert found[0.0].preemptions.sum() > 0
    assert found[0.0].end_s.max() < found[None].end_s.max()
    assert found[1e-3].end_s.max() > found[0.0].end_s.max() + 0.1
    for records in found.values():
        assert records.gap_count.sum() == 8 * 199


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_lost_replica_starts_its_requests_again_elsewhere():
    asked = requests_of(np.zeros(8), np.full(8, 50), np.full(8, 300))
    layout = Layout(replicas=2, router="round-robin")
    whole = served(asked, layout=layout)
    lost = simulate(
        asked, lambda _: Linear(), layout, Batching("mixed", 64, 1), asked.output_tokens - 1,
        changes=[Change(2.0, 0, state="lost"), Change(4.0, 0, state="up")],
    )  # fmt: skip
    assert lost.retries.tolist() == [1, 0] * 4
    assert lost.replica.tolist() == [1] * 8
    assert lost.first_token_s == pytest.approx(whole.first_token_s)  # what was out stays out
    assert lost.gap_count.sum() == 8 * 299
    assert (lost.end_s > whole.end_s + 0.3).all()
    assert 4 * 50 < lost.load.prefilled_tokens - 8 * 50 < 4 * 350


def test_with_nowhere_to_go_they_wait_for_the_recovery():
    asked = requests_of([0.0, 1.0], [50, 50], [300, 300])
    down = [Change(0.5, 0, state="lost"), Change(9.0, 0, state="up")]
    records = simulate(
        asked, lambda _: Linear(), Layout(), Batching("mixed", 64, 1), asked.output_tokens - 1, changes=down
    )
    assert 9.0 <= records.scheduled_s[1] < 9.1
    assert records.end_s.min() > 9.0
    assert records.gap_s.max() > 8.4
    with pytest.raises(InfeasibleError, match="2 requests wait for a replica that never comes back"):
        simulate(
            asked,
            lambda _: Linear(),
            Layout(),
            Batching("mixed", 64, 1),
            asked.output_tokens - 1,
            changes=down[:1],
        )


def test_a_drained_replica_ends_what_it_has_and_takes_nothing():
    asked = requests_of(np.concatenate([np.zeros(6), [3.0, 3.5]]), np.full(8, 50), np.full(8, 300))
    layout = Layout(replicas=2, router="round-robin", max_running=2)
    records = simulate(
        asked, lambda _: Linear(), layout, Batching("mixed", 64, 1), asked.output_tokens - 1,
        changes=[Change(1.0, 0, state="draining")],
    )  # fmt: skip
    assert records.retries.sum() == 0
    assert records.replica.tolist() == [0, 1, 0, 1, 1, 1, 1, 1]


def test_a_straggler_slows_its_replica_for_as_long_as_it_lasts():
    asked = requests_of(np.zeros(2), np.full(2, 50), np.full(2, 500))
    slow = Linear(base=0.03)
    changes = [Change(2.0, 0, times=slow), Change(4.0, 0, times=Linear())]
    layout = Layout(replicas=2, router="round-robin")
    both = [
        simulate(
            asked, lambda _: Linear(), layout, Batching("mixed", 64, 1, together=together),
            asked.output_tokens - 1, changes=changes,
        )
        for together in (True, False)
    ]  # fmt: skip
    assert both[0].end_s == pytest.approx(both[1].end_s, rel=1e-9)
    lasted = both[0].end_s[0] - both[0].end_s[1]
    steps = 2.0 / slow.decode_s(1, 200)
    assert lasted == pytest.approx(steps * 0.02, rel=0.05)


STATES = st.lists(
    st.tuples(
        st.floats(0.01, 3.0), st.floats(0.01, 2.0), st.integers(0, 3), st.sampled_from(["lost", "draining"])
    ),
    max_size=5,
)


@given(traffic(), st.booleans(), st.booleans(), SWAPS, STATES, st.sampled_from(["central", "least-tokens"]))
@settings(max_examples=120, deadline=None)
def test_nothing_is_lost_or_served_twice_whatever_fails(asked, separate, layer_wise, swap, states, router):
    requests, seed = unlike_prompts(asked[0]), asked[1]
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    layout = Layout(replicas=2, ranks=2, blocks=30, block_tokens=16, max_running=6, router=router)
    changes = []
    for at, lasts, replica, state in states:
        which = replica if separate else replica % 2
        changes += [Change(at, which, state=state), Change(at + lasts, which, state="up")]
    changes.sort(key=lambda change: change.at_s)
    both = []
    for together in (True, False):
        batching = Batching("mixed", 64, 1, swap_s_per_token=swap, together=together)
        side = PrefillSide(
            layout,
            batching,
            unlike,
            KvPath(1.0, 3e3, 3e3, 0.001, layers=5, layer_wise=layer_wise),
        )
        run = module._Cluster(requests, unlike, layout, batching, steps, side if separate else None, changes)
        both.append(run.run())
        assert not any(pool.place for pool in run.pools)
        for pool in run.pools:
            for replica in pool.replicas:
                assert replica.outstanding == replica._present == replica._taken == 0
                for rank in replica.ranks:
                    assert rank.used_blocks(replica.step) == rank.outstanding == rank.promised_tokens == 0
    assert_served_with_faults(both[0], steps)
    for name in ("first_token_s", "end_s", "retries"):
        assert getattr(both[0], name) == pytest.approx(getattr(both[1], name), rel=1e-9, abs=1e-9), name


def assert_served_with_faults(records, steps):
    """As without, but a prompt may be computed again after its first token."""
    assert (records.scheduled_s >= records.arrival_s).all()
    assert (records.first_token_s > records.scheduled_s).all()
    assert (records.end_s >= records.first_token_s).all()
    assert records.gap_count.sum() == steps.sum()
    whole = (records.end_s - records.first_token_s).sum()
    assert (records.gap_s * records.gap_count).sum() == pytest.approx(whole, rel=1e-9, abs=1e-9)
