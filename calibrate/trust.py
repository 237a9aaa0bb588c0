"""Runs every validation suite for two files (``make trust``): the tables of docs/trust.md (``perfmodel validate
--markdown``, and those of :mod:`calibrate.trust_tables`), and all rows in ``perfmodel/data/published/results.parquet``.

Those of served set-ups run once more with every engine constant at zero, in a process of their own. ``python -m
calibrate.trust SUITE...`` runs those suites alone, keeps the other rows on record, and leaves that last table as it is.
"""

import multiprocessing
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from calibrate.trust_tables import SET_BY_CONSTANTS, constants_markdown, intervals_markdown, loads_markdown
from perfmodel.engines import profile
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.output.validation.markdown import validation_markdown
from perfmodel.validation import recorded
from perfmodel.validation.ceilings import above, owner
from perfmodel.validation.recorded import Recorded
from perfmodel.validation.rows import Row
from perfmodel.validation.suites import SUITES, Validation, run_suites

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trust.md"
BEGIN, END = "<!-- perfmodel validate --markdown -->\n", "<!-- end -->"
LOADS = "by load"
INTERVALS = "intervals"
ZERO = "no constant"
"""Names of the page's other tables: each stands between two comments, ``NAME`` and ``NAME: end``."""


def main() -> None:
    """Run every suite or those that are named, replace what is between the page's comments, and record the rows.

    Raises:
        SpecError: no such suite.
        DataError: the page lacks the comments.
    """
    if sys.argv[1:]:
        result = beside_record(sys.argv[1:])
        write_page(result)
        write_record(result, recorded.FILE)
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        without = pool.submit(rows_without_constants)
        result = run_suites()
        write_page(result, without.result())
    write_record(result, recorded.FILE)


def beside_record(names: Sequence[str]) -> Validation:
    """Some suites anew, and all others as they are on record.

    Raises:
        SpecError: no such suite.
    """
    before = recorded.recorded_results()
    now = {name: run_suites(name) for name in names}
    rows = [
        row
        for name in SUITES
        for row in (now[name].rows if name in now else before.rows)
        if owner(row.suite) == name
    ]
    return Validation(tuple(rows), above(rows, list(SUITES)), tuple(SUITES), None, before.calibrations)


def rows_without_constants() -> list[Row]:
    """SET_BY_CONSTANTS with every fitted constant at zero. For a process of its own: engines forget theirs."""
    profile.FITTED = Path("nowhere")
    return [row for name in SET_BY_CONSTANTS for row in SUITES[name].rows(None, None)]


def write_page(result: Validation, without: Sequence[Row] | None = None) -> None:
    """Replace the page's tables; the one with every constant at zero stays without such rows.

    Raises:
        DataError: it has no place for them.
    """
    text = PAGE.read_text(encoding="utf-8")
    text = _replaced(text, BEGIN, validation_markdown(result), END)
    tables = {LOADS: loads_markdown(result.rows), INTERVALS: intervals_markdown(result.rows)}
    if without is not None:
        tables[ZERO] = constants_markdown(result.rows, without)
    for name, table in tables.items():
        text = _replaced(text, f"<!-- {name} -->\n", table, f"<!-- {name}: end -->")
    atomic_write(PAGE, text)


def _replaced(text: str, begin: str, table: str, end: str) -> str:
    replaced, count = re.subn(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + table + end, text, flags=re.DOTALL
    )
    if count != 1:
        raise DataError(f"{PAGE}: must hold {begin.strip()} and {end} once")
    return replaced


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
