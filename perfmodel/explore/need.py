"""What a day's traffic needs: replicas for its busiest time, how many if step times are off, and what users then see.

The rate of one replica is the largest at which requests keep the objectives (:mod:`perfmodel.explore.fleet`); where a
scenario states none, the largest with which a replica keeps up; in a closed loop, which has no rate of its own, what
the run served. The ends of the 80 % interval are the same search with step times as fast, and as slow, as one draw of
the model's spread in ten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any, Literal

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.requests import serving_metrics
from perfmodel.explore.fleet import GOOD_PCT, Fastest, Progress, fastest, unit_of, units_of
from perfmodel.explore.speeds import at_speed, drawn_rate, fixed_rate
from perfmodel.serving.conditions import Fleet
from perfmodel.serving.serve import serve
from perfmodel.serving.spread import run_spread
from perfmodel.serving.stretch import stretched
from perfmodel.spec.slo import Slo
from perfmodel.step import common_log_std
from perfmodel.uncertainty import QUANTILES

Basis = Literal["slo", "keeping up", "closed loop"]
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
        here = answer.values["requests_per_s"] / units_of(scenario)
        rates: list[float | None] = [_closed(answer, fleet) for fleet in ends] or [None, None]
        return Need("closed loop", here, rates[0], rates[1], gpus)
    wanted = good_pct if scenario.slo != Slo() else 0.0

    def rate(fleet: Fleet) -> float | None:
        return _finite(fastest(served, wanted, fleet=fleet, progress=progress))

    middle = known["requests_per_s_per_replica"] if known else rate(served.fleet)
    basis: Basis = "slo" if known else "keeping up"
    if middle is None:
        return Need(basis, None, None, None, gpus)
    found = [rate(fleet) for fleet in ends] or [None, None]
    return Need(basis, middle, found[0], found[1], gpus)


def _finite(found: Fastest) -> float | None:
    return found.requests_per_s


def _ends(answer: ServeAnswer) -> list[Fleet]:
    """Step times at the fast and at the slow end of the model's 80 % interval; empty where its spread is not known."""
    served, scenario = answer.served, answer.scenario
    spread = run_spread(scenario, served.records.load.runs, common_log_std=common_log_std(scenario))
    if spread is None:
        return []
    return [stretched(served.fleet, *spread.at(NormalDist().inv_cdf(share))) for share in QUANTILES]


def _closed(answer: ServeAnswer, fleet: Fleet) -> float:
    """Requests per second and replica of the closed loop with other step times."""
    scenario = answer.scenario
    again = serve(scenario, requests=answer.served.requests, fleet=fleet, core=answer.served.core)
    return float(serving_metrics(again.records, scenario)["requests_per_s"]) / units_of(scenario)


def at_peak(answer: ServeAnswer, requests_per_s: float) -> Mapping[str, Any]:
    """What users of one replica see while it gets so many requests per second: LATENCIES, each with mean, p50, p90 and
    p99. A closed loop's are the run's own.
    """
    served = answer.served
    if fixed_rate(served):
        return {key: answer.values[key] for key in LATENCIES}
    own = unit_of(answer.scenario)
    speed = requests_per_s / drawn_rate(served.requests)
    done = serve(own, requests=at_speed(served.requests, speed), fleet=served.fleet)
    found = serving_metrics(done.records, own)
    return {key: found[key] for key in LATENCIES}
