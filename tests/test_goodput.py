"""Goodput against rate: bounds, what a low rate gives, the same bytes again, and a search that can be stopped."""

from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import SpecError
from perfmodel.explore.goodput import (
    NEAR,
    POINTS,
    STRIDE,
    GoodputPoint,
    goodput_points,
    largest_good,
    next_speed,
)
from perfmodel.explore.speeds import at_speed, drawn_rate
from perfmodel.load import load_scenario
from perfmodel.output.charts.traffic import goodput_chart, latency_chart, load_chart, seconds_label
from perfmodel.output.serve.traffic_rows import latency_rows, load_rows

SLO = ["slo.ttft_ms=1000", "slo.tpot_ms=100"]


def answered(*sets, name="longcat-flash-h800", requests=500):
    return answer_serve(load_scenario(name, [f"workload.num_requests={requests}", *sets]))


@pytest.fixture(scope="module")
def run():
    return answered(*SLO)


@pytest.fixture(scope="module")
def points(run):
    return list(goodput_points(run.served))


# --- the points ------------------------------------------------------------------------------------------------------


def test_goodput_is_at_most_the_rate_and_all_of_it_where_requests_meet_nobody(points):
    assert len(points) == POINTS
    for point in points:
        assert (
            point.goodput_requests_per_s <= point.served_requests_per_s <= point.requests_per_s * (1 + 1e-12)
        )
        assert point.good_pct <= 100.0
    lowest = min(points, key=lambda point: point.speed)
    assert lowest.keeps_up
    assert lowest.goodput_requests_per_s == pytest.approx(lowest.requests_per_s, rel=2e-3)


def test_the_first_point_is_the_run_itself(points, run):
    own, values = points[0], run.values
    assert own.speed == 1.0
    assert own.requests_per_s == pytest.approx(499 / float(np.ptp(run.served.requests.arrival_s)))
    assert (
        values["requests_per_s"] < own.served_requests_per_s <= own.requests_per_s
    )  # without the run's tail
    assert own.ttft_p99_s == values["ttft_s"]["p99"]
    assert own.tpot_p99_s == values["tpot_s"]["p99"]
    assert (
        own.usd_per_million_output_tokens <= values["usd_per_million_output_tokens"]
    )  # without the run's tail


def test_cost_is_that_of_the_rate_for_ever_where_replicas_keep_up(points, run):
    """Price over rate times the mean output: what a run without an end would cost."""
    scenario, tokens = run.served.scenario, float(run.served.records.output_tokens.mean())
    dollars_per_s = scenario.prices.usd_per_gpu_hour * scenario.fleet_gpus / 3600.0
    for point in points:
        if point.keeps_up:
            steady = dollars_per_s / (point.requests_per_s * tokens) * 1e6
            assert point.usd_per_million_output_tokens == pytest.approx(steady, rel=0.05)


def test_another_point_is_what_the_command_line_says_of_a_faster_trace(points):
    other = next(point for point in points if point.speed > 1.0)
    values = answered(*SLO, f"workload.time_scale={other.speed!r}").values
    assert other.served_requests_per_s >= values["requests_per_s"]
    assert other.ttft_p99_s == pytest.approx(values["ttft_s"]["p99"])
    assert other.good_pct == pytest.approx(
        100.0 * values["goodput_requests_per_s"] / values["requests_per_s"]
    )


def test_the_same_again_and_from_where_it_was_stopped(points, run):
    assert list(islice(goodput_points(run.served), 2)) == points[:2]
    assert list(goodput_points(run.served, points[:-2])) == points[-2:]


def test_it_brackets_the_rate_at_which_objectives_fail(points):
    best = largest_good(points)
    failing = min(point.speed for point in points if not point.holds())
    assert best.holds()
    assert best.speed < failing <= NEAR * best.speed * 1.0001


@pytest.mark.parametrize("capacity", [0.003, 0.3, 1.0, 7.3, 900.0])
def test_speeds_find_any_capacity_without_looking_anywhere_twice(capacity):
    points = []
    for _ in range(14):
        speed = next_speed(points)
        assert speed not in [point.speed for point in points]
        good = 100.0 if speed <= capacity else 10.0
        points.append(
            GoodputPoint(speed, speed, speed, speed * good / 100, good, 0.1, 0.01, 1.0, keeps_up=speed < 2e3)
        )
    best = largest_good(points)
    assert capacity / STRIDE < best.speed <= capacity


def test_where_nothing_holds_there_is_no_largest_rate(points):
    bad = [replace(point, good_pct=50.0) for point in points]
    assert largest_good(bad) is None


def test_without_an_objective_nothing_is_good_and_the_search_is_for_what_keeps_up():
    free = answered(requests=300)
    found = list(goodput_points(free.served))
    assert {(point.goodput_requests_per_s, point.good_pct) for point in found} == {(None, None)}
    assert largest_good(found).keeps_up
    assert not min((p for p in found if not p.holds()), key=lambda p: p.speed).keeps_up
    figure = goodput_chart(pd.DataFrame([asdict(point) for point in found]), {})
    names = {trace.name for trace in figure.data}
    assert "served" in names
    assert not any("good" in name for name in names)
    assert "SLO" not in "".join(text for trace in figure.data for text in trace.customdata or ())
    assert all(np.isfinite(trace.y[0]) for trace in figure.data if trace.y[0] is not None)


def test_traffic_without_a_rate_is_refused():
    with pytest.raises(SpecError, match="max_concurrency"):
        next(goodput_points(answered("workload.request_rate=inf", "workload.max_concurrency=8").served))
    with pytest.raises(SpecError, match="at once"):
        next(goodput_points(answered("workload.request_rate=inf").served))


def test_speed_moves_sessions_and_leaves_pauses():
    own = [
        "workload.trace=''", "workload.request_rate=2", "workload.turns=3", "workload.turn_tokens=50",
        "workload.tool_pause_s=4",
    ]  # fmt: skip
    requests = answered(*own, requests=90).served.requests
    faster = at_speed(requests, 2.0)
    assert drawn_rate(faster) == pytest.approx(2.0 * drawn_rate(requests))
    later = requests.parent >= 0
    assert (faster.arrival_s[later] == requests.arrival_s[later]).all()


# --- rows and charts -------------------------------------------------------------------------------------------------


def test_latency_rows_have_the_percentiles_of_the_answer(run):
    rows = latency_rows(run.served)
    for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("E2E", "e2e_s")):
        own = rows[rows.quantity == name]
        assert own.seconds.is_monotonic_increasing
        for pct in (50.0, 90.0, 99.0):
            (seconds,) = own[own.pct == pct].seconds
            assert seconds == pytest.approx(run.values[key][f"p{pct:g}"])


def test_load_rows_keep_the_extremes_and_end_with_nothing(run):
    runs = run.served.records.load.runs
    whole, few = load_rows(run.served, most=10**9), load_rows(run.served, most=100)
    for name, column in (
        ("waiting", runs.waiting),
        ("in progress", runs.held),
        ("decode batch", runs.requests),
    ):
        for rows in (whole, few):
            own = rows[rows.quantity == name]
            assert own.value.max() == column.max()
            assert own.at_s.is_monotonic_increasing
            assert own.value.iloc[-1] == 0.0
        assert len(few[few.quantity == name]) <= 102
    held = whole[whole.quantity == "in progress"]
    mean = float((held.value.iloc[:-1] * np.diff(held.at_s)).sum() / np.ptp(held.at_s))
    records = run.served.records
    law = float((records.end_s - records.scheduled_s).sum() / np.ptp(held.at_s))
    assert mean == pytest.approx(
        law, rel=0.05
    )  # Little's law, but for requests that end within a run of steps


def test_load_rows_add_replicas_up_and_tell_pools_apart():
    two = load_rows(answered("serving.replicas=2", requests=200).served, most=10**9)
    assert set(two.pool) == {""}
    assert two[two.quantity == "in progress"].value.max() > 0
    apart = load_rows(answered(name="longcat-flash-h800-pd", requests=200).served)
    assert set(apart.pool) == {"decode", "prefill"}


def test_charts_say_what_they_show(run, points):
    latency = latency_chart(latency_rows(run.served), {"TTFT": 1.0})
    assert len(latency.data) == 3
    assert any("TTFT p99" in text for text in latency.data[0].customdata)
    assert [note.text for note in latency.layout.annotations] == ["TTFT SLO 1.00 s"]
    assert len(load_chart(load_rows(run.served)).data) == 3
    figure = goodput_chart(pd.DataFrame([asdict(point) for point in points]), {"TPOT": 0.1})
    assert {"goodput", "TTFT p99", "TPOT p99", "this run's rate"} <= {trace.name for trace in figure.data}
    one = goodput_chart(pd.DataFrame([asdict(replace(points[0], tpot_p99_s=None))]), {})
    assert "no TPOT" in one.data[1].customdata[0]


def test_keys_of_a_legend_differ_and_a_latency_looks_the_same_in_every_chart(run, points):
    """Goodput, TTFT and dollars had the same key: a blue line with dots."""
    figures = [
        goodput_chart(pd.DataFrame([asdict(point) for point in points]), {}),
        latency_chart(latency_rows(run.served), {}),
    ]
    for figure in figures:
        lines = [(trace.line.color, trace.line.dash) for trace in figure.data if trace.mode != "markers"]
        assert len({colour for colour, _ in lines}) == len(lines)
    by_name = [{trace.name[:4]: (trace.line.color, trace.line.dash) for trace in one.data} for one in figures]
    for name in ("TTFT", "TPOT"):
        assert by_name[0][name] == by_name[1][name]


def test_ticks_have_units():
    assert [seconds_label(s) for s in (3e-4, 1e-2, 3.0, 1000.0)] == ["300 µs", "10 ms", "3 s", "1,000 s"]
