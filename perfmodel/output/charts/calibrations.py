"""How far off calibrations are, by kernel class, beside each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perfmodel.output.charts.base import Drawn, axis_title, drawn, layout
from perfmodel.output.colours import SERIES

if TYPE_CHECKING:
    import pandas as pd

ROW = 30


def errors_chart(sides: Sequence[tuple[str, "pd.DataFrame"]]) -> Drawn:
    """A bar per class and calibration: the median error, with a line to the 90th percentile.

    Columns: ``kernel``, ``timed shapes``, ``median error`` and ``90th percentile`` (%).
    """
    kernels = list(dict.fromkeys(kernel for _, rows in sides for kernel in rows["kernel"]))
    traces = []
    for number, (name, rows) in enumerate(sides):
        shown = rows[rows["median error"].notna()]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [_words(kernel) for kernel in shown["kernel"]],
                "x": [float(value) for value in shown["median error"]],
                "error_x": {
                    "type": "data",
                    "array": [max(0.0, float(x)) for x in shown["90th percentile"] - shown["median error"]],
                    "symmetric": False,
                    "arrayminus": [0.0] * len(shown),
                    "color": "#808080",
                    "thickness": 1.5,
                },
                "marker": {"color": SERIES[number % len(SERIES)]},
                "customdata": [
                    f"<b>{_words(row['kernel'])}</b>, {name}<br>median {row['median error']:.1f} %, 90th percentile "
                    f"{row['90th percentile']:.1f} %<br>{row['timed shapes']:,} timed shapes"
                    for _, row in shown.iterrows()
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    shape = layout(
        ROW * len(kernels) * len(sides) + 130,
        barmode="group",
        margin={"l": 12, "r": 12, "t": 12, "b": 90},
        xaxis={
            "title": axis_title("error, %: median to p90")
        },  # short: on a phone it stands under half the chart
        yaxis={"autorange": "reversed", "automargin": True, "fixedrange": True},
        showlegend=len(sides) > 1,
    )
    return drawn(traces, shape)


def _words(kernel: str) -> str:
    return str(kernel).replace("_", " ")
