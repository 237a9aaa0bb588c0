"""What users get against what it costs, a line for each model and kind of GPU."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.charts.base import Figure, axis_title, layout, log_ticks
from perfmodel.output.colours import SERIES

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "star-square", "cross")
"""Of lines beside each other, so that colour alone never tells them apart."""


def offers_chart(
    lines: Sequence[Mapping[str, Any]],
    *,
    asked: float,
    y: str,
    title: str,
    prefix: str = "$",
    steps: bool = True,
) -> Figure:
    """A line per kind of GPU: on it no deployment is both faster for a user and better in ``y``.

    Args:
        lines: ``name`` and ``points``: each ``speed`` (tokens/s per user), ``y``, ``hover`` (text) and ``id``, which a
            click hands back; ``chosen`` where it is the line's answer.
        asked: tokens/s per user that are asked for.
        y: key of the points' vertical value.
        title: of the vertical axis.
        prefix: of its ticks.
        steps: between two points it takes what the faster one takes; else anything between is to be had.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(440, hovermode="closest", margin={"l": 80, "r": 16, "t": 28, "b": 110}))
    for number, line in enumerate(lines):
        points = line["points"]
        chosen = [point.get("chosen", False) for point in points]
        figure.add_trace(
            go.Scatter(
                x=[point["speed"] for point in points],
                y=[point[y] for point in points],
                mode="lines+markers",
                name=line["name"],
                line={
                    "color": SERIES[number % len(SERIES)],
                    "width": 2,
                    "shape": "vh" if steps else "linear",
                },
                marker={
                    "size": [16 if one else 10 for one in chosen],
                    "symbol": SYMBOLS[number % len(SYMBOLS)],
                    "line": {"width": [2 if one else 0 for one in chosen], "color": "#808080"},
                },
                customdata=[[point["id"], point["hover"]] for point in points],
                hovertemplate="%{customdata[1]}<extra></extra>",
            )
        )
    figure.add_vline(x=asked, line={"color": "#808080", "dash": "dot", "width": 1.5})
    figure.add_annotation(
        x=asked, y=1.0, yref="paper", yanchor="bottom", text=f"asked: {asked:g}", showarrow=False
    )
    figure.update_xaxes(title=axis_title("tokens/s per user, at least"), rangemode="tozero", zeroline=False)
    values = [point[y] for line in lines for point in line["points"]]
    wide = bool(values) and max(values) > 8.0 * min(values) > 0.0
    figure.update_yaxes(
        title=axis_title(f"{title} (logarithmic)" if wide else title), zeroline=False, automargin=True
    )
    if wide:
        figure.update_yaxes(**log_ticks(prefix))
    else:
        figure.update_yaxes(rangemode="tozero", tickprefix=prefix, separatethousands=True)
    return figure
