"""Training layouts as points: what a dollar buys against the memory that it takes, and days against dollars."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from perfmodel.output.charts.base import Figure, axis_title, layout
from perfmodel.output.colours import HERE, PREDICTED, SERIES

Points = Mapping[str, Sequence[Any]]
"""Columns: ``x``, ``y`` and ``hover``."""


def layouts_chart(
    rest: Points,
    fitting: Points,
    simulated: Points,
    *,
    x: str,
    y: str,
    shown: float | None = None,
    limit: tuple[float, str] | None = None,
) -> Figure:
    """Layouts that do not fit, that do, and that were simulated, the winner first.

    Args:
        rest: layouts that do not fit.
        fitting: those that do.
        simulated: what ``train`` says of the best.
        x: horizontal axis.
        y: vertical axis.
        shown: so far the horizontal axis goes at first; None: to the last point.
        limit: a line at so much on the horizontal axis, and its name.
    """
    figure_layout = layout(460, hovermode="closest", margin={"l": 72, "r": 16, "t": 22, "b": 112})
    traces = [
        _points(rest, "does not fit", "#B8B8B8", "x-thin-open", 5),
        _points(fitting, "fits", SERIES[5], "circle", 5),
        _points(_after(simulated, 1, None), "simulated", PREDICTED, "circle", 9),
        _points(_after(simulated, 0, 1), "the winner", HERE, "star", 16),
    ]
    import plotly.graph_objects as go

    figure = go.Figure(data=[trace for trace in traces if trace["x"]], layout=figure_layout)
    figure.update_xaxes(title=axis_title(x), zeroline=False, rangemode="tozero")
    figure.update_yaxes(title=axis_title(y), zeroline=False, rangemode="tozero")
    if shown is not None:
        figure.update_xaxes(range=[0, shown])
    if limit is not None:
        figure.add_vline(x=limit[0], line={"width": 1.5, "color": "#6E6E6E", "dash": "dot"})
        figure.add_annotation(
            x=limit[0], y=1.0, yref="paper", yanchor="bottom", showarrow=False, text=escape(limit[1])
        )
    return figure


def _after(points: Points, first: int, last: int | None) -> Points:
    return {name: list(values[first:last]) for name, values in points.items()}


def _points(points: Points, name: str, colour: str, symbol: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(points["x"]),
        "y": list(points["y"]),
        "customdata": [escape(text).replace("\n", "<br>") for text in points["hover"]],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "size": size,
            "color": colour,
            "symbol": symbol,
            "line": {"width": 1 if size > 5 else 0, "color": "#FFFFFF"},
        },
    }
