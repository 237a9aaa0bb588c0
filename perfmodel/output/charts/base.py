"""What all charts have in common: type names, layout, axis titles.

Charts are pure functions from plain rows or a DataFrame to plotly figures, shared by the HTML pages, the report and the
dashboard. Figures carry no background and no colour of their own for text and lines: the page that shows them sets
those for its theme (classes ``xtick``, ``gtitle``, ...). Every mark's meaning is in its hover text too, never in its
colour alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Figure = Any
"""plotly's; typed so because plotly is imported only where a figure is made."""
Drawn = dict[str, Any]
"""A figure as plotly.js reads it: ``data`` and ``layout``."""

CLEAR = "rgba(0,0,0,0)"
PLAIN = {"data": {"scatter": [{"type": "scatter"}]}}
"""What plotly calls the template ``none``, as plotly.js wants it."""


def drawn(traces: Sequence[Row], layout: Row) -> Drawn:
    """A figure as a plain dict, of plain traces and a plain layout. Nothing of it is checked, which takes plotly longer
    than all the rest of a chart; the tests have plotly check every chart that is made so.
    """
    return {"data": list(traces), "layout": layout}


def vertical(x: float, **line: Any) -> dict[str, Any]:
    """A line over the whole height, for a layout's ``shapes``."""
    return {"type": "line", "x0": x, "x1": x, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain", "line": line}


def layout(height: int, **own: Any) -> dict[str, Any]:
    """What every chart's layout has in common, and a chart's ``own`` settings over it."""
    return {
        "template": PLAIN,
        "height": height,
        "margin": {"l": 12, "r": 12, "t": 12, "b": 48},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "modebar": {"bgcolor": CLEAR},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "bgcolor": CLEAR,
        },
        "hoverlabel": {"align": "left"},
        "dragmode": "zoom",
    } | own


def bars_layout(height: int) -> dict[str, Any]:
    """Of charts made of bars, labelled inside."""
    return layout(height, barmode="overlay", uniformtext={"minsize": 10, "mode": "hide"})


def axis_title(text: str) -> dict[str, Any]:
    """An axis title, close to its axis."""
    return {"text": text, "standoff": 12, "font": {"size": 13}}


def log_ticks(prefix: str = "") -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 of every power of ten, written out."""
    values = [digit * 10.0**power for power in range(-6, 9) for digit in (1.0, 2.0, 5.0)]
    return {"type": "log", "tickvals": values, "ticktext": [f"{prefix}{_tick(value)}" for value in values]}


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1.0 else f"{value:.6f}".rstrip("0")
