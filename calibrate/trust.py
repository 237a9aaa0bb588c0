"""Runs every validation suite, once, for two files (``make trust``): the tables of ``perfmodel validate --markdown`` in
docs/trust.md, and all rows in ``perfmodel/data/published/results.parquet``.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.output.files import atomic_write
from perfmodel.output.validation_markdown import validation_markdown
from perfmodel.validation import recorded
from perfmodel.validation.recorded import Recorded
from perfmodel.validation.suites import Validation, run_suites

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trust.md"
BEGIN, END = "<!-- perfmodel validate --markdown -->\n", "<!-- end -->"


def main() -> None:
    """Run every suite, replace what is between the page's two comments, and record the rows.

    Raises:
        DataError: the page lacks the comments.
    """
    result = run_suites()
    write_page(result)
    write_record(result, recorded.FILE)


def write_page(result: Validation) -> None:
    """Replace the page's tables.

    Raises:
        DataError: it has no place for them.
    """
    text = PAGE.read_text(encoding="utf-8")
    tables = BEGIN + validation_markdown(result) + END
    replaced, count = re.subn(
        re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: tables, text, flags=re.DOTALL
    )
    if count != 1:
        raise DataError(f"{PAGE}: must hold {BEGIN.strip()} and {END} once")
    atomic_write(PAGE, replaced)


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
