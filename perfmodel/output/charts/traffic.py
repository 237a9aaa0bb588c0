"""Traffic through replicas: how latencies are distributed, what waits and runs, and goodput against rate."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.output.charts.base import Figure, axis_title, layout, log_ticks
from perfmodel.output.colours import HERE, IDEAL, LATENCY_COLOURS, LOAD_COLOURS, RATE_COLOURS
from perfmodel.output.formats import count, duration, significant, usd
from perfmodel.units import MS, US

if TYPE_CHECKING:
    import pandas as pd

MARKED = (50.0, 90.0, 99.0)
LATENCY_DASHES = {"TTFT": "solid", "TPOT": "dash", "E2E": "dot"}
LATENCY_NAMES = {
    "TTFT": "TTFT, time to first token",
    "TPOT": "TPOT, time per output token",
    "E2E": "E2E, arrival to last token",
}
FEW_DECADES, SOME_DECADES = 0.9, 2.1
"""Up to so many decades a logarithmic axis has three ticks in each, or two; above, one."""


def seconds_label(seconds: float) -> str:
    """A tick: 300 µs, 10 ms, 3 s, 1,000 s."""
    for scale, unit in ((1.0, "s"), (MS, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:,.0f} {unit}"
    return f"{seconds / US:,.0f} µs"


def _log_seconds(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis of times, with as many ticks as there is room for."""
    positive = [value for value in values if value > 0.0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    digits = (1, 2, 5) if high - low < FEW_DECADES else (1, 3) if high - low < SOME_DECADES else (1,)
    ticks = [
        digit * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 2) for digit in digits
    ]
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [seconds_label(tick) for tick in ticks],
        "tickangle": 0,
        "range": [low - 0.08, high + 0.08],
    }


def latency_chart(rows: "pd.DataFrame", slo_s: Mapping[str, float]) -> Figure:
    """Share of requests that took at most so long; ``rows``: :func:`~perfmodel.output.serve.traffic_rows.latency_rows`.

    ``slo_s``: quantity -> objective, seconds, drawn as a line in the quantity's colour.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(400, hovermode="closest", margin={"l": 60, "r": 16, "t": 28, "b": 110}))
    for name, own in rows.groupby("quantity", sort=False):
        seen = own[own.seconds > 0.0]  # outputs that a step makes together have no time between them
        colour = LATENCY_COLOURS[str(name)]
        marked = seen.pct.isin(MARKED)
        figure.add_trace(
            go.Scatter(
                x=seen.seconds,
                y=seen.pct,
                mode="lines+markers",
                name=LATENCY_NAMES[str(name)],
                line={"color": colour, "width": 2, "dash": LATENCY_DASHES[str(name)]},
                marker={"color": colour, "size": [9 if is_marked else 0 for is_marked in marked]},
                customdata=[
                    f"<b>{name} p{pct:.3g}</b>: {duration(seconds)}<br>{pct:.3g}% of requests took at most that"
                    for pct, seconds in zip(seen.pct, seen.seconds, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
        if name in slo_s:
            _objective(figure, str(name), slo_s[str(name)])
    figure.update_xaxes(
        title=axis_title("time (logarithmic)"),
        zeroline=False,
        **_log_seconds([*rows.seconds, *slo_s.values()]),
    )
    figure.update_yaxes(
        title=axis_title("share of requests, %"),
        range=[0.0, 101.0],
        tickvals=[0, 25, *MARKED, 75],
        ticktext=["0", "25", *(f"p{pct:g}" for pct in MARKED), "75"],
        zeroline=False,
    )
    return figure


def _objective(figure: Figure, name: str, limit_s: float) -> None:
    """A vertical line at an objective, its name along it."""
    line = {"color": LATENCY_COLOURS[name], "width": 1.5, "dash": "dashdot"}
    figure.add_shape(type="line", x0=limit_s, x1=limit_s, y0=0.0, y1=1.0, yref="paper", line=line)
    figure.add_annotation(
        x=math.log10(limit_s),  # annotations, unlike shapes, take a logarithmic axis's own numbers
        y=0.02,
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        textangle=-90,
        showarrow=False,
        text=f"{name} SLO {duration(limit_s)}",
        font={"size": 12},
    )


def load_chart(rows: "pd.DataFrame") -> Figure:
    """Requests that wait and that are in progress, and below them the decode batch, over time.

    ``rows`` as of :func:`~perfmodel.output.serve.traffic_rows.load_rows`; a second pool (prefill) is dashed.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    figure.update_layout(layout(400, hovermode="closest", margin={"l": 60, "r": 16, "t": 12, "b": 110}))
    for (pool, name), own in rows.groupby(["pool", "quantity"], sort=False):
        if name == "decode batch" and pool == "prefill":
            continue  # they decode nothing
        is_batch = name == "decode batch"
        label = f"{name}, {pool}" if pool and not is_batch else str(name)
        figure.add_trace(
            go.Scatter(
                x=own.at_s,
                y=own.value,
                mode="lines",
                name=label + (" (fullest rank)" if is_batch else ""),
                line={
                    "color": LOAD_COLOURS[label],
                    "width": 1.5,
                    "dash": "dot" if pool == "prefill" else "solid",
                    "shape": "hv",
                },
                customdata=[
                    f"<b>{label}</b>: {count(value)} requests<br>{duration(at_s)} after the start"
                    for at_s, value in zip(own.at_s, own.value, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=2 if is_batch else 1,
            col=1,
        )
    figure.update_yaxes(rangemode="tozero", zeroline=False)
    figure.update_yaxes(title=axis_title("requests"), row=1, col=1)
    figure.update_yaxes(title=axis_title("requests per rank"), row=2, col=1)
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title=axis_title("time since the start, s"), row=2, col=1)
    return figure


def goodput_chart(points: "pd.DataFrame", slo_s: Mapping[str, float]) -> Figure:
    """Goodput (without an objective what is served), p99 latencies and cost against the rate at which requests arrive,
    above each other.

    ``points`` have the fields of :class:`perfmodel.explore.goodput.GoodputPoint` as columns.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = points.sort_values("requests_per_s")
    hovers = [_point_hover(row) for _, row in rows.iterrows()]
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.4, 0.35, 0.25]
    )
    figure.update_layout(layout(680, hovermode="closest", margin={"l": 68, "r": 16, "t": 12, "b": 150}))
    symbols = ["circle" if keeps_up else "x" for keeps_up in rows.keeps_up]

    def line(y: str, name: str, colour: str, number: int, dash: str = "solid") -> None:
        figure.add_trace(
            go.Scatter(
                x=rows.requests_per_s,
                y=rows[y],
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2, "dash": dash},
                marker={"color": colour, "size": 8, "symbol": symbols},
                customdata=hovers,
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=number,
            col=1,
        )

    shown, judged = _shown_rate(rows), rows.good_pct.notna().all()
    answered, every = (
        ("goodput", "if every request were good") if judged else ("served", "if all were served at once")
    )
    column = "goodput_requests_per_s" if judged else "served_requests_per_s"
    figure.add_trace(
        go.Scatter(
            x=[0.0, shown],
            y=[0.0, shown],
            mode="lines",
            name=every,
            line={"color": IDEAL, "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    line(column, answered, RATE_COLOURS["answered"], 1)
    own = rows[rows.speed == 1.0]
    figure.add_trace(
        go.Scatter(
            x=own.requests_per_s,
            y=own[column],
            mode="markers",
            name="this run's rate",
            marker={"color": HERE, "size": 14, "symbol": "star", "line": {"width": 1, "color": "#FFFFFF"}},
            customdata=[f"{_point_hover(row)}<br>this run's rate" for _, row in own.iterrows()],
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    line("ttft_p99_s", "TTFT p99", LATENCY_COLOURS["TTFT"], 2, LATENCY_DASHES["TTFT"])
    line("tpot_p99_s", "TPOT p99", LATENCY_COLOURS["TPOT"], 2, LATENCY_DASHES["TPOT"])
    line("usd_per_million_output_tokens", "$ per M output tokens", RATE_COLOURS["cost"], 3, "dot")
    for name, limit in slo_s.items():
        if name in ("TTFT", "TPOT"):
            line_of = {"color": LATENCY_COLOURS[name], "width": 1.5, "dash": "dashdot"}
            figure.add_shape(type="line", x0=0.0, x1=shown, y0=limit, y1=limit, line=line_of, row=2, col=1)
            figure.add_annotation(
                x=shown, y=math.log10(limit), xanchor="right", yanchor="bottom", showarrow=False,
                text=f"{name} SLO {duration(limit)}", font={"size": 12}, row=2, col=1,
            )  # fmt: skip
    if not rows.keeps_up.all():
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="markers",
                name="falls behind: a longer run would be worse",
                marker={"symbol": "x", "size": 8, "color": IDEAL},
            )
        )
    times = [*rows.ttft_p99_s, *rows.tpot_p99_s.dropna(), *slo_s.values()]
    figure.update_xaxes(range=[0.0, shown], zeroline=False)
    figure.update_xaxes(title=axis_title("requests that arrive per second"), row=3, col=1)
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(title=axis_title(f"{answered}, requests/s"), range=[0.0, shown], row=1, col=1)
    figure.update_yaxes(title=axis_title("p99 (logarithmic)"), row=2, col=1, **_log_seconds(times))
    figure.update_yaxes(
        title=axis_title("$ per M output"),
        **log_ticks("$"),
        row=3,
        col=1,
    )
    return figure


def _shown_rate(rows: "pd.DataFrame") -> float:
    """Where the axis of rates ends: not far beyond the first rate at which something fails."""
    good = rows.good_pct.astype(float)
    failing = rows[~rows.keeps_up | (good < good.max() / 2.0)].requests_per_s
    most = float(rows.requests_per_s.max())
    return 1.05 * (min(most, 2.0 * float(failing.min())) if len(failing) else most)


def _unknown(value: float | None) -> bool:
    """Whether a cell of a table has no number."""
    return value is None or math.isnan(value)


def _point_hover(row: Any) -> str:
    tpot, good = row["tpot_p99_s"], row["goodput_requests_per_s"]
    lines = [
        f"<b>{significant(row['requests_per_s'])} requests/s arrive</b>",
        f"{significant(row['served_requests_per_s'])} requests/s are served",
        *(
            []
            if _unknown(good)
            else [f"goodput {significant(good)} requests/s: {row['good_pct']:.3g}% keep the SLO"]
        ),
        f"TTFT p99 {duration(row['ttft_p99_s'])}",
        "no TPOT: one output token each" if _unknown(tpot) else f"TPOT p99 {duration(tpot)}",
        f"{usd(row['usd_per_million_output_tokens'])} per M output tokens",
    ]
    if not row["keeps_up"]:
        lines.append("falls behind: the queue grows as long as requests come")
    return "<br>".join(lines)
