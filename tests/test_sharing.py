"""Caches on their way and decode steps on one wire: what each takes from the other, by closed forms and by bytes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_disaggregation import apart, unlike_prompts
from test_serving import requests_of, traffic

from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.serving.grid import Grid
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.pool import Layout
from perfmodel.serving.serve import _path, _pool_of, serve
from perfmodel.serving.sharing import MOST, STRETCHES, Sharing, stretch_of
from perfmodel.serving.step_times import GridStepTimes
from perfmodel.serving.stream import Lengths
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps, sending_s

COMPUTES, SENDS = 0.006, 0.004
"""Seconds of a step that are computed, and sent one after the other."""
PROMPT = 0.0037
"""Of a prompt, so that its cache (one layer: sent when all is computed) sets out in the middle of a step."""
WIRE = 1e6
ONE = [1.0]


def steps_of(computes=COMPUTES, sends=SENDS, hidden=False):
    """Steps whose bytes are exposed, or hidden behind what is computed, whatever they decode."""

    def step(stretch, *_):
        return np.maximum(computes, sends * stretch) if hidden else computes + sends * stretch

    return GridStepTimes(
        Grid.of((ONE, ONE, ONE), lambda e, n, k: step(np.ones_like(e))),
        Grid.of((ONE, ONE, ONE), lambda e, p, a: 0.0 * p + PROMPT),
        sharing=Sharing(
            Grid.of((STRETCHES, ONE, ONE, ONE), step),
            Grid.of((ONE, ONE, ONE), lambda e, n, k: 0.0 * e + 1.0 - sends / step(2.0)),
        ),
    )


def path(shared="network", **more):
    return KvPath(**({"bytes_per_token": 100.0, "send_bytes_per_s": 1e12} | more),
                  receive_bytes_per_s=WIRE, latency_s=0.0, layers=1, shared=shared)  # fmt: skip


def two(tokens, shared, times, **more):
    """One request that decodes 1,000 steps, and the cache of another that comes meanwhile."""
    requests = requests_of([0.0, 1.0], [1, tokens], [1001, 2])
    return apart(requests, path=path(shared, **more), times=lambda _: times, budget=1 << 20)


@pytest.mark.parametrize("tokens", [40, 400, 15_000])
def test_a_cache_and_steps_share_the_wire_as_two_halves(tokens):
    """A cache of S bytes takes d = S / (B (1 - c / T(2))), shorter than a step or as long as 300 of them, in which d /
    T(2) steps are done instead of d / T(1). All bytes together are what the wire can carry.
    """
    found = two(tokens, "network", steps_of())
    alone, shared = COMPUTES + SENDS, COMPUTES + 2 * SENDS
    size, room = tokens * 100.0, 1.0 - SENDS / shared
    took = size / (WIRE * room)
    assert found.first_token_s[1] - found.prefilled_s[1] == pytest.approx(took, rel=1e-6)
    lost = took * (1.0 - alone / shared)
    assert found.end_s[0] - found.first_token_s[0] == pytest.approx(1000 * alone + lost, rel=1e-6)
    steps = took / shared
    assert steps * SENDS * WIRE + size == pytest.approx(took * WIRE)


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5])
def test_a_cache_that_comes_slowly_takes_only_what_it_uses(part):
    """Its sender is slow: it has q of the wire all the time, and steps' bytes have the rest."""
    found = two(15_000, "network", steps_of(), send_bytes_per_s=part * WIRE)
    took = 1.5e6 / (part * WIRE)
    assert found.first_token_s[1] - found.prefilled_s[1] == pytest.approx(took, rel=1e-6)
    alone, slow = COMPUTES + SENDS, COMPUTES + SENDS / (1.0 - part)
    if part in (0.25, 0.5):  # points of the grid; between them times are straight lines
        done = min(1000 * alone, 1.0 + 1e9)
        lost = found.end_s[0] - found.first_token_s[0] - done
        within = min(took, found.end_s[0] - found.prefilled_s[1])
        assert lost == pytest.approx(within * (1.0 - alone / slow), rel=1e-3)
    assert found.end_s[0] - found.first_token_s[0] > 1000 * alone


def test_what_compute_hides_stays_hidden():
    found = two(15_000, "network", steps_of(0.010, 0.004, hidden=True))
    assert found.end_s[0] - found.first_token_s[0] == pytest.approx(10.0, rel=1e-6)
    assert found.first_token_s[1] - found.prefilled_s[1] > 1.5  # the cache waits all the same


def test_adapters_of_their_own_take_nothing():
    found = two(15_000, "", steps_of())
    assert found.end_s[0] - found.first_token_s[0] == pytest.approx(10.0, rel=1e-9)
    assert found.first_token_s[1] - found.prefilled_s[1] == pytest.approx(1.5, rel=1e-9)


def test_all_ranks_wait_for_the_one_whose_wire_is_shared():
    """Two ranks, caches of half the bytes to each at once: the steps of both are as long as with one of them."""
    requests = requests_of([0.0, 0.0, 1.0, 1.0], [1, 1, 4000, 4000], [1001, 1001, 2, 2])
    layout = Layout(ranks=2, rank_router="round-robin")
    found = apart(requests, path=path(), times=lambda _: steps_of(), layout=layout, budget=1 << 20)
    alone, shared = COMPUTES + SENDS, COMPUTES + 2 * SENDS
    lost = 0.4 / (1.0 - SENDS / shared) * (1.0 - alone / shared)
    assert (found.end_s - found.first_token_s)[:2] == pytest.approx([1000 * alone + lost] * 2, rel=1e-6)


@given(traffic(), st.booleans(), st.booleans(), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_single_steps_give_the_records_of_steps_together(asked, layer_wise, hidden, ranks):
    """And every request is served once, whatever its cache has met on its way."""
    requests = unlike_prompts(asked[0] if isinstance(asked, tuple) else asked)
    own = dataclasses.replace(path(), layer_wise=layer_wise, layers=4, bytes_per_token=900.0)
    times = steps_of(0.01037, 0.0091, hidden)
    runs = [
        apart(requests, path=own, times=lambda _: times, layout=Layout(ranks=ranks), together=together)
        for together in (True, False)
    ]
    for name in ("first_token_s", "end_s", "prefilled_s"):
        first, second = (getattr(one, name) for one in runs)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9)
    assert (runs[0].end_s >= runs[0].first_token_s).all()


# --- real steps -----------------------------------------------------------------------------------------------------

WIDE = [
    "model=qwen3-235b-a22b",
    "cluster=h200",
    "deployment={engine: sglang, attention_dp: 16, ep: 16, precision: {linear: fp8, experts: fp8}}",
    "prefill={deployment: {attention_dp: 8, ep: 8}, serving: {replicas: 4}, transfer: whole}",
    "workload={input_tokens: 16000, output_tokens: 200, request_rate: 8, num_requests: 120}",
]


@pytest.fixture(scope="module")
def wide():
    return load_scenario("deepseek-v3-h800", WIDE)


@pytest.fixture(scope="module")
def times(wide):
    return _pool_of(wide, Lengths(100, 100, 200, 16_000, 120), 64, shared="network").times()


def test_stretched_steps_are_those_of_a_slower_adapter(wide, times):
    """`serve` with a cache at full rate takes what `step` takes with half of the network."""
    for requests, context in (
        (times.decode.axes[1][3], times.decode.axes[2][1]),
        (1.0, times.decode.axes[2][-1]),
    ):
        for stretch in STRETCHES:
            own = {
                "deployment.phase": "decode",
                "deployment.batch_per_gpu": requests,
                "deployment.context_tokens": context,
            }
            deployment = wide.deployment.model_copy(
                update={
                    "phase": "decode",
                    "slowdown": wide.deployment.slowdown.model_copy(update={"network": stretch}),
                }
            )
            arrays = {key: np.array([value]) for key, value in own.items() if key != "deployment.phase"}
            one = with_arrays(wide.model_copy(update={"deployment": deployment}), arrays)
            expected = float(predict_steps(one).step_time_s[0])
            assert times.decode_s(requests, requests * context, 1.0, stretch) == pytest.approx(
                expected, rel=1e-9
            )


@given(st.integers(1, 64), st.floats(40, 15_000), st.sampled_from([0.0625, 0.3, 1.0]), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_wire_carries_more_than_it_can(wide, times, requests, context, even, wanted):
    """In a step of T seconds its own bytes take c and caches what they got: together at most T, to what interpolation
    leaves between points of the grid (1 %).
    """
    share = min(wanted, times.room(requests, even))
    seconds = times.decode_s(requests, requests * context, even, stretch_of(share))
    deployment = wide.deployment.model_copy(update={"phase": "decode"})
    arrays = {
        "deployment.batch_per_gpu": np.array([float(requests)]),
        "deployment.context_tokens": np.array([context]),
    }
    step = with_arrays(wide.model_copy(update={"deployment": deployment}), arrays)
    own = float(np.ravel(sending_s(step, "network"))[0])
    assert own > 0.0
    if even == 1.0:
        exact = requests in times.decode.axes[1]
        assert own + share * seconds <= seconds * (1.0 + (1e-6 if exact else 0.01))
    assert times.decode_s(requests, requests * context, even) <= seconds
    assert MOST <= times.room(requests, even) <= 1.0


def test_wide_decode_is_slowed_and_says_so_only_where_wires_are_shared(wide):
    beside = serve(wide).records
    network = wide.cluster.network.model_copy(update={"caches_apart": True})
    cluster = wide.cluster.model_copy(update={"network": network})
    alone = serve(wide.model_copy(update={"cluster": cluster})).records
    taken = [(one.first_token_s - one.prefilled_s).mean() for one in (beside, alone)]
    assert 1.05 < taken[0] / taken[1] < 2.0
    p99 = [np.percentile(np.repeat(one.gap_s, one.gap_count), 99) for one in (beside, alone)]
    assert 1.1 < p99[0] / p99[1] < 2.0


@pytest.mark.parametrize(
    ("sets", "wire"),
    [
        ((), "network"),
        (("cluster.network.caches_apart=true",), ""),
        (("deployment={engine: sglang, attention_tp: 8, moe_tp: 8}",), ""),  # steps stay in a node
        (("cluster=gb200",), "link"),  # all in one rack
    ],
)
def test_which_wire_is_shared(sets, wire):
    scenario = load_scenario("deepseek-v3-h800", [*WIDE, *sets])
    assert _path(scenario).shared == wire
    assert bool(_pool_of(scenario, Lengths(100, 100, 200, 300, 2), 2, shared=wire).times().sharing) == bool(
        wire
    )


def test_a_hash_does_not_change_for_what_nobody_states(wide):
    stated = load_scenario("deepseek-v3-h800", [*WIDE, "cluster.network.caches_apart=false"])
    assert stated.hash == wide.hash


@given(st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.lists(st.booleans(), max_size=2)))
@settings(max_examples=25, deadline=None)
def test_bad_input_is_one_line(value):
    cluster = {"base": "h200-ib", "network": {"caches_apart": value}}
    with pytest.raises(SpecError, match=r"caches_apart") as refused:
        load_scenario("deepseek-v3-h800", overrides_of(cluster))
    assert "\n" not in str(refused.value)


def overrides_of(cluster):
    import json

    return [f"cluster={json.dumps(cluster)}"]
