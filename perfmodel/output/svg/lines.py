"""Charts of lines and points: courses over months, cost against utilisation, speed against cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perfmodel.output.colours import (
    API_PRICE,
    BAND_COLOUR,
    HERE,
    INTERVAL_COLOUR,
    OWN_COST,
    PREDICTED,
    SCENARIO_COLOURS,
    TOTAL,
)
from perfmodel.output.svg.paper import WIDTH, Paper, fitted, legend, text_width
from perfmodel.output.svg.scale import Scale, bottom_axis, left_axis

Text = Callable[[float], str]
LEFT, TOP, HIGH = 66.0, 30.0, 230.0
RIGHT = WIDTH - 26.0
"""Of axes with a tick at their end."""
MONTHS_HIGH = 112.0


def months_chart(
    expected: Sequence[float],
    low: Sequence[float] | None,
    peak: Sequence[float] | None,
    *,
    title: str,
    text: Text,
    key: str = "",
) -> str:
    """A year's courses: the expected one as steps, what lies between low and peak as a band. ``key`` is that of the
    months in ``--json``.
    """
    paper = Paper(
        TOP + MONTHS_HIGH + 80.0,
        f"{title}: {text(expected[0])} in the first month, {text(expected[-1])} in the last",
    )
    most = max([*expected, *(peak or ()), *(low or ())])
    y = Scale(0.0, most * 1.06 or 1.0, TOP + MONTHS_HIGH, TOP)
    wide = (WIDTH - LEFT) / len(expected)
    left_axis(paper, y, LEFT, WIDTH, title, prefix="$")

    def steps(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(LEFT + wide * (i + end), y(value)) for i, value in enumerate(values) for end in (0, 1)]

    entries = []
    if low is not None and peak is not None:
        paper.area([*steps(peak), *reversed(steps(low))], BAND_COLOUR, 0.18)
        paper.path(steps(peak), HERE, dash="6 4", says="peak")
        paper.path(steps(low), TOTAL, dash="2 3", says="low")
    paper.path(steps(expected), PREDICTED, says="expected")
    for i, value in enumerate(expected):
        middle = LEFT + wide * (i + 0.5)
        paper.text(middle, TOP + MONTHS_HIGH + 15.0, str(i + 1), anchor="middle", css="soft")
        ends = f" (low {text(low[i])}, peak {text(peak[i])})" if low and peak else ""
        paper.dot(
            middle,
            y(value),
            PREDICTED,
            r=3.0,
            says=f"month {i + 1}: {text(value)}{ends}",
            key=f"{key}.{i}.expected.usd" if key else "",
            value=value,
        )
    paper.text((LEFT + WIDTH) / 2.0, TOP + MONTHS_HIGH + 32.0, "month from now", anchor="middle", css="soft")
    entries.append(("expected", PREDICTED, "line"))
    if low is not None and peak is not None:
        entries += [("peak", HERE, "dash"), ("low", TOTAL, "dash")]
    paper.height = legend(paper, TOP + MONTHS_HIGH + 54.0, entries, LEFT)
    return paper.svg()


@dataclass(frozen=True, slots=True)
class Break:
    """A price that is asked elsewhere, and where it is met."""

    api_usd: float
    at_pct: float
    interval_pct: Sequence[float] | None


def utilisation_chart(
    usd_at_full_use: float,
    *,
    interval: Sequence[float] | None,
    broken: Break | None,
    text: Text,
    key: str = "",
) -> str:
    """Cost of a million output tokens against how busy the GPUs are: c / u, with its band, and a "
    "price asked elsewhere.
    """
    title = "USD per million output tokens"
    paper = Paper(
        TOP + HIGH + 80.0,
        f"{title} against the share of time in full steps; {text(usd_at_full_use)} when always busy",
    )
    ceiling = usd_at_full_use * 10.0
    if broken is not None:
        ceiling = min(max(2.5 * broken.api_usd, 2.0 * usd_at_full_use), 40.0 * usd_at_full_use)
    x, y = Scale(0.0, 100.0, LEFT, RIGHT), Scale(0.0, ceiling, TOP + HIGH, TOP)
    left_axis(paper, y, LEFT, RIGHT, title, prefix="$")
    bottom_axis(paper, x, TOP, TOP + HIGH, "share of the time in full steps", suffix=" %")
    entries = [("own GPUs", OWN_COST, "line")]

    def curve(usd: float) -> list[tuple[float, float]]:
        first = max(100.0 * usd / ceiling, 0.5)
        return [
            (x(at), y(min(usd * 100.0 / at, ceiling)))
            for at in (first + (100.0 - first) * (i / 120.0) ** 2 for i in range(121))
        ]

    if interval is not None:
        paper.area([*curve(interval[1]), *reversed(curve(interval[0]))], INTERVAL_COLOUR, 0.25)
        entries.append(("80 % interval", INTERVAL_COLOUR, "box"))
    paper.path(curve(usd_at_full_use), OWN_COST)
    paper.dot(
        x(100.0),
        y(usd_at_full_use),
        OWN_COST,
        says=f"always busy: {text(usd_at_full_use)}",
        key=key,
        value=usd_at_full_use,
    )
    if broken is not None:
        paper.line(LEFT, y(broken.api_usd), RIGHT, y(broken.api_usd), colour=API_PRICE, dash="6 4")
        entries.append((f"API price, {text(broken.api_usd)}", API_PRICE, "dash"))
        if broken.at_pct <= 100.0:
            low, high = broken.interval_pct or (broken.at_pct, broken.at_pct)
            paper.line(x(low), y(broken.api_usd), x(min(high, 100.0)), y(broken.api_usd), colour=API_PRICE)
            says = f"break-even at {broken.at_pct:.3g} % of the time"
            paper.dot(x(broken.at_pct), y(broken.api_usd), API_PRICE, says=says, r=5.0)
            entries.append((says, API_PRICE, "dot"))
    paper.height = legend(paper, TOP + HIGH + 54.0, entries, LEFT)
    return paper.svg()


@dataclass(frozen=True, slots=True)
class Point:
    """A scenario by speed and cost, with 80 % intervals where they are known."""

    name: str
    speed: float
    usd: float
    speed_ends: Sequence[float] | None
    usd_ends: Sequence[float] | None
    key: str = ""


def speed_cost_chart(points: Sequence[Point], *, text: Text) -> str:
    """Scenarios by tokens/s per user and USD per million output tokens."""
    title = "USD per million output tokens"
    paper = Paper(
        TOP + HIGH + 80.0, f"{title} against tokens/s per user: " + "; ".join(p.name for p in points)
    )
    speeds = [v for p in points for v in (p.speed, *(p.speed_ends or ()))]
    costs = [v for p in points for v in (p.usd, *(p.usd_ends or ()))]
    x = Scale(0.0, max(speeds) * 1.08, LEFT, RIGHT)
    y = Scale(0.0, max(costs) * 1.08 or 1.0, TOP + HIGH, TOP)
    left_axis(paper, y, LEFT, RIGHT, title, prefix="$")
    bottom_axis(paper, x, TOP, TOP + HIGH, "tokens/s per user: further right is faster")
    entries = []
    for number, point in enumerate(points):
        colour = SCENARIO_COLOURS[number % len(SCENARIO_COLOURS)]
        if point.speed_ends:
            paper.line(
                x(point.speed_ends[0]), y(point.usd), x(point.speed_ends[1]), y(point.usd), colour=colour
            )
        if point.usd_ends:
            paper.line(
                x(point.speed), y(point.usd_ends[0]), x(point.speed), y(point.usd_ends[1]), colour=colour
            )
        says = (
            f"{point.name}: {point.speed:.3g} tokens/s per user, {text(point.usd)} per million output tokens"
        )
        paper.dot(x(point.speed), y(point.usd), colour, r=5.5, says=says, key=point.key, value=point.usd)
        mark = str(number + 1)
        at_one = [n for n, other in enumerate(points) if (other.speed, other.usd) == (point.speed, point.usd)]
        if at_one[0] == number:  # those on one point share its label
            numbers = ", ".join(str(n + 1) for n in at_one)
            right = x(point.speed) + 9.0 + text_width(numbers) < WIDTH
            place = x(point.speed) + (8.0 if right else -8.0)
            paper.text(place, y(point.usd) - 7.0, numbers, anchor="start" if right else "end", bold=True)
        entries.append((fitted(f"{mark}  {point.name}", WIDTH - LEFT - 40.0), colour, "dot"))
    paper.height = legend(paper, TOP + HIGH + 54.0, entries, LEFT)
    return paper.svg()
