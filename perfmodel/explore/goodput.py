"""Goodput against rate: a run's own traffic, faster and slower, and how much of it keeps the objectives.

A run of finite length ends with a tail in which nobody comes any more; over the whole span, rates would look the lower
the faster requests come. So rates are taken here up to the last first token: requests that keep every objective, over
the time from the first arrival until the last request has begun its answer. Where replicas keep up that is the share of
good requests times the rate; where they don't, prompts queue and it falls behind. It is never more than the rate.

Short runs are kind: a queue takes time to grow (:mod:`perfmodel.explore.fleet`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perfmodel.economics.requests import serving_metrics
from perfmodel.errors import SpecError
from perfmodel.explore.fleet import ALONE, Progress, behind, faster, fixed_rate, offered_rate
from perfmodel.serving.serve import Served, serve
from perfmodel.spec.scenario import Scenario
from perfmodel.units import HOUR, MEGA, PERCENT

POINTS = 10
"""Rates that are simulated, where no number is stated."""
HOLDS_PCT = 90.0
"""Share of good requests down to which a rate counts as held, while rates are chosen."""
NEAR = 1.1
"""The rate at which that changes is found within a factor of it."""
AROUND = 4.0
"""Further rates show what lies below, down to so many times less, and what lies between."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """What users and the operator get at one rate."""

    speed: float
    """Times as fast as the run's own traffic: 2 halves every gap between arrivals."""
    requests_per_s: float
    """Asked."""
    goodput_requests_per_s: float
    """Requests per second that keep every stated objective."""
    good_pct: float
    """Share of requests that do."""
    keeps_up: bool
    """Whether this could go on: no queue grows, nor is much left after the last arrival."""
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float | None
    """None where no output has a second token."""
    tpot_p99_s: float | None
    usd_per_million_output_tokens: float
    """All cost on the output: at this rate for ever where replicas keep up, else over the run's whole span."""

    @property
    def holds(self) -> bool:
        """Whether users would call it served."""
        return self.keeps_up and self.good_pct >= HOLDS_PCT


def goodput_curve(
    served: Served,
    *,
    known: Sequence[RatePoint] = (),
    points: int = POINTS,
    progress: Progress | None = None,
) -> Iterator[RatePoint]:
    """Points of the curve one after the other, each simulated when it is asked for, until there are ``points``.

    Which rate comes next follows from the points before alone. So a curve that was left early goes on with its first
    points as ``known``, and gets the same ones as if it had never stopped. All replicas serve, without faults.

    Raises:
        SpecError: the traffic has no rate that could be changed.
    """
    fixed = fixed_rate(served)
    if fixed:
        raise SpecError(f"goodput against rate: {fixed}")
    found = {point.speed: point for point in known}
    while len(found) < points:
        speed = next_speed(found)
        if speed is None:
            return
        found[speed] = rate_point(served, speed, progress=progress)
        yield found[speed]


def next_speed(found: Mapping[float, RatePoint]) -> float | None:
    """Where to look next: double or halve until users are no longer served (or are), close in on that, then around it.

    None: neither the slowest nor the fastest traffic changes the answer.
    """
    if not found:
        return 1.0
    bad = [speed for speed, point in found.items() if not point.holds]
    slowest, fastest = min(found), max(found)
    if not bad:
        return 2.0 * fastest if fastest < ALONE else None
    good = [speed for speed, point in found.items() if point.holds and speed < min(bad)]
    if not good:
        return slowest / 2.0 if slowest > 1.0 / ALONE else None
    if min(bad) > NEAR * max(good):
        return float((min(bad) * max(good)) ** 0.5)
    if fastest < 2.0 * min(bad):
        return 2.0 * fastest
    if slowest > max(good) / AROUND:
        return slowest / 2.0
    ordered = sorted(found)
    low, high = max(pairwise(ordered), key=lambda gap: gap[1] / gap[0])
    return float((low * high) ** 0.5)


def rate_point(served: Served, speed: float, *, progress: Progress | None = None) -> RatePoint:
    """The run's traffic ``speed`` times as fast, through the same replicas."""
    scenario: Scenario = served.scenario.model_copy(update={"faults": ()})
    if speed == 1.0 and not served.scenario.faults:
        done = served
    else:
        done = serve(scenario, requests=faster(served.requests, speed), fleet=served.fleet, progress=progress)
    found = serving_metrics(done.records, scenario)
    good = found["goodput_requests_per_s"] / found["requests_per_s"]
    begun, keeps_up = _begun_per_s(done), not behind(done)
    usd = found["usd_per_million_output_tokens"]
    if keeps_up:
        tokens = float(done.records.output_tokens.mean())
        usd = scenario.prices.usd_per_gpu_hour * scenario.fleet_gpus / HOUR / (begun * tokens) * MEGA
    tpot = found["tpot_s"] or {"p50": None, "p99": None}
    return RatePoint(
        speed=speed,
        requests_per_s=speed * offered_rate(served.requests),
        goodput_requests_per_s=good * begun,
        good_pct=PERCENT * good,
        keeps_up=keeps_up,
        ttft_p50_s=found["ttft_s"]["p50"],
        ttft_p99_s=found["ttft_s"]["p99"],
        tpot_p50_s=tpot["p50"],
        tpot_p99_s=tpot["p99"],
        usd_per_million_output_tokens=usd,
    )


def _begun_per_s(served: Served) -> float:
    """Requests per second, from the first arrival until the last session has its first token."""
    records, roots = served.records, served.requests.roots
    span = float(records.first_token_s[roots].max() - records.arrival_s[roots].min())
    return (len(roots) - 1) / span * served.requests.num_requests / len(roots)
