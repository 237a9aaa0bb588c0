"""One figure of a report, with its place in ``--json``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfmodel.output.formats import usd


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a report."""

    key: str
    """Its place in ``perfmodel report --json``, e.g. ``scenarios.0.step.tpot_s``."""
    label: str
    value: float
    text: str
    interval: tuple[float, float] | None = None
    interval_text: str = ""
    note: str = ""


def figure_of(key: str, label: str, value: float, text: Callable[[float], str], bounds: Any = None) -> Figure:
    """A figure with its interval in words."""
    said = f"{text(bounds[0])} to {text(bounds[1])}" if bounds else ""
    return Figure(key, label, value, text(value), (bounds[0], bounds[1]) if bounds else None, said)


def dollars(value: float | None) -> str:
    """An amount to pay: whole dollars with separators from a hundred on, else as a price."""
    return f"${value:,.0f}" if value is not None and value >= 100.0 else usd(value)
