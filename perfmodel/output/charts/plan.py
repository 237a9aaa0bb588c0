"""Deployments as points: what each user gets against what each GPU gives."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from perfmodel.output.charts.base import Figure, axis_title, layout, log_ticks
from perfmodel.output.colours import HERE, PREDICTED, SERIES
from perfmodel.output.formats import duration, significant, usd


def plan_chart(
    screened: Sequence[Mapping[str, Any]],
    simulated: Sequence[Mapping[str, Any]],
    pareto: Sequence[int],
    *,
    money: bool = False,
) -> Figure:
    """Output tokens/s per GPU (or $ per million of them) against tokens/s per user.

    Args:
        screened: points of the approximation.
        simulated: candidates, the winner first.
        pareto: indices into ``simulated`` of those that none beats in both.
        money: dollars on the vertical axis.
    """
    import plotly.graph_objects as go

    y = "usd_per_million_output_tokens" if money else "output_tokens_per_s_per_gpu"
    figure = go.Figure(layout=layout(460, hovermode="closest", margin={"l": 72, "r": 16, "t": 12, "b": 108}))
    for keeps, name in ((False, "screened, misses a limit"), (True, "screened, keeps the limits")):
        own = [one for one in screened if one["meets_limits"] is keeps]
        figure.add_trace(
            go.Scatter(
                x=[1.0 / one["tpot_s"] for one in own],
                y=[one[y] for one in own],
                mode="markers",
                name=name,
                marker={
                    "size": 5,
                    "color": SERIES[5] if keeps else "#B8B8B8",
                    "symbol": "circle" if keeps else "x-thin-open",
                },
                customdata=[_hover(one, one["tpot_s"]) for one in own],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    edge = sorted((simulated[i] for i in pareto), key=lambda one: one["tpot_s"]["mean"])
    if not money:
        figure.add_trace(
            go.Scatter(
                x=[1.0 / one["tpot_s"]["mean"] for one in edge],
                y=[one[y] for one in edge],
                mode="lines",
                name="no simulated one is better in both",
                line={"color": PREDICTED, "width": 2},
                hoverinfo="skip",
            )
        )
    figure.add_trace(_points(simulated[1:], y, "simulated", PREDICTED, "circle", 9))
    figure.add_trace(_points(simulated[:1], y, "the winner, simulated", HERE, "star", 16))
    figure.update_xaxes(title=axis_title("tokens/s per user"), rangemode="tozero", zeroline=False)
    title = "$ per million output tokens" if money else "output tokens/s per GPU"
    figure.update_yaxes(title=axis_title(title), zeroline=False)
    if money:
        figure.update_yaxes(**log_ticks("$"))
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


def _points(rows: Sequence[Mapping[str, Any]], y: str, name: str, colour: str, symbol: str, size: int) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[1.0 / one["tpot_s"]["mean"] for one in rows],
        y=[one[y] for one in rows],
        mode="markers",
        name=name,
        marker={"size": size, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "#FFFFFF"}},
        customdata=[_hover(one, one["tpot_s"]["mean"]) for one in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _hover(one: Mapping[str, Any], tpot_s: float) -> str:
    return "<br>".join(
        [
            escape(one["layout"]).replace("; decode", ";<br>decode"),
            f"{one['num_gpus']} GPUs ({escape(one['kind'])})",
            f"TPOT {duration(tpot_s)}, TTFT at the percentile {duration(one['ttft_at_s'])}",
            f"{significant(one['output_tokens_per_s_per_gpu'])} output tokens/s per GPU, "
            f"{usd(one['usd_per_million_output_tokens'])} per million",
            "keeps the limits" if one["meets_limits"] else "misses a limit",
        ]
    )
