"""Timelines: ops as bars on one lane per stream."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.charts.base import Figure, Row, axis_title, bars_layout
from perfmodel.output.colours import EXPOSED, OP_CLASS_COLOURS, STRIP, op_class_name, text_on

LANE_HEIGHT = 0.72
STRIP_HEIGHT = 0.5
MARK_HEIGHT = 0.13
"""Thickness of the mark under exposed communication, in lanes."""
PIXELS_PER_LANE = 54
FADED = 0.35
"""Opacity of what belongs to neighbouring layers."""
CROWDED = 300
"""Above this number of bars, bars have no outline and no label."""


def timeline_chart(
    rows: Sequence[Row],
    *,
    lanes: Sequence[str],
    end: float,
    unit: str,
    exposed: Sequence[Row] = (),
    strip: Sequence[Row] = (),
    bands: Sequence[Row] = (),
    slider: bool = False,
) -> Figure:
    """Ops as bars on one lane per stream, from the top down, and from time 0 to ``end``.

    A lane whose name ends in a space is not labelled.
    ``rows`` have lane, start, duration (in ``unit``), op_class, label, hover, and optionally micro_batch (hatched if
    odd) and faded. ``exposed`` rows (lane, start, duration, hover) are marked below their bars; ``strip`` rows (lane,
    start, duration, label, hover) are grey bars that name parts; ``bands`` (start, duration) shade the background.
    """
    import plotly.graph_objects as go

    height = {lane: len(lanes) - 1 - number for number, lane in enumerate(lanes)}
    figure = go.Figure(layout=bars_layout(PIXELS_PER_LANE * len(lanes) + (190 if slider else 140)))
    figure.update_layout(margin={"l": 84, "b": 60 if slider else 118})
    if strip:
        figure.add_trace(_strip(strip, height))
    crowded = len(rows) > CROWDED
    for op_class in OP_CLASS_COLOURS:
        own = sorted((row for row in rows if row["op_class"] == op_class), key=_plain_first)
        if own:
            figure.add_trace(_bars(own, height, op_class, crowded=crowded))
    if exposed:
        figure.add_trace(_marks(exposed, height))
    for number, band in enumerate(bands):
        _shade(figure, band, strong=number % 2 == 0)
    _timeline_axes(figure, lanes, end=end, unit=unit, slider=slider)
    return figure


def _timeline_axes(figure: Figure, lanes: Sequence[str], *, end: float, unit: str, slider: bool) -> None:
    labels = ["" if lane.endswith(" ") else lane for lane in lanes]
    ticks = {"tickvals": list(range(len(lanes) - 1, -1, -1)), "ticktext": labels, "ticklabelstandoff": 8}
    span = [-0.55, len(lanes) - 0.45]
    figure.update_yaxes(range=span, fixedrange=True, zeroline=False, showgrid=False, **ticks)
    figure.update_xaxes(title=axis_title(f"time, {unit}"), range=[0, end], zeroline=False)
    if slider:
        figure.update_xaxes(rangeslider={"visible": True, "thickness": 0.14, "range": [0, end]})


def _plain_first(row: Row) -> tuple[bool, bool]:
    """Order within a class: the legend shows what its first bar looks like."""
    return bool(row.get("faded")), bool(row.get("micro_batch", 0) % 2)


def _bars(rows: Sequence[Row], height: Mapping[str, int], op_class: str, *, crowded: bool) -> Any:
    import plotly.graph_objects as go

    hatched = [bool(row.get("micro_batch", 0) % 2) for row in rows]
    marker: dict[str, Any] = {
        "color": OP_CLASS_COLOURS[op_class],
        "line": {"width": 0 if crowded else 0.6, "color": "rgba(127,127,127,0.9)"},
    }
    if any(row.get("faded") for row in rows):
        marker["opacity"] = [FADED if row.get("faded") else 1.0 for row in rows]
    if any(hatched):
        shapes = ["/" if odd else "" for odd in hatched]
        lines = {"fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.6, "size": 7, "solidity": 0.18}
        marker["pattern"] = {"shape": shapes, **lines}
    return go.Bar(
        orientation="h",
        name=op_class_name(op_class),
        x=[row["duration"] for row in rows],
        base=[row["start"] for row in rows],
        y=[height[row["lane"]] for row in rows],
        width=LANE_HEIGHT,
        text=None if crowded else [row["label"] for row in rows],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        insidetextfont={"color": text_on(OP_CLASS_COLOURS[op_class])},
        marker=marker,
        customdata=[row["hover"] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _strip(rows: Sequence[Row], height: Mapping[str, int]) -> Any:
    import plotly.graph_objects as go

    return go.Bar(
        orientation="h",
        showlegend=False,
        x=[row["duration"] for row in rows],
        base=[row["start"] for row in rows],
        y=[height[row["lane"]] for row in rows],
        width=STRIP_HEIGHT,
        text=[row["label"] for row in rows],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        insidetextfont={"color": text_on(STRIP)},
        marker={"color": STRIP, "line": {"width": 1, "color": "rgba(255,255,255,0.8)"}},
        customdata=[row["hover"] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _marks(rows: Sequence[Row], height: Mapping[str, int]) -> Any:
    import plotly.graph_objects as go

    below = LANE_HEIGHT / 2 + MARK_HEIGHT / 2
    return go.Bar(
        orientation="h",
        name="exposed communication",
        x=[row["duration"] for row in rows],
        base=[row["start"] for row in rows],
        y=[height[row["lane"]] - below for row in rows],
        width=MARK_HEIGHT,
        marker={"color": EXPOSED, "line": {"width": 0}},
        customdata=[row["hover"] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _shade(figure: Figure, band: Row, *, strong: bool) -> None:
    start, end = band["start"], band["start"] + band["duration"]
    colour = f"rgba(127,127,127,{0.16 if strong else 0.05})"
    figure.add_vrect(x0=start, x1=end, fillcolor=colour, line_width=0, layer="below")
