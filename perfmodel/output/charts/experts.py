"""Experts: how many a token wakes, how busy ranks are, and what skew and zero-computation experts do to a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.output.charts.base import Figure, axis_title, layout
from perfmodel.output.colours import DASHES, HERE, OP_CLASS_COLOURS, PREDICTED, SERIES
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.units import GIGA, MS, PERCENT

if TYPE_CHECKING:
    import pandas as pd

MARGIN = {"l": 68, "r": 16, "t": 28, "b": 56}
EXPERTS = OP_CLASS_COLOURS["experts"]


def active_chart(rows: "pd.DataFrame", *, mean: float) -> Figure:
    """How many real experts a token wakes in a layer; ``rows`` have real_experts, probability, active_parameters."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(320, margin=MARGIN, showlegend=False, bargap=0.12))
    figure.add_trace(
        go.Bar(
            x=rows.real_experts,
            y=rows.probability * PERCENT,
            marker={"color": EXPERTS},
            customdata=[
                f"<b>{row.real_experts:g} real experts</b>: {percent(row.probability)} of tokens<br>"
                f"{row.active_parameters / GIGA:.1f} B parameters, if every layer had so many"
                for row in rows.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.add_vline(x=mean, line={"color": HERE, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=mean, y=1, yref="paper", yanchor="bottom", text=f"mean {significant(mean)}", showarrow=False
    )
    billions = [f"{row.real_experts:g}<br>{row.active_parameters / GIGA:.1f} B" for row in rows.itertuples()]
    every = max(1, (len(rows) - 1) // 4)
    figure.update_xaxes(
        title=axis_title("real experts per layer (parameters)"),
        tickvals=list(rows.real_experts)[::every],
        ticktext=billions[::every],
        fixedrange=True,
    )
    figure.update_yaxes(title=axis_title("share of tokens, %"), zeroline=False, fixedrange=True)
    figure.update_layout(margin={"b": 76})
    return figure


def rank_load_chart(rows: "pd.DataFrame") -> Figure:
    """Load of each rank, busiest first; ``rows`` have place, mean, low, high (relative to the mean rank)."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(320, margin=MARGIN, showlegend=False, bargap=0.0))
    busy = [HERE if place == 1 else PREDICTED for place in rows.place]
    figure.add_trace(
        go.Bar(
            x=rows.place,
            y=rows["mean"],
            marker={"color": busy},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": rows.high - rows["mean"],
                "arrayminus": rows["mean"] - rows.low,
                "thickness": 1,
                "width": 0,
                "color": "#8A8A8A",
            },
            customdata=[
                f"<b>rank {row.place:g} by load</b>: {significant(row.mean)} of the mean rank's<br>"
                f"{significant(row.low)} to {significant(row.high)} in 8 of 10 layers"
                for row in rows.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.add_hline(y=1.0, line={"color": "#8A8A8A", "width": 1, "dash": "dot"})
    figure.update_xaxes(title=axis_title("expert-parallel ranks, busiest first"), zeroline=False)
    figure.update_yaxes(title=axis_title("load over the mean rank's"), rangemode="tozero", zeroline=False)
    return figure


def skew_chart(rows: "pd.DataFrame") -> Figure:
    """The step's time over the exponent, one line per placement; ``rows`` as skew_row gives them."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(360, margin={**MARGIN, "b": 92}))
    for (name, own), colour, dash in zip(rows.groupby("placement", sort=False), SERIES, DASHES, strict=False):
        figure.add_trace(
            go.Scatter(
                x=own.exponent,
                y=own.step_time_s / MS,
                name=str(name),
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                customdata=[
                    f"<b>{name}</b>, exponent {row.exponent:g}<br>step {duration(row.step_time_s)}, "
                    f"{usd(row.usd_per_million_tokens)} per million tokens"
                    for row in own.itertuples()
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(
        title=axis_title("skew: exponent of the power law (0: all experts alike)"), zeroline=False
    )
    figure.update_yaxes(title=axis_title("step time, ms"), rangemode="tozero", zeroline=False)
    return figure


def variants_chart(rows: "pd.DataFrame", *, own: int) -> Figure:
    """The step by number of zero-computation experts; ``rows`` are the fields of zero_experts.Variant."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(320, margin=MARGIN, showlegend=False))
    labels = [f"{number:,}" for number in rows.zero_experts]
    figure.add_trace(
        go.Bar(
            x=labels,
            y=rows.step_time_s / MS,
            marker={"color": [HERE if number == own else PREDICTED for number in rows.zero_experts]},
            text=[
                f"{duration(row.step_time_s)}<br>{usd(row.usd_per_million_tokens)}"
                for row in rows.itertuples()
            ],
            textposition="inside",
            insidetextfont={"color": "#FFFFFF"},
            customdata=_variant_texts(rows),
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title=axis_title("zero-computation experts"), type="category", fixedrange=True)
    figure.update_yaxes(
        title=axis_title("step time, ms"), rangemode="tozero", zeroline=False, fixedrange=True
    )
    return figure


def _variant_texts(rows: "pd.DataFrame") -> Sequence[Any]:
    return [
        f"<b>{row.zero_experts:,} zero experts</b>: {significant(row.mean_real_experts)} real experts per token<br>"
        f"{row.active_parameters_mean / GIGA:.1f} B active parameters<br>step {duration(row.step_time_s)}, "
        f"{usd(row.usd_per_million_tokens)} per million tokens<br>{count(row.max_batch_per_gpu)} requests per GPU fit"
        for row in rows.itertuples()
    ]
