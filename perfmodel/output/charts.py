"""Charts: pure functions from plain rows to plotly figures.

Figures carry no background and no colour of their own for text and lines: the page that shows them sets those for its
theme (classes ``xtick``, ``gtitle``, ...). Every bar's meaning is in its hover text too, never in its colour alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.colours import (
    EXPOSED,
    MEMORY_COLOURS,
    OP_CLASS_COLOURS,
    STRIP,
    memory_name,
    op_class_name,
    text_on,
)

Row = Mapping[str, Any]
Figure = Any
"""plotly's; typed so because plotly is imported only where a figure is made."""

CLEAR = "rgba(0,0,0,0)"
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
    figure = go.Figure(layout=_layout(PIXELS_PER_LANE * len(lanes) + (190 if slider else 140)))
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


def share_chart(rows: Sequence[Row], *, unit: str) -> Figure:
    """One bar cut into parts; rows have label, value (in ``unit``), colour, hover."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout(120))
    figure.update_layout(barmode="stack", showlegend=False)
    for row in rows:
        figure.add_trace(_part(row))
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.update_xaxes(title=_title(unit), zeroline=False, fixedrange=True)
    return figure


def breakdown_chart(seconds: Mapping[str, float], *, unit: str, scale: float) -> Figure:
    """Where the time goes: the critical path by op class; ``scale`` is seconds per ``unit``."""
    total = sum(seconds.values()) or 1.0
    rows = [
        {
            "label": op_class_name(name),
            "value": value / scale,
            "colour": OP_CLASS_COLOURS[name],
            "hover": f"{op_class_name(name)}: {value / scale:.3g} {unit}, {value / total:.1%} of the step",
        }
        for name, value in seconds.items()
    ]
    return share_chart(rows, unit=f"time on the critical path, {unit}")


def memory_chart(
    num_bytes: Mapping[str, float], *, usable: float, device: float, unit: str, scale: float
) -> Figure:
    """Device memory by class against what may be used and what there is; ``scale`` is bytes per ``unit``."""
    rows = [
        {
            "label": memory_name(name),
            "value": value / scale,
            "colour": MEMORY_COLOURS[name],
            "hover": f"{memory_name(name)}: {value / scale:.3g} {unit}",
        }
        for name, value in num_bytes.items()
    ]
    figure = share_chart(rows, unit=f"memory per GPU, {unit}")
    figure.update_layout(height=160, margin={"t": 48})
    figure.update_xaxes(range=[0, max(device, sum(num_bytes.values())) / scale * 1.02])
    _limit(figure, usable / scale, f"usable: {usable / scale:.1f} {unit}", "dot", 0)
    _limit(figure, device / scale, f"device: {device / scale:.1f} {unit}", "solid", 16)
    return figure


def layout(height: int, **own: Any) -> dict[str, Any]:
    """What every chart's layout has in common, and a chart's ``own`` settings over it."""
    return {
        "template": "none",
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


def _layout(height: int) -> dict[str, Any]:
    """Of charts made of bars, labelled inside."""
    return layout(height, barmode="overlay", uniformtext={"minsize": 10, "mode": "hide"})


def _timeline_axes(figure: Figure, lanes: Sequence[str], *, end: float, unit: str, slider: bool) -> None:
    labels = ["" if lane.endswith(" ") else lane for lane in lanes]
    ticks = {"tickvals": list(range(len(lanes) - 1, -1, -1)), "ticktext": labels, "ticklabelstandoff": 8}
    span = [-0.55, len(lanes) - 0.45]
    figure.update_yaxes(range=span, fixedrange=True, zeroline=False, showgrid=False, **ticks)
    figure.update_xaxes(title=_title(f"time, {unit}"), range=[0, end], zeroline=False)
    if slider:
        figure.update_xaxes(rangeslider={"visible": True, "thickness": 0.14, "range": [0, end]})


def _plain_first(row: Row) -> tuple[bool, bool]:
    """Order within a class: the legend shows what its first bar looks like."""
    return bool(row.get("faded")), bool(row.get("micro_batch", 0) % 2)


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 6, "font": {"size": 13}}


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


def _part(row: Row) -> Any:
    import plotly.graph_objects as go

    return go.Bar(
        orientation="h",
        name=row["label"],
        x=[row["value"]],
        y=[0],
        text=[row["label"]],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        insidetextfont={"color": text_on(row["colour"])},
        marker={"color": row["colour"], "line": {"width": 1, "color": "rgba(255,255,255,0.8)"}},
        customdata=[row["hover"]],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _limit(figure: Figure, value: float, label: str, dash: str, above: int) -> None:
    """A vertical line with its label ``above`` pixels over the bar, left of the line."""
    figure.add_vline(x=value, line={"dash": dash, "width": 2, "color": "#8A8A8A"})
    place = {"x": value, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "right", "yshift": above}
    figure.add_annotation(text=label, showarrow=False, **place)
