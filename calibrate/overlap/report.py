"""The overlap experiment's result for people and for programs: a table, JSON, raw data and a page with a plot."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.overlap.measure import Measured, describe_rate
from calibrate.overlap.result import KINDS, Row, Summary
from perfmodel.files import atomic_write
from perfmodel.units import MEGA, MS

RESULT, SAMPLES, TABLE, PAGE = "overlap.json", "samples.json", "overlap.txt", "overlap.html"
COLUMNS = (
    "Mbit/s", "comm ms", "comp ms", "ratio",
    "seq ms", "pred", "err",
    "ovl ms", "pred", "err", "naive", "err",
    "speed-up", "pred", "naive",
    "equal", "n", "floor", "held", "foreign",
)  # fmt: skip
COLOURS = {"measured": "#b2182b", "predicted": "#2166ac", "free": "#67a9cf", "naive": "#7f7f7f"}
NAMES = {
    "measured": "measured (quartiles)",
    "predicted": "predicted by the timeline",
    "free": "predicted, had the exchange taken no compute",
    "naive": "naive: max(compute, communication)",
}


def cells(row: Row) -> list[str]:
    """One row of the table."""
    sequential, overlapped, speedups = row.sequential, row.overlapped, row.speedups
    ms = [f"{row.communication_s / MS:.1f}", f"{row.compute_s / MS:.1f}", f"{row.ratio:.2f}"]
    return [
        "loopback" if math.isinf(row.rate) else f"{row.rate / MEGA:g}",
        *ms,
        *(
            f"{sequential.measured_s / MS:.1f}",
            f"{sequential.predicted_s / MS:.1f}",
            f"{sequential.error:+.1%}",
        ),
        *(
            f"{overlapped.measured_s / MS:.1f}",
            f"{overlapped.predicted_s / MS:.1f}",
            f"{overlapped.error:+.1%}",
        ),
        *(f"{overlapped.naive_s / MS:.1f}", f"{overlapped.naive_error:+.1%}"),
        *(f"{speedups[name]:.2f}" for name in ("measured", "predicted", "naive")),
        "yes" if row.bit_equal else "NO",
        f"{row.rounds}",
        *(f"{share:.1%}" for share in (row.repeat_floor, row.compute_held, row.foreign_load)),
    ]


def table(rows: Sequence[Row]) -> str:
    """All rows, in columns."""
    lines = [list(COLUMNS), *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def document(found: Measured, rows: Sequence[Row], summary: Summary, notes: Sequence[str]) -> dict[str, Any]:
    """Everything that was found, as strict JSON: SI units, null for the loopback interface's rate."""
    return {
        "environment": found.environment,
        "workload": {
            "tokens_per_rank": found.workload.tokens,
            "mean_real_experts": found.workload.mean_real_experts,
            "rank_loads": list(found.workload.rank_loads),
            "remote_rows": found.workload.remote_rows,
            "config": asdict(found.workload.config),
        },
        "rows": [
            asdict(row)
            | {"rate": _finite(row.rate), "ratio": row.ratio, "speedups": dict(row.speedups)}
            | {"errors": {"sequential": row.sequential.error, "overlapped": row.overlapped.error}}
            for row in rows
        ],
        "summary": asdict(summary) | {"passed": summary.passed},
        "notes": list(notes),
    }


def write(folder: Path, found: Measured, rows: Sequence[Row], summary: Summary, notes: Sequence[str]) -> None:
    """Write result, raw samples, table and page.

    Raises:
        DataError: the folder can't be written.
    """
    result = document(found, rows, summary, notes)
    atomic_write(folder / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
    atomic_write(folder / SAMPLES, json.dumps(samples(found), allow_nan=False) + "\n")
    text = "\n".join([table(rows), "", summary.verdict, *notes, ""])
    atomic_write(folder / TABLE, text)
    atomic_write(folder / PAGE, page(found, rows, summary, notes))


def samples(found: Measured) -> dict[str, Any]:
    """Every single measurement, by kind."""
    return {
        "reference_probe_s": found.reference_probe_s,
        "blocks": [_record(run) for run in found.blocks],
        "exchanges": [_record(run) for run in found.exchanges],
        "contention": [_record(run) for run in found.contention],
        "kernels": [
            {
                "kernel": run.case.kernel,
                "dtype": run.case.dtype,
                "shape": dict(run.case.shape),
                "seconds": run.seconds,
            }
            for run in found.kernels
        ],
    }


def chart(rows: Sequence[Row]) -> Any:
    """Speed-up against communication over compute, as a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure()
    ordered = sorted(rows, key=lambda row: row.ratio)
    ratios = [row.ratio for row in ordered]
    curve = np.geomspace(ratios[0] / 1.2, ratios[-1] * 1.2, 60)
    figure.add_scatter(
        x=curve, y=(1.0 + curve) / np.maximum(1.0, curve), name=NAMES["naive"], mode="lines",
        line={"color": COLOURS["naive"], "dash": "dot"},
    )  # fmt: skip
    for kind in ("free", "predicted", "measured"):
        figure.add_scatter(
            x=ratios,
            y=[row.speedups[kind] for row in ordered],
            name=NAMES[kind],
            mode="markers" if kind == "measured" else "lines+markers",
            line={"color": COLOURS[kind], "dash": "dash" if kind == "free" else "solid"},
            marker={"size": 11 if kind == "measured" else 6},
            error_y=_spread(ordered) if kind == "measured" else None,
            text=[describe_rate(row.rate) for row in ordered],
            hovertemplate="%{text}<br>ratio %{x:.2f}, speed-up %{y:.2f}",
        )
    figure.add_hline(y=1.0, line={"color": "#bbbbbb", "width": 1})
    ticks = [tick for tick in (0.1, 0.2, 0.4, 0.7, 1, 2, 4, 7, 10) if curve[0] <= tick <= curve[-1]]
    figure.update_xaxes(title="communication / compute", type="log", tickvals=ticks)
    figure.update_yaxes(title="speed-up: sequential / overlapped")
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        template="none",
        height=520,
        legend=legend,
        margin={"t": 90, "r": 10, "l": 60},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"color": "#7a828c"},
    )
    figure.update_xaxes(gridcolor="#8883")
    figure.update_yaxes(gridcolor="#8883")
    return figure


def page(found: Measured, rows: Sequence[Row], summary: Summary, notes: Sequence[str]) -> str:
    """One HTML page that opens offline."""
    body = chart(rows).to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>" for row in rows
    )
    where = f"{found.environment['device_name']}, torch {found.environment['torch']}, {found.environment['date'][:10]}"
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in (where, summary.verdict, *notes))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
        f"</head><body><h1>{TITLE}</h1>{paragraphs}{body}"
        f"<div class=wide><table><tr>{head}</tr>{lines}</table></div></body></html>\n"
    )


TITLE = "Overlap is measured, not assumed"
STYLE = (
    "body{font-family:sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{padding:3px 7px;text-align:right;border-bottom:1px solid #8883}"
    ".wide{overflow-x:auto}@media(prefers-color-scheme:dark){body{background:#14171b;color:#e6e9ed}}"
)


def _spread(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Error bars from the median to both quartiles, which need not enclose the ratio of the medians."""
    pairs = [(row.speedups["measured"], row.speedup_quartiles) for row in rows]
    return {
        "array": [max(high - middle, 0.0) for middle, (_, high) in pairs],
        "arrayminus": [max(middle - low, 0.0) for middle, (low, _) in pairs],
        "symmetric": False,
        "thickness": 1.5,
    }


def _record(run: Any) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(run).items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


assert set(NAMES) == set(COLOURS) == set(KINDS)
