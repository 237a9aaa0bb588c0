"""A report as CSV: one row per figure, for spreadsheets."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.output.formats import without_tags
from perfmodel.report.content import Report

COLUMNS = ("scenario", "key", "value", "low", "high", "text")
"""``key`` is the figure's place in ``perfmodel report --json``, below its scenario; ``low`` and ``high`` the 80 %
interval; ``text`` what is no number."""
SKIPPED = (
    "ops",
    "intervals",
    "scenario_yaml",
    "dangers",
    "warnings",
    "caveats",
    "provenance",
    "mean_intervals",
    "interval_draws",
)
"""Not figures, or beside the figure that they belong to."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet take a text for a formula."""


def report_csv(report: Report) -> str:
    """The text. Numbers are written in full, in SI units; a text that a spreadsheet would run is prefixed with '."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in report.values["scenarios"]:
        bounds = {
            f"{kind}.{key}": pair
            for kind in ("step", "serve", "money")
            for key, pair in ((part[kind] or {}).get("intervals") or {}).items()
        }
        writer.writerows(leaf_rows(part["name"], part, bounds))
    for row in report.values["comparison"]:
        for key, value in _leaves(row["difference"] or {}):
            writer.writerow(_row(row["name"], f"difference.{key}", value, None))
    for number, line in enumerate(report.values["validation"]):
        for key, value in _leaves(line):
            writer.writerow(_row("", f"validation.{number}.{key}", value, None))
    for key in ("warnings", "caveats"):
        for number, text in enumerate(report.values[key]):
            writer.writerow(_row("", f"{key}.{number}", text, None))
    writer.writerow(_row("", "provenance.command", report.values["provenance"]["command"], None))
    return out.getvalue()


def leaf_rows(scenario: str, values: Mapping[str, Any], bounds: Mapping[str, Any]) -> Iterator[list[Any]]:
    """A row for every figure and text below ``values``, with its interval of ``bounds`` by key."""
    for key, value in _leaves(values):
        yield _row(scenario, key, value, bounds.get(key))


def safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula, and nothing for markup."""
    plain = without_tags(text)
    return f"'{plain}" if plain.startswith(FORMULA) else plain


def _row(scenario: str, key: str, value: Any, bounds: Any) -> list[Any]:
    low, high = bounds or ("", "")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [safe(scenario), safe(key), value if number else "", low, high, "" if number else safe(str(value))]


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything below; unknown values are left out."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if key not in SKIPPED:
                yield from _leaves(one, f"{at}.{key}" if at else str(key))
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{at}.{number}")
    elif value is not None:
        yield at, value
