"""How many replicas a day's traffic takes: two answers to one question, from a run that has been simulated.

Of a day only its busiest time matters: peak requests/s = requests per day / 86,400 s x ``peak_to_mean``, which whoever
asks must state. Rates are means over a stretch as long as the run, so the peak is the busiest such stretch: what
changes within it (a trace has busy minutes of its own) is in the run already. Replicas are rented all day.

**By throughput**: the peak over what one replica of the run served per second. Arithmetic, and true to the run's own
load alone: where it waited for requests it could have served more, where it fell behind its users waited. A run that
kept up gives enough replicas to keep up, whatever users wait (``bound`` is "upper"), one that fell behind too few
("lower").

**By objective** (``slo``): the peak over the largest request rate of one replica at which enough requests keep every
objective, found by simulation: the scenario's traffic for one replica, sped up and slowed down by bisection. A rate
counts only if the replica keeps up, too: what is left after the last arrival takes at most half as long as the arrivals
did, and the queue has ceased to grow. A short run is all beginning, in which requests in the system only grow, whatever
the rate: so a rate that this sets is believed once a run LONGER times as long, of the same requests again and again,
finds it within SETTLED. Several replicas behind a router do a little better than one each, so the number is rather too
large. Where the answer has model intervals, so have these replicas.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from statistics import NormalDist
from typing import Any

from perfmodel.answers.caveats import Caveat, danger, note, with_caveats
from perfmodel.answers.serve import ServeAnswer
from perfmodel.answers.serve_intervals import worth_sharing
from perfmodel.economics.requests import serving_metrics
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.speeds import at_speed, behind, drawn_rate, fixed_rate, repeated
from perfmodel.serving.conditions import Fleet
from perfmodel.serving.cores import Core, chosen
from perfmodel.serving.serve import Served, serve
from perfmodel.serving.spread import Spread
from perfmodel.serving.stretch import stretched
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.uncertainty import QUANTILES
from perfmodel.units import HOUR, PERCENT
from perfmodel.workers import each

HOURS_PER_DAY = 24.0
DAYS_PER_MONTH = 365.0 / 12.0
DAY = HOURS_PER_DAY * HOUR
GOOD_PCT = 99.0
"""Share of requests that must keep the objectives, where none is stated."""
TOLERANCE = 1.02
"""The rate is found within a factor of it."""
FEW = 30.0
"""Requests that may miss the objectives, below which chance decides."""
ALONE = 2.0**20
"""So many times slower, requests meet nobody; so many times faster, they come at once."""
LONGER, SETTLED = 4, 1.1
"""How much longer a run is made to see whether the rate that replicas keep up with depends on its length, and the
factor within which it does not."""
MOST_REQUESTS = {"compiled": 200_000, "plain": 20_000}
"""Of a run that was made longer: some ten of them take seconds."""
MOST_REPLICAS = 10**9

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a day brings."""

    peak_to_mean: float
    """Requests per second in the day's busiest stretch, one as long as the run, over those of the mean second."""
    requests_per_day: float | None = None
    tokens_per_day: float | None = None
    """Prompts' and outputs', instead of requests; a request has as many as the run's mean one."""
    good_pct: float = GOOD_PCT

    def __post_init__(self) -> None:
        if (self.requests_per_day is None) == (self.tokens_per_day is None):
            raise SpecError(
                "a day's traffic is stated in requests or in tokens, not both: give one of the two"
            )
        for name, value, low, high in (
            ("requests per day", self.requests_per_day, 0.0, 1e15),
            ("tokens per day", self.tokens_per_day, 0.0, 1e18),
            ("good requests, %", self.good_pct, 0.0, PERCENT),
        ):
            if value is not None and not low < value <= high:
                raise SpecError(f"{name} = {value:g}: must be above {low:g} and at most {high:g}")
        if not 1.0 <= self.peak_to_mean <= DAY:
            raise SpecError(
                f"peak to mean = {self.peak_to_mean:g}: must be at least 1 (an even day) and at most {DAY:,.0f}"
            )


def daily_traffic(
    requests_per_day: float | None,
    tokens_per_day: float | None,
    peak_to_mean: float | None,
    good_pct: float | None,
) -> Traffic | None:
    """Traffic from the command line's options; None where none is given.

    Raises:
        SpecError: options that say too little or too much, or a value out of range.
    """
    if requests_per_day is None and tokens_per_day is None:
        for name, value in (("--fleet-peak-to-mean", peak_to_mean), ("--fleet-good-pct", good_pct)):
            if value is not None:
                raise SpecError(
                    f"{name} {value:g}: give --fleet-requests-per-day or --fleet-tokens-per-day, too"
                )
        return None
    if peak_to_mean is None:
        raise SpecError(
            "a fleet is sized for the day's busiest time: state --fleet-peak-to-mean, its requests per second over "
            "the day's mean (1: an even day)"
        )
    return Traffic(peak_to_mean, requests_per_day, tokens_per_day, GOOD_PCT if good_pct is None else good_pct)


@dataclass(frozen=True, slots=True)
class Size:
    """Replicas for the peak, and what they cost."""

    requests_per_s_per_replica: float
    replicas: int
    num_gpus: int
    usd_per_day: float
    usd_per_month: float
    """Of 365 / 12 days."""


@dataclass(frozen=True, slots=True)
class Fastest:
    """The largest request rate at which one replica keeps the objectives."""

    requests_per_s: float | None
    """None: not even requests that come alone keep them, or even all at once do."""
    good_pct: float
    """Share of requests that keep them there."""
    limited_by: str
    """What fails just above: "slo", or "throughput" (the replica does not keep up); "requests": nothing does, there are
    too few of them; "length": the replica did not keep up, and a run too short to say so is all there is (then
    ``requests_per_s`` is None)."""
    runs: int
    """Simulated to find it."""
    times: int = 1
    """How often the run's requests came, one time after the other, in the run that settled it."""


def with_fleet(
    answer: ServeAnswer,
    traffic: Traffic,
    *,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> ServeAnswer:
    """The same answer with ``fleet`` (SI units) and what is to be said about it.

    An ``executor`` shares out the searches for the rate's bounds; the figures are the same. ``by_slo`` is
    None where the scenario states no objective, or its traffic has no rate that could be changed; its replicas are None
    where no rate keeps the objectives.

    Raises:
        InfeasibleError: more replicas than anyone has.
    """
    scenario, values = answer.scenario, answer.values
    caveats: list[Caveat] = []
    per_s = values["requests_per_s"]
    tokens = values["num_gpus"] * values["total_tokens_per_s_per_gpu"] / per_s
    per_day = traffic.requests_per_day or (traffic.tokens_per_day or 0.0) / tokens
    peak = per_day / DAY * traffic.peak_to_mean
    by_slo = None
    fixed = fixed_rate(answer.served)
    if scenario.slo == Slo():
        caveats.append(note(NO_OBJECTIVE))
    elif fixed:
        caveats.append(note(f"fleet: no replicas by the objectives: {fixed}"))
    else:
        found, *ends = _searched(answer, traffic.good_pct, progress, executor)
        caveats += _said(found, traffic.good_pct, values["requests"])
        if found.requests_per_s is not None and ends:
            bounds, said = _interval(scenario, ends, peak)
            values, caveats = values | {"intervals": values["intervals"] | bounds}, caveats + said
        by_slo = {
            **_size(peak, found.requests_per_s, scenario),
            "good_pct": traffic.good_pct,
            "found_good_pct": found.good_pct,
            "limited_by": found.limited_by,
            "runs": found.runs,
            "times": found.times,
        }
    fleet = {
        "requests_per_day": per_day,
        "tokens_per_day": per_day * tokens,
        "peak_to_mean": traffic.peak_to_mean,
        "peak_requests_per_s": peak,
        "by_slo": by_slo,
        "by_throughput": {
            **_size(peak, per_s / units_of(scenario), scenario),
            "bound": _bound(answer),
        },
    }
    return replace(answer, values=with_caveats(values, caveats) | {"fleet": fleet})


NO_OBJECTIVE = (
    "fleet: no objective is stated, so nothing says how long requests may wait: state slo.ttft_ms and slo.tpot_ms to "
    "find the replicas that keep them"
)


def _bound(answer: ServeAnswer) -> str | None:
    """What replicas by throughput are of those that keep up: "lower" bound where the run fell behind its requests, else
    "upper"; None in a closed loop, which waits.
    """
    if answer.served.requests.max_concurrency is not None:
        return None
    return "lower" if behind(answer.served) else "upper"


def _searched(
    answer: ServeAnswer, good_pct: float, progress: Progress | None, executor: Executor | None
) -> list[Fastest]:
    """The largest rate; and, where the answer has intervals, the one with all steps as fast, and the one with all as
    slow, as one draw of the model's spread in ten.
    """
    served, draws = answer.served, answer.values.get("interval_draws")
    found = fastest(served, good_pct, progress=progress)
    if draws is None or found.requests_per_s is None:
        return [found]
    spread = Spread(**{name: draws[name] for name in Spread.__slots__})
    fleets = [stretched(served.fleet, *spread.at(NormalDist().inv_cdf(share))) for share in QUANTILES]
    if executor is None or not worth_sharing(served.requests, draws["repeats"]):
        return [found, *(fastest_beside(served, good_pct, found, fleet, progress) for fleet in fleets)]
    return [found, *each(partial(fastest_beside, served, good_pct, found), fleets, executor=executor)]


def _interval(
    scenario: Scenario, ends: Sequence[Fastest], peak: float
) -> tuple[dict[str, list[int]], list[Caveat]]:
    """The 80 % interval of replicas and GPUs by the objectives; or, where no rate keeps the objectives at one of its
    ends, words about it.
    """
    if any(found.requests_per_s is None for found in ends):
        slow = "fleet: with steps as slow as one draw in ten, no number of replicas keeps the objectives"
        return {}, [note(slow)]
    sizes = [_size(peak, found.requests_per_s, scenario) for found in ends]
    return {f"fleet.by_slo.{key}": [size[key] for size in sizes] for key in ("replicas", "num_gpus")}, []


def units_of(scenario: Scenario) -> int:
    """Of what the fleet has several: replicas, or the whole scenario where prefill is apart."""
    return scenario.serving.replicas if scenario.prefill is None else 1


def unit_of(scenario: Scenario) -> Scenario:
    """One of them, healthy."""
    serving = scenario.serving.model_copy(
        update={"replicas": scenario.serving.replicas // units_of(scenario)}
    )
    return scenario.model_copy(update={"serving": serving, "faults": ()})


def _size(peak: float, per_replica: float | None, scenario: Scenario) -> dict[str, Any]:
    """The keys of :class:`Size`; None each where no rate is known."""
    if per_replica is None:
        return dict.fromkeys(Size.__slots__)
    if peak > MOST_REPLICAS * per_replica:
        raise InfeasibleError(
            f"fleet: a peak of {peak:,.0f} requests/s takes more than {MOST_REPLICAS:,} replicas of {per_replica:.3g}: "
            "state less traffic"
        )
    replicas = max(1, ceil(peak / per_replica))
    gpus = replicas * unit_of(scenario).fleet_gpus
    usd_per_day = gpus * scenario.fleet_usd_per_gpu_hour * HOURS_PER_DAY
    return asdict(Size(per_replica, replicas, gpus, usd_per_day, usd_per_day * DAYS_PER_MONTH))


def _said(found: Fastest, good_pct: float, judged: int) -> list[Caveat]:
    """What makes the number of replicas less certain, or impossible."""
    if found.limited_by == "requests":
        return [
            note(
                "fleet: all requests at once keep the objectives, there are too few: raise workload.num_requests"
            )
        ]
    if found.limited_by == "length":
        return [danger(f"fleet: {unsettled(judged, found.times)}")]
    if found.requests_per_s is None:
        return [
            danger(
                "fleet: no number of replicas keeps the objectives: of requests that come alone "
                f"{found.good_pct:.3g} % do, {good_pct:g} % are asked for"
            )
        ]
    caveats = []
    judged *= found.times
    if found.limited_by == "throughput":
        caveats.append(
            note(
                "fleet: the largest rate is the one that a replica keeps up with, whatever users wait beyond the "
                "objectives that are stated"
            )
        )
    may_miss = judged * (1.0 - good_pct / PERCENT)
    if may_miss < FEW:
        caveats.append(
            note(
                f"fleet: {may_miss:.0f} of {judged:,} requests may miss the objectives, too few to be sure of the "
                "rate: short runs find more than a replica sustains; raise workload.num_requests"
            )
        )
    return caveats


# --- the rate that keeps the objectives -----------------------------------------------------------------------------


def unsettled(requests: int, times: int) -> str:
    """Why the run says nothing of the rate that replicas keep up with, in words."""
    return (
        f"how many requests/s a replica keeps up with can't be concluded from a run of {requests:,} requests, not even "
        f"when they come {times:,} times: the longer it is, the more; state objectives that users would notice "
        "(slo.ttft_ms and slo.tpot_ms), or raise workload.num_requests"
    )


def fastest(
    served: Served, good_pct: float, *, fleet: Fleet | None = None, progress: Progress | None = None
) -> Fastest:
    """The largest rate of one replica at which ``good_pct`` of the requests keep the objectives, within TOLERANCE.

    Arrivals of the run are moved closer together or further apart: what ``request_rate`` or ``time_scale`` would do.
    From the run's own rate per replica it doubles or halves until the answer changes, and bisects. With few requests
    the share is not quite monotone in the rate: then it is one of the rates at which it changes. Where the replica does
    not keep up just above, the run is made longer until that no longer changes the rate; of a longer run its second
    half is judged. ``fleet``: other step times than the run's.
    """
    fleet = fleet or served.fleet
    found = _searched_at(_Search(served, good_pct, fleet, progress))
    while found.limited_by == "throughput" and found.requests_per_s is not None:
        longer = _Search(served, good_pct, fleet, progress, times=LONGER * found.times)
        if longer.requests.num_requests > MOST_REQUESTS[longer.core]:
            return replace(found, requests_per_s=None, limited_by="length")
        longer.runs, speed = found.runs, found.requests_per_s / longer.rate
        if longer.holds(speed / SETTLED) and not longer.holds(speed * SETTLED):
            return replace(found, runs=longer.runs)
        found = _searched_at(longer, speed)
    return found


def fastest_beside(
    served: Served, good_pct: float, known: Fastest, fleet: Fleet, progress: Progress | None = None
) -> Fastest:
    """As :func:`fastest`, with other step times than the run's, of whose own the rate is known: in a run as long."""
    search = _Search(served, good_pct, fleet, progress, times=known.times)
    near = None if known.requests_per_s is None or known.times == 1 else known.requests_per_s / search.rate
    return _searched_at(search, near)


def _searched_at(search: "_Search", speed: float | None = None) -> Fastest:
    """The largest rate for one length of the run; looked for from ``speed`` on (times its own), else from its own."""

    def found(per_s: float | None, good_pct: float, limited_by: str) -> Fastest:
        return Fastest(per_s, good_pct, limited_by, search.runs, search.times)

    speed = 1.0 / units_of(search.asked) if speed is None else speed
    if search.holds(speed):
        low, high = speed, 2.0 * speed
        while search.holds(high):
            if high > ALONE * speed:
                return found(None, search.good_pct, "requests")
            low, high = high, 2.0 * high
    else:
        if not search.holds(speed / ALONE):
            return found(None, search.good_pct, "slo")
        low, high = speed / 2.0, speed
        while not search.holds(low):
            low, high = low / 2.0, low
    while high > TOLERANCE * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if search.holds(middle) else (low, middle)
    return found(low * search.rate, search.good[low], search.limits[high])


class _Search:
    """One replica under the same requests at one speed after another."""

    def __init__(
        self,
        served: Served,
        wanted_pct: float,
        fleet: Fleet,
        progress: Progress | None,
        times: int = 1,
    ) -> None:
        self.asked, self.requests, self.times = served.scenario, repeated(served.requests, times), times
        self.wanted_pct, self.fleet, self.progress = wanted_pct, fleet, progress
        self.scenario = second_half(unit_of(served.scenario), served.requests.num_requests, times)
        self.core: Core = chosen(RUNS * self.requests.num_requests)
        self.first = served if self.scenario == served.scenario and fleet is served.fleet else None
        """What has been simulated already."""
        self.rate = drawn_rate(self.requests)
        self.runs = 0
        self.good: dict[float, float] = {}
        self.limits: dict[float, str] = {}
        self.good_pct = 0.0

    def holds(self, speed: float) -> bool:
        """Whether enough requests keep the objectives, and the replica keeps up."""
        self.runs += 1
        if speed == 1.0 and self.first is not None:
            done = self.first
        else:
            done = serve(
                self.scenario,
                requests=at_speed(self.requests, speed),
                fleet=self.fleet,  # one replica's steps are those of several
                progress=self.progress,
                core=self.core,
            )
        found = serving_metrics(done.records, self.scenario)
        self.good_pct = PERCENT * found["goodput_requests_per_s"] / found["requests_per_s"]
        self.good[speed] = self.good_pct
        if self.good_pct < self.wanted_pct:
            self.limits[speed] = "slo"
        elif behind(done):
            self.limits[speed] = "throughput"
        return speed not in self.limits


RUNS = 8
"""Of one length, some: what a core must be worth for."""


def second_half(scenario: Scenario, requests: int, times: int) -> Scenario:
    """The scenario of a run whose requests come so often: the first half of them is not judged."""
    if times == 1:
        return scenario
    warm_up = scenario.workload.warm_up_requests + requests * (times // 2)
    workload = scenario.workload.model_copy(update={"warm_up_requests": warm_up})
    return scenario.model_copy(update={"workload": workload})
