"""A validation as Markdown tables, for a document that shows how far predictions can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.formats import with_unit
from perfmodel.validation.rows import Row, summarise, unanswered
from perfmodel.validation.suites import Validation

LISTED = ("longcat-measured", "longcat-measured-serving", "deepseek", "deepseek-fleet")
"""Suites whose answered rows are few enough to be listed."""


def validation_markdown(result: Validation) -> str:
    """Summary, the rows of small suites, and what is not answered and why."""
    lines = ["### Errors by suite, quantity and role", "", *_summary(summarise(result.rows))]
    for suite in LISTED:
        rows = [row for row in result.rows if row.suite == suite and row.predicted is not None]
        if rows:
            lines += ["", f"### Rows of {suite}", "", *_rows(rows)]
            notes = [f"- {_cell(row.id)}: {_cell(row.reason)}" for row in rows if row.reason]
            lines += ["", *dict.fromkeys(notes)] if notes else []
    missing = unanswered(result.rows)
    if missing:
        lines += ["", "### Not answered", "", "| suite | rows | reason |", "|---|---|---|"]
        lines += [f"| {suite} | {count} | {_cell(reason)} |" for suite, reason, count in missing]
    if result.calibrations:
        lines += ["", f"Calibrations: {', '.join(result.calibrations)}."]
    return "\n".join(lines) + "\n"


def _summary(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answered lines only; percentages of the measured figure."""
    columns = {
        "median error": "median_abs_pct",
        "p90": "p90_abs_pct",
        "mean": "mean_abs_pct",
        "bias": "bias_pct",
        "inside 80 %": "coverage_pct",
        "interval width": "mean_interval_width_pct",
        "peer's median": "peer_median_abs_pct",
        "ours there": "median_abs_pct_beside_peer",
    }
    heads = ["suite", "quantity", "role", "answered of", *columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for line in summary:
        if not line["answered"]:
            continue
        cells = ["" if line[key] is None else f"{line[key]:.1f} %" for key in columns.values()]
        names = [line[key] for key in ("suite", "quantity", "role")]
        answered = f"{line['answered']} of {line['n']}"
        lines.append(f"| {' | '.join([*names, answered, *cells])} |")
    return lines


def _rows(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| row | quantity | role | measured | predicted | 80 % interval | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        assert row.predicted is not None
        between = ""
        if row.low is not None and row.high is not None:
            between = f"{with_unit(row.low, row.unit)} to {with_unit(row.high, row.unit)}"
        measured, predicted = (with_unit(value, row.unit) for value in (row.measured, row.predicted))
        cells = (
            _cell(row.id),
            row.quantity,
            row.role,
            measured,
            predicted,
            between,
            f"{row.error_pct:+.1f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
