"""Means and percentiles of what may be too much to hold: exact of values that are kept, else of a sketch of them.

The sketch is DDSketch [Masson, Rim and Lee, VLDB 2019]: values are counted in bins that grow by a constant factor, so
that a percentile is within RELATIVE_ERROR of the value at its rank, whatever the values are. Counts add up in any order
and any grouping to the same ones, so the same run gives the same percentiles.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.units import PERCENT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
"""What every result has."""
BATCHES = 20
"""Of consecutive values, whose means say how sure a mean is."""
T_80 = 1.328
"""90th percentile of Student's t with BATCHES - 1 = 19 degrees of freedom."""
RELATIVE_ERROR = 0.001
"""Of a percentile from a sketch, at most."""
SMALL_BATCH = 256
"""Consecutive values of which a sum is kept, to be put together to BATCHES at the end."""


class Values(Protocol):
    """Values that come one block after the other."""

    def add(self, values: Floats, counts: Ints | None = None) -> None:
        """More of them, each once or so many times; for one object always the one or the other."""

    def spread(self, percentiles: Mapping[str, float] = PERCENTILES) -> dict[str, float] | None:
        """Mean and percentiles, by their names; None of nothing."""

    def mean_interval(self) -> list[float] | None:
        """80 % interval of the mean by batch means; None of fewer than two values per batch."""


class Exact:
    """Values that are kept."""

    def __init__(self) -> None:
        self._values: list[Floats] = []
        self._counts: list[Ints] = []

    def add(self, values: Floats, counts: Ints | None = None) -> None:
        """See :class:`Values`."""
        self._values.append(values)
        if counts is not None:
            self._counts.append(counts)

    def spread(self, percentiles: Mapping[str, float] = PERCENTILES) -> dict[str, float] | None:
        """See :class:`Values`."""
        if self._counts:
            return weighted_spread(_joined(self._values), _joined(self._counts), percentiles)
        return spread(_joined(self._values), percentiles)

    def mean_interval(self) -> list[float] | None:
        """See :class:`Values`."""
        return mean_interval(_joined(self._values))


class Sketched:
    """Values that are counted in bins and let go."""

    def __init__(self) -> None:
        from ddsketch import DDSketch  # only runs that don't fit need it
        from ddsketch.mapping import LogarithmicMapping

        self._bins = LogarithmicMapping(RELATIVE_ERROR)
        self._sketch = DDSketch(RELATIVE_ERROR)
        self._log_width = math.log(self._bins.gamma)
        self._total, self._count = 0.0, 0
        self._sums: list[Floats] = []
        self._left: Floats = np.zeros(0)

    def add(self, values: Floats, counts: Ints | None = None) -> None:
        """See :class:`Values`; none is negative."""
        if not len(values):
            return
        weights = np.ones(len(values), np.int64) if counts is None else counts
        self._count += int(weights.sum())
        self._total += float((values * weights).sum())
        if counts is None:
            self._keep_sums(values)
        positive = values > 0.0
        zeros = int(weights[~positive].sum())
        if zeros:
            self._sketch.add(0.0, zeros)
        # a bin's number as the sketch's own mapping gives it, of all values at once; its middle stands for them
        keys = np.ceil(np.log(values[positive]) / self._log_width).astype(np.int64)
        if len(keys):
            least = int(keys.min())
            found = np.bincount(keys - least, weights[positive])
            for key in np.flatnonzero(found).tolist():
                self._sketch.add(self._bins.value(least + key), float(found[key]))

    def _keep_sums(self, values: Floats) -> None:
        values = np.concatenate([self._left, values])
        whole = len(values) - len(values) % SMALL_BATCH
        self._sums.append(values[:whole].reshape(-1, SMALL_BATCH).sum(axis=1))
        self._left = values[whole:].copy()

    def spread(self, percentiles: Mapping[str, float] = PERCENTILES) -> dict[str, float] | None:
        """See :class:`Values`."""
        if not self._count:
            return None
        found = {
            name: float(self._sketch.get_quantile_value(q / PERCENT) or 0.0)
            for name, q in percentiles.items()
        }
        return {"mean": self._total / self._count, **found}

    def mean_interval(self) -> list[float] | None:
        """See :class:`Values`; batches are of whole small ones, so that up to BATCHES of those are left out at the
        end.
        """
        sums = np.concatenate([np.zeros(0), *self._sums])
        size = len(sums) // BATCHES
        if not size:
            return None
        return _interval(sums[: size * BATCHES].reshape(BATCHES, size).mean(axis=1) / SMALL_BATCH)


def percentiles_with(more: Iterable[float]) -> dict[str, float]:
    """Those that every result has and ``more``, by names such as p95 and p99.9, in ascending order."""
    every = {*PERCENTILES.values(), *more}
    return {f"p{q:.15g}": float(q) for q in sorted(every)}


def spread(values: Floats, percentiles: Mapping[str, float] = PERCENTILES) -> dict[str, float] | None:
    """Mean and percentiles; None of nothing."""
    if not len(values):
        return None
    found = np.percentile(values, list(percentiles.values()))
    return {"mean": float(values.mean()), **dict(zip(percentiles, map(float, found), strict=True))}


def weighted_spread(
    values: Floats, counts: Ints, percentiles: Mapping[str, float] = PERCENTILES
) -> dict[str, float] | None:
    """:func:`spread` of values that occur ``counts`` times each."""
    total = int(counts.sum())
    if not total:
        return None
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order])
    found: Mapping[str, float] = {
        name: float(values[order][min(int(np.searchsorted(upto, q / PERCENT * total)), len(order) - 1)])
        for name, q in percentiles.items()
    }
    return {"mean": float((values * counts).sum() / total), **found}


def mean_interval(values: Floats) -> list[float] | None:
    """80 % interval of the mean by batch means: consecutive values depend on each other, batches of them hardly.

    None of fewer than two values per batch [Law and Kelton, Simulation Modeling and Analysis, 9.5.3].
    """
    size = len(values) // BATCHES
    if size < 2:
        return None
    return _interval(values[: size * BATCHES].reshape(BATCHES, size).mean(axis=1))


def _interval(means: Floats) -> list[float]:
    """80 % interval of the mean of BATCHES batches, by their means."""
    half = T_80 * float(means.std(ddof=1)) / BATCHES**0.5
    return [float(means.mean()) - half, float(means.mean()) + half]


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0), *parts])
