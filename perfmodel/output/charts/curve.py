"""The trade-off curve: what each user gets against what each GPU gives or a million tokens cost, over the batch."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from perfmodel.output.charts.base import Drawn, Row, axis_title, drawn, layout, log_ticks
from perfmodel.output.colours import BAND, DASHES, HERE, PREDICTED, PUBLISHED, SCENARIO_COLOURS
from perfmodel.output.formats import duration, significant, usd, with_unit

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Curve: TypeAlias = pd.DataFrame | Mapping[str, NDArray[np.float64]]

AXES = {
    "tokens_per_s_per_user": "tokens/s per user",
    "ttft_s": "time to first token without a queue, s",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
    "input_tokens_per_s_per_gpu": "input tokens/s per GPU",
    "usd_per_million_output_tokens": "$ per million output tokens",
    "usd_per_million_input_tokens": "$ per million input tokens",
}
"""Column -> axis title."""


def trade_off_chart(
    curve: "Curve", *, x: str, y: str, here: float, published: "pd.DataFrame | None" = None
) -> Drawn:
    """``y`` against ``x``, a point per batch size, with the 80 % band where the columns have one.

    ``curve`` has :func:`perfmodel.explore.curve.batch_curve`'s columns; ``here`` is the batch that is asked, marked;
    ``published`` points have both columns, a label and a source. Costs are drawn on a logarithmic axis.
    """
    traces: list[Row] = []
    columns = _columns(curve)
    if f"{x}_low" in columns and f"{y}_low" in columns:
        traces.append(_band(columns, x, y))
    hovers = [_hover(row, x, y) for row in _rows(columns)]
    traces.append(
        {
            "type": "scatter",
            "x": columns[x],
            "y": columns[y],
            "mode": "lines+markers",
            "name": "predicted, by batch",
            "line": {"color": PREDICTED, "width": 2},
            "marker": {"size": 6},
            "customdata": hovers,
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    )
    asked = [i for i, batch in enumerate(columns["batch_per_gpu"]) if batch == here]
    if asked:
        traces.append(
            {
                "type": "scatter",
                "x": [columns[x][i] for i in asked],
                "y": [columns[y][i] for i in asked],
                "mode": "markers",
                "name": f"your batch: {here:g} per GPU",
                "marker": {
                    "color": HERE,
                    "size": 14,
                    "symbol": "star",
                    "line": {"width": 1, "color": "#FFFFFF"},
                },
                "customdata": [hovers[i] for i in asked],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    if published is not None and len(published) and x in published and y in published:
        traces.append(_published(published, x, y))
    shape = _layout(430, x, y)
    if not y.startswith("usd"):
        shape["yaxis"]["rangemode"] = "tozero"
    return drawn(traces, shape)


def _layout(height: int, x: str, y: str) -> dict[str, Any]:
    """Of curves of one quantity over another."""
    axis = {"title": axis_title(AXES[y]), "zeroline": False}
    return layout(height, hovermode="closest", margin={"l": 68, "r": 16, "t": 12, "b": 92}) | {
        "xaxis": {"title": axis_title(AXES[x]), "rangemode": "tozero", "zeroline": False},
        "yaxis": axis | (log_ticks("$") if y.startswith("usd") else {}),
    }


def trade_offs_chart(curves: "Mapping[str, tuple[Curve, float]]", *, x: str, y: str) -> Drawn:
    """Several curves and their marked batches, without bands: ``curves`` has name -> (curve, batch that is asked)."""
    traces: list[Row] = []
    for (name, (curve, here)), colour, dash in zip(curves.items(), SCENARIO_COLOURS, DASHES, strict=False):
        columns = _columns(curve)
        sizes = [13 if batch == here else 5 for batch in columns["batch_per_gpu"]]
        symbols = ["star" if batch == here else "circle" for batch in columns["batch_per_gpu"]]
        traces.append(
            {
                "type": "scatter",
                "x": columns[x],
                "y": columns[y],
                "mode": "lines+markers",
                "name": escape(name),
                "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"size": sizes, "symbol": symbols},
                "customdata": [f"{escape(name)}: {_hover(row, x, y)}" for row in _rows(columns)],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return drawn(traces, _layout(400, x, y))


def _columns(frame: "Curve") -> dict[str, list[Any]]:
    """A frame, or its columns as arrays, as plain lists: a row at a time takes longer than the whole chart."""
    return {str(name): np.asarray(column).tolist() for name, column in frame.items()}


def _rows(columns: Mapping[str, list[Any]]) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _band(curve: Mapping[str, list[Any]], x: str, y: str) -> Row:
    """From the curve of fast draws to that of slow ones: a slower step is slower for users and for GPUs alike."""
    better = "low" if y.startswith("usd") else "high"
    worse = "high" if better == "low" else "low"
    fast, slow = ("low", "high") if x == "ttft_s" else ("high", "low")
    xs = [*curve[f"{x}_{fast}"], *curve[f"{x}_{slow}"][::-1]]
    ys = [*curve[f"{y}_{better}"], *curve[f"{y}_{worse}"][::-1]]
    return {
        "type": "scatter",
        "x": xs,
        "y": ys,
        "mode": "lines",
        "fill": "toself",
        "fillcolor": BAND,
        "line": {"width": 0},
        "name": "80 % interval",
        "hoverinfo": "skip",
    }


def _published(points: "pd.DataFrame", x: str, y: str) -> Row:
    def text(row: Any) -> str:
        numbers = f"{significant(row[x])} {AXES[x]}<br>{_value(row[y], y)} {AXES[y].removeprefix('$ ')}"
        return f"<b>published</b>: {escape(row['label'])}<br>{numbers}<br>{escape(row['source'])}"

    columns = _columns(points)
    return {
        "type": "scatter",
        "x": columns[x],
        "y": columns[y],
        "mode": "markers",
        "name": "published, measured",
        "marker": {
            "color": PUBLISHED,
            "size": 11,
            "symbol": "diamond",
            "line": {"width": 1, "color": "#FFFFFF"},
        },
        "customdata": [text(row) for row in _rows(columns)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _hover(row: Any, x: str, y: str) -> str:
    lines = [f"<b>{row['batch_per_gpu']:g} per GPU</b>"]
    for name in dict.fromkeys((x, y)):
        bounds = (
            f" ({_value(row[f'{name}_low'], name)} to {_value(row[f'{name}_high'], name)})"
            if f"{name}_low" in row
            else ""
        )
        lines.append(f"{_value(row[name], name)}{bounds} {AXES[name].removeprefix('$ ')}")
    lines.append(f"step {duration(row['step_time_s'])}")
    return "<br>".join(lines)


def _value(value: float, name: str) -> str:
    if name.startswith("usd"):
        return usd(value)
    return with_unit(value, "s") if name.endswith("_s") and "per_s" not in name else significant(value)
