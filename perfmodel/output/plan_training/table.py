"""``perfmodel plan-train`` as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.explore.plan_training.answer import CLOSE, TrainPlan
from perfmodel.output.console import console
from perfmodel.output.formats import duration, percent, significant, usd
from perfmodel.output.tables import table_of
from perfmodel.output.train.launch import print_launch
from perfmodel.output.train.table import difference_table
from perfmodel.units import GB

ROWS = 8
"""Layouts that are listed."""


def print_plan(answer: TrainPlan, launch: str = "") -> None:
    """Print the ranking, why the first is first, what the scenario's own layout would do, and the best's command."""
    out, values = console(), answer.values
    counts = values["considered"]
    out.print(Text(f"{values['model']} on {'; '.join(values['gpus'])}", style="bold"))
    out.print(
        Text(
            f"{counts['legal']:,} layouts that multiply, {counts['fit']:,} fit in memory, {counts['simulated']:,} "
            f"simulated; objective {values['objective']}",
            style="dim",
        )
    )
    for text in left_out(values):
        out.print(Text(text))
    out.print(_ranking(values))
    if values["alike"] > 1:
        out.print(Text(f"{values['alike']} of them are within {percent(CLOSE)}: take the simplest"))
    own = values["own"]
    if own is not None:
        out.print(
            Text(
                f"the scenario's own layout on {own['num_gpus']:,} GPUs: {duration(own['step_time_s'])} per step, "
                f"{significant(own['tokens_per_s_per_gpu'])} tokens/s per GPU; the best has "
                f"{own['best_over_own']:.2f} times that"
            )
        )
    else:
        out.print(Text("the scenario's own layout does not fit in memory"))
    if values["why"] is not None:
        out.print(difference_table(values["why"], f"Why: the best against {values['why']['name_b']}"))
    if launch:
        print_launch(values["launch"][launch], "The best")
    out.print(
        Text(
            "--out FILE writes the best as a scenario; --json: SI units, all that were simulated", style="dim"
        )
    )


def left_out(values: Mapping[str, Any]) -> list[str]:
    """Kinds of GPUs of which there is nothing to rank, in words."""
    return [
        f"{one['kind']}: {'none of its layouts fits' if one['legal'] else 'no layout divides batch and sequence'}"
        for one in values["kinds"]
        if not one["fit"]
    ]


def _ranking(values: Mapping[str, Any]) -> Table:
    table = table_of(
        "Best layouts, simulated",
        "#",
        "layout",
        "step",
        "tok/s/GPU",
        "MFU",
        "bubble",
        "exposed",
        "GB",
        "$/M tokens",
        "days",
    )
    several = len(values["gpus"]) > 1
    for number, one in enumerate([row for row in values["candidates"] if row["simulated"]][:ROWS], 1):
        words = one["layout"] + (f"\n{one['kind']}" if several else "")
        table.add_row(
            str(number),
            Text(words, justify="left"),
            duration(one["step_time_s"]),
            significant(one["tokens_per_s_per_gpu"]),
            percent(one["mfu"]),
            percent(one["bubble_fraction"]),
            percent(one["exposed_communication_fraction"]),
            significant(one["memory_bytes"] / GB),
            usd(one["usd_per_million_tokens"]),
            "" if one["days"] is None else significant(one["days"]),
        )
    return table
