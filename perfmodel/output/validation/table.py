"""Tables of a validation, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.output.console import console
from perfmodel.output.formats import with_unit
from perfmodel.output.tables import table_of
from perfmodel.output.validation.comparisons import print_comparisons
from perfmodel.validation.rows import Row, summarise, unanswered
from perfmodel.validation.suites import Validation

MAX_LISTED = 100
"""Rows of a validation that are all listed; of more, the FURTHEST off are."""
FURTHEST = 20
ERRORS_CAPTION = "inside and width: the 80 % interval; ours there: on the rows that the peer answers too"


def print_validation(result: Validation) -> None:
    """Print the rows of a validation (of many: those furthest off), what is unanswered and why, and the summary."""
    out = console()
    print_comparisons(out, result.runs)
    told = {id(row) for run in result.runs for row in run.rows}
    rows = _validation_rows([row for row in result.rows if id(row) not in told])
    if rows.row_count:
        out.print(rows)
    reasons = unanswered(result.rows)
    if reasons:
        table = table_of("Not answered", "suite", "rows", "reason")
        for suite, reason, number_of_rows in reasons:
            table.add_row(Text(suite), str(number_of_rows), Text(reason))
        out.print(table)
    if rows.row_count or len(result.runs) > 1:
        out.print(_errors([line for line in summarise(result.rows) if line["answered"]]))
    if result.calibrations:
        out.print(
            f"[dim]Predictions rest on {', '.join(result.calibrations)}; --html FILE draws and filters the rows[/]"
        )


def _validation_rows(rows: Sequence[Row]) -> Table:
    """What rows bring along is printed as it is: an id in square brackets is no markup."""
    title = "Measured or published against predicted"
    if len(rows) > MAX_LISTED:
        title += f": up to {FURTHEST} rows, furthest off, of {len(rows):,} (--html FILE or --json for all)"
        answered = [row for row in rows if row.error_pct is not None]
        rows = sorted(answered, key=lambda row: -abs(row.error_pct or 0.0))[:FURTHEST]
    table = table_of(title, "row", "quantity", "measured", "predicted", "error", "as printed", "role")
    for row in rows:
        printed = {None: "", True: "yes", False: "NO"}[row.matches_printed]
        predicted = "" if row.predicted is None else with_unit(row.predicted, row.unit)
        error = "" if row.error_pct is None else f"{row.error_pct:+.1f} %"
        cells = (row.id, row.quantity, with_unit(row.measured, row.unit), predicted, error, printed, row.role)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _errors(summary: Sequence[Mapping[str, Any]]) -> Table:
    """The summary; columns that would be empty are left out."""
    percents = {
        "median": "median_abs_pct",
        "p90": "p90_abs_pct",
        "mean": "mean_abs_pct",
        "bias": "bias_pct",
        "inside 80 %": "coverage_pct",
        "width": "mean_interval_width_pct",
        "peer's median": "peer_median_abs_pct",
        "ours there": "median_abs_pct_beside_peer",
    }
    always = ("median", "p90", "mean", "bias")
    shown = {
        name: key
        for name, key in percents.items()
        if name in always or any(line[key] is not None for line in summary)
    }
    table = table_of(
        "Errors, % of the measured figure", "suite", "quantity", "role", "rows", "answered", *shown
    )
    for line in summary:
        cells = ("" if line[key] is None else f"{line[key]:.1f}" for key in shown.values())
        names = (Text(line[key]) for key in ("suite", "quantity", "role"))
        table.add_row(*names, str(line["n"]), str(line["answered"]), *cells)
    table.caption = None if len(shown) == len(always) else ERRORS_CAPTION
    return table
