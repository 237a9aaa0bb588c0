"""Charts of bars: one cut into parts, levers around a value, a way from one value to another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.output.colours import DECREASE, INCREASE, INTERVAL_COLOUR, TOTAL, text_on
from perfmodel.output.svg.paper import FONT, LINE, WIDTH, Paper, fitted, legend, text_width, wrapped
from perfmodel.output.svg.scale import Scale, bottom_axis

Text = Callable[[float], str]
ROW = 40.0
BAR = 22.0
NAMES = 190.0
"""Width of the column of names."""
FLAT = 1e-9
"""Changes below this share of the larger total are none."""
LEAST_SHARE = 0.03
"""Of the bar, below which a part is named in the legend alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar."""

    name: str
    value: float
    colour: str
    key: str = ""


def share_chart(parts: Sequence[Part], *, title: str, text: Text) -> str:
    """One bar cut into parts, each named in it or in the legend below."""
    shown = [part for part in parts if part.value > 0.0]
    total = sum(part.value for part in shown) or 1.0
    paper = Paper(200.0, f"{title}: " + ", ".join(f"{p.name} {text(p.value)}" for p in shown))
    at = 0.0
    for part in shown:
        wide = part.value / total * WIDTH
        says = f"{part.name}: {text(part.value)}, {part.value / total:.1%}"
        paper.rect(at, 8.0, wide, 40.0, part.colour, says=says, key=part.key, value=part.value)
        label = part.name if part.value / total >= LEAST_SHARE and text_width(part.name) + 8.0 <= wide else ""
        if label:
            paper.text(at + wide / 2.0, 32.0, label, anchor="middle", colour=text_on(part.colour))
        at += wide
    paper.rect(0.0, 48.0, WIDTH, 0.8, TOTAL)
    end = legend(
        paper, 70.0, [(f"{p.name} {text(p.value)} ({p.value / total:.1%})", p.colour, "box") for p in shown]
    )
    paper.height = end
    return paper.svg()


@dataclass(frozen=True, slots=True)
class Swing:
    """One lever: what comes out at its ends, and what they are."""

    name: str
    low: float
    high: float
    low_label: str
    high_label: str
    key: str = ""
    """Of its figures in ``--json``; ``.low`` and ``.high`` follow."""


def tornado_chart(
    swings: Sequence[Swing], *, base: float, title: str, text: Text, interval: Sequence[float] | None = None
) -> str:
    """Levers as bars around ``base``, the widest first; what makes it dearer (or slower) has another colour than what
    makes it cheaper. ``interval``, the model's own 80 %, is a band behind them.
    """
    rows = sorted(swings, key=lambda one: -abs(one.high - one.low))
    found = [base, *(value for one in rows for value in (one.low, one.high)), *(interval or ())]
    top, bottom = 6.0, 6.0 + ROW * len(rows)
    paper = Paper(bottom + 72.0, f"{title}, by what may be otherwise; here {text(base)}")
    room = 130.0
    x = Scale(min(found), max(found), NAMES + room, WIDTH - room)
    bottom_axis(paper, x, top, bottom, title, **_axis(text))
    if interval is not None:
        paper.rect(
            x(interval[0]),
            top,
            x(interval[1]) - x(interval[0]),
            bottom - top,
            INTERVAL_COLOUR,
            opacity=0.22,
            says=f"80 % interval of the model: {text(interval[0])} to {text(interval[1])}",
        )
    for number, one in enumerate(rows):
        middle = top + ROW * (number + 0.5)
        for line, words in enumerate(lines := wrapped(one.name, NAMES - 8.0, most=2)):
            paper.text(
                NAMES - 8.0, middle + 4.0 + (line - (len(lines) - 1) / 2.0) * LINE, words, anchor="end"
            )
        ends = (("low", one.low, one.low_label, one.high), ("high", one.high, one.high_label, one.low))
        for end, value, label, other in ends:
            colour = INCREASE if value > base else DECREASE
            says = f"{one.name}, {label}: {text(value)} ({value / base - 1.0:+.0%})" if base else label
            paper.rect(
                x(base),
                middle - BAR / 2.0,
                x(value) - x(base),
                BAR,
                colour,
                says=says,
                key=f"{one.key}.{end}" if one.key else "",
                value=value,
            )
            same_side = (value - base) * (other - base) > 0.0
            if not (same_side and abs(value - base) < abs(other - base)):
                _end_label(
                    paper, x(value), middle, label, is_right=value > base or (value == base and other < base)
                )
    paper.line(x(base), top, x(base), bottom, "axis")
    less, more = ("cheaper", "dearer") if _is_money(text) else ("faster", "slower")
    entries = [(less, DECREASE, "box"), (more, INCREASE, "box")]
    if interval is not None:
        entries.append(("80 % interval of the model", INTERVAL_COLOUR, "box"))
    paper.height = legend(paper, bottom + 58.0, entries, NAMES)
    return paper.svg()


def _is_money(text: Text) -> bool:
    return text(1.0).startswith("$")


def _axis(text: Text) -> dict[str, Any]:
    """How an axis of such figures is written."""
    return {"prefix": "$"} if _is_money(text) else {"text": text}


def _end_label(paper: Paper, x: float, y: float, label: str, *, is_right: bool) -> None:
    """Beyond a bar's end, in at most two lines."""
    lines = wrapped(label, (WIDTH - x if is_right else x - NAMES) - 6.0, size=11.0, most=2)
    for line, words in enumerate(lines):
        at = y + 4.0 + (line - (len(lines) - 1) / 2.0) * 12.0
        paper.text(
            x + (5.0 if is_right else -5.0), at, words, anchor="start" if is_right else "end", size=11.0
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a waterfall."""

    name: str
    delta: float
    key: str = ""


def waterfall_chart(
    changes: Sequence[Change], *, start: float, end: float, names: tuple[str, str], title: str, text: Text
) -> str:
    """From one figure to another in steps that add up; those that change nothing are left out."""
    largest = max(abs(start), abs(end)) or 1.0
    rows = [one for one in changes if abs(one.delta) > FLAT * largest]
    top = 6.0
    bottom = top + ROW * (len(rows) + 2)
    paper = Paper(bottom + 44.0, f"{title}: from {names[0]} {text(start)} to {names[1]} {text(end)}")
    reached = [0.0, start, end]
    for one in rows:
        reached.append(reached[-1] + one.delta if len(reached) > 3 else start + one.delta)
    x = Scale(min(reached), max(reached), NAMES + (70.0 if min(reached) < 0.0 else 0.0), WIDTH - 84.0)
    bottom_axis(paper, x, top, bottom, title, **_axis(text))
    at = start
    _row(paper, x, top, 0, names[0], 0.0, start, TOTAL, text(start), "")
    for number, one in enumerate(rows, 1):
        sign = "+" if one.delta > 0.0 else "\N{MINUS SIGN}"
        colour = INCREASE if one.delta > 0.0 else DECREASE
        label = f"{sign}{text(abs(one.delta))}"
        _row(paper, x, top, number, one.name, at, one.delta, colour, label, one.key)
        paper.line(x(at), top + ROW * number - 9.0, x(at), top + ROW * number + 9.0, "axis")
        at += one.delta
    _row(paper, x, top, len(rows) + 1, names[1], 0.0, end, TOTAL, text(end), "")
    return paper.svg()


def _row(
    paper: Paper,
    x: Scale,
    top: float,
    number: int,
    name: str,
    start: float,
    delta: float,
    colour: str,
    label: str,
    key: str,
) -> None:
    middle = top + ROW * (number + 0.5)
    for line, words in enumerate(lines := wrapped(name, NAMES - 8.0, most=2)):
        paper.text(NAMES - 8.0, middle + 4.0 + (line - (len(lines) - 1) / 2.0) * LINE, words, anchor="end")
    paper.rect(
        x(start),
        middle - BAR / 2.0,
        x(start + delta) - x(start),
        BAR,
        colour,
        says=f"{name}: {label}",
        key=key,
        value=delta,
    )
    right = max(x(start), x(start + delta))
    paper.text(right + 5.0, middle + 4.0, fitted(label, WIDTH - right - 5.0, FONT) or label)
