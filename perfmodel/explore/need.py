"""What a day's traffic needs: replicas for its busiest time, how many if step times are off, and what users then see.

The rate of one replica is the largest at which requests keep the objectives (:mod:`perfmodel.explore.fleet`); where a
scenario states none, the largest with which a replica keeps up; in a closed loop, which has no rate of its own, what
the run served, made longer until every user has had LEAST_ROUNDS requests. The ends of the 80 % interval are the same
search with step times as fast, and as slow, as one draw of the model's spread in ten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any, Literal

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.requests import serving_metrics
from perfmodel.explore.fleet import (
    GOOD_PCT,
    Fastest,
    Progress,
    fastest,
    fastest_beside,
    second_half,
    unit_of,
    units_of,
    unsettled,
)
from perfmodel.explore.plan.simulate import steady
from perfmodel.explore.speeds import at_speed, drawn_rate, fixed_rate, repeated
from perfmodel.serving.conditions import Fleet
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import Served, serve
from perfmodel.serving.spread import run_spread
from perfmodel.serving.stretch import stretched
from perfmodel.spec.slo import Slo
from perfmodel.step import common_log_std
from perfmodel.uncertainty import QUANTILES

Basis = Literal["slo", "keeping up", "closed loop"]
LEAST_ROUNDS = 8
"""Requests per user of a closed loop, below which its beginning and its end are much of it."""
LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s_per_user")


@dataclass(frozen=True, slots=True)
class Need:
    """Requests per second of one replica, and how sure that is."""

    basis: Basis
    """What sets the rate."""
    requests_per_s: float | None
    """Of one replica (of the whole scenario where prefill is apart); None: no rate keeps the objectives."""
    fast_requests_per_s: float | None
    """With step times as fast as one draw in ten; None: not known, or none keeps them."""
    slow_requests_per_s: float | None
    gpus: int
    """Of one replica."""
    times: int = 1
    """How often the run's requests come in the run that settles the rate."""
    reason: str = ""
    """Why no rate is known; empty: it is, or none keeps the objectives."""

    def replicas(self, peak_requests_per_s: float) -> int | None:
        """For so many requests per second."""
        return replicas_for(peak_requests_per_s, self.requests_per_s)


def replicas_for(peak_requests_per_s: float, per_replica: float | None) -> int | None:
    """Whole replicas that take the peak; None where no rate is known."""
    return None if per_replica is None else max(1, ceil(peak_requests_per_s / per_replica))


def need_of(answer: ServeAnswer, *, good_pct: float = GOOD_PCT, progress: Progress | None = None) -> Need:
    """The rates of one replica of a run whose ``fleet`` is known (:func:`perfmodel.explore.fleet.with_fleet`)."""
    served, scenario = answer.served, answer.scenario
    gpus = unit_of(scenario).fleet_gpus
    known = answer.values["fleet"]["by_slo"]
    ends = _ends(answer)
    if fixed_rate(served):
        times = _rounds(served.requests)
        here = _closed(answer, served.fleet, times)
        rates: list[float | None] = [_closed(answer, fleet, times) for fleet in ends] or [None, None]
        return Need("closed loop", here, rates[0], rates[1], gpus, times)
    wanted = good_pct if scenario.slo != Slo() else 0.0

    basis: Basis = "slo" if known else "keeping up"
    if known:
        middle = Fastest(
            *(
                known[key]
                for key in ("requests_per_s_per_replica", "found_good_pct", "limited_by", "runs", "times")
            )
        )
    else:
        middle = fastest(served, wanted, progress=progress)
    if middle.requests_per_s is None:
        short = middle.limited_by == "length"
        why = unsettled(served.requests.num_requests, middle.times) if short else ""
        return Need(basis, None, None, None, gpus, middle.times, why)
    found = [fastest_beside(served, wanted, middle, fleet, progress).requests_per_s for fleet in ends]
    low, high = found or [None, None]
    return Need(basis, middle.requests_per_s, low, high, gpus, middle.times)


def _ends(answer: ServeAnswer) -> list[Fleet]:
    """Step times at the fast and at the slow end of the model's 80 % interval; empty where its spread is not known."""
    served, scenario = answer.served, answer.scenario
    spread = run_spread(scenario, served.records.load.runs, common_log_std=common_log_std(scenario))
    if spread is None:
        return []
    return [stretched(served.fleet, *spread.at(NormalDist().inv_cdf(share))) for share in QUANTILES]


def _rounds(requests: Requests) -> int:
    """How often the requests of a closed loop must come for its users to have had enough of them; 1: once will do."""
    if requests.max_concurrency is None:
        return 1
    return max(
        1, ceil(LEAST_ROUNDS * min(requests.max_concurrency, len(requests.roots)) / len(requests.roots))
    )


def _closed(answer: ServeAnswer, fleet: Fleet, times: int) -> float:
    """Requests per second and replica of the closed loop with these step times."""
    if times == 1 and fleet is answer.served.fleet:
        return float(answer.values["requests_per_s"]) / units_of(answer.scenario)
    done = _again(answer, fleet, times)
    found = steady(done) if times > 1 else serving_metrics(done.records, done.scenario)
    return float(found["requests_per_s"]) / units_of(answer.scenario)


def _again(answer: ServeAnswer, fleet: Fleet, times: int) -> Served:
    """The closed loop with these step times, its requests coming so often."""
    served = answer.served
    longer = second_half(answer.scenario, served.requests.num_requests, times)
    return serve(longer, requests=repeated(served.requests, times), fleet=fleet)


def at_peak(answer: ServeAnswer, requests_per_s: float, times: int = 1) -> Mapping[str, Any]:
    """What users of one replica see while it gets so many requests per second: LATENCIES, each with mean, p50, p90 and
    p99; of a run whose requests come so many ``times``, once it has settled. A closed loop's are the run's own.
    """
    served = answer.served
    if fixed_rate(served):
        if times == 1:
            return {key: answer.values[key] for key in LATENCIES}
        done = _again(answer, served.fleet, times)
        found = serving_metrics(done.records, done.scenario)
        return {key: found[key] for key in LATENCIES}
    own = second_half(unit_of(answer.scenario), served.requests.num_requests, times)
    requests = repeated(served.requests, times)
    done = serve(own, requests=at_speed(requests, requests_per_s / drawn_rate(requests)), fleet=served.fleet)
    found = serving_metrics(done.records, own)
    return {key: found[key] for key in LATENCIES}
