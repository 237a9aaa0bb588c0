"""Replicas for a day's traffic: arithmetic by hand, the largest rate by simulation, options that say too little."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_serve import node
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore import fleet
from perfmodel.explore.fleet import TOLERANCE, Traffic, fastest, with_fleet
from perfmodel.explore.speeds import drawn_rate, repeated
from perfmodel.report.content import build_report
from perfmodel.report.part import Options
from perfmodel.serving.serve import serve
from perfmodel.serving.stretch import stretched

SLO = ["slo.ttft_ms=400", "slo.tpot_ms=30"]


def traffic(rate=2, requests=150, *more):
    return node(
        f"workload.request_rate={rate}",
        f"workload.num_requests={requests}",
        "workload.output_tokens=100",
        *more,
    )


def fleet_of(scenario, **keys):
    return with_fleet(answer_serve(scenario), Traffic(**({"peak_to_mean": 2.0} | keys))).values


@pytest.fixture(scope="module")
def served():
    return serve(traffic(2, 150, *SLO))


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_by_throughput_by_hand():
    values = fleet_of(traffic(2, 150, "prices.usd_per_gpu_hour=3"), requests_per_day=8.64e6, peak_to_mean=2.5)
    found, size = values["fleet"], values["fleet"]["by_throughput"]
    assert found["peak_requests_per_s"] == pytest.approx(250.0)
    assert found["tokens_per_day"] == pytest.approx(8.64e6 * (1024 + 100))
    assert size["requests_per_s_per_replica"] == pytest.approx(values["requests_per_s"])
    assert size["replicas"] == int(np.ceil(250.0 / values["requests_per_s"]))
    assert size["num_gpus"] == 8 * size["replicas"]
    assert size["usd_per_day"] == pytest.approx(size["num_gpus"] * 3 * 24)
    assert size["usd_per_month"] == pytest.approx(size["usd_per_day"] * 365 / 12)
    assert found["by_slo"] is None
    json.dumps(found, allow_nan=False)


def test_tokens_and_requests_per_day_are_two_ways_to_say_it():
    scenario = traffic()
    by_requests = fleet_of(scenario, requests_per_day=1e6)["fleet"]
    by_tokens = fleet_of(scenario, tokens_per_day=1e6 * 1124)["fleet"]
    assert by_tokens["requests_per_day"] == pytest.approx(1e6)
    assert by_tokens["by_throughput"] == by_requests["by_throughput"]


def test_a_run_of_several_replicas_counts_per_replica():
    values = fleet_of(traffic(4, 150, "serving.replicas=2"), requests_per_day=1e6)
    rate = values["fleet"]["by_throughput"]["requests_per_s_per_replica"]
    assert rate == pytest.approx(values["requests_per_s"] / 2)


def test_little_traffic_takes_a_whole_replica():
    assert fleet_of(traffic(), requests_per_day=10)["fleet"]["by_throughput"]["replicas"] == 1


# --- the largest rate -----------------------------------------------------------------------------------------------


def test_the_rate_found_keeps_the_objectives_and_a_higher_one_does_not(served):
    found = fastest(served, 91.0)  # no whole number of the 150 requests
    assert found.limited_by == "slo"
    arrivals = served.requests.arrival_s
    own = (len(arrivals) - 1) / np.ptp(arrivals)
    speed = found.requests_per_s / own
    shares = []
    for faster in (1.0, TOLERANCE):
        values = answer_serve(traffic(2 * speed * faster, 150, *SLO)).values
        shares.append(100 * values["goodput_requests_per_s"] / values["requests_per_s"])
    assert shares[0] == pytest.approx(found.good_pct)
    assert shares[0] >= 91.0 > shares[1]


@pytest.mark.parametrize("start", [0.05, 40.0])
def test_where_the_search_starts_matters_little(served, start):
    found = fastest(serve(traffic(start, 150, *SLO)), 90.0)
    assert found.requests_per_s == pytest.approx(fastest(served, 90.0).requests_per_s, rel=TOLERANCE - 1.0)


def test_more_is_asked_and_less_is_found(served):
    rates = [fastest(served, pct).requests_per_s for pct in (50.0, 90.0, 99.0)]
    assert rates == sorted(rates, reverse=True)
    slower = fastest(served, 90.0, fleet=stretched(served.fleet, 1.1, 1.1)).requests_per_s
    assert slower < fastest(served, 90.0).requests_per_s


def test_without_a_limit_that_binds_a_replica_must_keep_up():
    found = fastest(serve(traffic(2, 150, "slo.e2e_ms=1e6")), 99.0)
    assert found.limited_by == "throughput"
    assert found.good_pct == pytest.approx(100.0)
    values = fleet_of(traffic(2, 150, "slo.e2e_ms=1e6"), requests_per_day=1e7)
    assert any("keeps up with" in text for text in values["warnings"])
    values = answer_serve(traffic(4 * found.requests_per_s, 150)).values
    assert any("faster than they are served" in text for text in values["warnings"])


def test_sessions_and_traces_are_sped_up_too():
    turns = ["workload.turns=3", "workload.turn_tokens=50", "workload.tool_pause_s=1"]
    sessions = serve(traffic(1, 90, *turns, "slo.ttft_ms=250"))
    found = fastest(sessions, 90.0)
    assert 1.0 < found.requests_per_s < 100.0
    azure = serve(node("workload.trace=azure-conv-2023", "workload.num_requests=150", "slo.tpot_ms=25"))
    assert fastest(azure, 90.0).requests_per_s > 0.1


def test_replicas_follow_from_the_rate():
    values = fleet_of(traffic(2, 150, *SLO), requests_per_day=8.64e6, good_pct=90.0)
    size = values["fleet"]["by_slo"]
    assert size["replicas"] == int(np.ceil(200.0 / size["requests_per_s_per_replica"]))
    assert size["good_pct"] == 90.0 <= size["found_good_pct"]
    assert size["runs"] > 2


def test_two_replicas_are_searched_as_one(served):
    found = fastest(serve(traffic(4, 150, *SLO, "serving.replicas=2")), 90.0)
    assert found.requests_per_s == pytest.approx(fastest(served, 90.0).requests_per_s, rel=0.1)


def test_model_intervals_reach_the_replicas():
    answer = answer_serve(traffic(2, 150, *SLO), repeats=8)
    values = with_fleet(answer, Traffic(2.0, requests_per_day=8.64e6, good_pct=90.0)).values
    low, high = values["intervals"]["fleet.by_slo.replicas"]
    assert low < values["fleet"]["by_slo"]["replicas"] < high
    assert values["intervals"]["fleet.by_slo.num_gpus"] == [8 * low, 8 * high]
    alone = answer_serve(traffic(2, 1)).values["tpot_s"]["mean"] * 1e3
    tight = answer_serve(
        traffic(2, 150, f"slo.tpot_ms={1.05 * alone}", "deployment.step_log_std=0.1"), repeats=8
    )
    values = with_fleet(tight, Traffic(2.0, requests_per_day=8.64e6)).values
    assert values["fleet"]["by_slo"]["replicas"] is not None
    assert "fleet.by_slo.replicas" not in values["intervals"]
    assert any("as slow as one draw in ten" in text for text in values["warnings"])


def test_few_requests_are_said_to_be_few():
    words = "too few to be sure of the rate"
    few = fleet_of(traffic(2, 150, *SLO), requests_per_day=1e6)["warnings"]
    assert any(f"2 of 150 requests may miss the objectives, {words}" in text for text in few)
    half = fleet_of(traffic(2, 150, *SLO), requests_per_day=1e6, good_pct=50.0)["warnings"]
    assert not any(words in text for text in half)


def test_an_objective_that_nobody_keeps_has_no_number_of_replicas():
    values = fleet_of(traffic(2, 20, "slo.ttft_ms=1"), requests_per_day=1e6)
    size = values["fleet"]["by_slo"]
    assert size["replicas"] is None
    assert size["usd_per_month"] is None
    assert size["found_good_pct"] == 0.0
    assert any("no number of replicas" in text for text in values["warnings"])
    json.dumps(values["fleet"], allow_nan=False)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (["workload.max_concurrency=4"], "max_concurrency"),
        (["workload.num_requests=5"], "all requests come at once"),
        (
            ["workload.ramp={strategy: linear, start_rate: 1, end_rate: 3}", "workload.num_requests=30"],
            "ramp",
        ),
        (["workload.request_rate=2", "workload.num_requests=1"], "at one time"),
    ],
)
def test_traffic_without_a_rate_is_sized_by_throughput_alone(own, words):
    values = fleet_of(
        node("workload.output_tokens=20", "workload.num_requests=30", *own, "slo.ttft_ms=500"),
        requests_per_day=1e6,
    )
    assert values["fleet"]["by_slo"] is None
    assert values["fleet"]["by_throughput"]["replicas"] >= 1
    assert any("no replicas by the objectives" in text and words in text for text in values["warnings"])


# --- bad input, and the command -------------------------------------------------------------------------------------


def test_more_replicas_than_there_can_be():
    with pytest.raises(InfeasibleError, match="more than 1,000,000,000 replicas"):
        fleet_of(traffic(0.001, 5), requests_per_day=1e15)


SHORT = ["serve", "longcat-flash-h800", "--set", "workload.num_requests=40"]
DAY = ["--fleet-requests-per-day", "5e6"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DAY, "state --fleet-peak-to-mean"),
        (["--fleet-peak-to-mean", "2"], "give --fleet-requests-per-day"),
        (["--fleet-good-pct", "95"], "give --fleet-requests-per-day"),
        ([*DAY, "--fleet-tokens-per-day", "1e9", "--fleet-peak-to-mean", "2"], "not both"),
        ([*DAY, "--fleet-peak-to-mean", "0.5"], "at least 1"),
        ([*DAY, "--fleet-peak-to-mean", "nan"], "at least 1"),
        (["--fleet-requests-per-day", "0", "--fleet-peak-to-mean", "2"], "requests per day = 0"),
        (["--fleet-tokens-per-day", "-5", "--fleet-peak-to-mean", "2"], "tokens per day = -5"),
        (["--fleet-requests-per-day", "inf", "--fleet-peak-to-mean", "2"], "requests per day = inf"),
        ([*DAY, "--fleet-peak-to-mean", "2", "--fleet-good-pct", "101"], "at most 100"),
    ],
)
def test_options_that_say_too_little_or_too_much(options, message):
    done = CliRunner().invoke(app, [*SHORT, *options])
    assert isinstance(done.exception, SpecError)
    assert message in str(done.exception)


def test_the_command_prints_both_answers():
    options = [*SHORT, "--set", "slo.ttft_ms=2000", *DAY, "--fleet-peak-to-mean", "2.5"]
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0
    for text in ("5,000,000 requests per day", "peak 2.5 times", "by throughput", "by SLO", "99 % keep it"):
        assert text in shown.stdout
    values = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert values["fleet"]["by_slo"]["num_gpus"] == 128 * values["fleet"]["by_slo"]["replicas"]
    assert "fleet" not in json.loads(CliRunner().invoke(app, [*SHORT, "--json"]).stdout)


def test_with_prefill_apart_the_whole_scenario_is_what_a_fleet_has_several_of():
    apart = (
        "prefill={deployment: {engine: sglang, attention_tp: 8, dense_tp: 8, ep: 8}, serving: {replicas: 2}}"
    )
    answer = answer_serve(traffic(20, 200, "slo.ttft_ms=2000", "slo.tpot_ms=60", apart, "serving.replicas=3"))
    sized = with_fleet(answer, Traffic(2.0, requests_per_day=1e7)).values["fleet"]
    for size in (sized["by_throughput"], sized["by_slo"]):
        assert size["num_gpus"] == size["replicas"] * 5 * 8
    assert sized["by_slo"]["requests_per_s_per_replica"] > 0.0


@pytest.mark.parametrize("requests", [30, 400, 2_000])
def test_a_server_is_not_sold_for_more_than_it_can_do(requests):
    """One request at a time, an objective that nobody misses: the rate is the server's own."""
    alone = node("workload.num_requests=1", "workload.output_tokens=100")
    capacity = 1.0 / float(serve(alone).records.end_s[0])
    even = ["workload.burstiness=inf", "serving.max_running=1", "slo.e2e_ms=1e9"]
    found = fastest(serve(traffic(2, requests, *even)), 99.0)
    assert found.requests_per_s == pytest.approx(capacity, rel=0.15)
    assert found.limited_by == "throughput"


def test_a_short_run_is_made_longer_where_its_own_length_sets_the_rate():
    """Requests take seconds, so that a run of 40 is over before the first of them has ended: its queue only grows."""
    rates = [fastest(serve(traffic(2, n, "slo.ttft_ms=5000")), 99.0) for n in (40, 2_000)]
    assert rates[0].times > 1
    assert rates[0].limited_by == rates[1].limited_by
    assert rates[0].requests_per_s == pytest.approx(rates[1].requests_per_s, rel=0.25)


def test_a_run_that_can_not_be_made_long_enough_concludes_nothing(monkeypatch):
    monkeypatch.setattr(fleet, "MOST_REQUESTS", {"compiled": 100, "plain": 100})
    scenario = traffic(2, 40, "slo.e2e_ms=1e9", "prices.usd_per_gpu_hour=3")
    found = fleet_of(scenario, requests_per_day=1e7)
    assert found["fleet"]["by_slo"]["replicas"] is None
    assert found["fleet"]["by_slo"]["limited_by"] == "length"
    assert any("can't be concluded from a run of 40 requests" in text for text in found["dangers"])
    part = build_report([scenario], Options(traffic=Traffic(2.0, requests_per_day=1e7))).values["scenarios"][
        0
    ]
    assert part["decision"] is None
    assert "can't be concluded" in part["decision_reason"]


def test_requests_that_come_again_are_new_ones_at_the_same_pace():
    asked = serve(traffic(2, 12, "workload.turns=3", "workload.turn_tokens=50")).requests
    asked = replace(asked, hash_ids=np.arange(12), hash_offsets=np.arange(13))  # a block of its own each
    again = repeated(asked, 3)
    assert again.num_requests == 36
    assert len(set(again.hash_ids.tolist())) == 36
    assert again.hash_offsets.tolist() == list(range(37))
    assert drawn_rate(again) == pytest.approx(drawn_rate(asked), rel=0.2)
    roots, own = again.roots, asked.roots
    assert np.ptp(np.diff(again.arrival_s[roots]).reshape(-1)[: len(own) - 1]) == pytest.approx(
        np.ptp(np.diff(asked.arrival_s[own]))
    )
    children = again.parent >= 0
    assert (again.parent[children] == np.flatnonzero(children) - 1).all()
    assert repeated(asked, 1) is asked
