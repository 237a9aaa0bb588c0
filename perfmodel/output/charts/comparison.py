"""A measured run beside its simulation: which share of the requests saw at most so much."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.output.charts.base import Figure, axis_title, layout, log_ticks
from perfmodel.output.colours import PREDICTED, PUBLISHED
from perfmodel.units import MS

MOST_POINTS = 400
"""Of one curve."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E"}

WIDE = 10.0
"""Ratio of the longest to the shortest time from which on an axis is logarithmic."""


def comparison_chart(
    measured: Mapping[str, float],
    simulated: Mapping[str, float],
    samples: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Figure:
    """One panel per latency with both sides' distributions: curves where each request is known, else the percentiles.

    Args:
        measured: ``ttft_s.p50`` -> seconds.
        simulated: the same of the simulation.
        samples: of either side, quantity -> what each request saw (n,), s.
    """
    from plotly.subplots import make_subplots

    shown = [key for key in NAMES if any(f"{key}.{part}" in measured for part in SHARES)]
    figure = make_subplots(
        rows=1, cols=max(len(shown), 1), shared_yaxes=True, subplot_titles=[NAMES[key] for key in shown]
    )
    figure.update_layout(layout(height=320, margin={"l": 72, "r": 12, "t": 32, "b": 84}))
    sides = (("measured", PUBLISHED, measured, "circle"), ("simulated", PREDICTED, simulated, "diamond"))
    for column, key in enumerate(shown, 1):
        drawn: list[float] = []
        for (name, colour, figures, symbol), own in zip(sides, samples, strict=True):
            points = {part: figures.get(f"{key}.{part}") for part in SHARES}
            marks = [(value / MS, SHARES[part]) for part, value in points.items() if value]
            if marks:
                _trace(figure, column, name, colour, marks, mode="markers", symbol=symbol)
            curve = _curve(own[key]) if key in own else []
            if curve:
                _trace(figure, column, name, colour, curve, mode="lines", symbol=symbol)
            drawn += [x for x, _ in (*marks, *curve)]
        wide = bool(drawn) and min(drawn) > 0.0 and max(drawn) > WIDE * min(drawn)
        axis = {**log_ticks(), "title": axis_title("ms, log")} if wide else {"title": axis_title("ms")}
        figure.update_xaxes(**axis, rangemode="normal" if wide else "tozero", nticks=6, row=1, col=column)
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", zeroline=False)
    figure.update_yaxes(title=axis_title("requests with at most that"), col=1)
    return figure


def _curve(values: Any) -> list[tuple[float, float]]:
    """(ms, share) of an empirical distribution, thinned."""
    ordered = np.sort(values) / MS
    shares = (np.arange(len(ordered)) + 1.0) / len(ordered)
    kept = np.unique(np.linspace(0, len(ordered) - 1, MOST_POINTS).astype(int))
    return list(zip(ordered[kept].tolist(), shares[kept].tolist(), strict=True))


def _trace(
    figure: Figure,
    column: int,
    name: str,
    colour: str,
    points: list[tuple[float, float]],
    *,
    mode: str,
    symbol: str,
) -> None:
    import plotly.graph_objects as go

    x, y = zip(*points, strict=True)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode=mode,
            name=name,
            legendgroup=name,
            showlegend=column == 1 and mode == "markers",
            marker={"color": colour, "size": 9, "symbol": symbol},
            line={"color": colour, "dash": "solid" if name == "measured" else "dash", "shape": "hv"},
            hovertemplate=f"{name}: %{{y:.1%}} within %{{x:.4g}} ms<extra></extra>",
        ),
        row=1,
        col=column,
    )
