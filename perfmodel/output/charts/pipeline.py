"""A pipeline of micro-batches: one lane per rank, a bar per action; and what each rank holds meanwhile."""

from collections.abc import Sequence
from typing import Any

from perfmodel.output.charts.base import Figure, Row, axis_title, layout
from perfmodel.output.colours import PASS_COLOURS, SERIES

PIXELS_PER_RANK = 30


def pipeline_chart(rows: Sequence[Row], *, ranks: int, end: float, unit: str) -> Figure:
    """``rows`` have rank, start, duration (in ``unit``), kind, hover; rank 0 is on top."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(PIXELS_PER_RANK * ranks + 170, barmode="overlay", bargap=0.12))
    for kind, colour in PASS_COLOURS.items():
        own = [row for row in rows if row["kind"] == kind]
        if not own:
            continue
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[row["rank"] for row in own],
                base=[row["start"] for row in own],
                x=[row["duration"] for row in own],
                hovertext=[row["hover"] for row in own],
                hoverinfo="text",
                name=kind,
                marker={"color": colour, "line": {"width": 0.3, "color": "#FFFFFF"}},
            )
        )
    figure.update_layout(margin={"l": 56, "b": 96})
    figure.update_yaxes(
        autorange="reversed",
        title=axis_title("pipeline rank"),
        dtick=1 if ranks <= 32 else 8,
        fixedrange=True,
    )
    figure.update_xaxes(title=axis_title(f"time, {unit}"), range=[0, end], zeroline=False)
    return figure


def held_chart(lines: Sequence[Row], *, device: float, unit_x: str, unit_y: str) -> Figure:
    """``lines`` have name, x and y (steps); a line at ``device``."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(360))
    for number, line in enumerate(lines):
        figure.add_trace(
            go.Scatter(
                x=line["x"],
                y=line["y"],
                mode="lines",
                line={"shape": "hv", "width": 1.6, "color": SERIES[number % len(SERIES)]},
                name=line["name"],
            )
        )
    figure.add_hline(y=device, line={"width": 1.5, "color": "#6E6E6E", "dash": "dot"})
    figure.update_layout(margin={"l": 64, "b": 96})
    figure.update_xaxes(title=axis_title(f"time, {unit_x}"), zeroline=False)
    figure.update_yaxes(title=axis_title(f"memory per GPU, {unit_y}"), rangemode="tozero", zeroline=False)
    return _named(figure, device, unit_y)


def _named(figure: Any, device: float, unit: str) -> Figure:
    figure.add_annotation(
        x=0.0,
        xref="paper",
        xanchor="left",
        y=device,
        yanchor="bottom",
        showarrow=False,
        text=f"device: {device:.1f} {unit}",
    )
    return figure
