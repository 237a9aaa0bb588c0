"""Writing a report: which format, in which file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from perfmodel.errors import SpecError
from perfmodel.files import atomic_write, check_writable
from perfmodel.output.report.as_csv import report_csv
from perfmodel.output.report.markdown import report_markdown
from perfmodel.output.report.page import report_html
from perfmodel.output.report.words import report_values
from perfmodel.report.content import Report

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".csv": "csv", ".json": "json"}


def report_json(report: Report) -> str:
    """One strict JSON object, SI units."""
    return json.dumps(report_values(report), allow_nan=False, indent=1) + "\n"


WRITERS: Mapping[str, Callable[[Report], str]] = {
    "html": report_html,
    "md": report_markdown,
    "csv": report_csv,
    "json": report_json,
}
"""Format -> the report as text."""


def report_format(stated: str | None, out: Path | None) -> str:
    """The format that is stated, or that the file's suffix says.

    Raises:
        SpecError: an unknown format, or a suffix that says none.
        DataError: the file can't be written there.
    """
    if out is not None:
        check_writable(out)
    if stated is not None:
        if stated not in WRITERS:
            raise SpecError(f"--format {stated}: unknown; allowed: {', '.join(WRITERS)}")
        return stated
    found = SUFFIXES.get(out.suffix.lower()) if out is not None else "html"
    if found is None:
        raise SpecError(
            f"--out {out}: its suffix says no format; end it in .html, .md, .csv or .json, or give --format"
        )
    return found


def write_report(report: Report, kind: str, path: Path, *, is_interactive: bool = False) -> None:
    """The report in a file, whole or not at all; ``is_interactive`` is about HTML's charts."""
    text = (
        report_html(report, is_interactive=True)
        if kind == "html" and is_interactive
        else WRITERS[kind](report)
    )
    atomic_write(path, text)
