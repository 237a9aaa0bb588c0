"""Charts of served traffic: how long requests took, how many were there, and what more of them would do."""

from typing import TYPE_CHECKING, Any

import numpy as np

from perfmodel.output.charts.base import Figure, axis_title, layout, log_axis, log_ticks
from perfmodel.output.colours import BATCH, HERE, IDEAL, LATENCY_COLOURS, OBJECTIVE, PREDICTED, SERVED, WAITS
from perfmodel.output.formats import duration, percent, significant, usd
from perfmodel.units import MS, PERCENT

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "ttft_s": "time to first token (TTFT)",
    "tpot_s": "time per output token (TPOT)",
    "e2e_s": "whole request (E2E)",
}
MARKED = (50, 90, 99)
"""Percentiles that are marked."""
MOST_POINTS = 400
"""Of one distribution's line."""
WIDE = 20.0
"""A distribution whose 99th percentile is so many times its 1st is drawn over a logarithmic axis."""
FAR = 30.0
"""A limit so many times beyond all latencies is not drawn, but told."""
IN_SECONDS = 1.0
"""From this median on, seconds are shown rather than milliseconds."""


def latency_chart(rows: "pd.DataFrame", quantity: str, limit_s: float | None = None) -> Figure:
    """Share of requests at or below each latency, with percentiles and the limit; ``quantity``: a column in seconds."""
    import plotly.graph_objects as go

    values = np.sort(rows[quantity].dropna().to_numpy(dtype=float))
    figure = go.Figure(layout=layout(300, showlegend=False, margin={"l": 60, "r": 16, "t": 28, "b": 48}))
    if not len(values):
        return figure
    scale, unit = (1.0, "s") if np.median(values) >= IN_SECONDS else (MS, "ms")
    low, high = _span(values, limit_s)
    logarithmic = bool(low > 0.0 and high > WIDE * low)
    shares = np.unique(np.concatenate([np.linspace(0.0, 100.0, MOST_POINTS), MARKED]))
    at = np.percentile(values, shares)
    colour, title = LATENCY_COLOURS[quantity], f"{NAMES[quantity]}, {unit}"
    figure.add_trace(
        go.Scatter(
            x=at / scale,
            y=shares,
            mode="lines",
            line={"color": colour, "width": 2.5},
            customdata=[
                f"{share:.4g} % of requests: {duration(s)} or less"
                for share, s in zip(shares, at, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    middle = (low * high) ** 0.5 if logarithmic else (low + high) / 2.0
    figure.add_trace(_percentiles(values, scale, colour, middle))
    if limit_s is not None:
        _limit(figure, values, limit_s, scale, unit)
    if logarithmic:
        figure.update_xaxes(log_axis(low / scale, high / scale, title))
    else:
        figure.update_xaxes(
            title=axis_title(title), range=[low / scale, high / scale], zeroline=False, nticks=6
        )
    figure.update_yaxes(title=axis_title("requests, %"), range=[0, 104], zeroline=False, fixedrange=True)
    return figure


def _span(values: Any, limit_s: float | None) -> tuple[float, float]:
    """From where to where the axis goes: nearly all values, and the limit if it is anywhere near."""
    low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
    if limit_s is not None and limit_s < FAR * high:
        low, high = min(low, limit_s), max(high, limit_s)
    if high > WIDE * low:
        return low / 1.15, high * 1.15
    margin = 0.05 * (high - low) or 0.05 * high or 1.0
    return max(low - margin, 0.0), high + margin


def _percentiles(values: Any, scale: float, colour: str, middle: float) -> Any:
    """Marks with their numbers beside them, on the side where there is room."""
    import plotly.graph_objects as go

    at = np.percentile(values, MARKED)
    return go.Scatter(
        x=at / scale,
        y=MARKED,
        mode="markers+text",
        marker={"color": colour, "size": 9, "line": {"width": 1, "color": "#FFFFFF"}},
        text=[f" p{share} {duration(s)} " for share, s in zip(MARKED, at, strict=True)],
        textposition=[
            f"{height} {'left' if s > middle else 'right'}"
            for height, s in zip(("middle", "bottom", "bottom"), at, strict=True)
        ],
        customdata=[
            f"p{share}: {share} % of requests take {duration(s)} or less"
            for share, s in zip(MARKED, at, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _limit(figure: Figure, values: Any, limit_s: float, scale: float, unit: str) -> None:
    """The objective as a line, and how many keep it, in words above the chart."""
    kept = float((values <= limit_s).mean())
    figure.add_vline(x=limit_s / scale, line={"dash": "dash", "width": 2, "color": OBJECTIVE})
    figure.add_annotation(
        x=1.0,
        xref="paper",
        xanchor="right",
        y=1.0,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        text=f"limit {limit_s / scale:g} {unit} (dashed): {percent(kept)} keep it",
    )


def load_chart(rows: "pd.DataFrame") -> Figure:
    """Requests that wait and that are worked on, over time: rows of :func:`perfmodel.output.load_rows.load_frame`."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(300, hovermode="x", margin={"l": 60, "r": 16, "t": 12, "b": 84}))
    for (pool, what), own in rows.groupby(["pool", "what"], sort=False):
        where = f" ({pool})" if pool else ""
        words = "waiting" if what == "waiting" else "being served"
        figure.add_trace(
            _steps(
                own,
                f"{words}{where}",
                WAITS if what == "waiting" else SERVED,
                "dot" if pool == "prefill" else "solid",
            )
        )
    figure.update_xaxes(title=axis_title("time since the start, s"), zeroline=False)
    figure.update_yaxes(title=axis_title("requests"), rangemode="tozero", zeroline=False)
    return figure


def batch_chart(rows: "pd.DataFrame") -> Figure:
    """The fullest rank's decode batch: rows of :func:`perfmodel.output.load_rows.batch_frame`."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(300, hovermode="x", margin={"l": 60, "r": 16, "t": 12, "b": 84}))
    for column, name, dash in (("largest", "largest", "solid"), ("mean", "mean over time", "dot")):
        figure.add_trace(
            go.Scatter(
                x=rows.time_s,
                y=rows[column],
                mode="lines",
                name=name,
                line={"color": BATCH, "width": 1.5, "dash": dash, "shape": "hv"},
                hovertemplate=f"{name} around %{{x:,.4g}} s: %{{y:,.3g}} requests<extra></extra>",
            )
        )
    figure.update_xaxes(title=axis_title("time since the start, s"), zeroline=False)
    figure.update_yaxes(title=axis_title("requests per rank"), rangemode="tozero", zeroline=False)
    return figure


def _steps(rows: "pd.DataFrame", name: str, colour: str, dash: str) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=rows.time_s,
        y=rows.requests,
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
        hovertemplate=f"%{{y:,.0f}} {name}, at %{{x:,.4g}} s<extra></extra>",
    )


def goodput_chart(points: "pd.DataFrame") -> Figure:
    """Goodput against rate, with the rate itself: rows of :class:`perfmodel.explore.goodput.RatePoint`."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(340, margin={"l": 64, "r": 16, "t": 12, "b": 88}))
    rows = points.sort_values("requests_per_s")
    rates = rows.requests_per_s.to_numpy(dtype=float)
    figure.add_trace(
        go.Scatter(
            x=rates,
            y=rates,
            mode="lines",
            name="every request good",
            line={"color": IDEAL, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    figure.add_trace(_rate_line(rows, "goodput_requests_per_s", "goodput", PREDICTED))
    figure.add_trace(_asked(rows, "goodput_requests_per_s"))
    figure.update_xaxes(title=axis_title("requests that come per second"), zeroline=False, **log_ticks())
    top = float(rows.goodput_requests_per_s.max()) * 1.25
    figure.update_yaxes(title=axis_title("good requests per second"), range=[0.0, top], zeroline=False)
    return figure


def rate_latency_chart(points: "pd.DataFrame", quantity: str, limit_s: float | None = None) -> Figure:
    """A latency's median and 99th percentile against the rate; ``quantity``: ttft or tpot."""
    import plotly.graph_objects as go

    rows = points.sort_values("requests_per_s").dropna(subset=[f"{quantity}_p50_s", f"{quantity}_p99_s"])
    figure = go.Figure(layout=layout(340, margin={"l": 64, "r": 16, "t": 12, "b": 88}))
    colour = LATENCY_COLOURS[f"{quantity}_s"]
    for part, dash in (("p99", "solid"), ("p50", "dot")):
        figure.add_trace(_rate_line(rows, f"{quantity}_{part}_s", f"{quantity.upper()} {part}", colour, dash))
    if limit_s is not None:
        figure.add_trace(
            go.Scatter(
                x=[rows.requests_per_s.min(), rows.requests_per_s.max()],
                y=[limit_s / MS] * 2,
                mode="lines",
                name=f"limit {limit_s / MS:g} ms",
                line={"dash": "dash", "width": 2, "color": OBJECTIVE},
                hoverinfo="skip",
            )
        )
    figure.update_xaxes(title=axis_title("requests that come per second"), zeroline=False, **log_ticks())
    figure.update_yaxes(title=axis_title(f"{quantity.upper()}, ms"), zeroline=False, **log_ticks())
    return figure


def _rate_line(rows: "pd.DataFrame", column: str, name: str, colour: str, dash: str = "solid") -> Any:
    import plotly.graph_objects as go

    scale = MS if column.endswith(("p50_s", "p99_s")) else 1.0
    return go.Scatter(
        x=rows.requests_per_s,
        y=rows[column] / scale,
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7, "symbol": ["circle" if held else "circle-open" for held in rows.keeps_up]},
        customdata=[_point_text(row) for _, row in rows.iterrows()],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _asked(rows: "pd.DataFrame", column: str) -> Any:
    """The traffic as it was asked, among faster and slower."""
    import plotly.graph_objects as go

    own = rows[rows.speed == 1.0]
    return go.Scatter(
        x=own.requests_per_s,
        y=own[column],
        mode="markers",
        name="your traffic",
        marker={"color": HERE, "size": 14, "symbol": "star", "line": {"width": 1, "color": "#FFFFFF"}},
        customdata=[_point_text(row) for _, row in own.iterrows()],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _point_text(row: Any) -> str:
    lines = [
        f"<b>{significant(row.requests_per_s)} requests/s come</b>",
        f"{significant(row.goodput_requests_per_s)} are good ({percent(row.good_pct / PERCENT)})",
        f"TTFT p50 {duration(row.ttft_p50_s)}, p99 {duration(row.ttft_p99_s)}",
    ]
    if row.tpot_p99_s is not None and row.tpot_p99_s == row.tpot_p99_s:
        lines.append(f"TPOT p50 {duration(row.tpot_p50_s)}, p99 {duration(row.tpot_p99_s)}")
    lines.append(f"{usd(row.usd_per_million_output_tokens)} per million output tokens")
    lines.append("" if row.keeps_up else "the queue grows: this can't go on")
    return "<br>".join(line for line in lines if line)
