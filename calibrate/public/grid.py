"""From measured rows to a curve: a full, monotone grid of log times for every combination of model dimensions.

Repeats of a shape are taken by their median. A cell whose time is far off what its neighbours along every axis say is
left out; the rest is :mod:`calibrate.public.cells`: holes filled, times made to grow with the work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.public.cells import Array, Grid, between, completed, monotone, refined, thinned
from calibrate.public.samples import Samples
from perfmodel.errors import DataError
from perfmodel.kernels.tables import Table, TableCurve

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

OUTLIER = np.log(1.25)
"""A cell at least this far (a quarter) off the interpolation of its neighbours along every axis is left out. Kernels'
own steps (tiles, waves, another kernel from some size on) are shared by neighbours along some axis; what is shared
along none is noise of the timing. Some tables have a few such cells, several times off; B200's by SGLang and vLLM
have hundreds."""
SPREADS = 6.0
"""It must also be this many robust standard deviations off, so that a table that is rough as a whole keeps its rows."""
ROUNDS = 6
"""Outliers are taken out a few at a time, the farthest of a neighbourhood first: it spoils its neighbours' own test."""
NAMED = 5
"""Outliers that a note lists."""


def fit(samples: Samples) -> TableCurve:
    """The curve of one kernel class; its held-out errors are left at 0 (see calibrate.public.heldout).

    Raises:
        DataError: no rows, a column that is missing, or a time or size that is not above 0.
    """
    check(samples)
    tables: list[Table] = []
    notes = Notes()
    for match, rows in combinations(samples):
        grid = pivot(rows, samples.axes)
        values = without_outliers(grid, notes, samples.axes, match)
        notes.cells += values.size
        notes.filled += int(np.isnan(values).sum())
        full = thinned(refined(Grid(grid.points, monotone(completed(Grid(grid.points, values))))))
        tables.append(Table(dict(zip(samples.axes, full.points, strict=True)), full.values, match))
    return TableCurve(
        kernel=samples.kernel,
        dtype=samples.dtype,
        backend=samples.backend,
        engine=samples.engine,
        tables=tuple(tables),
        scale_by=samples.scale_by,
        exact=samples.exact,
        of_model=samples.of_model,
        between=samples.between,
        includes=samples.includes,
        log_std=0.0,
        num_rows=len(samples.frame),
        median_error_pct=0.0,
        p90_error_pct=0.0,
        source=samples.source,
        flag=samples.flag,
        note=" ".join(filter(None, (samples.note, notes.text()))),
    )


class Notes:
    """What was done to the rows, for the curve's note."""

    def __init__(self) -> None:
        self.cells = 0
        self.filled = 0
        """Cells that were interpolated or continued, those of outliers included."""
        self.outliers: list[tuple[float, str]] = []
        """How far off (ln), and which cell."""

    def text(self) -> str:
        """In words; empty if every cell was measured and kept."""
        parts = []
        if self.outliers:
            farthest = sorted(self.outliers, key=lambda found: -found[0])[:NAMED]
            named = "; ".join(text for _, text in farthest)
            more = f"; and {len(self.outliers) - NAMED} more" if len(self.outliers) > NAMED else ""
            parts.append(f"{len(self.outliers)} outliers left out ({named}{more}).")
        if self.filled:
            parts.append(f"{self.filled} of {self.cells} grid cells interpolated.")
        return " ".join(parts)


def check(samples: Samples) -> None:
    """Refuse rows that make no table.

    Raises:
        DataError: as said.
    """
    label = f"{samples.source}: {samples.kernel} {samples.dtype}"
    if samples.frame.empty:
        raise DataError(f"{label}: no rows")
    missing = {*samples.axes, *samples.match, "seconds"} - set(samples.frame.columns)
    if missing:
        raise DataError(f"{label}: rows lack {', '.join(sorted(missing))}")
    positive = samples.frame[[*samples.axes, "seconds"]].to_numpy(dtype=float)
    if not (np.isfinite(positive).all() and (positive > 0.0).all()):
        raise DataError(f"{label}: sizes and times must be above 0")


def combinations(samples: Samples) -> Iterator[tuple[dict[str, float], "pd.DataFrame"]]:
    """Rows by their ``match`` columns, in increasing order; one empty combination where there are none."""
    if not samples.match:
        yield {}, samples.frame
        return
    for values, rows in samples.frame.groupby(list(samples.match), sort=True):
        yield {name: float(value) for name, value in zip(samples.match, values, strict=True)}, rows


def pivot(rows: "pd.DataFrame", axes: Sequence[str]) -> Grid:
    """Rows as a grid of ln(seconds); the median where a shape was timed more than once."""
    medians = rows.groupby(list(axes), sort=False)["seconds"].median().reset_index()
    found = [np.unique(medians[name].to_numpy(dtype=float), return_inverse=True) for name in axes]
    values = np.full([len(points) for points, _ in found], np.nan)
    values[tuple(index for _, index in found)] = np.log(medians["seconds"].to_numpy(dtype=float))
    return Grid(tuple(points for points, _ in found), values)


def without_outliers(grid: Grid, notes: Notes, axes: Sequence[str], match: dict[str, float]) -> Array:
    """The grid's values with NaN where a cell is far off its neighbours."""
    values = grid.values.copy()
    for _ in range(ROUNDS):
        off = isolation(replace(grid, values=values))
        size = np.abs(off)
        spread = 1.4826 * float(np.nanmedian(size)) if np.isfinite(size).any() else 0.0
        far = size > max(OUTLIER, SPREADS * spread)
        far &= _is_peak(np.nan_to_num(size))
        if not far.any():
            break
        for cell in np.argwhere(far):
            shape = " ".join(f"{axes[i]}={grid.points[i][at]:g}" for i, at in enumerate(cell))
            fixed = "".join(f"{name}={value:g} " for name, value in match.items())
            away = float(off[tuple(cell)])
            notes.outliers.append((abs(away), f"{fixed}{shape}: {np.exp(away):.2g} times its neighbours"))
        values[far] = np.nan
    return values


def isolation(grid: Grid) -> Array:
    """How far each cell stands out from its neighbours, ln: the smallest distance to the interpolations along its axes.

    0 where it is above one and below another, NaN where no axis has neighbours on both sides. With only one such axis
    (a table of one, or an edge) a step of the kernel looks like a spike to an interpolation; there the distance is that
    to the nearer of the two neighbours, and 0 in between them.
    """
    above, below = np.full(grid.values.shape, np.inf), np.full(grid.values.shape, -np.inf)
    judged, outside = np.zeros(grid.values.shape, dtype=int), np.full(grid.values.shape, np.nan)
    for axis in range(grid.values.ndim):
        found, _, low, high = between(grid, axis)
        off = grid.values - found
        above, below = np.fmin(above, off), np.fmax(below, off)
        judged += np.isfinite(off)
        nearer = grid.values - np.clip(grid.values, np.minimum(low, high), np.maximum(low, high))
        outside = np.where(np.isfinite(off), nearer, outside)
    off = np.where(above > 0.0, above, np.where(below < 0.0, below, 0.0))
    off = np.where(judged == 1, outside, off)
    return np.where((judged > 0) & np.isfinite(grid.values), off, np.nan)


def _is_peak(size: Array) -> NDArray[np.bool_]:
    """Whether a cell is at least as far off as its neighbours along every axis."""
    peak = np.ones(size.shape, dtype=bool)
    for axis in range(size.ndim):
        padded = np.pad(size, [(int(i == axis), int(i == axis)) for i in range(size.ndim)])
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        peak &= (size >= before) & (size >= after)
    return peak
