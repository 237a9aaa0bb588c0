"""Page 1 in words: the decision in a sentence, its tiles, months, risks and terms as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.answers.caveats import condition
from perfmodel.output.formats import count, duration, significant, usd
from perfmodel.output.report.figure import Figure, dollars, figure_of
from perfmodel.report.decision import COURSES
from perfmodel.report.part import Part
from perfmodel.report.planned import PLANNED
from perfmodel.spec.messages import number_of
from perfmodel.units import MEGA, MILLION_NAMES, MS

Cell = dict[str, Any]
OWN_LAYOUT = "The layout is the scenario's own; --plan-gpus N lets plan choose a cheaper one."
BASES = {
    "slo": "the objectives",
    "keeping up": "keeping up with the requests, whatever users wait, since no objective is stated",
    "closed loop": "what this run served, which sets its own rate",
}


def large(value: float) -> str:
    """A count to read: 36.5 million, 5 billion."""
    for scale, name in MILLION_NAMES:
        if value >= scale:
            return f"{significant(value / scale)} {name}"
    return count(round(value))


def amount(value: float | None) -> str:
    """Dollars to read: $584,000, $44.2 million."""
    if value is not None and value >= 10.0 * MEGA:
        return f"${large(value)}"
    return dollars(value)


def sentence(part: Part) -> str:
    """The decision in one sentence: GPUs, $ a month, latencies; empty where nothing is decided."""
    found = part.values["decision"]
    if found is None:
        return ""
    gpus, seen, scenario = found["gpus"], found["latencies"], part.scenario
    kind = f"{scenario.gpu_names} {scenario.cluster.gpu.kind}"
    spare = f", {count(gpus['spare'])} of them spare," if gpus["spare"] else ""
    cost = ""
    if gpus["usd_per_month"]:
        month = found["month"]
        ends = (
            f" (80 % interval: {amount(month['low']['usd'])} to {amount(month['peak']['usd'])})"
            if month["low"] and month["peak"]
            else ""
        )
        cost = f" for {amount(gpus['usd_per_month'])} a month{ends}"
    ttft, speed = seen["ttft_s"], seen["tokens_per_s_per_user"]
    rate = f" and {significant(speed['p50'])} tokens/s per user" if speed else ""
    even = condition(scenario)
    return (
        f"{large(found['tokens_per_day'])} tokens a day, {found['peak_to_mean']:g} times the mean at "
        "the busiest time, need "
        f"{number_of(gpus['total'], kind)}{spare}{cost}, which then give a first token after "
        f"{duration(ttft['p50'])} in "
        f"the median ({duration(ttft['p99'])} at p99){rate}{f', {even}' if even else ''}."
    )


def least(parts: Sequence[Part]) -> str:
    """Of several decisions the one that costs least a month, in one sentence; empty where none has a price."""
    priced = [
        part for part in parts if part.values["decision"] and part.values["decision"]["gpus"]["usd_per_month"]
    ]
    if len(priced) < 2:
        return ""
    cheapest = min(priced, key=lambda part: part.values["decision"]["gpus"]["usd_per_month"])
    others = {part.scenario.model.name for part in priced} != {cheapest.scenario.model.name}
    models = "; models differ in what they answer, which is not compared" if others else ""
    return f"{cheapest.label} costs least of {len(priced)}: {sentence(cheapest)[:-1]}{models}."


def tiles(part: Part, at: str) -> list[Figure]:
    """The decision's figures, the most important first."""
    found = part.values["decision"]
    gpus, month, seen = found["gpus"], found["month"], found["latencies"]
    low_high = month["low"] and month["peak"]
    spares = f"{count(gpus['serving'])} serve, {count(gpus['spare'])} stand by"
    shown = [Figure(f"{at}.decision.gpus.total", "GPUs", gpus["total"], count(gpus["total"]), note=spares)]
    if gpus["usd_per_month"]:
        ends = (month["low"]["usd"], month["peak"]["usd"]) if low_high else None
        shown.append(
            figure_of(
                f"{at}.decision.gpus.usd_per_month", "a month, expected", gpus["usd_per_month"], amount, ends
            )
        )
        year = found["year_usd"]
        ends = (year["low"], year["peak"]) if low_high else None
        shown.append(
            figure_of(
                f"{at}.decision.year_usd.expected", "over twelve months", year["expected"], amount, ends
            )
        )
        cost = found["usd_per_million_tokens"]
        on_output = usd(found["usd_per_million_output_tokens"])
        note = f"input and output together; {on_output} if all is charged to the output"
        shown.append(
            Figure(f"{at}.decision.usd_per_million_tokens", "per million tokens", cost, usd(cost), note=note)
        )
    ttft, tpot, speed = (seen[key] for key in ("ttft_s", "tpot_s", "tokens_per_s_per_user"))
    note = f"at the busiest time; p99 {duration(ttft['p99'])}"
    shown.append(
        Figure(
            f"{at}.decision.latencies.ttft_s.p50",
            "to the first token, median",
            ttft["p50"],
            duration(ttft["p50"]),
            note=note,
        )
    )
    if speed:
        note = f"at the busiest time; TPOT p99 {duration(tpot['p99'])}"
        key = f"{at}.decision.latencies.tokens_per_s_per_user.p50"
        shown.append(
            Figure(key, "tokens/s per user, median", speed["p50"], significant(speed["p50"]), note=note)
        )
    return shown


def months(part: Part, at: str) -> list[Cell]:
    """A row per month: its number, and GPUs and dollars of each course."""
    rows = []
    for number, month in enumerate(part.values["decision"]["months"]):
        cells: list[Figure | str] = []
        for course in COURSES:
            own = month[course]
            key = f"{at}.decision.months.{number}.{course}"
            cells += (
                ["-", "-"]
                if own is None
                else [
                    Figure(f"{key}.gpus", "", own["gpus"], count(own["gpus"])),
                    Figure(f"{key}.usd", "", own["usd"], amount(own["usd"])),
                ]
            )
        expected = month["expected"]
        rows.append(
            {"month": month["month"], "requests": large(expected["requests_per_day"]), "cells": cells}
        )
    return rows


def risks(part: Part, at: str) -> list[Cell]:
    """What could go wrong: what, GPUs, $ a month, how much more, why."""
    return [
        {
            "what": row["what"],
            "gpus": Figure(f"{at}.decision.risks.{n}.gpus", "", row["gpus"], count(row["gpus"])),
            "usd": Figure(
                f"{at}.decision.risks.{n}.usd_per_month",
                "",
                row["usd_per_month"],
                amount(row["usd_per_month"]),
            ),
            "more": Figure(
                f"{at}.decision.risks.{n}.more_usd_per_month",
                "",
                row["more_usd_per_month"],
                f"+{amount(row['more_usd_per_month'])}",
            ),
            "why": row["why"],
        }
        for n, row in enumerate(part.values["decision"]["risks"])
    ]


def terms(part: Part, at: str) -> list[Cell]:
    """Prices by term."""
    return [
        {
            "term": row["term"],
            "is_own": row["is_own"],
            "hour": Figure(
                f"{at}.decision.terms.{n}.usd_per_gpu_hour",
                "",
                row["usd_per_gpu_hour"],
                usd(row["usd_per_gpu_hour"]),
            ),
            "month": Figure(
                f"{at}.decision.terms.{n}.usd_per_month",
                "",
                row["usd_per_month"],
                amount(row["usd_per_month"]),
            ),
            "note": _note(row),
            "source": row["source"],
        }
        for n, row in enumerate(part.values["decision"]["terms"])
    ]


def _note(row: Mapping[str, Any]) -> str:
    back = row["payback_months"]
    paid = (
        f"bought instead of rented at the price above, they pay back in {significant(back)} months"
        if back
        else ""
    )
    return "; ".join(filter(None, (row["note"], paid)))


def objectives(part: Part) -> str:
    """The limits that requests keep, in words; empty where none is stated."""
    found = part.values["decision"]["objectives"]
    names = (("ttft_ms", "to the first token"), ("tpot_ms", "per token after it"), ("e2e_ms", "to the last"))
    kept = ", ".join(f"{duration(found[key] * MS)} {name}" for key, name in names if found[key] is not None)
    return kept if part.values["decision"]["objectives_stated"] else f"{kept}, taken since none is stated"


def basis_words(part: Part) -> str:
    """What sets the number of GPUs, and how spares were counted."""
    found = part.values["decision"]
    gpus = found["gpus"]
    replicas = number_of(gpus["replicas"], "replica")
    limits = f" ({objectives(part)})" if found["basis"] == "slo" else ""
    chosen = "plan chose the layout." if part.scenario.name.endswith(PLANNED) else OWN_LAYOUT
    return (
        f"{replicas} of {number_of(gpus['gpus_per_replica'], 'GPU')}, each good for "
        f"{significant(found['requests_per_s_per_replica'])} requests/s by {BASES[found['basis']]}{limits}; "
        "the busiest time brings "
        f"{significant(found['peak_requests_per_s'])}. "
        f"{number_of(gpus['spare_nodes'], 'spare node')}: {gpus['spare_basis']}. "
        f"{chosen}"
    )


def break_even_words(part: Part) -> str:
    """What somebody else would have to ask."""
    found = part.values["decision"]["break_even"]
    text = (
        "Somebody else's service costs the same as these GPUs where it asks "
        f"{usd(found['usd_per_million_tokens'])} per million "
        f"tokens, input and output alike, or {usd(found['usd_per_million_output_tokens'])} per "
        "million output tokens with "
        "prompts free."
    )
    if found["api_usd_per_month"] is not None:
        text += (
            f" At {usd(found['api_usd_per_million_output_tokens'])} per million output tokens, "
            "prompts free, a month there costs "
            f"{amount(found['api_usd_per_month'])}."
        )
    return text


def growth_words(part: Part) -> str:
    """What the three courses are."""
    growth = part.values["decision"]["growth_pct"]
    same = len(set(growth.values())) == 1
    if same and not growth["expected"]:
        grows = "Traffic stays as stated in all three (--growth-pct says otherwise)"
    elif same:
        grows = f"Traffic grows by {growth['expected']:g} % a month in all three"
    else:
        grows = f"Traffic grows by {growth['low']:g}, {growth['expected']:g} and {growth['peak']:g} % a month"
    return (
        f"{grows}; steps are as fast as the fast end of the model's 80 % interval, as predicted, and "
        "as slow as its slow end. "
        "All GPUs are paid for all month."
    )
