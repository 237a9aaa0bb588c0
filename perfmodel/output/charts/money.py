"""Charts of money: what moves a token's cost, why two differ, when one's own GPUs beat a price, speed against cost.

Pure functions from a DataFrame to a plotly figure, as in :mod:`perfmodel.output.charts.base`. Names and labels come
from users' files, and plotly draws a subset of HTML: everything that is text here is escaped here.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from perfmodel.output.charts.base import Drawn, Figure, axis_title, bars_layout, layout
from perfmodel.output.charts.shares import share_chart
from perfmodel.output.colours import (
    API_PRICE,
    DECREASE,
    INCREASE,
    INTERVAL,
    OP_CLASS_COLOURS,
    OWN_COST,
    TOTAL,
    op_class_name,
)
from perfmodel.output.formats import duration, percent, significant, usd

if TYPE_CHECKING:
    import pandas as pd

MINUS = "\N{MINUS SIGN}"
ROW_PIXELS = 44
BAR_SHARE = 0.62
"""Of a row that its bar fills."""
ROOM = 0.42
"""Of the width of all bars, on each side, for the labels at their ends."""
ROOM_AT_END = 0.3
"""Of a waterfall's width, for the labels beyond its bars."""
FLAT = 1e-9
"""Changes below this share of the larger total are none."""


def money_chart(usd_by_class: Mapping[str, float]) -> Drawn:
    """Where the money goes: USD per million tokens by op class, cut as seconds on the critical path are."""
    total = sum(usd_by_class.values()) or 1.0
    rows = [
        {
            "label": op_class_name(name),
            "value": value,
            "colour": OP_CLASS_COLOURS[name],
            "hover": f"{op_class_name(name)}: {usd(value)} per million tokens, {percent(value / total)}",
        }
        for name, value in usd_by_class.items()
    ]
    figure = share_chart(rows, unit="USD per million tokens")
    figure["layout"]["xaxis"]["tickprefix"] = "$"
    return figure


def tornado_chart(
    frame: "pd.DataFrame",
    *,
    base: float,
    title: str,
    interval: Sequence[float] | None = None,
    is_money: bool = True,
) -> Figure:
    """Levers as bars around ``base``, the first row on top; what makes it dearer (or slower) has another colour
    than what makes it cheaper.

    Columns: ``name``; ``low`` and ``high``, the result at the lever's low and high value; ``low_label`` and
    ``high_label``, those values in words. ``interval`` (the model's own 80 %) is a band behind them. Results are USD,
    or seconds with ``is_money`` False.
    """
    import plotly.graph_objects as go

    text = usd if is_money else duration
    scale, unit = (1.0, "") if is_money else (1e3, " ms")
    figure = go.Figure(layout=bars_layout(ROW_PIXELS * len(frame) + 118))
    names = [escape(name) for name in frame["name"]]
    for end in ("low", "high"):
        other = frame["high" if end == "low" else "low"]
        figure.add_trace(
            go.Bar(
                orientation="h",
                name=end,
                showlegend=False,
                y=names,
                base=base * scale,
                x=[(value - base) * scale for value in frame[end]],
                width=BAR_SHARE,
                marker={
                    "color": [INCREASE if value > base else DECREASE for value in frame[end]],
                    "line": {"width": 0},
                },
                text=[
                    _end_label(value, beside, base, escape(label))
                    for value, beside, label in zip(frame[end], other, frame[f"{end}_label"], strict=True)
                ],
                textposition="outside",
                cliponaxis=False,
                constraintext="none",
                textfont={"size": 11},
                customdata=[
                    f"<b>{name}</b>: {escape(label)}<br>{text(value)}, {_change(value, base)}"
                    for name, label, value in zip(names, frame[f"{end}_label"], frame[end], strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    for name, colour in zip(
        ("cheaper", "dearer") if is_money else ("faster", "slower"), (DECREASE, INCREASE), strict=True
    ):
        figure.add_trace(go.Bar(orientation="h", name=name, y=[None], x=[None], marker={"color": colour}))
    if interval is not None:
        _band(figure, interval[0] * scale, interval[1] * scale)
    figure.add_vline(x=base * scale, line={"width": 1.5, "color": TOTAL})
    found = [*frame["low"], *frame["high"], base, *(interval or ())]
    low, high = min(found) * scale, max(found) * scale
    room = ROOM * ((high - low) or abs(high) or 1.0)
    figure.update_xaxes(
        title=axis_title(escape(title)),
        range=[low - room, high + room],
        zeroline=False,
        fixedrange=True,
        tickprefix="$" if is_money else "",
        ticksuffix=unit,
    )
    figure.update_yaxes(
        autorange="reversed", fixedrange=True, showgrid=False, automargin=True, ticklabelstandoff=6
    )
    figure.update_layout(
        uniformtext=None, margin={"t": 12, "b": 84, "l": 12, "r": 12}, legend={"traceorder": "normal"}
    )
    return figure


def waterfall_chart(
    frame: "pd.DataFrame",
    *,
    start: float,
    end: float,
    start_label: str,
    end_label: str,
    title: str,
    is_money: bool = True,
) -> Figure:
    """From one figure to another in steps that add up.

    Columns: ``component`` and ``delta`` (USD, or seconds with ``is_money`` False). Components that change nothing are
    left out.
    """
    import plotly.graph_objects as go

    text = usd if is_money else duration
    scale = 1.0 if is_money else 1e3
    largest = max(abs(start), abs(end)) or 1.0
    rows = [
        (str(name), float(delta))
        for name, delta in zip(frame["component"], frame["delta"], strict=True)
        if abs(delta) > FLAT * largest
    ]
    labels = [_broken(start_label), *(_broken(name) for name, _ in rows), _broken(end_label)]
    hovers = [f"<b>{escape(start_label)}</b><br>{text(start)}"]
    hovers += [f"<b>{escape(name)}</b><br>{_signed(delta, text)}" for name, delta in rows]
    hovers += [f"<b>{escape(end_label)}</b><br>{text(end)}, {_change(end, start)}"]
    figure = go.Figure(
        layout=layout(ROW_PIXELS * len(labels) + 60, margin={"l": 12, "r": 12, "t": 8, "b": 52})
    )
    places = list(range(len(labels)))
    figure.add_trace(
        go.Waterfall(
            orientation="h",
            y=places,
            x=[start * scale, *(delta * scale for _, delta in rows), end * scale],
            measure=["absolute", *["relative"] * len(rows), "total"],
            text=[text(start), *(_signed(delta, text) for _, delta in rows), text(end)],
            textposition="outside",
            constraintext="none",
            textfont={"size": 12},
            cliponaxis=False,
            increasing={"marker": {"color": INCREASE}},
            decreasing={"marker": {"color": DECREASE}},
            totals={"marker": {"color": TOTAL}},
            connector={"line": {"width": 1, "color": TOTAL, "dash": "dot"}},
            customdata=hovers,
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_yaxes(
        tickvals=places,
        ticktext=labels,
        autorange="reversed",
        fixedrange=True,
        showgrid=False,
        zeroline=False,
        automargin=True,
        ticklabelstandoff=6,
    )
    reached = [start, *(start + sum(delta for _, delta in rows[: n + 1]) for n in range(len(rows))), end, 0.0]
    room = ROOM_AT_END * (max(reached) - min(reached)) * scale
    figure.update_xaxes(
        title=axis_title(escape(title)),
        range=[min(reached) * scale - (room if min(reached) < 0.0 else 0.0), max(reached) * scale + room],
        fixedrange=True,
        tickprefix="$" if is_money else "",
        ticksuffix="" if is_money else " ms",
        nticks=6,
        zeroline=False,
    )
    return figure


def break_even_chart(
    frame: "pd.DataFrame",
    *,
    api_usd: float | None = None,
    utilisation_pct: float | None = None,
    interval_pct: Sequence[float] | None = None,
) -> Figure:
    """Cost of a million output tokens against how busy the GPUs are, and a price asked elsewhere.

    Columns: ``utilisation_pct``, ``usd``, and ``low`` and ``high`` where an interval is known.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(370, margin={"l": 12, "r": 12, "t": 12, "b": 122}))
    at = list(frame["utilisation_pct"])
    if "low" in frame:
        figure.add_trace(
            go.Scatter(
                x=[*at, *reversed(at)],
                y=[*frame["high"], *reversed(list(frame["low"]))],
                fill="toself",
                fillcolor=INTERVAL,
                line={"width": 0},
                name="80 % interval",
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=at,
            y=frame["usd"],
            mode="lines",
            name="own GPUs",
            line={"color": OWN_COST, "width": 2.5},
            hovertemplate="%{x:.3g} % busy: $%{y:.3g} per million output tokens<extra></extra>",
        )
    )
    if api_usd is not None:
        _api_line(figure, at, api_usd)
        if utilisation_pct is not None and utilisation_pct <= 100.0:
            _break_even_point(figure, api_usd, utilisation_pct, interval_pct)
    figure.update_xaxes(
        title=axis_title("share of the time in full steps, %"),
        range=[0, 102],
        ticksuffix=" %",
        fixedrange=True,
        zeroline=False,
    )
    figure.update_yaxes(
        title=axis_title("USD per million output tokens"),
        rangemode="tozero",
        range=[0.0, _ceiling(frame, api_usd)],
        tickprefix="$",
        fixedrange=True,
        automargin=True,
    )
    return figure


def speed_cost_chart(frame: "pd.DataFrame") -> Figure:
    """Scenarios by tokens/s per user and USD per million output tokens, each with its 80 % interval.

    Columns: ``name``, ``speed``, ``usd``, and ``speed_low``, ``speed_high``, ``usd_low``, ``usd_high`` (None: unknown).
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(400, margin={"l": 12, "r": 12, "t": 12, "b": 60}, showlegend=False))
    names, middle = [escape(name) for name in frame["name"]], max(frame["speed"]) / 2.0
    figure.add_trace(
        go.Scatter(
            x=frame["speed"],
            y=frame["usd"],
            mode="markers+text",
            text=_point_labels(frame, names),
            textposition=["top right" if speed <= middle else "top left" for speed in frame["speed"]],
            cliponaxis=False,
            marker={"size": 11, "color": OWN_COST},
            error_x=_bars(frame, "speed"),
            error_y=_bars(frame, "usd"),
            customdata=[
                f"<b>{name}</b><br>{significant(speed)} tokens/s per user<br>{usd(cost)} per million output tokens"
                for name, speed, cost in zip(names, frame["speed"], frame["usd"], strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(
        title=axis_title("tokens/s per user (faster →)"), rangemode="tozero", fixedrange=True, zeroline=False
    )
    figure.update_yaxes(
        title=axis_title("USD per million output tokens"),
        rangemode="tozero",
        tickprefix="$",
        fixedrange=True,
        automargin=True,
    )
    return figure


# --- pieces ---------------------------------------------------------------------------------------------------------


def _bars(frame: "pd.DataFrame", column: str) -> dict[str, Any]:
    """Error bars of a column; none where a bound is unknown."""
    above, below = [], []
    for value, low, high in zip(frame[column], frame[f"{column}_low"], frame[f"{column}_high"], strict=True):
        known = low is not None and high is not None and low == low and high == high
        above.append(max(high - value, 0.0) if known else 0.0)
        below.append(max(value - low, 0.0) if known else 0.0)
    shape = {"thickness": 1.2, "width": 4, "color": TOTAL}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **shape}


def _point_labels(frame: "pd.DataFrame", names: Sequence[str]) -> list[str]:
    """A label per point; scenarios on one point share its first one's."""
    owners: dict[tuple[float, float], list[str]] = {}
    places = list(zip(frame["speed"], frame["usd"], strict=True))
    for place, name in zip(places, names, strict=True):
        owners.setdefault(place, []).append(name)
    first = {place: places.index(place) for place in owners}
    return [
        "<br>".join(owners[place]) if first[place] == number else "" for number, place in enumerate(places)
    ]


def _band(figure: Figure, low: float, high: float) -> None:
    import plotly.graph_objects as go

    figure.add_vrect(x0=low, x1=high, fillcolor=INTERVAL, line_width=0, layer="below")
    mark = {"symbol": "square", "size": 12, "color": INTERVAL}
    figure.add_trace(  # for the legend alone
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=mark,
            name="80 % interval of the model",
            hoverinfo="skip",
        )
    )


def _api_line(figure: Figure, at: Sequence[float], api_usd: float) -> None:
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=[0.0, max(at)],
            y=[api_usd, api_usd],
            mode="lines",
            name=f"API price, {usd(api_usd)}",
            line={"color": API_PRICE, "width": 2, "dash": "dash"},
            hovertemplate=f"API price: {usd(api_usd)} per million output tokens<extra></extra>",
        )
    )


def _break_even_point(
    figure: Figure, api_usd: float, utilisation_pct: float, interval_pct: Sequence[float] | None
) -> None:
    import plotly.graph_objects as go

    low, high = interval_pct or (utilisation_pct, utilisation_pct)
    said = f", 80 %: {low:.3g} to {high:.3g} %" if interval_pct else ""
    figure.add_trace(
        go.Scatter(
            x=[utilisation_pct],
            y=[api_usd],
            mode="markers",
            name=f"break-even at {utilisation_pct:.3g} %{said}",
            marker={"size": 11, "color": API_PRICE},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - utilisation_pct],
                "arrayminus": [utilisation_pct - low],
                "thickness": 2,
                "color": API_PRICE,
            },
            hovertemplate=f"break-even: GPUs busy {utilisation_pct:.3g} % of the time{said}<extra></extra>",
        )
    )


def _ceiling(frame: "pd.DataFrame", api_usd: float | None) -> float:
    """Top of the cost axis: a tenth of full use, or well above the price that is compared with."""
    most = float(frame["usd"].min()) * 10.0
    return most if api_usd is None else min(max(2.5 * api_usd, 2.0 * float(frame["usd"].min())), most * 4.0)


def _end_label(value: float, other: float, base: float, label: str) -> str:
    """A bar's label; empty where the other end's longer bar on the same side would run through it."""
    same_side = (value - base) * (other - base) > 0.0
    return "" if same_side and abs(value - base) < abs(other - base) else label


def _change(value: float, base: float) -> str:
    return f"{100.0 * (value - base) / base:+.1f} %" if base else "no base"


def _signed(value: float, text: Any) -> str:
    return f"{'+' if value > 0 else MINUS}{text(abs(value))}"


def _broken(label: str, width: int = 18) -> str:
    """A label in lines that fit beside a bar."""
    import textwrap

    return "<br>".join(escape(line) for line in textwrap.wrap(label, width) or [""])
