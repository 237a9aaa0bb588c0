"""Charts of a validation: pure functions from rows to plotly figures, which the page filters by row number.

Every point's ``customdata`` is its row's number, from which the page also takes what hovering says (:func:`hover`); a
trace without it (diagonal, bands) is drawn whatever the filter.
As in :mod:`perfmodel.output.charts.base`, the page sets colours of text and lines for its theme.
"""

import math
import random
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from perfmodel.output.charts.base import CLEAR, Figure, layout
from perfmodel.output.formats import with_unit
from perfmodel.validation.rows import Row

SUITE_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6FD0", "#8C564B", "#999933", "#AA4499",
)  # fmt: skip
"""Okabe and Ito's palette and Paul Tol's, as in :mod:`perfmodel.output.colours`; suites beyond take them again."""

PEER_COLOUR = "#8A8A8A"
PEER = "another tool, on the same rows"
"""What is grey among errors."""

ROLE_SYMBOLS: Mapping[str, tuple[str, str]] = {
    "check": ("circle", "●"),
    "fit": ("circle-open", "○"),
    "theory": ("diamond", "◆"),
    "comparison": ("x-thin-open", "✕"),
    "user": ("triangle-up", "▲"),
}
"""Role -> plotly's symbol and the same in text."""

OTHER_ROLE = ("square", "■")
BANDS_PCT = (10, 25)
FAR = 1e15
"""Bands and diagonal reach from 1/FAR to FAR: beyond any axis, so that zooming out shows them too."""
FEW = 300
"""Up to this number of rows, interval bars are drawn from the start."""
MANY = 3000
"""Above this number of rows, only outliers of the errors are drawn as points of their own."""


def role_symbol(role: str) -> tuple[str, str]:
    """A role's symbol, for plotly and in text."""
    return ROLE_SYMBOLS.get(role, OTHER_ROLE)


def signed_pct(error: float | None) -> str:
    """A signed error to a tenth of a percent."""
    return "-" if error is None else f"{error + 0.0:+.1f}%"


def interval_text(row: Row) -> str:
    """The 80 % interval in the row's unit, or nothing."""
    if row.low is None or row.high is None:
        return ""
    low, high = (with_unit(bound, row.unit) for bound in (row.low, row.high))
    number, _, unit = low.rpartition(" ")
    return f"{number if number and high.endswith(f' {unit}') else low} to {high}"


def scatter_chart(rows: Sequence[Row], colours: Mapping[str, str] | None = None) -> Figure:
    """Predicted against measured on logarithmic axes, one trace per suite; the page shows one unit's rows at a time.

    ``colours`` by suite; without them, in the order of the rows. The legend is the page's (:func:`legend_keys`): with
    more suites than a chart has room for, plotly's own would cover the axis.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout(height=480))
    for band in reversed(BANDS_PCT):
        figure.add_trace(_band(band))
    line = {"width": 1.2, "color": PEER_COLOUR}
    ends = [1 / FAR, FAR]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, name="exact", hoverinfo="skip"))
    for suite, colour in (colours or suite_colours(rows)).items():
        own = [(number, row) for number, row in _drawable(rows) if row.suite == suite]
        if own:
            figure.add_trace(_points(suite, colour, own, num_rows=len(rows)))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(type="log", zeroline=False, title={"text": "measured", "standoff": 8})
    figure.update_yaxes(
        type="log", zeroline=False, automargin=True, title={"text": "predicted", "standoff": 10}
    )
    return figure


def error_chart(rows: Sequence[Row], colours: Mapping[str, str] | None = None) -> Figure:
    """Signed errors, one lane per suite (and one for its peer, where one is known): quartiles and every row."""
    import plotly.graph_objects as go

    lanes = []
    for suite, colour in (colours or suite_colours(rows)).items():
        own = [(number, row) for number, row in enumerate(rows) if row.suite == suite]
        lanes.append((suite, colour, [(n, row, row.error_pct) for n, row in own]))
        lanes.append((f"{suite}: peer", PEER_COLOUR, [(n, row, row.peer_error_pct) for n, row in own]))
    figure = go.Figure(layout=_layout(height=560))
    for lane, colour, found in lanes:
        known = [(number, row, error) for number, row, error in found if error is not None]
        if known:
            figure.add_trace(_strip(lane, colour, known, crowded=len(rows) > MANY))
    for band in BANDS_PCT:
        figure.add_vrect(x0=-band, x1=band, fillcolor="rgba(127,127,127,0.13)", line_width=0, layer="below")
    figure.add_vline(x=0, line={"width": 1.2, "color": PEER_COLOUR}, layer="below")
    figure.update_layout(showlegend=False)
    # types are said because a figure whose first lane is filtered away would guess others
    figure.update_xaxes(
        type="linear", title={"text": "error, % of the measured figure", "standoff": 8}, zeroline=False
    )
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False, fixedrange=True, ticklabelstandoff=6
    )
    return figure


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows of each suite, drawn at random (always the same ones), so that few do not drown in many."""
    drawn = random.Random(0)
    numbers: list[int] = []
    for suite in dict.fromkeys(row.suite for row in rows):
        own = [number for number, row in enumerate(rows) if row.suite == suite]
        numbers += own if len(own) <= most else drawn.sample(own, most)
    return [rows[number] for number in sorted(numbers)]


def whole_scatter(rows: Sequence[Row], colours: Mapping[str, str]) -> Figure:
    """:func:`scatter_chart` of rows of one unit, with what a page's script would add: ranges, units, hover texts."""
    figure = _hovering(scatter_chart(rows, colours), rows)
    values = [value for _, row in _drawable(rows) for value in (row.measured, row.predicted) if value]
    low, high = (math.log10(end(values, default=1.0)) for end in (min, max))
    pad = 0.06 * max(high - low, 1.0)
    unit = next((row.unit for row in rows), "")
    axis = {
        "range": [low - pad, high + pad],
        "tickformat": "~s",
        "ticksuffix": "s" if unit == "s" else "",
        "tickprefix": "$" if unit == "USD" else "",
        "nticks": 8,
    }
    words = "" if unit in ("s", "USD", "1", "ratio", "") else f", {unit}"
    figure.update_xaxes(**axis, title={"text": f"measured{words}"})
    figure.update_yaxes(**axis, title={"text": f"predicted{words}"})
    return figure


def whole_errors(rows: Sequence[Row], colours: Mapping[str, str]) -> Figure:
    """:func:`error_chart` with hover texts, from where nearly all errors begin to where they end."""
    figure = _hovering(error_chart(rows, colours), rows)
    errors = sorted(error for row in rows if (error := row.error_pct) is not None)
    if errors:
        low, high = errors[len(errors) // 100], errors[-1 - len(errors) // 100]
        figure.update_xaxes(
            range=[min(low, -30.0) - 5.0, max(high, 30.0) + 5.0], ticksuffix="%", title={"text": "error"}
        )
    return figure


def _hovering(figure: Figure, rows: Sequence[Row]) -> Figure:
    """The figure with each point's hover text, where no script adds it."""
    for trace in figure.data:
        if trace.customdata is not None:
            trace.hovertext = [hover(rows[number]) for number in trace.customdata]
            trace.customdata = None
    return figure


def suite_colours(rows: Sequence[Row]) -> dict[str, str]:
    """Suite -> colour, in the order of the rows."""
    suites = dict.fromkeys(row.suite for row in rows)
    return {suite: SUITE_COLOURS[number % len(SUITE_COLOURS)] for number, suite in enumerate(suites)}


def legend_keys(rows: Sequence[Row], colours: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """(suite, colour) of the suites whose rows are drawn, in the order of the colours; and what is grey."""
    drawn = {row.suite for row in rows if row.predicted is not None}
    keys = [(suite, colour) for suite, colour in (colours or suite_colours(rows)).items() if suite in drawn]
    if any(row.peer_predicted is not None for row in rows):
        keys.append((PEER, PEER_COLOUR))
    return keys


def hover(row: Row) -> str:
    """What a point says, as plotly's markup; everything that a row brings along is escaped."""
    interval = interval_text(row)
    lines = [
        f"<b>{escape(row.id)}</b>",
        escape(row.model),
        f"{escape(row.quantity)}, {escape(row.role)}",
        f"measured {escape(with_unit(row.measured, row.unit))}",
        f"predicted {escape(with_unit(row.predicted, row.unit))} ({signed_pct(row.error_pct)})",
        f"80% interval {escape(interval)}" if interval else "",
        f"peer {escape(with_unit(row.peer_predicted, row.unit))} ({signed_pct(row.peer_error_pct)})"
        if row.peer_predicted is not None
        else "",
    ]
    return "<br>".join(line for line in lines if line)


def _layout(height: int) -> dict[str, Any]:
    return layout(
        height,
        margin={"l": 64, "r": 12, "t": 12, "b": 60},
        hoverlabel={"align": "left", "namelength": -1},
        hovermode="closest",
    )


def _drawable(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Rows with a place on logarithmic axes, and their numbers."""
    return [
        (number, row)
        for number, row in enumerate(rows)
        if row.predicted is not None and row.predicted > 0 and row.measured > 0
    ]


def _band(percent: int) -> Any:
    import plotly.graph_objects as go

    low, high = 1 - percent / 100, 1 + percent / 100
    return go.Scatter(
        x=[1 / FAR, FAR, FAR, 1 / FAR],
        y=[high / FAR, high * FAR, low * FAR, low / FAR],
        mode="lines",
        fill="toself",
        fillcolor="rgba(127,127,127,0.16)",
        line={"width": 0, "color": PEER_COLOUR},
        name=f"±{percent}%",
        hoverinfo="skip",
    )


def _points(suite: str, colour: str, rows: Sequence[tuple[int, Row]], *, num_rows: int) -> Any:
    import plotly.graph_objects as go

    marker: dict[str, Any] = {
        "color": colour,
        "size": 8,
        "opacity": 0.85 if len(rows) <= FEW else 0.6,
        "symbol": [role_symbol(row.role)[0] for _, row in rows],
        "line": {"width": 1.5, "color": colour},
    }
    intervals = {
        "type": "data",
        "symmetric": False,
        "array": [_above(row) for _, row in rows],
        "arrayminus": [_below(row) for _, row in rows],
        "thickness": 1,
        "width": 2,
        "visible": num_rows <= FEW,
    }
    return go.Scatter(
        x=[row.measured for _, row in rows],
        y=[row.predicted for _, row in rows],
        mode="markers",
        name=escape(suite),
        marker=marker,
        error_y=intervals,
        customdata=[number for number, _ in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _above(row: Row) -> float:
    return 0.0 if row.high is None or row.predicted is None else max(row.high - row.predicted, 0.0)


def _below(row: Row) -> float:
    return 0.0 if row.low is None or row.predicted is None else max(row.predicted - row.low, 0.0)


def _strip(lane: str, colour: str, rows: Sequence[tuple[int, Row, float]], *, crowded: bool) -> Any:
    import plotly.graph_objects as go

    return go.Box(
        x=[error for _, _, error in rows],
        y=[escape(lane)] * len(rows),
        orientation="h",
        name=escape(lane),
        boxpoints="outliers" if crowded else "all",
        jitter=0.7,
        pointpos=0,
        fillcolor=CLEAR,
        line={"width": 1.5, "color": colour},
        marker={"color": colour, "size": 5, "opacity": 0.55},
        customdata=[number for number, _, _ in rows],
        hovertemplate="%{hovertext}<extra></extra>",
        hoveron="points",
    )
