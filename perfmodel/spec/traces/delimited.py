"""Traces in CSV: a header, one request per line; commas, semicolons, tabs or bars between values, quotes allowed."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.traces.dialects import Columns, Unit
from perfmodel.spec.traces.stated import MAX_TOKENS
from perfmodel.spec.traces.table import Rows
from perfmodel.spec.traces.trace import Floats
from perfmodel.spec.traces.values import (
    DATE_WIDTH,
    MAX_SECONDS,
    SECONDS,
    clock_of,
    dates,
    is_date,
    nanoseconds_of,
    number_of,
    tokens_of,
)

DELIMITERS = ",;\t|"
SESSION_WIDTH = 64
"""Characters of a session's id that the fast way takes."""


def header_cells(line: str, where: str) -> tuple[list[str], str]:
    """Names in a header, and what stands between them: of DELIMITERS the one that is there most often.

    Raises:
        DataError: no CSV, e.g. a carriage return within the line.
    """
    delimiter = max(DELIMITERS, key=line.count)
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(f"{where}: {line[:60]!r} is not CSV: {error}") from error
    return [cell.strip() for cell in cells], delimiter


class CsvParser:
    """One header line, then one line per request; both ways of :class:`Parser`."""

    def __init__(self, path: Path, columns: Columns, cells: list[str], delimiter: str = ",") -> None:
        self.path, self.columns, self.delimiter = path, columns, delimiter
        self.notes: list[str] = []
        self.width = len(cells)
        names = (columns.time, columns.input, columns.output, columns.session, columns.took)
        self.fields = {
            field: cells.index(name)
            for field, name in zip(("time", "input", "output", "session", "took"), names, strict=True)
            if name is not None
        }
        self.unit: Unit | None = None  # settled by the first row
        self.origin: Any = None  # the first row's time: nanoseconds for dates, numbers in the unit else
        self.sessions: dict[str, int] = {}

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, or unusual: look closer."""
        if self.unit is None and not self._settle(lines[0]):
            return None
        kinds: dict[str, Any] = {"time": np.float64, "session": f"U{SESSION_WIDTH}", "took": np.float64}
        if self.unit == "dates":
            kinds["time"] = f"S{DATE_WIDTH}"
        # in the file's order of columns, because that is how loadtxt fills fields
        order = sorted(self.fields, key=self.fields.__getitem__)
        between = len(lines) * (self.width - 1)
        if "" in lines or sum(line.count(self.delimiter) for line in lines) != between:
            return None
        try:
            table = np.loadtxt(
                lines,
                dtype=[(field, kinds.get(field, np.float64)) for field in order],
                usecols=sorted(self.fields.values()),
                delimiter=self.delimiter,
                comments=None,
                ndmin=1,
            )
            raw: Any = np.zeros(len(table))
            if "time" in self.fields:
                raw = dates(table["time"]) if self.unit == "dates" else table["time"]
        except (ValueError, OverflowError):
            return None
        if raw is None or len(table) != len(lines):
            return None
        if self.unit != "dates" and not ((raw >= 0) & (raw <= self._most())).all():
            return None
        numbers = np.stack([table["input"], table["output"]])
        if not (np.abs(numbers) <= MAX_TOKENS).all() or (numbers != np.rint(numbers)).any():
            return None
        origin = raw[0] if self.origin is None else self.origin
        rows = Rows(self._seconds(raw, origin), *numbers.astype(np.int64))
        if not rows.clean(last_s, ordered=self.columns.ordered):
            return None
        if "session" in self.fields:
            ids = table["session"]
            if (np.char.str_len(ids) >= SESSION_WIDTH).any() or (ids != np.char.strip(ids)).any():
                return None
            rows = replace(
                rows, session=np.asarray([self._session(one) for one in ids.tolist()], dtype=np.int64)
            )
        if "took" in self.fields:
            if not ((table["took"] >= 0) & (table["took"] <= MAX_SECONDS)).all():
                return None
            rows = replace(rows, took_s=table["took"].copy())
        self.origin = origin
        return rows

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""
        seconds, counts, sessions, took = [], [], [], []
        for number, line in enumerate(lines, first_line):
            where = f"{self.path}: line {number}"
            if not line.strip():
                raise DataError(f"{where}: is empty; every line after the header must be a request")
            row = self._cells(line, where)
            time = row.get("time", "0")
            if self.unit is None:
                self.unit, told = self._unit(time, where)
                self.notes += [told] if told else []
            raw = self._time(time, where)
            self.origin = raw if self.origin is None else self.origin
            now = float(self._seconds(np.asarray([raw]), self.origin)[0])
            if now < last_s and self.columns.ordered:
                raise DataError(
                    f"{where}: {self.columns.time} = {time} is {last_s - now:g} s before the line above: sort by time"
                )
            last_s = now
            seconds.append(now)
            output = tokens_of(row["output"], f"{where}: {self.columns.output}", least=0, text=True)
            least = 1 if output else 0
            counts.append(
                (tokens_of(row["input"], f"{where}: {self.columns.input}", least=least, text=True), output)
            )
            sessions.append(self._session(row.get("session", "")))
            asked = row.get("took", "")
            took.append(
                number_of(asked, f"{where}: {self.columns.took}", MAX_SECONDS, text=True) if asked else np.nan
            )
        table = np.asarray(counts, dtype=np.int64)
        return Rows(
            np.asarray(seconds),
            table[:, 0].copy(),
            table[:, 1].copy(),
            session=np.asarray(sessions, dtype=np.int64) if "session" in self.fields else None,
            took_s=np.asarray(took) if "took" in self.fields else None,
        )

    def _cells(self, line: str, where: str) -> dict[str, str]:
        """The texts of the columns that are read."""
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            raise DataError(f"{where}: {line[:60]!r} is not CSV: {error}") from error
        if len(cells) != self.width:
            raise DataError(
                f"{where}: {line[:60]!r} has {len(cells)} values, the header has {self.width} (cut off?)"
            )
        return {field: cells[place].strip() for field, place in self.fields.items()}

    def _settle(self, line: str) -> bool:
        """Learns the unit of times from the first row; False: it has none that is plain."""
        try:
            self.unit, told = self._unit(self._cells(line, "").get("time", "0"), "")
        except DataError:
            return False  # the slow way says it with the line
        self.notes += [told] if told else []
        return True

    def _unit(self, text: str, where: str) -> tuple[Unit, str | None]:
        """Of times, by the first one: dates are told by their looks wherever no unit is stated."""
        columns = self.columns
        if columns.time is None:
            return "s", None
        if columns.unit == "dates" or (columns.unit is None and is_date(text)):
            return "dates", None
        what = f"{where}: {columns.time}"
        most = MAX_SECONDS / SECONDS["ns"] if columns.unit is None else MAX_SECONDS / SECONDS[columns.unit]
        number = number_of(text, what, most, text=True)
        return clock_of(columns, number, whole="." not in text, where=where)

    def _seconds(self, raw: Any, origin: Any) -> Floats:
        """Seconds since the first row."""
        since = np.asarray(raw) - origin
        return since / 1e9 if self.unit == "dates" else np.asarray(since, dtype=np.float64) * self._scale()

    def _scale(self) -> float:
        assert self.unit is not None
        return SECONDS[self.unit]

    def _most(self) -> float:
        return MAX_SECONDS / self._scale()

    def _time(self, text: str, where: str) -> Any:
        """A time as the file has it: nanoseconds (int) of a date, else a number."""
        what = f"{where}: {self.columns.time}"
        return (
            nanoseconds_of(text, what)
            if self.unit == "dates"
            else number_of(text, what, self._most(), text=True)
        )

    def _session(self, text: str) -> int:
        """The number of a session; -1 without an id."""
        return self.sessions.setdefault(text, len(self.sessions)) if text else -1
