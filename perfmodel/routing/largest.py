"""The busiest rank's load, without drawing: its mean and quantiles over the mean load, by the number of pairs.

Each vector of shares has a curve over numbers of pairs: worked out at some of them, near what is asked for, and a
spline between. Vectors of as many ranks (a model's layers) are worked out together: of one alone, most of the time
is numpy's calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from perfmodel.errors import DataError
from perfmodel.routing.loads import probabilities
from perfmodel.special import log_gamma, normal_cdf, poisson, spline_slopes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW_PAIRS = 16
"""Up to so many pairs the distribution is exact: the normal density below is poor for them."""
POISSON_MEAN = 50.0
"""Mean load of the busiest rank up to which every whole load is summed, with exact Poisson probabilities."""
WIDTH = 8.0
"""Standard deviations on each side of the mean outside which a load is not expected."""
SURE = 9.0
"""Standard deviations beyond which a normal deviate's probability is 1 to the last digit (8.3 are enough)."""
GRID = 97
"""Points of the continuous grid used for larger loads."""
NODES_PER_DECADE = 8
"""Tabulated numbers of pairs per factor of ten."""
NEAR = 12
"""Nodes that a piece of the spline goes through, half of them on either side."""
LARGEST_MEAN = 1e6
"""Mean load per rank at the end of the table; beyond it the imbalance stays as it is there."""


def expected_maximum(rank_shares: npt.ArrayLike, pairs: npt.ArrayLike) -> Floats:
    """Imbalance of the busiest rank, E[largest load] / (pairs / R), 1 to R, of multinomial loads.

    ``pairs`` of any shape (>= 0); the result has the same shape. Up to one pair the imbalance is R.

    Values come from a table per vector of shares (filled near what is asked for) by a cubic spline in logarithms
    of pairs and imbalance. Exact for up to 16 whole pairs, else the approximation of :func:`_distributions`.
    Against drawn loads the mean is within 3 % for 2 ranks and 2 % for more; within 0.6 % for
    3 or more ranks of mean load 10 and more. That includes interpolation: 0.6 % near 20 pairs, else 0.3 %.

    Raises:
        DataError: ``rank_shares`` is not a vector of shares that sum to one, or a ``pairs`` is negative.
    """
    return expected_maxima([rank_shares], pairs)[0]  # type: ignore[no-any-return]


def expected_maxima(rank_shares: Sequence[npt.ArrayLike], pairs: npt.ArrayLike) -> Floats:
    """:func:`expected_maximum` of several vectors of as many ranks each (layers), together in a third of the time:
    (vectors,) + ``pairs``' shape.

    Raises:
        DataError: as :func:`expected_maximum`.
    """
    return _interpolate(rank_shares, pairs, None)


def quantiles_of_maximum(
    rank_shares: npt.ArrayLike, pairs: npt.ArrayLike, probabilities: Sequence[float]
) -> Floats:
    """Quantiles of the busiest rank's load / (pairs / R): ``pairs``' shape + (number of probabilities,).

    Whole loads are smoothed (each spread over half a pair to either side), so quantiles of few pairs lie
    within about half a pair of the true ones.

    Raises:
        DataError: as :func:`expected_maximum`, or a probability not strictly between 0 and 1.
    """
    if not all(0.0 < q < 1.0 for q in probabilities):
        raise DataError(f"probabilities are {list(probabilities)}; each must lie strictly between 0 and 1")
    parts = [_interpolate([rank_shares], pairs, float(q))[0] for q in probabilities]
    return np.stack(parts, axis=-1) if parts else np.empty((*np.shape(pairs), 0))


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Numbers of pairs at which loads of so many ranks are worked out, and the spline between them."""

    pairs: Floats
    logs: Floats
    first: Ints
    """Of each interval between two of them: the first of the NEAR that its piece of the spline goes through."""
    slopes: Floats
    """(intervals, 2, NEAR): the slopes at an interval's two ends are this times the values at those."""


@lru_cache(maxsize=64)
def _nodes(ranks: int) -> _Nodes:
    decades = np.log10(ranks * LARGEST_MEAN)
    spaced = np.rint(np.logspace(0, decades, int(decades * NODES_PER_DECADE) + 1))
    few = np.arange(1.0, FEW_PAIRS + 1)
    many = np.array(
        sorted(set(spaced[spaced > FEW_PAIRS].tolist()))
    )  # np.unique would import numpy.ma, 12 ms
    pairs = np.concatenate([few, many])
    logs, intervals = np.log(pairs), np.arange(len(pairs) - 1)
    first = np.clip(intervals - NEAR // 2 + 1, 0, len(pairs) - NEAR)
    slopes = [
        spline_slopes(logs[start : start + NEAR])[[own - start, own - start + 1]]
        for own, start in zip(intervals, first, strict=True)
    ]
    return _Nodes(pairs, logs, first, np.array(slopes))


class _Table:
    """Loads of the busiest rank and P(largest load <= load), of one vector of shares at the nodes asked for so far."""

    def __init__(self, shares: Floats) -> None:
        # equal shares have equal distributions: computed once, then raised to their number
        self.shares, self.number = np.unique(shares[shares > 0], return_counts=True)
        self.ranks = len(shares)
        self.least = float(self.ranks * shares.max())
        """Imbalance with ever more pairs."""
        self._known: dict[int, tuple[Floats, Floats]] = {}

    def __contains__(self, node: int) -> bool:
        return node in self._known

    def __getitem__(self, node: int) -> tuple[Floats, Floats]:
        return self._known[node]

    def add(self, node: int, found: tuple[Floats, Floats]) -> None:
        """Keep what was worked out at a node."""
        self._known[node] = found


def _fill(tables: Sequence[_Table], node: int) -> None:
    """Have all tables, of as many ranks each, know a node."""
    wanted = [table for table in tables if node not in table]
    if node < FEW_PAIRS:
        for table in wanted:
            for number, found in enumerate(_few(table.shares, table.number)):
                table.add(number, found)
    elif wanted:
        ranks = wanted[0].ranks
        each = [(table.shares, table.number.astype(np.float64)) for table in wanted]
        found_each = _distributions(each, ranks, float(_nodes(ranks).pairs[node]))
        for table, found in zip(wanted, found_each, strict=True):
            table.add(node, found)


@lru_cache(maxsize=64)
def _table(shares: bytes) -> _Table:
    """The table of sorted shares, given as the bytes of their array."""
    return _Table(np.frombuffer(shares))


class _Curve:
    """The imbalance (its mean, or one quantile) of one vector of shares by the number of pairs: what is kept of a
    table, a hundredth of it.

    Between two nodes it is the piece of a cubic spline through the NEAR nodes around them, so that a step, which asks
    for one number of pairs, has no more than those worked out; the rest follow when they are asked for. What is asked
    before changes nothing.
    """

    def __init__(self, shares: bytes, probability: float | None) -> None:
        self.shares = shares
        table = _table(shares)
        self.nodes, self.ranks = _nodes(table.ranks), table.ranks
        self.lowest = table.least if probability is None else 1.0
        self.values = np.full(len(self.nodes.pairs), np.nan)
        """Logarithms of imbalance at the nodes; not a number: not asked for yet."""


def _on_curves(curves: Sequence[_Curve], logs: Floats, probability: float | None) -> Floats:
    """Logarithms of imbalance (curves,) + the shape of ``logs``, at logarithms of pairs."""
    nodes = curves[0].nodes
    left = np.clip(np.searchsorted(nodes.logs, logs, side="right") - 1, 0, len(nodes.first) - 1)
    intervals, of_each = np.unique(left, return_inverse=True)
    near = nodes.first[intervals][:, None] + np.arange(NEAR)
    _work_out(curves, near, probability)
    values, start = np.array([curve.values for curve in curves]), nodes.logs[intervals]
    by_end = nodes.slopes[intervals].swapaxes(0, 1)[:, None]  # (end, 1, interval, node)
    # rows of nodes in memory: their sums are the same whatever else is asked
    at_left, at_right = np.add.reduce(np.multiply(by_end, values[:, near], order="C"), axis=3)
    step = nodes.logs[intervals + 1] - start
    slope = (values[:, intervals + 1] - values[:, intervals]) / step
    bend = (at_left + at_right - 2.0 * slope) / step
    pieces = np.stack([values[:, intervals], at_left, (slope - at_left) / step - bend, bend / step])
    of_each = of_each.reshape(np.shape(logs))
    c = pieces[:, :, of_each]
    s = logs - start[of_each]
    result: Floats = c[0] + s * (c[1] + s * (c[2] + s * c[3]))
    return result


def _work_out(curves: Sequence[_Curve], near: Ints, probability: float | None) -> None:
    """Have all curves know the nodes ``near``."""
    wanted = np.zeros(len(curves[0].values), dtype=bool)
    wanted[near] = True
    for node in np.flatnonzero(wanted).tolist():
        without = [curve for curve in curves if np.isnan(curve.values[node])]
        tables = [_table(curve.shares) for curve in without]
        _fill(tables, node)
        for curve, table in zip(without, tables, strict=True):
            imbalance = _summary(*table[node], probability) * curve.ranks / curve.nodes.pairs[node]
            curve.values[node] = np.log(np.clip(imbalance, curve.lowest, curve.ranks))


@lru_cache(maxsize=4096)
def _curve(shares: bytes, probability: float | None) -> _Curve:
    """The curve of sorted shares, given as the bytes of their array."""
    return _Curve(shares, probability)


def _summary(loads: Floats, below: Floats, probability: float | None) -> float:
    """Mean, or a quantile, of a largest load with P(<= loads) = below.

    Each load stands for what lies within half a step to either side of it.
    """
    if probability is None:
        step = loads[1] - loads[0] if len(loads) > 1 else 1.0
        # the sum of P(largest > m) over m: one for each m below the grid, then the grid's own
        half = 0.5 * (1.0 - below[0]) * (1.0 - step)  # the first load stands for less than a whole step
        return float(loads[0] + half + np.sum(1.0 - below) * step)
    return float(np.interp(probability, [0.0, *below], [loads[0] - 0.5, *(loads + 0.5)]))


def _few(shares: Floats, number: Ints) -> list[tuple[Floats, Floats]]:
    """(loads, P(largest load <= load)) of 1, 2, .. FEW_PAIRS pairs, exactly.

    P(all <= m) of n pairs is n! x the coefficient of z^n in prod over ranks of sum over j <= m of (p z)^j / j!.
    """
    powers = np.arange(FEW_PAIRS + 1)
    factorials = np.cumprod([1.0, *powers[1:]])
    allowed = powers[None, :] <= powers[:, None]  # one row for each m
    product = np.zeros((FEW_PAIRS + 1, FEW_PAIRS + 1))
    product[:, 0] = 1.0
    for share, times in zip(shares, number, strict=True):
        factor, left = allowed * share**powers / factorials, int(times)
        while True:  # by squaring
            if left % 2:
                product = _truncated_product(product, factor)
            left //= 2
            if not left:
                break
            factor = _truncated_product(factor, factor)
    below = product * factorials
    loads = powers.astype(np.float64)
    return [(loads[: n + 1], np.minimum(below[: n + 1, n], 1.0)) for n in range(1, FEW_PAIRS + 1)]


def _truncated_product(a: Floats, b: Floats) -> Floats:
    """Products of polynomials, one in each row, up to the power FEW_PAIRS: sums over b's powers, in their order."""
    rows, powers = a.shape
    padded = np.zeros((rows, 2 * powers - 1))
    padded[:, powers - 1 :] = a
    # (power of b, row, power of the product): a's coefficient of the difference, 0 where that is negative
    row, step = padded.strides
    of_a = np.lib.stride_tricks.as_strided(
        padded[:, powers - 1 :], (powers, rows, powers), (-step, row, step), writeable=False
    )
    product: Floats = np.add.reduce(b.T[:, :, None] * of_a, axis=0)
    return product


def _distributions(
    each: Sequence[tuple[Floats, Floats]], ranks: int, pairs: float
) -> list[tuple[Floats, Floats]]:
    """(loads, P(largest load <= load)) of ``pairs`` pairs for each of some vectors of shares: (shares, how many of the
    ``ranks`` have each of them).

    Levin's representation (1981, Annals of Statistics 9(5), 1123): multinomial loads are independent Poisson
    loads given their sum, so P(all <= m) = prod P(X_r <= m) x P(W = n) / P(N = n), with W the sum of the X_r
    truncated at m and N their sum. Both last probabilities by the normal density. Independent loads alone
    (the product) give nearly the right mean if their variances are n p_r, not n p_r (1 - p_r): the loads'
    negative correlation makes up for their smaller variance.
    """
    asked = [_Largest.of(shares, number, ranks, pairs) for shares, number in each]
    found: dict[int, Floats] = {}
    for exact in (True, False):
        own = [place for place, one in enumerate(asked) if one.exact == exact]
        if own:
            found |= dict(zip(own, _below([asked[place] for place in own], ranks, pairs, exact), strict=True))
    return [(one.loads, found[place]) for place, one in enumerate(asked)]


@dataclass(frozen=True, slots=True)
class _Largest:
    """What a largest load is asked of."""

    loads: Floats
    exact: bool
    """Every whole load, with exact probabilities; else some, evenly spaced, with the normal's."""
    means: Floats
    """Of the ranks whose load can exceed the lowest of ``loads``: the rest are most where shares differ."""
    number: Floats
    """Ranks with each of these means."""
    total: float
    """Mean load of all ranks together: of those that are left out all counts, and varies."""

    @classmethod
    def of(cls, shares: Floats, number: Floats, ranks: int, pairs: float) -> "_Largest":
        means = pairs * shares
        spread = WIDTH * np.sqrt(means)
        low = max(0.0, float(np.floor((means - spread).max())), np.ceil(pairs / ranks) - 1.0)
        high = min(pairs, float(np.ceil((means + spread).max())) + WIDTH)
        exact = float(means.max()) <= POISSON_MEAN or high - low < GRID
        loads = np.arange(low, high + 1.0) if exact else np.linspace(low, high, GRID)
        held = means > _sure_below(low)
        return cls(loads, exact, means[held], number[held], float((means * number).sum()))


def _below(each: Sequence[_Largest], ranks: int, pairs: float, exact: bool) -> list[Floats]:
    """P(largest load <= load) of each, all of one kind.

    What is worked out are pairs of a load and a mean that may exceed it, a third of all. Sums over means go one after
    the other, so that the vectors that are asked together change no digit of each other's.
    """
    most, wide = max(len(one.loads) for one in each), max(len(one.means) for one in each)
    loads = np.empty((len(each), most))
    mean, number = np.zeros((wide, len(each))), np.zeros((wide, len(each)))
    for place, one in enumerate(each):
        count, held = len(one.loads), len(one.means)
        loads[place, :count], loads[place, count:] = one.loads, one.loads[-1]
        mean[:held, place], number[:held, place] = one.means, one.number
    unsure = mean[:, :, None] > _sure_below(loads)
    if ranks == 1:  # it has them all: what is below does not matter, and its probability may be no number
        unsure[:] = False
    places = np.flatnonzero(unsure)
    by_mean, by_load = places // most, places % loads.size
    chance, at = (_poisson if exact else _wilson_hilferty)(loads, mean, by_load, by_mean)
    x, means, times = loads.ravel()[by_load], mean.ravel()[by_mean], number.ravel()[by_mean]

    def over_means(values: Floats) -> Floats:
        summed = np.bincount(by_load, values * times, loads.size)
        return np.asarray(summed, dtype=np.float64).reshape(loads.shape)

    often = means * at
    total = np.array([one.total for one in each])[:, None]
    gap = over_means(often)
    variance = np.maximum(total - over_means(often * (1.0 + x - means + often)), 1e-9 * pairs)
    logs = over_means(np.log(chance)) + 0.5 * np.log(pairs / variance) - 0.5 * gap**2 / variance
    result: Floats = np.exp(np.minimum(logs, 0.0))
    result[loads < pairs / ranks] = 0.0
    result[loads >= pairs] = 1.0
    np.maximum.accumulate(result, axis=1, out=result)
    return [own[: len(one.loads)] for one, own in zip(each, result, strict=True)]


def _poisson(loads: Floats, mean: Floats, by_load: Ints, by_mean: Ints) -> tuple[Floats, Floats]:
    """P(Poisson load <= load), and P(= load) over it, for pairs of a place in ``loads``, whole and consecutive in each
    row, and one in ``mean``.
    """
    exactly, upto = poisson(int(loads.max()), mean.ravel())
    place = loads.ravel()[by_load].astype(np.int64) * mean.size + by_mean
    below = upto.ravel()[place]
    return below, exactly.ravel()[place] / below


def _wilson_hilferty(loads: Floats, mean: Floats, by_load: Ints, by_mean: Ints) -> tuple[Floats, Floats]:
    """The same of any loads by Wilson and Hilferty's cube root: unlike a normal of the load it keeps its skewness."""
    load, own = loads.ravel(), mean.ravel()
    above = load + 1.0
    ratio = np.cbrt(own)[by_mean] * (1.0 / np.cbrt(above))[by_load]
    z = (3.0 * np.sqrt(above))[by_load] * ((1.0 - 1.0 / (9.0 * above))[by_load] - ratio)
    chance = normal_cdf(z)
    logs = np.log(np.maximum(own, 1e-300))  # of means that fill up, 0
    exponent = load[by_load] * logs[by_mean] - own[by_mean] - log_gamma(above)[by_load]
    return chance, np.exp(exponent) / chance


def _sure_below(load: Floats | float) -> Floats:
    """Mean up to which a Poisson load is at most ``load`` for certain, to the last digit: SURE deviations below it."""
    above = np.asarray(load, dtype=np.float64) + 1.0
    found: Floats = above * np.maximum(1.0 - 1.0 / (9.0 * above) - SURE / (3.0 * np.sqrt(above)), 0.0) ** 3
    return found


def _interpolate(
    rank_shares: Sequence[npt.ArrayLike], pairs: npt.ArrayLike, probability: float | None
) -> Floats:
    """Imbalance of each vector at ``pairs``: the mean, or the quantile of ``probability``."""
    every = [np.sort(probabilities(shares, "rank_shares")).tobytes() for shares in rank_shares]
    numbers = np.asarray(pairs, dtype=np.float64)
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        raise DataError("pairs must be finite numbers of at least 0; a step can't have fewer")
    different = {shares: place for place, shares in enumerate(dict.fromkeys(every))}
    curves = [_curve(shares, probability) for shares in different]
    ranks = curves[0].ranks
    logs = np.log(np.clip(numbers, 1.0, float(curves[0].nodes.pairs[-1])))
    lowest = np.array([curve.lowest for curve in curves]).reshape(-1, *[1] * numbers.ndim)
    result = np.clip(np.exp(_on_curves(curves, logs, probability)), lowest, ranks)
    found: Floats = result[[different[shares] for shares in every]]
    return found
