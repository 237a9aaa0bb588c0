"""Numbers for people: units, thousands separators, and no more digits than a prediction deserves."""

import math
import re

from perfmodel.units import GIGA, KILO, MEGA, MS, PERCENT, TERA, US

UNKNOWN = "-"
"""What is written where there is no number."""

_PREFIXED = ("B", "B/s", "FLOP", "FLOP/s")
_PREFIXES = ((TERA, "T"), (GIGA, "G"), (MEGA, "M"), (KILO, "k"))


def without_tags(text: str) -> str:
    """Text in which nothing begins a tag of HTML, whoever may take it for that: a space behind such a ``<``."""
    return re.sub(r"<(?=[A-Za-z/!?])", "< ", text)


def significant(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, and every digit before the point: 5,093; 35.8; 0.109."""
    if value is None:
        return UNKNOWN
    if value == 0.0:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    if places and abs(round(value, places)) >= 10.0 ** (digits - places):
        places -= 1  # rounding made it a digit longer: 9.996 is 10.0
    return f"{value:,.{places}f}"


def number(value: float | None, digits: int = 3) -> str:
    """A figure with about ``digits`` significant digits and thousands separators."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A number that the user gave or that was counted: every digit before the point."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best: 1.20 s, 35.8 ms, 4.76 µs."""
    if seconds is None:
        return UNKNOWN
    if abs(seconds) >= 1.0:
        return f"{significant(seconds)} s"
    return f"{significant(seconds / MS)} ms" if abs(seconds) >= MS else f"{significant(seconds / US)} µs"


def scaled(value: float | None, unit: str) -> str:
    """With a decimal prefix: 29.0 GFLOP, 30.7 MB."""
    if value is None:
        return UNKNOWN
    for scale, prefix in _PREFIXES:
        if abs(value) >= scale:
            return f"{significant(value / scale)} {prefix}{unit}"
    return f"{significant(value)} {unit}"


def percent(share: float | None) -> str:
    """A share of one as a percentage to a tenth: 66.4%, 8.1%, <0.1%."""
    if share is None:
        return UNKNOWN
    return "<0.1%" if 0.0 < share < 0.0005 else f"{share * PERCENT:.1f}%"


def usd(value: float | None) -> str:
    """Dollars: $0.109, $12.3."""
    return UNKNOWN if value is None else f"${significant(value)}"


def with_unit(value: float | None, unit: str) -> str:
    """A figure in SI, by its unit's own habit: 35.8 ms, $0.109, 2.30 GB/s, 1,240 tokens/s."""
    if value is None:
        return UNKNOWN
    if unit == "s":
        return duration(value)
    if unit == "USD":
        return usd(value)
    if unit in _PREFIXED:
        return scaled(value, unit)
    return significant(value) if unit in ("", "1") else f"{significant(value)} {unit}"
