"""Which constants earn their place, and their values: forward selection on set-ups that are left out.

They minimise |log(predicted / measured)| of TPOT and of TTFT (of runs with a warm-up), averaged within each group of
rows (a set-up: roles.csv) and then over groups, so that many rows of one set-up count as much as few of another.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibrate.engines.constants import CONSTANTS, Values
from calibrate.engines.rows import FitRow
from perfmodel.errors import DataError

Array = NDArray[np.float64]

WORTH = 0.05
"""Shares by which a constant must lower the errors on groups left out."""
HARM = 0.01
"""Log error by which it may raise any one of them: two runs of one set-up differ by as much in TPOT (0.9 %,
``validation.duplicates.repeat_floor``)."""
PRICE = 1e-3
"""Log error that a constant at its largest must be worth: decides where rows decide nothing."""


def fit_engine(
    rows: Sequence[FitRow], progress: Callable[[str], None] = print
) -> tuple[Array, list[dict[str, float]]]:
    """(constants, error on groups left out by quantity, without and with each constant added), by forward selection.

    Raises:
        DataError: fewer than two groups, so that nothing can be left out.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < 2:
        raise DataError(
            f"{rows[0].engine if rows else 'engine'}: {len(groups)} group of rows; two are needed"
        )
    chosen: frozenset[int] = frozenset()
    errors = [left_out_errors(rows, groups, chosen)]
    while len(chosen) < len(CONSTANTS):
        tried = {
            index: left_out_errors(rows, groups, chosen | {index})
            for index in range(len(CONSTANTS))
            if index not in chosen
        }
        gains = {
            index: relative_gain(errors[-1], found)
            for index, found in tried.items()
            if all(found[name] <= was + HARM for name, was in errors[-1].items())
        }
        for index in sorted(tried.keys() - gains.keys()):
            progress(f"  refused: {CONSTANTS[index].path} {tried[index]}")
        best = max(gains, key=lambda index: (round(gains[index], 6), -index), default=-1)
        if best < 0 or gains[best] < WORTH:
            break
        chosen |= {best}
        errors.append(tried[best])
        shown = ", ".join(f"{name} {errors[-2][name]:.3f} -> {errors[-1][name]:.3f}" for name in errors[-1])
        progress(f"  + {CONSTANTS[best].path}: on groups left out {shown}")
    return fit_constants(rows, chosen), errors


def relative_gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """By how much errors fell, as shares, added over quantities: TTFT errs more than TPOT and must not drown it."""
    return float(sum(1.0 - after[name] / before[name] for name in before if before[name] > 0.0))


def left_out_errors(rows: Sequence[FitRow], groups: Sequence[str], free: frozenset[int]) -> dict[str, float]:
    """Quantity -> mean |log error| over groups, each under constants fitted on the other groups."""
    errors: dict[str, list[float]] = {}
    for group in groups:
        constants = fit_constants([row for row in rows if row.group != group], free)
        for quantity, error in group_errors([row for row in rows if row.group == group], constants).items():
            errors.setdefault(quantity, []).append(error)
    return {quantity: float(np.mean(own)) for quantity, own in sorted(errors.items())}


def group_errors(rows: Sequence[FitRow], constants: Array) -> dict[str, float]:
    """Quantity -> mean |log error| of a group's rows."""
    by_quantity: dict[str, list[float]] = {}
    for row, log in zip(rows, residuals(rows, constants), strict=True):
        by_quantity.setdefault(row.quantity, []).append(abs(log))
    return {quantity: float(np.mean(logs)) for quantity, logs in by_quantity.items()}


def fit_constants(rows: Sequence[FitRow], free: frozenset[int]) -> Array:
    """The constants of ``free`` (indices into CONSTANTS) that fit best, the others 0.

    One constant after the other is moved to the best of a refined grid, until none moves: the error is an average of
    absolute values, with kinks. A constant that no row exercises stays 0, by a price on its size that is too small to
    move others.
    """
    values = np.zeros(len(CONSTANTS))
    if not free:
        return values
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        counts[row.group, row.quantity] = counts.get((row.group, row.quantity), 0) + 1
    quantities: dict[str, int] = {}
    for group, _ in counts:
        quantities[group] = quantities.get(group, 0) + 1
    weights = np.array([1.0 / counts[row.group, row.quantity] / quantities[row.group] for row in rows])
    weights /= len(quantities)
    table = _Table(rows)

    def loss(constants: Array) -> float:
        price = PRICE * float(sum(value / one.most for value, one in zip(constants, CONSTANTS, strict=True)))
        return price + float(weights @ np.abs(table.logs(constants)))

    best = loss(values)
    for refinement in (8, 8, 16, 32, 64, 128):
        moved = True
        while moved:
            moved = False
            for index in sorted(free):
                one = CONSTANTS[index]
                step = one.most / refinement
                tries = (
                    {0.0, values[index] - step, values[index] + step}
                    if refinement > 8
                    else {0.0, *np.linspace(0.0, one.most, 9).tolist()}
                )
                for value in sorted(tries):
                    if value != 0.0 and not max(one.least, 0.0) <= value <= one.most:
                        continue
                    trial = values.copy()
                    trial[index] = value
                    found = loss(trial)
                    if found < best - 1e-9:
                        best, values, moved = found, trial, True
    return values


class _Table:
    """Residuals of fixed rows, all at once: a fit asks thousands of times."""

    def __init__(self, rows: Sequence[FitRow]) -> None:
        self.measured = np.array([row.measured_s for row in rows])
        self.along = [np.stack([row.along_s[i] for row in rows]) for i in range(len(CONSTANTS))]
        self.base = np.array(
            [
                sum(
                    float(np.interp(row.at[i], one.grid, row.along_s[i]))
                    for i, one in enumerate(CONSTANTS)
                    if i
                )
                for row in rows
            ]
        )

    def logs(self, constants: Array) -> Array:
        """log(predicted / measured)."""
        here = -self.base
        for one, value, times in zip(CONSTANTS, constants, self.along, strict=True):
            k, w = _cell(one.grid, value)
            here = here + times[:, k] * (1 - w) + times[:, k + 1] * w
        return np.asarray(np.log(np.maximum(here, 1e-9) / self.measured))


def _cell(grid: Values, value: float) -> tuple[int, float]:
    at = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    return at, float(np.clip((value - grid[at]) / (grid[at + 1] - grid[at]), 0.0, 1.0))


def residuals(rows: Sequence[FitRow], constants: Array) -> Array:
    """log(predicted / measured) of rows under given constants."""
    return _Table(rows).logs(constants) if rows else np.zeros(0)
