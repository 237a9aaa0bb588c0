"""Writes the tables of ``perfmodel validate --markdown`` into docs/trust.md (``make trust``)."""

import re
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.output.files import atomic_write
from perfmodel.output.validation_markdown import validation_markdown
from perfmodel.validation.suites import run_suites

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trust.md"
BEGIN, END = "<!-- perfmodel validate --markdown -->\n", "<!-- end -->"


def main() -> None:
    """Run every suite and replace what is between the two comments.

    Raises:
        DataError: the page lacks them.
    """
    text = PAGE.read_text(encoding="utf-8")
    tables = BEGIN + validation_markdown(run_suites()) + END
    replaced, count = re.subn(
        re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: tables, text, flags=re.DOTALL
    )
    if count != 1:
        raise DataError(f"{PAGE}: must hold {BEGIN.strip()} and {END} once")
    atomic_write(PAGE, replaced)


if __name__ == "__main__":
    main()
