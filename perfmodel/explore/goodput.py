"""Goodput against rate: the same requests, faster and slower, and how many of them keep every objective.

**Which rates.** From the run's own rate it goes up or down by STRIDE until one rate holds and the next does not (enough
requests keep the objectives, and the replicas keep up), halves that interval to NEAR, and spends what is left on wide
gaps and on lower rates. Every next rate follows from the points that are there, so a search can be stopped and go on.

**Rates** are taken up to the last first token. A run of finite length ends with a tail in which nobody comes any more:
over the whole span rates would look the lower, and tokens the dearer, the faster requests come. So what is served, and
goodput as its share that keeps every objective, count over the time from the first arrival until the last session has
begun its answer: where replicas keep up, what is served is the rate; where they don't, less. Without an objective there
is no goodput.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perfmodel.economics.rates import usd_per_million
from perfmodel.economics.requests import serving_metrics
from perfmodel.errors import SpecError
from perfmodel.explore.fleet import GOOD_PCT
from perfmodel.explore.speeds import at_speed, behind, drawn_rate, fixed_rate
from perfmodel.serving.cluster import Progress
from perfmodel.serving.serve import Served, serve
from perfmodel.spec.slo import Slo
from perfmodel.units import PERCENT

POINTS = 8
STRIDE = 4.0
"""Factor between rates until the first and the last good one are known."""
NEAR = 1.25
"""The largest rate that holds and the smallest that does not are this factor apart, then."""


@dataclass(frozen=True, slots=True)
class GoodputPoint:
    """One rate."""

    speed: float
    """Times the run's own rate."""
    requests_per_s: float
    """Requests that arrive per second."""
    served_requests_per_s: float
    """Requests per second that begin to be answered, until the last of them does; at most the rate."""
    goodput_requests_per_s: float | None
    """Of those served, the ones that keep every objective; None: the scenario states no objective."""
    good_pct: float | None
    """Their share; None: no objective."""
    ttft_p99_s: float
    tpot_p99_s: float | None
    """None: every request has one output token."""
    usd_per_million_output_tokens: float
    """All cost on the output: at this rate for ever where replicas keep up, else over the run's whole span."""
    keeps_up: bool
    """False: the queue grows as long as requests come."""

    def holds(self, good_pct: float = GOOD_PCT) -> bool:
        """Whether enough requests keep the objectives, for as long as they come."""
        return self.keeps_up and (self.good_pct is None or self.good_pct >= good_pct)


def goodput_points(
    served: Served,
    found: Sequence[GoodputPoint] = (),
    *,
    most: int = POINTS,
    progress: Progress | None = None,
) -> Iterator[GoodputPoint]:
    """Points one after the other, in the order of the search, after those that are ``found`` already, ``most`` in all.

    Replicas are healthy: faults have a time of their own, which another speed would leave behind.

    Raises:
        SpecError: the traffic has no rate that could be changed.
    """
    why = fixed_rate(served)
    if why:
        raise SpecError(f"no goodput against rate: {why}")
    points = list(found)
    while len(points) < most:
        points.append(_point(served, next_speed(points), progress))
        yield points[-1]


def next_speed(points: Sequence[GoodputPoint]) -> float:
    """Where to look next, times the run's own rate."""
    if not points:
        return 1.0
    speeds = sorted(point.speed for point in points)
    failing = min((point.speed for point in points if not point.holds()), default=None)
    if failing is None:
        return STRIDE * speeds[-1]
    below = [speed for speed in speeds if speed < failing]
    if not below:
        return failing / STRIDE
    if failing > NEAR * below[-1]:
        return float((below[-1] * failing) ** 0.5)
    settled = sorted(point.speed for point in points if point.keeps_up)
    widest, low, high = max((high / low, low, high) for low, high in pairwise([below[0] / 2.0, *settled]))
    return float((low * high) ** 0.5) if widest > STRIDE / 2.0 else below[0] / 2.0


def largest_good(points: Sequence[GoodputPoint]) -> GoodputPoint | None:
    """The largest rate that holds, below the first that does not; None: not even the smallest does."""
    failing = min((point.speed for point in points if not point.holds()), default=float("inf"))
    return max(
        (point for point in points if point.speed < failing), key=lambda point: point.speed, default=None
    )


def _point(served: Served, speed: float, progress: Progress | None) -> GoodputPoint:
    """One rate, simulated (the run itself, where it is its own rate)."""
    scenario = served.scenario.model_copy(update={"faults": ()})
    done = served
    if speed != 1.0 or served.scenario.faults:
        done = serve(
            scenario, requests=at_speed(served.requests, speed), fleet=served.fleet, progress=progress
        )
    found = serving_metrics(done.records, scenario)
    keeps_up = not behind(done)
    share = None if scenario.slo == Slo() else found["goodput_requests_per_s"] / found["requests_per_s"]
    begun, usd, tpot = _begun_per_s(done), found["usd_per_million_output_tokens"], found["tpot_s"]
    if keeps_up:  # at this rate for ever
        tokens = float(done.records.output_tokens.mean())
        usd = float(usd_per_million(scenario.fleet_usd_per_gpu_hour, begun * tokens / scenario.fleet_gpus))
    return GoodputPoint(
        speed=speed,
        requests_per_s=speed * drawn_rate(served.requests),
        served_requests_per_s=begun,
        goodput_requests_per_s=None if share is None else share * begun,
        good_pct=None if share is None else PERCENT * share,
        ttft_p99_s=found["ttft_s"]["p99"],
        tpot_p99_s=None if tpot is None else tpot["p99"],
        usd_per_million_output_tokens=usd,
        keeps_up=keeps_up,
    )


def _begun_per_s(served: Served) -> float:
    """Requests per second, from the first arrival until the last session has its first token."""
    records, roots = served.records, served.requests.roots
    span = float(records.first_token_s[roots].max() - records.arrival_s[roots].min())
    return (len(roots) - 1) / span * served.requests.num_requests / len(roots)
