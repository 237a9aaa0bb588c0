"""One bar cut into parts: where a step's time goes, what fills a GPU's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.charts.base import Figure, Row, axis_title, bars_layout
from perfmodel.output.colours import MEMORY_COLOURS, OP_CLASS_COLOURS, memory_name, op_class_name, text_on
from perfmodel.output.formats import significant


def share_chart(rows: Sequence[Row], *, unit: str) -> Figure:
    """One bar cut into parts; rows have label, value (in ``unit``), colour, hover."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=bars_layout(120))
    figure.update_layout(barmode="stack", showlegend=False)
    for row in rows:
        figure.add_trace(_part(row))
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.update_xaxes(title=axis_title(unit), zeroline=False, fixedrange=True)
    return figure


def breakdown_chart(seconds: Mapping[str, float], *, unit: str, scale: float) -> Figure:
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
) -> Figure:
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
    figure = share_chart(rows, unit=f"memory per GPU, {unit}")
    figure.update_layout(height=160, margin={"t": 48})
    figure.update_xaxes(range=[0, max(device, sum(num_bytes.values())) / scale * 1.02])
    _limit(figure, usable / scale, f"usable: {usable / scale:.1f} {unit}", "dot", 0)
    _limit(figure, device / scale, f"device: {device / scale:.1f} {unit}", "solid", 16)
    return figure


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
