"""A dataset of a sweep: what is in it, and two or three of its columns as a picture."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from perfmodel.errors import SpecError
from perfmodel.explore.sweep.run import read_rows
from perfmodel.files import atomic_write
from perfmodel.output.charts.base import Figure, axis_title, layout
from perfmodel.output.colours import DASHES, SERIES
from perfmodel.output.console import console
from perfmodel.output.formats import significant
from perfmodel.output.pages import embed, render
from perfmodel.output.tables import table_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12
"""Rows of the table."""
COLUMNS = (
    "tpot_s",
    "ttft_s.mean",
    "tpot_s.mean",
    "output_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
    "best.layout",
    "best.num_gpus",
    "best.usd_per_million_output_tokens",
)
IN_TABLE = 200
"""Rows of the table under a picture."""
MOST_SERIES = 12
"""Values of a third column that are drawn apart."""


def print_rows(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> None:
    """Print points as they were answered: what was set, and the main figures."""
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    reasons = any(row["error"] for row in rows)
    table = table_of("", *swept, *shown, *(("reason",) if reasons else ()))
    for row in rows:
        cells = [_text(row.get(name)) for name in (*swept, *shown)]
        table.add_row(*cells, *((Text(row["error"] or "", style="dim"),) if reasons else ()))
    console().print(table)


def print_dataset(values: Mapping[str, Any], folder: Path) -> None:
    """Print how much was done, and the first rows."""
    out, rows = console(), read_rows(folder)
    swept = list(rows.columns[1 : list(rows.columns).index("scenario_hash")])
    shown = [name for name in COLUMNS if name in rows and rows[name].notna().any()]
    table = table_of(f"{values['done']:,} of {values['points']:,} points answered", *swept, *shown, "reason")
    for _, row in rows.head(SHOWN).iterrows():
        cells = [_text(row[name]) for name in (*swept, *shown)]
        table.add_row(*cells, Text(row["error"] if isinstance(row["error"], str) else "", style="dim"))
    out.print(table)
    if len(rows) > SHOWN:
        out.print(Text(f"{len(rows) - SHOWN:,} more rows", style="dim"))
    if values["failed"]:
        out.print(Text(f"{values['failed']:,} points have no answer: column error says why", style="dim"))
    out.print(Text(f"{folder}/pieces/*.parquet: {len(rows.columns)} columns in SI units", style="dim"))


def _text(value: Any) -> str:
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, list | dict):
        return str(value)
    return "-" if value is None or not math.isfinite(float(value)) else significant(float(value), 4)


def write_picture(folder: Path, columns: str, path: Path) -> None:
    """Draw the second column against the first; a line per value of the third where there is one, or the points shaded
    by it where it has many.

    Raises:
        SpecError: not two or three columns, or one that the dataset does not have.
        DataError: no dataset.
    """
    rows = read_rows(folder)
    names = [name.strip() for name in columns.split(",")]
    if not 2 <= len(names) <= 3:
        raise SpecError(f"--show {columns}: must be two columns, or three: X,Y or X,Y,COLOUR")
    for name in names:
        if name not in rows:
            import difflib

            near = difflib.get_close_matches(name, list(rows.columns), n=3, cutoff=0.4)
            raise SpecError(
                f"--show {name}: no such column; near: {', '.join(near) or ', '.join(rows.columns[:8])}"
            )
    figure = picture(rows, names)
    drawn = rows[rows[names].notna().all(axis=1)].sort_values(names[0])
    values = {
        "title": " against ".join(reversed(names[:2])),
        "folder": str(folder),
        "figure": embed(figure, "sweep"),
        "names": names,
        "rows": [
            [_text(value) for value in row] for row in drawn[names].head(IN_TABLE).itertuples(index=False)
        ],
        "total": len(drawn),
    }
    atomic_write(path, render(Path(__file__).with_name("sweep.html.j2"), values))


def picture(rows: "pd.DataFrame", names: list[str]) -> Figure:
    """The figure of :func:`write_picture`."""
    import plotly.graph_objects as go

    x, y = names[:2]
    rows = rows[rows[y].notna() & rows[x].notna()]
    if len(names) == 3:
        values = list(dict.fromkeys(rows[names[2]].dropna().tolist()))
        if len(values) > MOST_SERIES and not any(isinstance(value, str) for value in values):
            return _shaded(rows, names)
        if len(values) > MOST_SERIES:
            raise SpecError(
                f"--show {names[2]}: has {len(values)} values; a line each is drawn for {MOST_SERIES}"
            )
        parts = [(f"{names[2]} = {_text(value)}", rows[rows[names[2]] == value]) for value in values]
    else:
        parts = [(y, rows)]
    figure = go.Figure(layout=layout(460, margin={"l": 80, "r": 16, "t": 12, "b": 100}))
    for number, (name, own) in enumerate(parts):
        ordered = own.sort_values(x)
        figure.add_trace(
            go.Scatter(
                x=ordered[x],
                y=ordered[y],
                mode="lines+markers",
                name=escape(name),
                line={"color": SERIES[number % len(SERIES)], "dash": DASHES[number % len(DASHES)]},
            )
        )
    return _with_axes(figure, x, y)


def _shaded(rows: "pd.DataFrame", names: Sequence[str]) -> Figure:
    """Points whose shade is the third column: too many values for a line each."""
    import plotly.graph_objects as go

    x, y, shade = names
    rows = rows[rows[shade].notna()]
    figure = go.Figure(layout=layout(460, margin={"l": 80, "r": 16, "t": 12, "b": 100}))
    figure.add_trace(
        go.Scatter(
            x=rows[x],
            y=rows[y],
            mode="markers",
            showlegend=False,
            marker={
                "color": rows[shade].astype(float),
                "colorscale": "Viridis",
                "colorbar": {"title": {"text": escape(shade)}},
            },
        )
    )
    return _with_axes(figure, x, y)


def _with_axes(figure: Figure, x: str, y: str) -> Figure:
    figure.update_xaxes(title=axis_title(x), zeroline=False)
    figure.update_yaxes(title=axis_title(y), zeroline=False)
    return figure
