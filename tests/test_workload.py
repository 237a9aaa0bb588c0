"""Workloads: what arrives when, and how long it is.

Samples are of 200,000 draws: a mean of them is known to std / 450, so four standard errors are below 1 % for every
distribution here; tolerances say how many standard errors they are.
"""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perfmodel.errors import DataError, SpecError
from perfmodel.serving.draws import draw_arrivals
from perfmodel.serving.requests import NONE, Requests, requests_of
from perfmodel.spec.messages import describe
from perfmodel.spec.workload import MAX_TOKENS, Ramp, Workload

N = 200_000
COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "parent", "prefix", "prefix_tokens", "think_s")
SESSIONS = {
    "turns": {"min": 1, "max": 8},
    "turn_tokens": {"mean": 300},
    "tool_pause_s": {"mean": 2.0},
    "input_tokens": {"mean": 900, "std": 700},
    "output_tokens": {"min": 5, "max": 400},
}


def made(seed=0, **keys):
    return requests_of(Workload(**keys), seed)


def inputs(**distribution):
    return made(num_requests=N, input_tokens=distribution).input_tokens


def within(found, expected, error, standard_errors=4):
    assert abs(found - expected) < standard_errors * error, (found, expected, error)


# Lengths.


def test_without_anything_it_is_vllms_random_data_set():
    requests = made()
    assert requests.num_requests == 1000
    assert set(requests.input_tokens) == {1024}
    assert set(requests.output_tokens) == {128}
    assert not requests.arrival_s.any()
    assert set(requests.parent) == set(requests.prefix) == {NONE}
    assert requests.max_concurrency is None


def test_uniform_has_both_ends_and_all_between_equally_often():
    drawn = inputs(min=10, max=19)
    counts = np.bincount(drawn, minlength=20)
    assert not counts[:10].any()
    assert counts.sum() == N
    # binomial: sqrt(N p (1 - p)); an end with half the weight would be 75 standard errors off
    assert np.abs(counts[10:] - N / 10).max() < 4.5 * math.sqrt(N * 0.1 * 0.9)


def test_lognormal_has_the_stated_mean_and_spread():
    drawn = inputs(mean=1000, std=500).astype(float)
    within(drawn.mean(), 1000, 500 / math.sqrt(N))
    logs = np.log(drawn)  # normal, so its own spread is known to 1 / sqrt(2 N)
    spread = math.sqrt(math.log(1.25))
    within(logs.std(), spread, spread / math.sqrt(2 * N), 5)
    within(np.median(drawn), 1000 / math.sqrt(1.25), 1.26 * 500 / math.sqrt(N))


def test_lognormal_without_spread_is_its_mean():
    assert set(inputs(mean=1000, std=0)) == {1000}


def test_draws_beyond_max_become_max():
    free, cut = inputs(mean=1000, std=2000), inputs(mean=1000, std=2000, min=200, max=3000)
    assert np.array_equal(cut, np.clip(free, 200, 3000))
    assert (cut == 3000).sum() > 1000


def test_a_mean_alone_is_geometric_from_one():
    drawn = inputs(mean=8)
    within(drawn.mean(), 8, math.sqrt(56 / N))  # variance (1 - p) / p^2
    assert drawn.min() == 1
    within((drawn == 1).mean(), 1 / 8, math.sqrt(7 / 64 / N))


def test_pauses_with_a_mean_are_exponential():
    pauses = made(num_requests=N, turns=2, turn_tokens=1, tool_pause_s={"mean": 3.0}).arrival_s[1::2]
    within(pauses.mean(), 3.0, 3.0 / math.sqrt(N / 2))
    within((pauses > 3.0).mean(), math.exp(-1), math.sqrt(0.37 * 0.63 / (N / 2)))


def test_empirical_values_come_with_their_own_frequency():
    drawn = made(num_requests=N, output_tokens=[7, 7, 7, 900]).output_tokens
    assert set(drawn) == {7, 900}
    within((drawn == 7).mean(), 0.75, math.sqrt(0.75 * 0.25 / N))


def test_prefix_is_added_in_front_and_shared_equally():
    requests = made(num_requests=N, input_tokens=100, prefix_tokens=50, num_prefixes=4)
    assert set(requests.input_tokens) == {150}
    assert set(requests.prefix_tokens) == {50}
    counts = np.bincount(requests.prefix)
    assert len(counts) == 4
    assert np.abs(counts - N / 4).max() < 4.5 * math.sqrt(N * 0.25 * 0.75)


# Arrivals.


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gaps_vary_as_their_burstiness_says(shape):
    arrival = made(num_requests=N, request_rate=50, burstiness=shape).arrival_s
    gaps = np.diff(arrival, prepend=0.0)
    cv = 1 / math.sqrt(shape)
    within(gaps.mean(), 1 / 50, cv / 50 / math.sqrt(N))
    # spread of a sample's cv: about cv sqrt(kurtosis) / (2 sqrt(N)); 6 / shape is a gamma's excess kurtosis
    within(gaps.std() / gaps.mean(), cv, cv * math.sqrt(2 + 6 / shape) / (2 * math.sqrt(N)), 5)


def test_infinite_burstiness_is_constant():
    for value in ("inf", math.inf):
        arrival = made(num_requests=5, request_rate=4, burstiness=value).arrival_s
        assert arrival == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])


def test_large_burstiness_tends_to_constant():
    arrival = made(num_requests=1000, request_rate=4, burstiness=1e8).arrival_s
    assert arrival == pytest.approx(np.arange(1, 1001) / 4, abs=1e-2)


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_a_ramp_in_time_has_the_count_of_its_integral(strategy):
    ramp = Ramp(strategy=strategy, start_rate=20, end_rate=180, duration_s=1000)
    arrival = draw_arrivals(ramp, 1.0, np.random.default_rng(0), N)

    def expected(t):
        if strategy == "linear":
            return 20 * t + (180 - 20) * t * t / 2000
        return 20 * 1000 / math.log(9) * (9 ** (t / 1000) - 1)

    for t in (100, 500, 900, 1000):
        within((arrival <= t).sum(), expected(t), math.sqrt(expected(t)))  # Poisson counts
    after = ((arrival > 1000) & (arrival <= 1300)).sum()
    within(after, 180 * 300, math.sqrt(180 * 300))


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 9.0), (9.0, 1.0), (3.0, 3.0)])
def test_a_ramp_in_time_with_constant_gaps_hits_every_whole_integral(strategy, start, end):
    arrival = draw_arrivals(
        Ramp(strategy=strategy, start_rate=start, end_rate=end, duration_s=60),
        "inf",
        np.random.default_rng(0),
        400,
    )
    t = np.linspace(0, 60, 600_001)
    rate = start + (end - start) * t / 60 if strategy == "linear" else start * (end / start) ** (t / 60)
    integral = np.concatenate(([0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(t))))
    inside = arrival[arrival < 60]
    assert integral[-1] - 1.001 <= len(inside) <= integral[-1] + 0.001  # one may fall on the edge itself
    assert np.interp(inside, t, integral) == pytest.approx(np.arange(1, len(inside) + 1), abs=1e-4)
    assert np.diff(arrival[arrival > 60]) == pytest.approx(1 / end)


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_a_ramp_over_requests_has_vllms_rates(strategy):
    ramp = {"strategy": strategy, "start_rate": 2.0, "end_rate": 32.0}
    gaps = np.diff(made(num_requests=5, ramp=ramp, burstiness="inf").arrival_s, prepend=0.0)
    rates = [2, 9.5, 17, 24.5, 32] if strategy == "linear" else [2, 4, 8, 16, 32]
    assert 1 / gaps == pytest.approx(rates)


def test_closed_loop_is_all_at_once_with_slots():
    requests = made(max_concurrency=64, num_requests=N, think_time_s={"mean": 5.0})
    assert requests.max_concurrency == 64
    assert not requests.arrival_s.any()
    within(requests.think_s.mean(), 5.0, 5.0 / math.sqrt(N))


# Streams.


def columns_of(requests: Requests):
    return {name: getattr(requests, name).tobytes() for name in COLUMNS}


def test_same_seed_same_bytes_and_another_seed_others():
    keys = dict(SESSIONS, request_rate=3, num_requests=5000, prefix_tokens=20, num_prefixes=3)
    assert columns_of(made(**keys)) == columns_of(made(**keys))
    first, other = columns_of(made(**keys)), columns_of(made(1, **keys))
    assert all(
        first[name] != other[name] for name in ("arrival_s", "input_tokens", "output_tokens", "prefix")
    )


BASE = {
    "request_rate": 3,
    "burstiness": 0.5,
    "num_requests": 2000,
    "input_tokens": {"mean": 500},
    "output_tokens": {"mean": 90},
}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"input_tokens": {"min": 1, "max": 9}}, {"input_tokens"}),
        ({"output_tokens": [3, 4]}, {"output_tokens"}),
        ({"request_rate": 5}, {"arrival_s"}),
        ({"burstiness": 2}, {"arrival_s"}),
        ({"prefix_tokens": 7, "num_prefixes": 3}, {"prefix", "prefix_tokens", "input_tokens"}),
        ({"request_rate": "inf", "burstiness": 1, "max_concurrency": 4, "think_time_s": {"mean": 1}},
         {"arrival_s", "think_s"}),
    ],
)  # fmt: skip
def test_a_source_of_randomness_changes_nothing_but_its_own(change, changed):
    before, after = columns_of(made(**BASE)), columns_of(made(**{**BASE, **change}))
    assert {name for name in COLUMNS if before[name] != after[name]} == changed


def test_sources_do_not_share_numbers():
    drawn = made(request_rate=1, num_requests=N, input_tokens={"mean": 500}, output_tokens={"mean": 500})
    gaps = np.diff(drawn.arrival_s, prepend=0)
    pairs = [
        (gaps, drawn.input_tokens),
        (gaps, drawn.output_tokens),
        (drawn.input_tokens, drawn.output_tokens),
    ]
    for one, other in pairs:
        within(np.corrcoef(one, other)[0, 1], 0.0, 1 / math.sqrt(N))


def test_more_requests_begin_with_the_same_ones():
    few, many = made(**BASE), made(**{**BASE, "num_requests": 4000})
    assert np.array_equal(few.arrival_s, many.arrival_s[:2000])
    assert np.array_equal(few.input_tokens, many.input_tokens[:2000])


def test_columns_can_not_be_written():
    requests = made(**BASE)
    for name in COLUMNS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(requests, name)[0] = 1


# Sessions.


def test_prompts_of_a_session_grow_by_answer_and_new_tokens():
    requests = made(
        request_rate=1, num_requests=8, turns=4, input_tokens=100, output_tokens=[7], turn_tokens=[30],
        tool_pause_s=1.5, prefix_tokens=1000,
    )  # fmt: skip
    assert list(requests.input_tokens) == [1100, 1137, 1174, 1211] * 2
    assert list(requests.parent) == [-1, 0, 1, 2, -1, 4, 5, 6]
    assert list(requests.child) == [1, 2, 3, -1, 5, 6, 7, -1]
    assert list(requests.roots) == [0, 4]
    assert list(requests.history_tokens) == [0, 1107, 1144, 1181] * 2
    assert list(requests.arrival_s[[1, 2, 3, 5, 6, 7]]) == [1.5] * 6
    roots = made(request_rate=1, num_requests=2).arrival_s
    assert np.array_equal(requests.arrival_s[[0, 4]], roots)
    assert set(requests.prefix) == {0}


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    seed=st.integers(0, 2**31),
    turns=st.integers(1, 12),
    limit=st.none() | st.integers(600, 5000),
    prefix=st.integers(0, 100),
)
def test_sessions_conserve_tokens_and_stay_within_their_context(n, seed, turns, limit, prefix):
    keys = {
        "turns": {"min": 1, "max": turns},
        "turn_tokens": {"min": 1, "max": 300},
        "input_tokens": {"min": 1, "max": 300},
        "output_tokens": {"min": 1, "max": 200},
        "tool_pause_s": {"min": 0.5, "max": 1.0},
    }
    if turns == 1:
        keys["turns"], limit = {"min": 1, "max": 1}, None
    r = made(seed, num_requests=n, request_rate=2, max_context_tokens=limit, prefix_tokens=prefix, **keys)
    assert r.num_requests == n
    rows = np.arange(n)
    follows = r.parent >= 0
    assert r.parent[0] == NONE
    assert np.array_equal(r.parent[follows], rows[follows] - 1)
    # every prompt is its parent's prompt, its answer, and at least one new token
    new = r.input_tokens - r.history_tokens
    assert ((new >= 1) & (new <= 300 + np.where(follows, 0, prefix))).all()
    assert (new[~follows] > prefix).all()
    assert (np.diff(r.arrival_s[~follows], prepend=0.0) > 0).all()
    assert ((r.arrival_s[follows] >= 0.5) & (r.arrival_s[follows] <= 1.0)).all()
    lengths = np.diff(np.append(r.roots, n))
    assert lengths.max() <= turns
    if limit is not None:
        assert (r.input_tokens + r.output_tokens <= limit).all()


def test_a_context_limit_ends_sessions_and_not_before():
    keys = {"turns": 50, "turn_tokens": 100, "input_tokens": 100, "output_tokens": [50], "request_rate": 1}
    requests = made(num_requests=1000, max_context_tokens=1000, **keys)
    # prompts 100, 250, .. 850, 1000: the seventh would need 1000 + 50
    assert sorted(set(requests.input_tokens)) == [100, 250, 400, 550, 700, 850]
    assert len(requests.roots) == math.ceil(1000 / 6)


def test_sessions_have_the_mean_number_of_turns():
    requests = made(num_requests=N, request_rate=1, **SESSIONS)
    lengths = np.diff(np.append(requests.roots, N))[:-1]
    assert set(lengths) == set(range(1, 9))
    within(lengths.mean(), 4.5, math.sqrt(63 / 12 / len(lengths)))


def test_a_request_longer_than_its_limit_is_refused():
    keys = {"turns": 2, "turn_tokens": 1, "output_tokens": 1}
    with pytest.raises(SpecError, match=r"max_context_tokens = 500"):
        made(max_context_tokens=500, input_tokens={"min": 1, "max": 600}, **keys)
    with pytest.raises(SpecError, match=f"{MAX_TOKENS:,}"):
        made(input_tokens=MAX_TOKENS, **keys)


# Traces as workloads.


def test_a_trace_brings_times_and_lengths():
    requests = made(trace="azure-conv-2023")
    assert requests.num_requests == 19366
    assert requests.arrival_s[[0, -1]] == pytest.approx([0, 3501.721937])
    assert requests.input_tokens[0], requests.output_tokens[0] == (374, 44)


def test_time_scale_speeds_a_trace_up():
    slow, fast = made(trace="azure-code-2023"), made(trace="azure-code-2023", time_scale=4)
    assert fast.arrival_s == pytest.approx(slow.arrival_s / 4)


def test_a_window_of_a_trace_starts_at_zero():
    whole = made(trace="azure-conv-2023")
    part = made(trace="azure-conv-2023", start_s=600, duration_s=300, time_scale=2)
    rows = np.flatnonzero((whole.arrival_s >= 600) & (whole.arrival_s < 900))
    assert part.arrival_s == pytest.approx((whole.arrival_s[rows] - 600) / 2)
    assert np.array_equal(part.output_tokens, whole.output_tokens[rows])
    first = made(trace="azure-conv-2023", start_s=600, num_requests=5)
    assert np.array_equal(first.input_tokens, whole.input_tokens[rows[:5]])


def test_a_trace_may_lend_its_lengths_alone():
    closed = made(trace="azure-conv-2023", request_rate="inf", max_concurrency=8, num_requests=50)
    assert not closed.arrival_s.any()
    paced = made(trace="azure-conv-2023", request_rate=2, num_requests=50)
    assert np.array_equal(paced.arrival_s, made(request_rate=2, num_requests=50).arrival_s)
    assert np.array_equal(paced.input_tokens, closed.input_tokens)


def test_a_result_without_times_needs_a_rate(tmp_path):
    path = tmp_path / "sglang.jsonl"
    path.write_text(
        json.dumps({"completed": 2, "total_throughput": 1, "input_lens": [5, 6], "output_lens": [1, 2]})
    )
    with pytest.raises(DataError, match=r"request_rate"):
        made(trace=str(path))
    assert list(made(trace=str(path), request_rate="inf").output_tokens) == [1, 2]


# What contradicts itself.


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"max_concurrency": 0}, "max_concurrency = 0"),
        ({"burstiness": 0, "request_rate": 1}, "burstiness: 0: must be a number above 0"),
        ({"request_rate": -1}, "request_rate: -1: must be a number above 0"),
        ({"request_rate": math.nan}, "request_rate: nan: must be"),
        ({"request_rate": True}, "request_rate = True: must be"),
        ({"request_rate": "fast"}, "request_rate: fast: must be"),
        ({"burstiness": 2}, "burstiness = 2.*needs request_rate or ramp"),
        ({"input_tokens": {"min": 5, "max": 4}}, "input_tokens: min = 5 exceeds max = 4"),
        ({"input_tokens": {"min": 5}}, "input_tokens: has min: give a number"),
        ({"input_tokens": {}}, "input_tokens: has no keys"),
        ({"input_tokens": {"mean": 5, "value": 4}}, "input_tokens: has value, mean: give"),
        ({"input_tokens": {"std": 5}}, "input_tokens: has std: give"),
        ({"input_tokens": {"mean": 50, "max": 40}}, "input_tokens: mean = 50 must lie between"),
        ({"input_tokens": "long"}, "input_tokens: must be a number"),
        ({"input_tokens": True}, "input_tokens: must be a number"),
        ({"input_tokens": 0}, "input_tokens holds 0: each must be a whole number from 1 to 10,000,000"),
        ({"input_tokens": 10_000_001}, "input_tokens holds 1e\\+07: .* to 10,000,000"),
        ({"output_tokens": 1.5}, "output_tokens holds 1.5: each must be a whole number"),
        ({"output_tokens": [1, -2]}, "values.* = -2"),
        ({"output_tokens": {"mean": 0.5}}, "output_tokens has mean = 0.5: must be from 1"),
        ({"input_tokens": {"ratio": 0.8}}, "ratio: unknown key"),
        ({"num_requests": 10_000_001}, "num_requests = 10000001"),
        ({"num_requests": 0}, "num_requests = 0"),
        ({"num_prefixes": 2}, "num_prefixes = 2: give prefix_tokens"),
        ({"turns": 3}, "turns: give turn_tokens"),
        ({"turns": 0, "turn_tokens": 1}, "turns holds 0"),
        ({"turns": 5000, "turn_tokens": 1}, "turns holds 5000.* to 1,000"),
        ({"turn_tokens": 3}, "turn_tokens: belongs to sessions"),
        ({"tool_pause_s": 3}, "tool_pause_s: belongs to sessions"),
        ({"max_context_tokens": 300}, "max_context_tokens: belongs to sessions"),
        ({"turns": 2, "turn_tokens": 1, "max_context_tokens": 300}, "no request fits, the shortest has 1152"),
        ({"think_time_s": 1}, "think_time_s: belongs to a closed loop"),
        ({"think_time_s": 1, "max_concurrency": 4, "request_rate": 3}, "think_time_s: in a closed loop"),
        ({"think_time_s": 1e8, "max_concurrency": 4}, "think_time_s holds 1e\\+08"),
        ({"ramp": {"strategy": "linear", "start_rate": 1, "end_rate": 2}, "request_rate": 3}, "leave request_rate out"),
        ({"ramp": {"strategy": "linear", "start_rate": 0, "end_rate": 2}}, "ramp.start_rate = 0"),
        ({"ramp": {"strategy": "step", "start_rate": 1, "end_rate": 2}}, "ramp.strategy = 'step'"),
        ({"trace": "azure-conv-2023", "input_tokens": 5}, "input_tokens: trace = azure-conv-2023 has its own"),
        ({"trace": "azure-conv-2023", "prefix_tokens": 5}, "prefix_tokens: trace = azure-conv-2023"),
        ({"trace": "azure-conv-2023", "turns": 5, "turn_tokens": 1}, "turn_tokens: trace"),
        ({"trace": "azure-conv-2023", "time_scale": 2, "request_rate": 1}, "time_scale: arrivals follow"),
        ({"trace": "azure-conv-2023", "burstiness": 2}, "burstiness = 2.*a trace's own times"),
        ({"trace": "azure-conv-2023", "think_time_s": 2, "max_concurrency": 4}, "request_rate: inf"),
        ({"time_scale": 2}, "time_scale: belongs to a trace"),
        ({"duration_s": 2}, "duration_s: belongs to a trace"),
        ({"trace_format": "azure"}, "trace_format: belongs to a trace"),
        ({"speed": 2}, "speed: unknown key"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_one_clear_error(keys, text):
    with pytest.raises(ValidationError) as raised:
        Workload(**keys)
    message = describe(raised.value)
    assert raised.value.error_count() == 1, message
    assert re.search(text, message), message


def test_a_workload_survives_json():
    for keys in (
        {"request_rate": math.inf, "max_concurrency": 3},
        {
            "request_rate": 2.5,
            "burstiness": "inf",
            "input_tokens": [1, 2],
            "output_tokens": {"mean": 5, "std": 2},
        },
        {"trace": "azure-conv-2023", "time_scale": 2},
        {"ramp": {"strategy": "linear", "start_rate": 1, "end_rate": 2}, **SESSIONS},
    ):
        workload = Workload(**keys)
        text = workload.model_dump_json()
        json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
        assert Workload.model_validate_json(text) == workload


def test_a_negative_seed_is_refused():
    with pytest.raises(SpecError, match="seed = -1"):
        made(-1, request_rate=1)
