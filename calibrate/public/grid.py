"""From measured rows to a curve: a full, monotone grid of log times for every combination of model dimensions.

Repeats of a shape are taken by their median. A cell whose time is far off what its neighbours along every axis say is left
out; holes are interpolated in (log shape, log time) from the nearest cells around them, and corners that were never measured
continue the slope at the edge, which is at least 0 and at most proportional. Last, time is made to grow along every axis by
isotonic regression in log time. (The mean of the running maximum and minimum would do as well on clean tables; on these one
slow cell lifts everything after it: 11 % instead of 6 % median held-out error on B200's GEMMs.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibrate.public.samples import Samples
from perfmodel.errors import DataError
from perfmodel.kernels.tables import Table, TableCurve

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

Array: TypeAlias = NDArray[np.float64]

OUTLIER = np.log(1.25)
"""A cell at least this far (a quarter) off the interpolation of its neighbours along every axis is left out. Kernels' own
steps (tiles, waves, another kernel from some size on) are shared by neighbours along some axis; what is shared along none
is noise of the timing. Some tables have a few such cells, several times off; B200's by SGLang and vLLM have hundreds."""
SPREADS = 6.0
"""It must also be this many robust standard deviations off, so that a table that is rough as a whole keeps its rows."""
ROUNDS = 6
"""Outliers are taken out a few at a time, the farthest of a neighbourhood first: it spoils its neighbours' own test."""
FEW = 8
"""Cells that tell how well an interpolation does at a grid point; with fewer it is taken as usual for the axis."""
LEAST = 1e-3
"""Error per unit of distance (ln of the axis) below which interpolations count as equally good."""
THIN = np.log(1.01)
"""A grid point goes where its neighbours give every one of its cells within 1 %."""
WIDEST = 2.0
"""Neighbouring grid points lie at most this factor apart."""
NAMED = 5
"""Outliers that a note lists."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Log times over the axes of one table; NaN where nothing was measured."""

    points: tuple[Array, ...]
    """Values of each axis, increasing."""
    values: Array
    """ln(seconds), one dimension per axis."""


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
        self.outliers: list[str] = []

    def text(self) -> str:
        """In words; empty if every cell was measured and kept."""
        parts = []
        if self.outliers:
            named = "; ".join(self.outliers[:NAMED])
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
            notes.outliers.append(f"{fixed}{shape}: {np.exp(off[tuple(cell)]):.2g} times its neighbours")
        values[far] = np.nan
    return values


def isolation(grid: Grid) -> Array:
    """How far each cell stands out from its neighbours, ln: the smallest distance to the interpolations along its axes.

    0 where it is above one and below another, NaN where no axis has neighbours on both sides.
    """
    above = np.full(grid.values.shape, np.inf)
    below = np.full(grid.values.shape, -np.inf)
    for axis in range(grid.values.ndim):
        off = grid.values - neighbours(grid, axis)[0]
        above = np.fmin(above, off)
        below = np.fmax(below, off)
    off = np.where(above > 0.0, above, np.where(below < 0.0, below, 0.0))
    return np.where(np.isfinite(above) & np.isfinite(below), off, np.nan)


def neighbours(grid: Grid, axis: int) -> tuple[Array, Array]:
    """Interpolation of every cell from the nearest measured cells before and after it along one axis, in log-log.

    Returns the values and the distance between the two neighbours (in ln of the axis); NaN where one is missing.
    """
    logs = np.log(grid.points[axis])
    values = np.moveaxis(grid.values, axis, -1)
    size = values.shape[-1]
    known = np.isfinite(values)
    at = np.arange(size)
    last = np.maximum.accumulate(np.where(known, at, -1), axis=-1)
    following = np.minimum.accumulate(np.where(known, at, size)[..., ::-1], axis=-1)[..., ::-1]
    before = np.concatenate([np.full((*values.shape[:-1], 1), -1), last[..., :-1]], axis=-1)
    after = np.concatenate([following[..., 1:], np.full((*values.shape[:-1], 1), size)], axis=-1)
    inside = (before >= 0) & (after < size)
    low, high = np.maximum(before, 0), np.minimum(after, size - 1)
    width = np.where(inside, logs[high] - logs[low], np.nan)
    share = (logs - logs[low]) / np.where(inside, width, 1.0)
    below, above = np.take_along_axis(values, low, -1), np.take_along_axis(values, high, -1)
    found = np.where(inside, below + share * (above - below), np.nan)
    return np.moveaxis(found, -1, axis), np.moveaxis(width, -1, axis)


def completed(grid: Grid) -> Array:
    """Every cell: measured, interpolated from the cells around it, or continued beyond the last one.

    A hole takes the mean of the interpolations along the axes that have cells on both sides, each weighted by how well
    it gives the cells that were measured (:func:`along`).
    """
    values = grid.values
    tables = [along(grid, axis) for axis in range(values.ndim)]
    while np.isnan(values).any():
        found = _weighted(tables)
        holes = np.isnan(values) & np.isfinite(found)
        if not holes.any():
            found = _weighted([_continued(replace(grid, values=values), axis) for axis in range(values.ndim)])
            holes = np.isnan(values) & np.isfinite(found)
        values = np.where(holes, found, values)
        tables = [along(replace(grid, values=values), axis) for axis in range(values.ndim)]
    return values


def along(grid: Grid, axis: int) -> tuple[Array, Array]:
    """Interpolation of every cell along one axis, and its error (ln), judged at each grid point by the measured cells.

    Kernels work by tiles, so time jumps at some sizes (from 256 to 257 rows) and the interpolation at such a point is
    off by much the same in every line: that median is taken off. The error is the rest's robust spread, which grows with
    the distance between the neighbours.
    """
    found, width = neighbours(grid, axis)
    off = np.moveaxis(grid.values - found, axis, 0).reshape(len(grid.points[axis]), -1)
    wide = np.moveaxis(width, axis, 0).reshape(off.shape)
    enough = np.isfinite(off).sum(axis=1) >= FEW
    bias = np.where(enough, _median(off), 0.0)
    error = np.where(enough, _median(np.abs(off - bias[:, None])) / _median(wide), np.nan)
    typical = _median(error[None])[0]
    error = np.maximum(np.where(np.isfinite(error), error, typical if np.isfinite(typical) else 1.0), LEAST)
    nearest = np.min(np.where(np.isfinite(wide), wide, np.inf), axis=1)
    shape = [-1 if i == axis else 1 for i in range(grid.values.ndim)]
    near = width <= 1.01 * nearest.reshape(shape)  # a wider gap has another error
    return found + np.where(near, bias.reshape(shape), 0.0), width * error.reshape(shape)


def _median(values: Array) -> Array:
    """Median of the finite values of each row; NaN where there is none."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    low = ordered[rows, np.maximum(count - 1, 0) // 2]
    high = ordered[rows, np.minimum(count // 2, values.shape[1] - 1)]
    return np.where(count > 0, 0.5 * (low + high), np.nan)


def _continued(grid: Grid, axis: int) -> tuple[Array, Array]:
    """Every cell beyond the last (first) measured one along an axis, and its distance from it.

    Above: the slope of the last two, at least 0 (more work is never faster) and at most 1 (proportional). Below: the edge.
    """
    logs = np.log(grid.points[axis])
    values = np.moveaxis(grid.values, axis, -1)
    found, width = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for line in np.ndindex(values.shape[:-1]):
        known = np.flatnonzero(np.isfinite(values[line]))
        if len(known) in (0, len(logs)):
            continue
        first, last = known[0], known[-1]
        slope = 1.0
        if len(known) > 1:
            slope = (values[line][last] - values[line][known[-2]]) / (logs[last] - logs[known[-2]])
        away = logs - logs[last]
        found[line] = np.where(away > 0.0, values[line][last] + np.clip(slope, 0.0, 1.0) * away, np.nan)
        found[line][:first] = values[line][first]
        width[line] = np.where(away > 0.0, away, np.nan)
        width[line][:first] = logs[first] - logs[:first]
    return np.moveaxis(found, -1, axis), np.moveaxis(width, -1, axis)


def _weighted(found: Sequence[tuple[Array, Array]]) -> Array:
    """Mean of the values with the inverse square of the distances; NaN where none is known."""
    weights = np.stack([np.where(np.isfinite(width), width, np.inf) ** -2.0 for _, width in found])
    total = weights.sum(axis=0)
    mean = (weights * np.nan_to_num(np.stack([values for values, _ in found]))).sum(axis=0)
    return np.where(total > 0.0, mean / np.where(total > 0.0, total, 1.0), np.nan)


def monotone(values: Array) -> Array:
    """The nearest values (least squares) that never fall along an axis, one axis after the other.

    Isotonic regression keeps order: of two neighbouring lines one of which is nowhere below the other, neither is it
    after. So what was made to grow along one axis still does after the next, and one pass is enough.
    """
    from scipy.optimize import isotonic_regression  # deferred: slow to import

    values = values.copy()
    for axis in range(values.ndim):
        lines = np.moveaxis(values, axis, -1)
        for line in np.ndindex(lines.shape[:-1]):
            if (np.diff(lines[line]) < 0.0).any():
                lines[line] = isotonic_regression(lines[line]).x
    return rising(values)


def rising(values: Array) -> Array:
    """The running maximum along every axis: takes out what rounding left."""
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis=axis)
    return values


def refined(grid: Grid) -> Grid:
    """The grid with points in between wherever two lie more than a factor 2 apart.

    Time is flat at first and then proportional, so in log-log it bends upward and a straight line over a wide gap is too
    long. The points lie on a monotone cubic through all points of the axis (Fritsch-Carlson), which keeps the bend.
    """
    from scipy.interpolate import PchipInterpolator  # deferred: slow to import

    points, values = list(grid.points), grid.values
    for axis in range(values.ndim):
        logs = np.log(points[axis])
        parts = np.ceil(np.diff(logs) / np.log(WIDEST) - 1e-9).astype(int)
        if len(logs) < 3 or (parts <= 1).all():
            continue
        between = [
            np.linspace(low, high, n + 1)[1:-1] for low, high, n in zip(logs, logs[1:], parts, strict=False)
        ]
        new = np.concatenate(between)
        order = np.argsort(np.concatenate([logs, new]), kind="stable")
        added = PchipInterpolator(logs, values, axis=axis)(new)
        values = np.take(np.concatenate([values, added], axis=axis), order, axis=axis)
        points[axis] = np.concatenate([points[axis], np.exp(new)])[order]
    return Grid(tuple(points), rising(values))


def thinned(grid: Grid) -> Grid:
    """The grid without the points that their neighbours give anyway, within 1 % in every cell."""
    points, values = list(grid.points), grid.values
    for axis in range(values.ndim):
        logs, lines = np.log(points[axis]), np.moveaxis(values, axis, 0)
        kept = [0]
        for at in range(1, len(logs) - 1):
            # every point left out since the last kept one must still be given by it and the next
            last, span = kept[-1], slice(kept[-1] + 1, at + 1)
            share = (logs[span] - logs[last]) / (logs[at + 1] - logs[last])
            given = lines[last] + share.reshape(-1, *[1] * (values.ndim - 1)) * (lines[at + 1] - lines[last])
            if np.abs(given - lines[span]).max() > THIN:
                kept.append(at)
        kept = sorted({*kept, len(logs) - 1})
        points[axis], values = points[axis][kept], np.moveaxis(lines[kept], 0, axis)
    return Grid(tuple(points), values)


def _is_peak(size: Array) -> NDArray[np.bool_]:
    """Whether a cell is at least as far off as its neighbours along every axis."""
    peak = np.ones(size.shape, dtype=bool)
    for axis in range(size.ndim):
        padded = np.pad(size, [(int(i == axis), int(i == axis)) for i in range(size.ndim)])
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        peak &= (size >= before) & (size >= after)
    return peak
