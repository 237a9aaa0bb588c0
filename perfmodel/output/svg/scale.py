"""Axes: where a value lies, and which ticks are worth writing."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10

from perfmodel.output.svg.paper import Paper

Text = Callable[[float], str]
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from ``low`` to ``high`` on ``start`` to ``end`` of the paper."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where it lies."""
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Round values within, about so many."""
        span = (self.high - self.low) or abs(self.high) or 1.0
        power = 10.0 ** floor(log10(span / about))
        step = next(power * one for one in STEPS if span / (power * one) <= about)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def tick_text(values: list[float], prefix: str = "", suffix: str = "") -> Text:
    """Writes ticks with as many digits as tell them apart, and thousands as k, M, G."""
    most = max((abs(value) for value in values), default=0.0)
    scale, unit = next(
        (
            (s, u)
            for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
            if most >= 10.0 * s or (most >= s and s > 1e3)
        ),
        (1.0, ""),
    )
    gaps = [abs(b - a) / scale for a, b in pairwise(values) if b != a]
    step = min(gaps, default=(most / scale) or 1.0)
    places = max(0, -floor(log10(step) + 1e-9)) if step > 0.0 else 0
    if places < 6 and any(
        abs(round(value / scale, places) - value / scale) > 1e-3 * step for value in values
    ):
        places += 1

    def text(value: float) -> str:
        if abs(value) < 1e-12 * (most or 1.0):
            return f"{prefix}0{suffix}"
        sign = "\N{MINUS SIGN}" if value < 0.0 else ""
        return f"{sign}{prefix}{abs(value) / scale:,.{places}f}{unit}{suffix}"

    return text


def bottom_axis(
    paper: Paper,
    x: Scale,
    top: float,
    bottom: float,
    title: str,
    *,
    prefix: str = "",
    suffix: str = "",
    text: Text | None = None,
) -> None:
    """Grid lines, ticks (written by ``text``, where it is given) and a title below."""
    ticks = x.ticks()
    text = text or tick_text(ticks, prefix, suffix)
    for value in ticks:
        paper.line(x(value), top, x(value), bottom, "grid")
        paper.text(x(value), bottom + 15.0, text(value), anchor="middle", css="soft")
    paper.text((x.start + x.end) / 2.0, bottom + 33.0, title, anchor="middle", css="soft")


def left_axis(
    paper: Paper, y: Scale, left: float, right: float, title: str, *, prefix: str = "", suffix: str = ""
) -> None:
    """Grid lines and ticks at the left, the title above them."""
    ticks = y.ticks()
    text = tick_text(ticks, prefix, suffix)
    for value in ticks:
        paper.line(left, y(value), right, y(value), "grid")
        paper.text(left - 6.0, y(value) + 4.0, text(value), anchor="end", css="soft")
    paper.text(0.0, y.end - 12.0, title, css="soft")
