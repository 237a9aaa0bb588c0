"""``perfmodel plan`` as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.explore.plan.answer import PlanAnswer
from perfmodel.output.console import console
from perfmodel.output.formats import UNKNOWN, duration, percent, significant, usd
from perfmodel.output.tables import table_of

ROWS = 8
"""Candidates that are listed."""
ROUNDING = 1e-12
"""Of a sum: what the order of its terms may change."""


def print_plan(answer: PlanAnswer) -> None:
    """Print the ranking, why the winner wins, what binds it, and how to start it."""
    out, values = console(), answer.values
    counts = values["considered"]
    out.print(Text(f"{values['model']} on {'; '.join(values['gpus'])}", style="bold"))
    out.print(Text(f"{values['traffic']} | limits: {answer.question.limits.words}", style="dim"))
    out.print(
        Text(
            f"{counts['legal']:,} legal deployments, {counts['fit']:,} fit in memory, {counts['screened']:,} screened, "
            f"{counts['simulated']:,} simulated",
            style="dim",
        )
    )
    out.print(_ranking(answer))
    best = values["candidates"][0]
    for text in values["binding"]:
        out.print(Text(f"binds: {text}"))
    out.print(Text(_more(values["more_traffic"])))
    if answer.why is not None:
        out.print(_why(values["why"]))
    if values["launch"] is not None:
        _print_launch(out, values["launch"])
    for text in values["warnings"]:
        out.print(Text(f"note: {text}", style="dim"))
    if best["probability_best"] is not None:
        out.print(
            Text(
                "best: share of joint draws of kernels' and engines' spread in which it is; $ and rates are those of "
                "the steady state",
                style="dim",
            )
        )


def _ranking(answer: PlanAnswer) -> Table:
    limits = answer.question.limits
    at = f"p{limits.percentile:g}"
    table = table_of(
        "Best deployments, simulated",
        "#",
        "deployment",
        "GPUs",
        f"TTFT {at}",
        f"TPOT {at}",
        "tok/s/GPU",
        "$/M out",
        "best",
    )
    shown = [one for one in answer.values["candidates"] if one["simulated"]][:ROWS]
    several = len(answer.values["gpus"]) > 1
    for number, one in enumerate(shown, 1):
        money = usd(one["usd_per_million_output_tokens"])
        bounds = one["intervals"].get("usd_per_million_output_tokens")
        if bounds:
            money += f"\n{significant(bounds[0])} to {significant(bounds[1])}"
        chance = one["probability_best"]
        words = one["layout"].replace("; decode", ";\ndecode") + (f"\n{one['kind']}" if several else "")
        if not one["meets_limits"]:
            words += "\nmisses a limit"
        table.add_row(
            str(number),
            Text(words),
            f"{one['num_gpus']:,}",
            duration(one["ttft_at_s"]),
            duration(one["tpot_at_s"]),
            significant(one["output_tokens_per_s_per_gpu"]),
            Text(money),
            UNKNOWN if chance is None else percent(chance),
        )
    return table


def _more(more: Mapping[str, Any] | None) -> str:
    if more is None:
        return "at more traffic: not simulated (a trace has its own, or a request no longer fits)"
    kept = (
        "limits kept" if more["meets_limits"] else "limits missed" if more["keeps_up"] else "the queue grows"
    )
    return (
        f"at {more['times']:g} times the traffic: {kept}; TTFT {duration(more['ttft_at_s'])}, TPOT "
        f"{duration(more['tpot_at_s'])}, {usd(more['usd_per_million_output_tokens'])} per million output tokens"
    )


def _why(why: Mapping[str, Any]) -> Table:
    other = f"#{why['against'] + 1}"
    table = table_of(
        f"Why: a decode step of the winner against that of {other}", "", "winner", other, "difference"
    )
    whole = max(abs(why["usd_a"]), abs(why["usd_b"]))
    all_of = {"component": "$ per million output tokens", **why, "delta_usd": why["usd_b"] - why["usd_a"]}
    for row in (*why["rows"], all_of):
        change = difference_words(row["delta_usd"], whole)
        table.add_row(row["component"], usd(row["usd_a"]), usd(row["usd_b"]), change)
    return table


def difference_words(change: float, whole: float) -> str:
    """A change in dollars, with its sign; none where it is the rounding of sums that come to ``whole``."""
    change = 0.0 if abs(change) <= ROUNDING * whole else change
    return f"{'-' if change < 0 else '+'}{usd(abs(change))}"


def _print_launch(out: Any, launch: Mapping[str, Any]) -> None:
    for one in launch["replicas"]:
        role = "" if one["role"] == "both" else f"{one['role']} replicas, "
        out.print(
            Text(f"\n{role}{one['replicas']} of, {launch['engine']} {launch['version']}:", style="bold")
        )
        out.print(Text(one["command"]), soft_wrap=True)
        if one["file"]:
            out.print(Text("with the file that it names:", style="dim"))
            out.print(Text(one["file"].rstrip()), soft_wrap=True)
    for text in launch["cannot"]:
        out.print(Text(f"not in the command: {text}", style="dim"))
