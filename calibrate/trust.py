"""Runs every validation suite, once, for two files (``make trust``): the tables of ``perfmodel validate --markdown`` in
docs/trust.md, a second table there of served rows by load, and all rows in
``perfmodel/data/published/results.parquet``.
"""

import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.output.files import atomic_write
from perfmodel.output.validation_markdown import validation_markdown
from perfmodel.validation import recorded, roles
from perfmodel.validation.recorded import Recorded
from perfmodel.validation.rows import Row
from perfmodel.validation.suites import Validation, run_suites

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trust.md"
BEGIN, END = "<!-- perfmodel validate --markdown -->\n", "<!-- end -->"
LOADS_BEGIN, LOADS_END = "<!-- by load -->\n", "<!-- by load: end -->"
SERVED = ("silicon", "silicon-field", "silicon-2026")
"""Suites of clean rows of one instance with a warm-up."""
LOADS = ((1, 1), (2, 4), (5, 32), (33, 128), (129, 10**6))
"""Requests in flight, least and most of a class."""


def main() -> None:
    """Run every suite, replace what is between the page's two comments, and record the rows.

    Raises:
        DataError: the page lacks the comments.
    """
    result = run_suites()
    write_page(result)
    write_record(result, recorded.FILE)


def write_page(result: Validation) -> None:
    """Replace the page's two tables.

    Raises:
        DataError: it has no place for them.
    """
    text = PAGE.read_text(encoding="utf-8")
    text = _replaced(text, BEGIN, validation_markdown(result), END)
    text = _replaced(text, LOADS_BEGIN, loads_markdown(result.rows), LOADS_END)
    atomic_write(PAGE, text)


def _replaced(text: str, begin: str, table: str, end: str) -> str:
    replaced, count = re.subn(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + table + end, text, flags=re.DOTALL
    )
    if count != 1:
        raise DataError(f"{PAGE}: must hold {begin.strip()} and {end} once")
    return replaced


def loads_markdown(rows: Sequence[Row]) -> str:
    """Errors of SERVED by requests in flight and role."""
    in_flight = {
        record["id"]: int(float(record["concurrency"]))
        for file in ("silicon_serving.csv", "silicon_2026_field.csv", "silicon_2026.csv")
        for record in roles.read_published(file)
        if record["concurrency"]
    }
    lines = [
        "| quantity | in flight | role | n | median error | bias | below / above the 80 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for quantity in ("tpot_s", "ttft_s"):
        for least, most in LOADS:
            for role in ("check", "fit"):
                own = [
                    row
                    for row in rows
                    if row.suite in SERVED and (row.quantity, row.role) == (quantity, role)
                    if row.error_pct is not None and least <= in_flight.get(row.id, 0) <= most
                ]
                if own:
                    lines.append(
                        _load_line(quantity, f"{least} to {most}" if most > least else f"{least}", own)
                    )
    return "\n".join(lines).replace(f" to {LOADS[-1][1]}", " and more") + "\n"


def _load_line(quantity: str, loads: str, rows: Sequence[Row]) -> str:
    errors = [row.error_pct for row in rows if row.error_pct is not None]
    ranged = [row for row in rows if row.low is not None and row.high is not None]
    below = sum(row.measured < (row.low or 0.0) for row in ranged)
    above = sum(row.measured > (row.high or 0.0) for row in ranged)
    shown = f"{below} / {above} of {len(ranged)}" if ranged else ""
    middle, bias = statistics.median(map(abs, errors)), statistics.median(errors)
    return (
        f"| {quantity} | {loads} | {rows[0].role} | {len(rows)} | {middle:.1f} % | {bias:+.1f} % | {shown} |"
    )


def write_record(result: Validation, path: Path) -> None:
    """Write the rows with today's date; a record that says the same already stays as it is."""
    now = Recorded.of(result, date=datetime.now(UTC).date().isoformat())
    try:
        before = recorded.read(path)
    except DataError:
        before = None
    if before is None or not now.says_what(before):
        atomic_write(path, recorded.content(now))


if __name__ == "__main__":
    main()
