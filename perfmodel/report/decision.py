"""Page 1 of a report: what a day's traffic needs, what it costs over twelve months, at which latencies, and what could
go wrong.

**GPUs** are whole replicas for the day's busiest time and spare nodes. **Low, expected and peak** are three courses of
the next twelve months: traffic grows as stated for each (0 unless stated), and step times are those of the fast end of
the model's 80 % interval, the model's own, and those of the slow end. All GPUs are paid for all month. **What could go
wrong** moves one thing at a time from the expected course; where it is a lever of the tornado, GPUs are scaled as the
cost of a full step is, but where it is a price: then they stay as many.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.spares import (
    AVAILABILITY,
    GPU_FAILURES_PER_DAY,
    REPAIR_HOURS,
    mean_nodes_away,
    spare_nodes,
)
from perfmodel.errors import SpecError
from perfmodel.explore.fleet import Traffic
from perfmodel.explore.levers import FFN_PRICE_LEVER, PRICES, with_value
from perfmodel.explore.need import Need, at_peak, need_of, replicas_for
from perfmodel.report.terms import HOURS_PER_MONTH, NOT_INCLUDED, Ownership, terms
from perfmodel.spec.scenario import Scenario
from perfmodel.units import MEGA, PERCENT

MONTHS = 12
DAYS_PER_MONTH = 365.0 / 12.0
COURSES = ("low", "expected", "peak")
MOST_RISKS = 5
LEAST_RISK = 0.01
"""Change of the monthly cost below which a risk is not told."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is stated of the twelve months."""

    growth_pct: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Traffic's growth from month to month in the low, the expected and the peak course."""
    spare_nodes: int | None = None
    """None: as many as failures ask for."""
    ownership: Ownership = field(default_factory=Ownership)

    def __post_init__(self) -> None:
        low, expected, peak = self.growth_pct
        if not -50.0 <= low <= expected <= peak <= 200.0:
            raise SpecError(
                f"--growth-pct {low:g},{expected:g},{peak:g}: must be low,expected,peak in rising "
                "order, from -50 to 200 % a "
                "month, e.g. 0,3,8"
            )
        if self.spare_nodes is not None and not 0 <= self.spare_nodes <= 1_000_000:
            raise SpecError(f"--spare-nodes {self.spare_nodes}: must be from 0 to 1,000,000")


def growth_of(text: str | None) -> tuple[float, float, float]:
    """Of ``--growth-pct``: one number for all three courses, or ``low,expected,peak``.

    Raises:
        SpecError: other than one or three numbers.
    """
    if text is None:
        return (0.0, 0.0, 0.0)
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in (1, 3):
        raise SpecError(f"--growth-pct {text[:40]}: must be one number, or low,expected,peak, e.g. 0,3,8")
    low, expected, peak = found * 3 if len(found) == 1 else found
    return (low, expected, peak)


def decision(
    answer: ServeAnswer,
    traffic: Traffic,
    outlook: Outlook,
    *,
    levers: Sequence[Mapping[str, Any]],
    base_usd: float,
    full_batch_usd: float | None,
    api_usd: float | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The key ``decision`` of a scenario of ``perfmodel report --json``.

    Args:
        answer: the traffic as simulated, with its ``fleet``.
        traffic: the day.
        outlook: the twelve months.
        levers: of the scenario's sensitivity, as JSON has them.
        base_usd: USD per million tokens of a full step, from which the levers move.
        full_batch_usd: USD per million tokens, prompts and outputs together, were batches always full; None: unknown.
        api_usd: what somebody asks for a million output tokens.
        progress: told of simulated requests.
    """
    scenario, fleet = answer.scenario, answer.values["fleet"]
    need = need_of(answer, good_pct=traffic.good_pct, progress=progress)
    peak = fleet["peak_requests_per_s"]
    first: dict[str, Any] = {
        "basis": need.basis,
        "objectives": scenario.slo.model_dump(),
        "objectives_stated": True,
        "reason": None,
        "requests_per_day": fleet["requests_per_day"],
        "tokens_per_day": fleet["tokens_per_day"],
        "peak_to_mean": traffic.peak_to_mean,
        "peak_requests_per_s": peak,
        "requests_per_s_per_replica": need.requests_per_s,
    }
    replicas = need.replicas(peak)
    if replicas is None or need.requests_per_s is None:
        return first | {
            "reason": need.reason
            or f"no number of replicas lets {traffic.good_pct:g} % of the requests keep the objectives"
        }
    size = _Size(scenario, need, outlook.spare_nodes)
    gpus = size.of(peak, need.requests_per_s)
    months = _months(size, need, fleet["requests_per_day"], peak, outlook)
    output_share = answer.values["output_tokens_per_s_per_gpu"] / answer.values["total_tokens_per_s_per_gpu"]
    usd = gpus["usd_per_month"]
    tokens = fleet["tokens_per_day"] * DAYS_PER_MONTH
    per_million = usd / tokens * MEGA
    return first | {
        "gpus": gpus,
        "month": {course: months[0][course] for course in COURSES},
        "months": months,
        "year_usd": {
            course: sum(row[course]["usd"] for row in months) if months[0][course] else None
            for course in COURSES
        },
        "latencies": dict(at_peak(answer, peak / replicas, need.times)),
        "usd_per_million_tokens": per_million,
        "usd_per_million_output_tokens": per_million / output_share,
        "bridge": _bridge(scenario, need, peak, traffic, gpus, tokens, full_batch_usd),
        "risks": _risks(scenario, need, size, peak, gpus, levers, base_usd, months, outlook),
        "terms": terms(scenario, gpus["total"], outlook.ownership),
        "not_included": list(NOT_INCLUDED),
        "break_even": _break_even(usd, tokens, output_share, api_usd),
        "growth_pct": dict(zip(COURSES, outlook.growth_pct, strict=True)),
    }


class _Size:
    """GPUs and dollars for a rate of requests."""

    def __init__(self, scenario: Scenario, need: Need, spares: int | None) -> None:
        self.unit, self.node = need.gpus, scenario.cluster.node.num_gpus
        self.usd_per_gpu_hour, self.spares = scenario.fleet_usd_per_gpu_hour, spares
        self.kinds = [
            (gpus / scenario.fleet_gpus, cluster.node.num_gpus)
            for cluster, gpus in scenario.gpus_by_cluster.values()
        ]
        """Share of the GPUs, and GPUs of a node, of each cluster: a node stands in for one of its own kind alone."""

    def of(self, peak: float, per_replica: float) -> dict[str, Any]:
        """``replicas``, ``serving``, ``spare``, ``spare_nodes``, ``mean_nodes_away``, ``total``, ``usd_per_month``."""
        replicas = replicas_for(peak, per_replica) or 1
        serving = replicas * self.unit
        away = [mean_nodes_away(serving * share) for share, _ in self.kinds]
        if self.spares is None:
            nodes = [spare_nodes(mean) for mean in away]
            spare = sum(count * node for count, (_, node) in zip(nodes, self.kinds, strict=True))
        else:
            nodes, spare = [self.spares], self.spares * self.node
        total = serving + spare
        return {
            "replicas": replicas,
            "gpus_per_replica": self.unit,
            "serving": serving,
            "spare_nodes": sum(nodes),
            "spare": spare,
            "mean_nodes_away": sum(away),
            "total": total,
            "usd_per_month": total * self.usd_per_gpu_hour * HOURS_PER_MONTH,
            "spare_basis": "as stated"
            if self.spares is not None
            else (
                f"{GPU_FAILURES_PER_DAY * 1e4:.3g} failures per 10,000 GPUs and day as published for Llama 3, "
                f"{REPAIR_HOURS:g} h to repair a node, enough for {AVAILABILITY:.1%} of the time"
                + (", each kind of GPUs by itself" if len(self.kinds) > 1 else "")
            ),
        }


def _months(
    size: _Size, need: Need, requests_per_day: float, peak: float, outlook: Outlook
) -> list[dict[str, Any]]:
    """A row per month: ``month`` from 1, and for each course ``requests_per_day``, ``gpus``, ``usd``; None where the
    course's rate is not known.
    """
    rates = (need.fast_requests_per_s, need.requests_per_s, need.slow_requests_per_s)
    rows = []
    for month in range(MONTHS):
        row: dict[str, Any] = {"month": month + 1}
        for course, rate, growth in zip(COURSES, rates, outlook.growth_pct, strict=True):
            times = (1.0 + growth / PERCENT) ** month
            if rate is None:
                row[course] = None
                continue
            found = size.of(peak * times, rate)
            row[course] = {
                "requests_per_day": requests_per_day * times,
                "gpus": found["total"],
                "usd": found["usd_per_month"],
            }
        rows.append(row)
    return rows


def _bridge(
    scenario: Scenario,
    need: Need,
    peak: float,
    traffic: Traffic,
    gpus: Mapping[str, Any],
    tokens_per_month: float,
    full_batch_usd: float | None,
) -> list[dict[str, Any]] | None:
    """From the cost of full batches to that of this traffic, USD per million tokens: rows that add up; None where the
    cost of full batches is not known.
    """
    if full_batch_usd is None or need.requests_per_s is None or not gpus["usd_per_month"]:
        return None
    per_gpu_month = scenario.fleet_usd_per_gpu_hour * HOURS_PER_MONTH
    at_rate = (
        need.gpus * (peak / need.requests_per_s) * per_gpu_month
    )  # at the peak all month, no whole replicas
    steps = [
        (
            "batches as full as latencies allow" if need.basis == "slo" else "batches as requests come",
            at_rate / (tokens_per_month * traffic.peak_to_mean) * MEGA - full_batch_usd,
        ),
        (
            "idle outside the busiest time",
            at_rate / tokens_per_month * MEGA * (1.0 - 1.0 / traffic.peak_to_mean),
        ),
        ("whole replicas", (gpus["serving"] * per_gpu_month - at_rate) / tokens_per_month * MEGA),
        ("spare nodes", gpus["spare"] * per_gpu_month / tokens_per_month * MEGA),
    ]
    return [
        {"component": "full batches", "usd": full_batch_usd},
        *({"component": name, "usd": value} for name, value in steps),
    ]


def _risks(
    scenario: Scenario,
    need: Need,
    size: _Size,
    peak: float,
    gpus: Mapping[str, Any],
    levers: Sequence[Mapping[str, Any]],
    base_usd: float,
    months: Sequence[Mapping[str, Any]],
    outlook: Outlook,
) -> list[dict[str, Any]]:
    """What makes a month dearer, the dearest first: ``what``, ``gpus``, ``usd_per_month``, ``more_usd_per_month``,
    ``why``.
    """
    here, usd = gpus["total"], gpus["usd_per_month"]
    found: list[dict[str, Any]] = []

    def add(what: str, more_gpus: float, price: float, why: str) -> None:
        total = ceil(here + more_gpus)
        cost = total * price * HOURS_PER_MONTH
        if cost > usd * (1.0 + LEAST_RISK):
            found.append(
                {
                    "what": what,
                    "gpus": total,
                    "usd_per_month": cost,
                    "more_usd_per_month": cost - usd,
                    "why": why,
                }
            )

    price = scenario.fleet_usd_per_gpu_hour
    if need.slow_requests_per_s is not None:
        slow = size.of(peak, need.slow_requests_per_s)["total"]
        add(
            "steps are slower than predicted",
            slow - here,
            price,
            "slow end of the model's 80 % interval, simulated",
        )
    last, growth = months[-1], outlook.growth_pct
    if last["expected"] and growth[1] > 0.0:
        add(
            "traffic grows as expected",
            last["expected"]["gpus"] - here,
            price,
            f"{growth[1]:g} % a month, after twelve months",
        )
    for lever in levers:
        name = lever["lever"]
        if name == "utilisation":
            continue  # the day's peak is in the number of GPUs already
        worst = max((lever["low"], lever["high"]), key=lambda end: end["usd_per_million_tokens"])
        factor = worst["usd_per_million_tokens"] / base_usd if base_usd else 1.0
        if name in PRICES:
            dearer = with_value(scenario, PRICES[name], float(worst["value"])).fleet_usd_per_gpu_hour
            whose = "GPUs of FFNs" if name == FFN_PRICE_LEVER else "GPUs"
            add(f"{whose} cost {worst['label']} an hour", 0.0, float(dearer), lever["reason"])
        else:
            grown = gpus["serving"] * (factor - 1.0)
            add(f"{name}: {worst['label']}", grown, price, lever["reason"])
    found.sort(key=lambda row: -row["more_usd_per_month"])
    return found[:MOST_RISKS]


def _break_even(
    usd_per_month: float, tokens_per_month: float, output_share: float, api_usd: float | None
) -> dict[str, Any]:
    """What somebody else would have to ask for this traffic to cost the same: all on the output, or on all tokens
    alike; and with a stated price per million output tokens, what a month there costs.
    """
    output = tokens_per_month * output_share
    return {
        "usd_per_million_output_tokens": usd_per_month / output * MEGA,
        "usd_per_million_tokens": usd_per_month / tokens_per_month * MEGA,
        "api_usd_per_million_output_tokens": api_usd,
        "api_usd_per_month": None if api_usd is None else api_usd * output / MEGA,
    }
