"""A chart's points as a table: for who can't see it, and for who wants the figures."""

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

MOST_ROWS = 5_000
MOST_SERIES = 12
"""That are told in words."""


def table_of(figure: Any) -> pd.DataFrame:
    """The points of all traces: series, and what their axes are named; at most MOST_ROWS."""
    shape = figure if isinstance(figure, Mapping) else figure.to_dict()
    layout = shape["layout"]
    names = {axis: _title(layout.get(axis, {}), axis[0]) for axis in ("xaxis", "yaxis")}
    rows = []
    for trace in shape["data"]:
        for x, y in _points(trace):
            rows.append({"series": trace.get("name") or "", names["xaxis"]: x, names["yaxis"]: y})
            if len(rows) >= MOST_ROWS:
                return _tidy(pd.DataFrame(rows))
    return _tidy(pd.DataFrame(rows))


def words_of(figure: Any) -> str:
    """What a chart shows, for who can't see it: its axes, and each series with its ends."""
    shape = figure if isinstance(figure, Mapping) else figure.to_dict()
    layout = shape["layout"]
    x, y = (_title(layout.get(axis, {}), "") for axis in ("xaxis", "yaxis"))
    axes = f"{y or 'values'} against {x}" if x and y else x or y
    series = [
        " ".join(filter(None, (trace.get("name") or "", _range(trace.get("y")) or _range(trace.get("x")))))
        for trace in shape["data"][:MOST_SERIES]
    ]
    more = len(shape["data"]) - MOST_SERIES
    told = "; ".join(filter(None, [*series, f"and {more} more series" if more > 0 else ""]))
    return re.sub("<[^>]+>", " ", f"Chart of {axes}. {told}. All points are in the table below.")


def _range(stated: Any) -> str:
    """From the least to the largest, where there are numbers."""
    values = [value for value in _values(stated) if isinstance(value, (int, float)) and math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,.4g}" if low == high else f"{low:,.4g} to {high:,.4g}"


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing; one that holds words and numbers holds words."""
    kept = [name for name in rows if name == "series" or rows[name].nunique() > 1 or len(rows) == 1]
    found = rows[kept] if len(kept) > 1 else rows
    return found.map(lambda value: value if isinstance(value, (int, float, str)) else str(value))


def _points(trace: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    xs, ys = _values(trace.get("x")), _values(trace.get("y"))
    for i in range(max(len(xs), len(ys))):
        yield (xs[i] if i < len(xs) else ""), (ys[i] if i < len(ys) else "")


def _values(stated: Any) -> Sequence[Any]:
    """A column, whether as values or as plotly packs arrays."""
    if stated is None:
        return ()
    if isinstance(stated, Mapping):
        return list(np.frombuffer(base64.b64decode(stated["bdata"]), dtype=stated["dtype"]).tolist())
    return list(np.asarray(stated, dtype=object).ravel())


def _title(axis: Mapping[str, Any], default: str) -> str:
    title = axis.get("title")
    text = title.get("text") if isinstance(title, Mapping) else title
    return str(text or default)
