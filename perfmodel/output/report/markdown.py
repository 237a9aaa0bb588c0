"""A report as Markdown: the tables of the page without its charts."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from perfmodel.output.formats import without_tags
from perfmodel.output.report.figure import Figure
from perfmodel.output.report.page import page
from perfmodel.output.report.words import (
    answer,
    cost_figures,
    fleet_rows,
    fleet_title,
    latency_rows,
    step_figures,
    traffic_figures,
)
from perfmodel.output.step.page import question
from perfmodel.report.content import Report
from perfmodel.report.decision import COURSES
from perfmodel.report.part import Part


def report_markdown(report: Report) -> str:
    """The text; what users' files say is escaped, so that no name becomes markup."""
    shown = page(report)
    blocks = [
        f"# {plain(shown['title'])}",
        f"Predictions by perfmodel {plain(shown['version'])}, a simulator.",
    ]
    blocks += _comparison(shown["comparison"])
    for number, part in enumerate(report.parts):
        blocks += _part(part, shown["parts"][number], f"scenarios.{number}")
    blocks += ["## How far off such predictions have been"]
    rows = [
        [row["suite"], row["quantity"], row["n"], row["median"], row["about"]] for row in shown["validation"]
    ]
    blocks += (
        [table_of(("what was compared", "quantity", "rows", "median error", "about"), rows)] if rows else []
    )
    blocks += [_items(shown["trust"])]
    warnings = [*(f"danger: {text}" for text in shown["dangers"]), *shown["notes"]]
    blocks += ["## Warnings", _items(warnings) if warnings else "None."]
    blocks += ["### Standing caveats", _items(shown["caveats"])] if shown["caveats"] else []
    blocks += ["## How to reproduce it", _code(shown["command"], "sh")]
    for one in shown["parts"]:
        blocks += [f"{plain(one['label'])} in full:", _code(one["yaml"], "yaml")]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """Text as Markdown that shows it: markup's characters escaped, on one line; addresses stay as they are."""
    one_line = " ".join(str(text).split())
    parts = re.split(r"(https?://[\w.~/?&=%#+:@-]+)", one_line)
    return "".join(
        part if i % 2 else re.sub(r"([\\`*_{}\[\]<>#|~!$])", r"\\\1", part) for i, part in enumerate(parts)
    )


def _part(part: Part, shown: dict[str, Any], at: str) -> list[str]:
    blocks = [f"## {plain(part.label)}", plain(question(part.scenario)), f"**{plain(answer(part))}**"]
    if part.step is None:
        return blocks
    blocks = [*blocks[:2], *_decision(shown["decision"], priced=shown["priced"]), *blocks[2:]]
    figures = [*(cost_figures(part, at) if shown["priced"] else []), *step_figures(part, at)]
    blocks += [plain(shown["basis"]), _figures(figures)]
    blocks.append("### The traffic")
    if part.serve is None:
        blocks.append(f"Not simulated: {plain(part.values['serve_reason'])}")
    else:
        rows = [[name, *(cell.text for cell in cells)] for name, cells in latency_rows(part, at)]
        blocks += [
            plain(shown["traffic_answer"]),
            plain(shown["traffic_basis"]),
            table_of(("latency per request", "mean", "p50", "p90", "p99"), rows),
        ]
        blocks.append(_figures(traffic_figures(part, at)))
    fleet = fleet_rows(part, at)
    if fleet and not shown["decision"]:
        heads = ("", *(cell.label for cell in fleet[0][1]), "what it is")
        rows = [[name, *(cell.text for cell in cells), note] for name, cells, note in fleet]
        blocks += [f"### {plain(fleet_title(part))}", table_of(heads, rows)]
    return [*blocks, *_money(part, shown)]


def _decision(shown: dict[str, Any] | None, *, priced: bool) -> list[str]:
    """What the day's traffic needs, over twelve months, and what could go wrong; nothing where no day is stated."""
    if shown is None:
        return []
    rows = [
        [row["what"], row["gpus"].text, row["usd"].text, row["more"].text, row["why"]]
        for row in shown["risks"]
    ]
    months = [[str(row["month"]), row["requests"], *map(_cell, row["cells"])] for row in shown["months"]]
    heads = [
        "month",
        "requests a day",
        *(f"{unit}, {course}" for course in COURSES for unit in ("GPUs", "$")),
    ]
    blocks = [
        "### The decision",
        f"**{plain(shown['sentence'])}**",
        plain(shown["basis"]),
        _figures(shown["tiles"]),
        "#### What could go wrong, and by how much",
        table_of(("if", "GPUs", "$ a month", "more", "because"), rows)
        if rows
        else "Nothing known above a per cent.",
        plain(f"Not included: {'; '.join(shown['not_included'])}."),
        "#### Twelve months",
        plain(shown["growth"]),
        table_of(heads, months),
    ]
    if not priced:
        return blocks
    rows = [
        [row["term"], row["hour"].text, row["month"].text, row["note"], row["source"]]
        for row in shown["terms"]
    ]
    blocks += [
        "#### By term",
        table_of(("term", "$ per GPU hour", "$ a month", "what it is", "source"), rows),
        plain(shown["break_even"]),
    ]
    if shown["bridge"]:
        rows = [[name, figure.text] for name, figure in shown["bridge"]]
        rows.append(["this traffic", shown["total"].text])
        blocks += ["#### From full batches to this traffic", table_of(("part", "$ per million tokens"), rows)]
    return blocks


def _money(part: Part, shown: dict[str, Any]) -> list[str]:
    heads = ["op class", "time per step", "share", *(["$ per million tokens"] if shown["priced"] else [])]
    rows = [
        [row["name"], row["time"].text, row["share"], *([row["usd"].text] if shown["priced"] else [])]
        for row in shown["breakdown"]
    ]
    blocks = ["### Where the time goes", table_of(heads, rows), "### What would move it"]
    rows = [
        [
            lever["name"],
            lever["base"],
            *(text for label, one in lever["ends"] for text in (label, one.text)),
            lever["reason"],
            lever["source"],
        ]
        for lever in shown["levers"]
    ]
    if rows:
        blocks.append(table_of(("lever", "here", "low", "result", "high", "result", "why", "source"), rows))
    if shown["left_out"]:
        blocks.append(_items(f"left out: {name} ({reason})" for name, reason in shown["left_out"]))
    found = shown["break_even"]
    if found:
        bounds = f" (80 % interval: {found['interval']})" if found["interval"] else ""
        blocks += [
            "### How busy the GPUs must be",
            plain(
                f"Break-even with {found['api']} per million output tokens: at {found['at'].text} of the time in full "
                f"steps{bounds}."
            ),
        ]
    rows = [[row["what"], row["value"], row["source"]] for row in shown["assumptions"]]
    return [*blocks, "### What this assumes", table_of(("what", "value", "source"), rows)]


def _comparison(shown: dict[str, Any] | None) -> list[str]:
    if shown is None:
        return []
    blocks = ["## Compared"]
    for table in shown["tables"]:
        rows = [[label, *(_cell(cell) for cell in cells)] for label, cells in table["lines"]]
        blocks.append(table_of(("", *table["names"]), rows))
    for one in shown["differences"]:
        blocks.append(f"### Why {plain(one['name'])} differs from {plain(shown['names'][0])}")
        if one["reason"]:
            blocks.append(plain(one["reason"]))
            continue
        if one["is_same"]:
            blocks.append("It does not: their steps cost and take the same.")
            continue
        parts = [
            [row["component"], row["usd"].text, row["tpot"].text if row["tpot"] else "-"]
            for row in one["rows"]
        ]
        parts.append(["difference", one["usd"], one["tpot"] or "-"])
        blocks.append(table_of(("part", "$ per million tokens", "time per output token"), parts))
    return blocks


def _cell(cell: Figure | str) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell.text} ({cell.interval_text})" if cell.interval_text else cell.text


def _figures(figures: Iterable[Figure]) -> str:
    rows = [[one.label, one.text, one.interval_text, one.note] for one in figures]
    return table_of(("figure", "value", "80 % interval", "what it is"), rows)


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are escaped."""
    lines = [heads, ["---"] * len(heads)]
    text = [f"| {' | '.join(plain(cell) for cell in lines[0])} |", f"| {' | '.join(lines[1])} |"]
    return "\n".join([*text, *(f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows)])


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _code(text: str, language: str) -> str:
    """A block whose fence is longer than any run of backticks in it; not every reader of Markdown knows fences."""
    text = without_tags(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
