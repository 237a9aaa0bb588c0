"""How busy streams are, schedule by schedule."""

from typing import TYPE_CHECKING

from perfmodel.output.charts.base import Figure, axis_title, layout
from perfmodel.output.colours import STREAM_COLOURS, text_on
from perfmodel.output.formats import percent

if TYPE_CHECKING:
    import pandas as pd

PIXELS_PER_BAR = 22


def busy_chart(rows: "pd.DataFrame") -> Figure:
    """Share of a layer's time in which each stream runs something; ``rows`` have overlap, stream, share (of 1)."""
    import plotly.graph_objects as go

    height = PIXELS_PER_BAR * len(rows) + 40 * rows.overlap.nunique() + 80
    figure = go.Figure(layout=layout(height, barmode="group", bargap=0.25))
    figure.update_layout(margin={"l": 92, "b": 84})
    for stream, own in rows.groupby("stream", sort=False):
        colour = STREAM_COLOURS[str(stream)]
        figure.add_trace(
            go.Bar(
                orientation="h",
                name=str(stream),
                y=list(own.overlap),
                x=[100.0 * share for share in own.share],
                text=[percent(share) for share in own.share],
                textposition="auto",
                insidetextfont={"color": text_on(colour)},
                marker={"color": colour},
                hovertemplate=f"{stream} busy for %{{x:.1f}}% of the layer, %{{y}}<extra></extra>",
            )
        )
    figure.update_xaxes(title=axis_title("busy, % of the layer's time"), range=[0, 104], fixedrange=True)
    figure.update_yaxes(autorange="reversed", fixedrange=True, ticklabelstandoff=6)
    return figure
