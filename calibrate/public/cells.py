"""Cells of a grid of log times: filling holes, making them grow, and choosing the points that are worth keeping.

A hole is interpolated in (log shape, log time) from the nearest measured cells around it; a corner that was never
measured continues the slope at the edge, which is at least 0 and at most proportional. Time is made to grow along every
axis by isotonic regression in log time. (The mean of the running maximum and minimum would do as well on clean tables;
on the measured ones a slow cell lifts everything after it: 11 % instead of 6 % median held-out error on B200's GEMMs.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

FEW = 8
"""Cells that tell how well an interpolation does at a grid point; with fewer it is taken as usual for the axis."""
LEAST = 1e-3
"""Error per unit of distance (ln of the axis) below which interpolations count as equally good."""
THIN = np.log(1.01)
"""A grid point goes where its neighbours give every one of its cells within 1 %."""
WIDEST = 2.0
"""Neighbouring grid points lie at most this factor apart."""
APART = np.log(1.5)
"""Distance over which the slopes beside a gap are taken: points closer together show a kernel's steps."""
SHARP = 4.0
"""Power at which what continues from either side of a gap adds up: 1 a sum, infinity the longer of the two. A kernel's
fixed part, its reading and its computing overlap; of 1, 2 and 4 it predicted left-out slices best (H100)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Log times over the axes of one table; NaN where nothing was measured."""

    points: tuple[Array, ...]
    """Values of each axis, increasing."""
    values: Array
    """ln(seconds), one dimension per axis."""


def neighbours(grid: Grid, axis: int) -> tuple[Array, Array]:
    """Interpolation of every cell from the nearest measured cells before and after it along one axis, in log-log.

    Returns the values and the distance between the two neighbours (in ln of the axis); NaN where one is missing.
    """
    found, width, _, _ = between(grid, axis)
    return found, width


def between(grid: Grid, axis: int) -> tuple[Array, Array, Array, Array]:
    """As :func:`neighbours`, with the values of the two neighbours themselves."""
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
    return (
        np.moveaxis(found, -1, axis),
        np.moveaxis(width, -1, axis),
        np.moveaxis(below, -1, axis),
        np.moveaxis(above, -1, axis),
    )


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
    off by much the same in every line: that median is taken off. The error is the rest's robust spread, which grows
    with the distance between the neighbours.
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
    """Every cell beyond the last (first) measured one along an axis, and its distance from it (ln).

    Above: the seconds per unit of the last two, at least 0 (more work is never faster) and at most proportional. Below:
    the edge. (The slope of the logarithms instead, which does not grow towards proportional as a fixed cost pales, left
    MLA cores of more than 262,144 cached tokens 28 to 40 % too fast; this is off by 1 to 6 %: docs/log.md.)
    """
    points, logs = grid.points[axis], np.log(grid.points[axis])
    values = np.moveaxis(grid.values, axis, -1)
    found, width = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for line in np.ndindex(values.shape[:-1]):
        known = np.flatnonzero(np.isfinite(values[line]))
        if len(known) in (0, len(logs)):
            continue
        first, last = known[0], known[-1]
        share = 1.0  # of the last time that is in proportion
        if len(known) > 1:
            before = known[-2]
            rise = -np.expm1(values[line][before] - values[line][last])
            share = np.clip(rise / (1.0 - points[before] / points[last]), 0.0, 1.0)
        away = logs - logs[last]
        more = np.log1p(share * np.maximum(points / points[last] - 1.0, 0.0))
        found[line] = np.where(away > 0.0, values[line][last] + more, np.nan)
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

    Time is flat at first and then grows in proportion, so in log-log it bends upward, and a straight line over a wide
    gap is too long. Where the slope before the gap is smaller than the gap's and the slope after it larger, the
    points lie on what continues from either side (a fixed cost, a cost of work), added up at the power :data:`SHARP`,
    through the ends.
    """
    points, values = list(grid.points), grid.values
    for axis in range(values.ndim):
        logs, lines = np.log(points[axis]), np.moveaxis(values, axis, 0)
        parts = np.ceil(np.diff(logs) / np.log(WIDEST) - 1e-9).astype(int)
        places, rows = [], []
        for at, count in enumerate(parts):
            places.append(logs[at : at + 1])
            rows.append(lines[at : at + 1])
            if count > 1:
                places.append(np.linspace(logs[at], logs[at + 1], count + 1)[1:-1])
                rows.append(_bent(logs, lines, at, places[-1]))
        points[axis] = np.exp(np.concatenate([*places, logs[-1:]]))
        values = np.moveaxis(np.concatenate([*rows, lines[-1:]]), 0, axis)
    return Grid(tuple(points), rising(values))


def _bent(logs: Array, lines: Array, at: int, new: Array) -> Array:
    """Values at ``new`` (ln of the axis, along the first dimension) between the points ``at`` and ``at`` + 1."""
    low, high = logs[at], logs[at + 1]
    before = np.flatnonzero(logs <= low - APART)
    after = np.flatnonzero(logs >= high + APART)
    chord = (lines[at + 1] - lines[at]) / (high - low)
    shape = (-1, *[1] * (lines.ndim - 1))
    straight: Array = lines[at] + chord * (new - low).reshape(shape)
    if not len(after):
        return straight
    first = (lines[at] - lines[before[-1]]) / (low - logs[before[-1]]) if len(before) else 0.0 * chord
    last = (lines[after[0]] - lines[at + 1]) / (logs[after[0]] - high)

    def both(where: Array) -> Array:
        from_low = lines[at] + first * (where - low).reshape(shape)
        from_high = lines[at + 1] + last * (where - high).reshape(shape)
        added: Array = np.logaddexp(SHARP * from_low, SHARP * from_high) / SHARP
        return added

    ends = both(np.array([low, high]))
    share = ((new - low) / (high - low)).reshape(shape)
    excess = (ends[0] - lines[at]) * (1.0 - share) + (ends[1] - lines[at + 1]) * share
    return np.where((first < chord) & (chord < last), both(new) - excess, straight)


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
