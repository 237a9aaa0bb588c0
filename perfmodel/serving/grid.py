"""Values on a grid and multilinear interpolation between them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Grid:
    """Values on a grid, multilinear between points; on three axes or five."""

    def __init__(self, axes: Sequence[Sequence[float]], values: Array) -> None:
        """``values`` has the axes' lengths as its shape."""
        self.axes = [list(axis) for axis in axes]
        self.values: Any = values.tolist()

    @classmethod
    def of(cls, axes: Sequence[Sequence[float]], function: Callable[..., Array]) -> "Grid":
        """With the values of a function that takes one array (points,) per axis."""
        points = np.meshgrid(*(np.asarray(axis, dtype=float) for axis in axes), indexing="ij")
        values = np.asarray(function(*(point.ravel() for point in points)), dtype=float)
        return cls(axes, values.reshape(points[0].shape))

    def at(self, where: Sequence[float]) -> float:
        """The value at one point."""
        return _multilinear(self.values, self.axes, where, 0)


def _multilinear(values: Any, axes: Sequence[list[float]], where: Sequence[float], level: int) -> float:
    """Interpolates along one axis after another: before an axis's first point its value stays, after its last one the
    slope goes on.
    """
    if level == len(axes) - 3:
        return _trilinear(values, axes, where, level)
    i, share = _cell(axes[level], where[level])
    if share == 0.0:
        return _multilinear(values[i], axes, where, level + 1)
    a = _multilinear(values[i], axes, where, level + 1)
    b = _multilinear(values[i + 1], axes, where, level + 1)
    return a + share * (b - a)


def _cell(axis: list[float], x: float) -> tuple[int, float]:
    """The last point of an axis at or before x, and how far x is on the way to the next one."""
    last = len(axis) - 1
    if x <= axis[0] or last == 0:
        return 0, 0.0
    i = min(bisect_right(axis, x), last) - 1
    low = axis[i]
    return i, (x - low) / (axis[i + 1] - low)


def _trilinear(values: Any, axes: Sequence[list[float]], where: Sequence[float], level: int) -> float:
    """The last three axes, written out: it is asked a hundred thousand times in a simulated hour."""
    i, first = _cell(axes[level], where[level])
    j, second = _cell(axes[level + 1], where[level + 1])
    k, third = _cell(axes[level + 2], where[level + 2])

    def along_last(row: list[float]) -> float:
        a: float = row[k]
        return a + third * (row[k + 1] - a) if third else a

    def along_second(plane: list[list[float]]) -> float:
        a = along_last(plane[j])
        return a + second * (along_last(plane[j + 1]) - a) if second else a

    a = along_second(values[i])
    return a + first * (along_second(values[i + 1]) - a) if first else a
