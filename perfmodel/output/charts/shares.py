"""One bar cut into parts: where a step's time goes, what fills a GPU's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.charts.base import Drawn, Row, axis_title, bars_layout, drawn, vertical
from perfmodel.output.colours import MEMORY_COLOURS, OP_CLASS_COLOURS, memory_name, op_class_name, text_on
from perfmodel.output.formats import significant

BAR, LEGEND, PER_PART, MOST_LEGEND = 100, 60, 16, 400
"""Pixels of the bar with its axis; of the legend below, for each part in it, and at most."""


def share_chart(rows: Sequence[Row], *, unit: str) -> Drawn:
    """One bar cut into parts; rows have label, value (in ``unit``), colour, hover."""
    return drawn([_part(row) for row in rows], _layout(unit, len(rows)))


def breakdown_chart(seconds: Mapping[str, float], *, unit: str, scale: float) -> Drawn:
    """Where the time goes: the critical path by op class; ``scale`` is seconds per ``unit``."""
    total = sum(seconds.values()) or 1.0
    rows = [
        {
            "label": op_class_name(name),
            "value": value / scale,
            "colour": OP_CLASS_COLOURS[name],
            "hover": f"{op_class_name(name)}: {significant(value / scale)} {unit}, {value / total:.1%} of the step",
        }
        for name, value in seconds.items()
    ]
    return share_chart(rows, unit=f"time on the critical path, {unit}")


def memory_chart(
    num_bytes: Mapping[str, float], *, usable: float, device: float, unit: str, scale: float
) -> Drawn:
    """Device memory by class against what may be used and what there is; ``scale`` is bytes per ``unit``."""
    rows = [
        {
            "label": memory_name(name),
            "value": value / scale,
            "colour": MEMORY_COLOURS[name],
            "hover": f"{memory_name(name)}: {significant(value / scale)} {unit}",
        }
        for name, value in num_bytes.items()
    ]
    axis = {"range": [0, max(device, sum(num_bytes.values())) / scale * 1.02]}
    limits = [(usable / scale, f"usable: {usable / scale:.1f} {unit}", "dot", 0)]
    limits.append((device / scale, f"device: {device / scale:.1f} {unit}", "solid", 16))
    layout = _layout(f"memory per GPU, {unit}", len(rows), axis)
    layout["height"] += 40
    layout["margin"] = layout["margin"] | {"t": 48}
    layout["shapes"] = [vertical(value, dash=dash, width=2, color="#8A8A8A") for value, _, dash, _ in limits]
    layout["annotations"] = [_limit(value, label, above) for value, label, _, above in limits]
    return drawn([_part(row) for row in rows], layout)


def _layout(unit: str, parts: int, axis: Row | None = None) -> dict[str, Any]:
    """Of one bar of so many parts over an axis in ``unit``, with the axis's own settings."""
    below = LEGEND + PER_PART * parts
    return bars_layout(BAR + below) | {
        "barmode": "stack",
        "showlegend": True,
        "legend": bars_layout(0)["legend"] | {"traceorder": "normal", "maxheight": MOST_LEGEND},
        "margin": {"l": 12, "r": 12, "t": 12, "b": below},
        "xaxis": {"title": axis_title(unit), "zeroline": False, "fixedrange": True, **(axis or {})},
        "yaxis": {"visible": False, "fixedrange": True},
    }


def _part(row: Row) -> Row:
    return {
        "type": "bar",
        "orientation": "h",
        "name": row["label"],
        "x": [row["value"]],
        "y": [0],
        "text": [row["label"]],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "insidetextfont": {"color": text_on(row["colour"])},
        "marker": {"color": row["colour"], "line": {"width": 1, "color": "rgba(255,255,255,0.8)"}},
        "customdata": [row["hover"]],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _limit(value: float, label: str, above: int) -> Row:
    """A vertical line's label, ``above`` pixels over the bar, left of the line."""
    place = {"x": value, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "right", "yshift": above}
    return {"text": label, "showarrow": False, **place}
