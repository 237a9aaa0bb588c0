"""Single values of a trace: numbers, dates, units of clocks. What is refused is refused with its place."""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.traces.dialects import Columns, Unit
from perfmodel.spec.traces.stated import MAX_TOKENS
from perfmodel.spec.traces.trace import Ints

MAX_SECONDS = 1e12
"""Of a time or between two: more than any clock shows, few enough that a float64 still resolves 0.1 ms."""
SECONDS: dict[Unit, float] = {"dates": 1e-9, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Of one unit of a clock; dates are kept as nanoseconds since 1970."""
_UNIX = (("s", 1e9, 1e11), ("ms", 1e11, 1e14), ("us", 1e14, 1e17), ("ns", 1e17, 1e20))
"""Where clocks that count since 1970 stand in our time, by unit: 2001 to 5138."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan|Infinity|NaN)", re.ASCII)
DATE_WIDTH = 40
_DATE = re.compile(r"(19|20)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?", re.ASCII)


def number_of(value: Any, what: str, most: float, *, text: bool = False) -> float:
    """A finite number from 0 to ``most``: a number, or with ``text`` one that is written out; never a truth value."""
    number = _plain(value, text=text)
    if not 0 <= number <= most:
        shown = str(value)[:40]
        raise DataError(f"{what} = {shown!r}: must be a number from 0 to {most:g}")
    return number


def tokens_of(value: Any, what: str, least: int, *, text: bool = False) -> int:
    """A whole number of tokens, as :func:`number_of` reads numbers."""
    number = _plain(value, text=text)
    if not least <= number <= MAX_TOKENS or number != int(number):
        shown = repr(value)[:40] if value != "" else "nothing"
        raise DataError(f"{what} = {shown}: must be a whole number of tokens from {least} to {MAX_TOKENS:,}")
    return int(number)


def _plain(value: Any, *, text: bool) -> float:
    """A number as Python reads it, but neither ``1_0`` nor digits of other scripts; nan: none."""
    if text:
        return float(value) if _NUMBER.fullmatch(value.strip()) else math.nan
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return math.nan


def clock_of(columns: Columns, first: float, *, whole: bool, where: str) -> tuple[Unit, str | None]:
    """The unit of a file's times, by its first one, and a note where it is not the dialect's.

    A number that only a clock since 1970 can show says its unit by its size. Seconds of such a clock would be
    milliseconds, eleven days in, to a dialect that counts those: a fraction decides, else the user.

    Raises:
        DataError: not known; the message says how to state it.
    """
    unit = columns.unit
    if columns.stated_unit and unit is not None:
        return unit, None
    unix = next((name for name, low, high in _UNIX if low <= first < high), None)
    if unit == "dates" or (unix is None and unit is not None) or (unix == unit and unit is not None):
        return unit, None
    if unix == "s" and whole and unit is not None:
        raise DataError(
            f"{where}: {columns.time} = {first:.0f} may be seconds since 1970 or {unit} since the start: give "
            "workload.time_unit (s, ms, us or ns)"
        )
    if unix is None:
        raise DataError(
            f"{where}: {columns.time} = {first:g}: the unit of these times is not known: give workload.time_unit "
            "(s, ms, us or ns)"
        )
    known: Unit = unix  # type: ignore[assignment]
    return (
        known,
        f"{columns.time} is read as {known} since 1970, by its size: workload.time_unit says otherwise",
    )


def nanoseconds_of(text: str, what: str) -> np.int64:
    """Nanoseconds since 1970 of a date in UTC."""
    plain = text.removesuffix("+00:00").removesuffix("Z")
    try:
        if not _DATE.fullmatch(plain):
            raise ValueError(plain)
        return np.int64(np.datetime64(plain.replace(" ", "T"), "ns").astype(np.int64))
    except ValueError as error:
        raise DataError(
            f"{what} = {text[:40]!r}: must be a date of 1900 to 2099 in UTC, as 2023-11-16 18:15:46.6805900"
        ) from error


def is_date(text: str) -> bool:
    """Whether a text is a date rather than a number."""
    return bool(re.match(r"\d{4}-\d\d-\d\d", text.strip(), re.ASCII))


def dates(texts: NDArray[np.bytes_]) -> Ints | None:
    """Nanoseconds since 1970 of dates (n,) in bytes; None where one is not plainly a date in UTC."""
    # numpy reads "now", time zones (with a warning) and years that overflow, so look at the characters first
    texts = np.ascontiguousarray(texts)  # it is one field of a table
    letters = texts.view(np.uint8).reshape(len(texts), DATE_WIDTH)
    if (letters[:, 19:] == ord("Z")).any() or (letters[:, 19:] == ord("+")).any():
        texts = np.char.replace(np.char.replace(texts, b"+00:00", b""), b"Z", b"").astype(f"S{DATE_WIDTH}")
        letters = texts.view(np.uint8).reshape(len(texts), DATE_WIDTH)
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
