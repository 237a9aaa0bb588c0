"""What a fit and a check found: tables for a terminal and a plot that opens offline."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from calibrate.device.assemble import Fitted
from calibrate.device.check import Checked, Row
from perfmodel.files import atomic_write
from perfmodel.output.console import console
from perfmodel.output.formats import number
from perfmodel.units import MS, PERCENT, US

PLOT = "check.html"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#999933", "#AA4499")
"""Okabe and Ito's colours and two of Tol's, as in perfmodel.output.colours."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def print_fit(fitted: Fitted) -> None:
    """Print every curve with its leave-out error, and what has no curve."""
    table = _table("Curves, errors on left-out shapes", "kernel", "timed", "terms", "median %", "90th %")
    for curve in fitted.curves:
        table.add_row(
            f"{curve.kernel} {curve.dtype}",
            str(curve.num_rows),
            str(len(curve.terms)),
            number(curve.median_error_pct),
            number(curve.p90_error_pct),
        )
    out = console()
    out.print(table)
    clock = fitted.document["clock"]
    out.print(
        f"noise: a kernel's time varies by {PERCENT * clock['repeat_log_std']:.1f} % from run to run (standard "
        "deviation), "
        f"other processes took {PERCENT * clock['foreign_load']:.0f} % of the machine",
        soft_wrap=True,
    )
    for text in fitted.left_out:
        out.print(f"no curve: {text}", soft_wrap=True)
    out.print(f"calibration {fitted.document['id']}: {fitted.path}", soft_wrap=True)


def print_check(result: Checked) -> None:
    """Print the error table and the verdict."""
    table = _table(
        "Predicted against measured",
        "kind",
        "n",
        "median |error| %",
        "90th %",
        "bias %",
        "repeat floor %",
        "claimed 90th %",
        "in 80 % interval %",
    )
    for line in result.summary:
        table.add_row(
            line["kind"],
            str(line["n"]),
            *(number(line[key]) for key in ("median_abs_pct", "p90_abs_pct")),
            f"{line['bias_pct']:+.1f}",
            number(line["repeat_median_pct"]),
            number(line["claim_p90_pct"]) if line["claim_p90_pct"] == line["claim_p90_pct"] else "",
            number(line["coverage_pct"]),
            end_section=line["kind"] == "step",
        )
    out = console()
    out.print(table)
    out.print(
        "repeat floor: median difference between two passes; their mean, which is judged, is known to half of it"
    )
    for text in result.failures:
        out.print(f"NOT KEPT: {text}", soft_wrap=True)
    if not result.failures:
        out.print("The calibration keeps what it claims.")


def write_plot(folder: Path, result: Checked, title: str) -> Path:
    """Write the predicted-against-measured plots as one HTML file that opens offline, light or dark, wide or narrow."""
    charts = (
        ("Kernels: shapes that were not fitted", "kernels", US, "us"),
        ("Blocks and steps of the reference model", "steps", MS, "ms"),
    )
    body = ""
    for heading, group, scale, unit in charts:
        rows = [row for row in result.rows if row.group == group]
        if rows:
            body += f"<section><h2>{heading}</h2>{_chart(rows, scale, unit, with_library=not body)}</section>"
    path = folder / PLOT
    page = _PAGE.format(title=html.escape(title), body=body, table=_html_table(result.summary))
    atomic_write(path, page)
    return path


def _chart(rows: Sequence[Row], scale: float, unit: str, *, with_library: bool) -> str:
    """Error against measured time, a colour and symbol for each kind, the interval as a bar."""
    import plotly.graph_objects as go
    import plotly.io

    figure = go.Figure()
    for number_, kind in enumerate(sorted({row.kind for row in rows})):
        figure.add_trace(_points([row for row in rows if row.kind == kind], number_, scale, unit))
    for level, dash in ((0, "solid"), (-10, "dot"), (10, "dot")):
        figure.add_hline(y=level, line={"color": "#888", "width": 1, "dash": dash})
    figure.update_xaxes(type="log", title=f"measured ({unit})", gridcolor="#8883", dtick=1)
    figure.update_yaxes(title="predicted / measured - 1 (%)", gridcolor="#8883", zeroline=False)
    figure.update_layout(
        template="none",
        height=480,
        showlegend=True,
        legend={"orientation": "h", "y": -0.22},
        margin={"t": 10, "r": 10, "l": 60, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7a828c"},
    )
    return str(
        plotly.io.to_html(
            figure,
            include_plotlyjs=with_library,
            full_html=False,
            config={"displayModeBar": False, "responsive": True},
        )
    )


def _points(rows: Sequence[Row], turn: int, scale: float, unit: str) -> Any:
    """The points of one kind."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[row.measured_s / scale for row in rows],
        y=[row.error_pct for row in rows],
        mode="markers",
        name=rows[0].kind,
        marker={
            "color": PALETTE[turn % len(PALETTE)],
            "symbol": SYMBOLS[turn // len(PALETTE) % len(SYMBOLS)],
            "size": 8,
            "opacity": 0.85,
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [PERCENT * (row.high_s - row.predicted_s) / row.measured_s for row in rows],
            "arrayminus": [PERCENT * (row.predicted_s - row.low_s) / row.measured_s for row in rows],
            "thickness": 0.7,
            "width": 0,
        },
        text=[
            f"{row.label}<br>measured {row.measured_s / scale:.3g} {unit} (passes {row.first_s / scale:.3g}, "
            f"{row.second_s / scale:.3g}), predicted {row.predicted_s / scale:.3g} {unit}"
            for row in rows
        ],
        hovertemplate="%{text}<br>error %{y:.1f} %<extra></extra>",
    )


def _html_table(summary: Sequence[Mapping[str, Any]]) -> str:
    head = ("kind", "n", "median |error| %", "90th %", "bias %", "repeat floor %", "in 80 % interval %")
    keys = ("median_abs_pct", "p90_abs_pct", "bias_pct", "repeat_median_pct", "coverage_pct")
    cells = "".join(f"<th>{text}</th>" for text in head)
    lines = [
        f"<tr><td>{html.escape(line['kind'])}</td><td>{line['n']}</td>"
        + "".join(f"<td>{line[key]:.1f}</td>" for key in keys)
        + "</tr>"
        for line in summary
    ]
    return f"<div class=wide><table><tr>{cells}</tr>{''.join(lines)}</table></div>"


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("kernel", "kind") else "right")
    return table


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1200px; padding: 0 16px; color: #1b1f24;
       background: #fff; }}
h1 {{ font-size: 20px; }}
h2 {{ font-size: 16px; font-weight: 600; margin: 12px 0 0; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 16px; }}
.charts section {{ min-width: 0; }}
.wide {{ overflow-x: auto; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14171b; color: #e6e9ed; }} th {{ color: #9aa4af; }} }}
table {{ border-collapse: collapse; margin-top: 16px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid #8883; font-weight: normal; }}
th {{ color: #57606a; }}
td:first-child, th:first-child {{ text-align: left; }}
</style></head><body>
<h1>{title}</h1>
<p>Each point is one kernel shape, block or step: predicted from the calibration's curves through perfmodel's own
timeline, and measured twice. Bars are 80 % intervals; dotted lines mark 10 %.</p>
<div class="charts">{body}</div>
{table}
</body></html>
"""
