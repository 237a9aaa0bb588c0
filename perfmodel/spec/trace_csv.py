"""Azure's and BurstGPT's traces: CSV with a header, no quotes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.trace import MAX_TOKENS, Floats, Ints
from perfmodel.spec.trace_tables import MAX_SECONDS, Rows, number_of, tokens_of


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a CSV's three columns."""

    time: str
    input: str
    output: str
    dates: bool
    """Whether times are dates, rather than seconds."""

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return self.time, self.input, self.output


CSV = {
    "azure": Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", dates=True),
    "burstgpt": Columns("Timestamp", "Request tokens", "Response tokens", dates=False),
}

_DATE_WIDTH = 40
_DATE = re.compile(r"(19|20)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?")


class CsvParser:
    """Azure and BurstGPT: comma-separated, no quotes, one header line."""

    def __init__(self, path: Path, found: str, header: str) -> None:
        self.path, self.columns = path, CSV[found]
        cells = [cell.strip().lower() for cell in header.split(",")]
        missing = [name for name in self.columns.names if name.lower() not in cells]
        if missing:
            raise DataError(
                f"{path}: line 1: no column {' and no '.join(missing)}; {found} needs {', '.join(self.columns.names)}, "
                f"the header is {header[:80]!r}"
            )
        self.places = [cells.index(name.lower()) for name in self.columns.names]
        self.width = len(cells)
        self.origin: Any = None  # the first row's time: nanoseconds for dates, seconds else

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, look closer."""
        time: Any = f"S{_DATE_WIDTH}" if self.columns.dates else np.float64
        # in the file's order of columns, because that is how loadtxt fills fields
        fields = [("time", time), ("input", np.float64), ("output", np.float64)]
        order = np.argsort(self.places)
        if "" in lines or sum(map(_commas, lines)) != len(lines) * (self.width - 1):
            return None
        try:
            table = np.loadtxt(
                lines,
                dtype=[fields[i] for i in order],
                usecols=sorted(self.places),
                delimiter=",",
                comments=None,
                ndmin=1,
            )
            raw = _nanoseconds(table["time"]) if self.columns.dates else table["time"]
        except (ValueError, OverflowError):
            return None
        if raw is None or len(table) != len(lines):
            return None
        if not self.columns.dates and not ((raw >= 0) & (raw <= MAX_SECONDS)).all():
            return None
        numbers = np.stack([table["input"], table["output"]])
        if not (np.abs(numbers) <= MAX_TOKENS).all() or (numbers != np.rint(numbers)).any():
            return None
        origin = raw[0] if self.origin is None else self.origin
        rows = Rows(self._seconds(raw, origin), *numbers.astype(np.int64))
        if not rows.clean(last_s):
            return None
        self.origin = origin
        return rows

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""
        seconds, counts = [], []
        for number, line in enumerate(lines, first_line):
            cells = line.split(",")
            where = f"{self.path}: line {number}"
            if not line.strip():
                raise DataError(f"{where}: is empty; every line after the header must be a request")
            if len(cells) != self.width:
                raise DataError(
                    f"{where}: {line[:60]!r} has {len(cells)} values, the header has {self.width} (cut off?)"
                )
            time, given_in, given_out = (cells[place].strip() for place in self.places)
            raw = self._time(time, where)
            self.origin = raw if self.origin is None else self.origin
            now = float(self._seconds(np.asarray([raw]), self.origin)[0])
            if now < last_s:
                raise DataError(
                    f"{where}: {self.columns.time} = {time} is {last_s - now:g} s before the line above: sort by time"
                )
            last_s = now
            seconds.append(now)
            output = tokens_of(given_out, f"{where}: {self.columns.output}", least=0)
            counts.append(
                (tokens_of(given_in, f"{where}: {self.columns.input}", least=1 if output else 0), output)
            )
        table = np.asarray(counts, dtype=np.int64)
        return Rows(np.asarray(seconds), table[:, 0].copy(), table[:, 1].copy())

    def _seconds(self, raw: Any, origin: Any) -> Floats:
        """Seconds since the first row."""
        since = np.asarray(raw) - origin
        return since / 1e9 if self.columns.dates else np.asarray(since, dtype=np.float64)

    def _time(self, text: str, where: str) -> Any:
        """A time as the file has it: nanoseconds (int) of a date, else seconds."""
        if not self.columns.dates:
            return number_of(text, f"{where}: {self.columns.time}", MAX_SECONDS)
        text = text.removesuffix("+00:00").removesuffix("Z")
        try:
            if not _DATE.fullmatch(text):
                raise ValueError(text)
            return np.int64(np.datetime64(text.replace(" ", "T"), "ns").astype(np.int64))
        except ValueError as error:
            raise DataError(
                f"{where}: {self.columns.time} = {text[:40]!r}: must be a date of 1900 to 2099 in UTC, "
                "as 2023-11-16 18:15:46.6805900"
            ) from error


def _commas(line: str) -> int:
    return line.count(",")


def _nanoseconds(texts: Any) -> Ints | None:
    """Nanoseconds since 1970 of dates (n,) in bytes; None where one is not plainly a date in UTC."""
    # numpy reads "now", time zones (with a warning) and years that overflow, so look at the characters first
    texts = np.ascontiguousarray(texts)  # it is one field of a table
    letters = texts.view(np.uint8).reshape(len(texts), _DATE_WIDTH)
    if (letters[:, 19:] == ord("Z")).any() or (letters[:, 19:] == ord("+")).any():
        texts = np.char.replace(np.char.replace(texts, b"+00:00", b""), b"Z", b"").astype(f"S{_DATE_WIDTH}")
        letters = texts.view(np.uint8).reshape(len(texts), _DATE_WIDTH)
    century, rest = letters[:, :2], letters[:, 19:]
    plain = (
        (
            ((century == (b"20"[0], b"20"[1])).all(axis=1)) | ((century == (b"19"[0], b"19"[1])).all(axis=1))
        ).all()
        and (letters[:, [4, 7]] == ord("-")).all()
        and np.isin(letters[:, 10], (ord(" "), ord("T"))).all()
        and (letters[:, [13, 16]] == ord(":")).all()
        and ((rest == 0) | (rest == ord(".")) | ((rest >= ord("0")) & (rest <= ord("9")))).all()
        and not letters[:, 29:].any()  # numpy drops digits beyond nanoseconds without a word
    )
    return texts.astype("datetime64[ns]").astype(np.int64) if plain else None
