"""How many (token, real expert) pairs land on each expert-parallel rank in one step of one layer.

Two levels of detail. Exact: :func:`sample_experts` draws every token's distinct experts, and
:func:`rank_loads` adds them up by rank. Fast: pairs land on ranks independently of each other, so loads are
multinomial (:func:`multinomial_rank_loads`), and the busiest rank's load has a closed approximation
(:func:`expected_maximum`, :func:`quantiles_of_maximum`).

The fast form ignores that a token's experts are distinct. Distinct experts spread a token's pairs, so exact
loads vary less: for k of E equally popular experts, the variance of an expert's load, or of that of a rank
holding whole experts, is (E - k) / (E - 1) of the multinomial one: 1.4 % less at 8 of 512, 43 % at 4 of 8. With
skewed popularity the popular experts are also chosen less often than k times their popularity (never more
than once a token): give shares of *pairs*, not popularity, to the fast form. Nothing here knows bytes or
seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from perfmodel.errors import DataError
from perfmodel.special import log_gamma, normal_cdf, poisson_cdf, spline_slopes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SUM_TOLERANCE = 1e-6
"""How far probabilities may be from summing to one."""
CANDIDATES = 16
"""Candidates drawn per token at a time: twelve distinct of 512 nearly always lie among sixteen."""
ROUNDS = 4
"""Rounds of candidates before the tokens still short of experts are finished by Gumbel keys."""
GUMBEL_KEYS = 1 << 21
"""Most Gumbel keys held in memory at once."""
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


def sample_activation(rng: np.random.Generator, pmf: npt.ArrayLike, tokens: int) -> Ints:
    """Numbers of real experts (tokens,) of ``tokens`` tokens; ``pmf`` (K + 1,) is that of 0, 1, .. K.

    Raises:
        DataError: ``pmf`` is not a vector of probabilities that sum to one.
    """
    return _draw(rng, _probabilities(pmf, "pmf of real experts"), (tokens,)).astype(np.int64)


def sample_experts(
    rng: np.random.Generator, popularity: npt.ArrayLike, counts_per_token: npt.ArrayLike
) -> tuple[Ints, Ints]:
    """Distinct experts of each token: (expert ids, token ids), both flat and in order of token.

    ``popularity`` (E,) are weights of any sum; ``counts_per_token`` (T,) says how many experts each token
    gets. A token's experts, in the order chosen, are the first distinct ones of an independent stream drawn
    by popularity. That is exactly successive sampling: each next expert in proportion to popularity among
    those not chosen yet. A token that is still short keeps what it has and draws on; starting it again would
    favour tokens whose streams repeat little.

    Raises:
        DataError: a negative or infinite popularity, a negative count, or a token that wants more experts
            than have any popularity.
    """
    weights = _weights(popularity, "popularity")
    counts = np.asarray(counts_per_token, dtype=np.int64)
    most = int(counts.max(initial=0))
    positive = int(np.count_nonzero(weights))
    if counts.ndim != 1 or counts.min(initial=0) < 0:
        raise DataError("counts_per_token must be a vector of numbers of at least 0; count real experts only")
    if most > positive:
        raise DataError(
            f"a token wants {most} distinct experts but only {positive} of {len(weights)} have a popularity"
            " above 0; lower the count or give more experts a popularity"
        )
    # the smallest type that holds expert ids: comparing candidates is most of the work
    small = np.int16 if len(weights) < 2**15 else np.int32
    chosen = np.full((most, len(counts)), -1, dtype=small)
    short = np.flatnonzero(counts)
    probabilities = weights / weights.sum() if most else weights
    for _ in range(ROUNDS):
        if not len(short):
            break
        short = _extend(rng, probabilities, counts, chosen, short)
    _finish(rng, weights, counts, chosen, short)
    by_token = chosen.T
    return by_token[by_token >= 0].astype(np.int64), np.repeat(np.arange(len(counts)), counts)


def expert_counts(expert_ids: npt.ArrayLike, num_experts: int) -> Ints:
    """Pairs on each expert (num_experts,)."""
    return np.bincount(np.asarray(expert_ids, dtype=np.int64), minlength=num_experts).astype(np.int64)


def rank_loads(counts: npt.ArrayLike, shares: npt.ArrayLike) -> Floats:
    """Mean pairs on each rank (.., R) of pairs on each expert (.., E).

    ``shares`` (R, E): the share of expert e's pairs that replicas on rank r take.

    Raises:
        DataError: a negative share, or an expert whose shares don't sum to one.
    """
    matrix = np.asarray(shares, dtype=np.float64)
    if matrix.ndim != 2 or (matrix < 0).any() or not np.allclose(matrix.sum(axis=0), 1.0, atol=SUM_TOLERANCE):
        raise DataError(
            "shares must be a matrix of ranks by experts, at least 0, each expert's summing to 1; every"
            " expert needs a replica"
        )
    loads: Floats = np.asarray(counts, dtype=np.float64) @ matrix.T
    return loads


def multinomial_rank_loads(
    rng: np.random.Generator, rank_shares: npt.ArrayLike, pairs: int, draws: int
) -> Ints:
    """Loads (draws, R) if each of ``pairs`` pairs lands on a rank by ``rank_shares`` (R,), independently.

    Experts of one token then need not be distinct: see the module's description for what that changes.

    Raises:
        DataError: ``rank_shares`` is not a vector of shares that sum to one, or ``pairs`` is negative.
    """
    shares = _probabilities(rank_shares, "rank_shares")
    if pairs < 0:
        raise DataError(f"pairs is {pairs}; it must be at least 0")
    return rng.multinomial(pairs, shares / shares.sum(), size=draws)


def expected_maximum(rank_shares: npt.ArrayLike, pairs: npt.ArrayLike) -> Floats:
    """Imbalance of the busiest rank, E[largest load] / (pairs / R), 1 to R, of multinomial loads.

    ``pairs`` of any shape (>= 0); the result has the same shape. Up to one pair the imbalance is R.

    Values come from a table per vector of shares (filled near what is asked for) by a cubic spline in logarithms
    of pairs and imbalance. Exact for up to 16 whole pairs, else the approximation of :func:`_distribution`.
    Against drawn loads the mean is within 3 % for 2 ranks and 2 % for more; within 0.6 % for
    3 or more ranks of mean load 10 and more. That includes interpolation: 0.6 % near 20 pairs, else 0.3 %.

    Raises:
        DataError: ``rank_shares`` is not a vector of shares that sum to one, or a ``pairs`` is negative.
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
    parts = [_interpolate(rank_shares, pairs, float(q)) for q in probabilities]
    return np.stack(parts, axis=-1) if parts else np.empty((*np.shape(pairs), 0))


def _extend(
    rng: np.random.Generator,
    probabilities: Floats,
    counts: Ints,
    chosen: npt.NDArray[np.signedinteger],
    rows: Ints,
) -> Ints:
    """Draw candidates for tokens ``rows``, add the new ones to ``chosen`` (K, T); the tokens still short."""
    candidates = _draw(rng, probabilities, (CANDIDATES, len(rows))).astype(chosen.dtype)
    mine = chosen[:, rows]
    wanted = counts[rows]
    have = np.count_nonzero(mine >= 0, axis=0)
    for candidate in candidates:
        fresh = have < wanted
        for i in range(int(have.max())):
            fresh &= mine[i] != candidate
        where = np.flatnonzero(fresh)
        mine[have[where], where] = candidate[where]
        have += fresh
    chosen[:, rows] = mine
    still: Ints = rows[have < wanted]
    return still


def _finish(
    rng: np.random.Generator, weights: Floats, counts: Ints, chosen: npt.NDArray[np.signedinteger], rows: Ints
) -> None:
    """Fill what tokens ``rows`` still lack by the largest of log weight + Gumbel noise, chosen ones excluded.

    Exactly successive sampling from the rest, whatever the skew, at a cost of E random numbers per token.
    """
    if not len(rows):
        return
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    step = max(1, GUMBEL_KEYS // len(weights))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        keys = logs + rng.gumbel(size=(len(part), len(logs)))
        mine = chosen[:, part]
        have = np.count_nonzero(mine >= 0, axis=0)
        i, j = np.nonzero(mine >= 0)
        keys[j, mine[i, j]] = -np.inf
        best = np.argsort(-keys, axis=1)[:, : len(chosen)].T
        slot = np.arange(len(chosen))[:, None] - have
        i, j = np.nonzero((slot >= 0) & (slot < counts[part] - have))
        mine[i, j] = best[slot[i, j], j]
        chosen[:, part] = mine


def _draw(rng: np.random.Generator, probabilities: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Indices drawn by ``probabilities``; one of probability 0 is never drawn."""
    cumulative = np.cumsum(probabilities)
    # ends at exactly one: a draw just below it must not fall past the last index
    return np.searchsorted(cumulative / cumulative[-1], rng.random(shape), side="right")


def _weights(values: npt.ArrayLike, name: str) -> Floats:
    """A vector of finite numbers of at least 0, or DataError."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all() or (vector < 0).any():
        raise DataError(f"{name} must be a vector of finite numbers of at least 0; drop or mend the others")
    return vector


def _probabilities(values: npt.ArrayLike, name: str) -> Floats:
    """A vector of probabilities that sum to one, or DataError."""
    vector = _weights(values, name)
    total = float(vector.sum())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise DataError(f"{name} sums to {total:.6g}; it must sum to 1, so divide it by its sum")
    return vector


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

    def __getitem__(self, node: int) -> tuple[Floats, Floats]:
        if node not in self._known:
            if node < FEW_PAIRS:
                self._known.update(enumerate(_few(self.shares, self.number)))
            else:
                pairs = float(_nodes(self.ranks).pairs[node])
                times = self.number.astype(np.float64)
                self._known[node] = _distribution(self.shares, times, self.ranks, pairs)
        return self._known[node]


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
        self._shares, self._probability = shares, probability
        table = _table(shares)
        self._nodes, self.ranks = _nodes(table.ranks), table.ranks
        self.lowest = table.least if probability is None else 1.0
        self.most_pairs = float(self._nodes.pairs[-1])
        self._values = np.full(len(self._nodes.pairs), np.nan)
        """Logarithms of imbalance at the nodes; not a number: not asked for yet."""

    def __call__(self, logs: Floats) -> Floats:
        """The logarithm of imbalance at logarithms of pairs."""
        nodes = self._nodes
        left = np.clip(np.searchsorted(nodes.logs, logs, side="right") - 1, 0, len(nodes.first) - 1)
        intervals, of_each = np.unique(left, return_inverse=True)
        near = nodes.first[intervals][:, None] + np.arange(NEAR)
        self._work_out(near)
        values, start = self._values, nodes.logs[intervals]
        at_left, at_right = np.einsum("iks,is->ki", nodes.slopes[intervals], values[near])
        step = nodes.logs[intervals + 1] - start
        slope = (values[intervals + 1] - values[intervals]) / step
        bend = (at_left + at_right - 2.0 * slope) / step
        pieces = np.stack([start, values[intervals], at_left, (slope - at_left) / step - bend, bend / step])
        start, *c = pieces[:, of_each.reshape(np.shape(logs))]
        s = logs - start
        result: Floats = c[0] + s * (c[1] + s * (c[2] + s * c[3]))
        return result

    def _work_out(self, near: Ints) -> None:
        wanted = np.zeros(len(self._values), dtype=bool)
        wanted[near] = True
        for node in np.flatnonzero(wanted & np.isnan(self._values)).tolist():
            load = _summary(*_table(self._shares)[node], self._probability)
            imbalance = load * self.ranks / self._nodes.pairs[node]
            self._values[node] = np.log(np.clip(imbalance, self.lowest, self.ranks))


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


def _distribution(shares: Floats, number: Floats, ranks: int, pairs: float) -> tuple[Floats, Floats]:
    """(loads, P(largest load <= load)) of ``pairs`` pairs; ``number`` ranks have each of ``shares``.

    Levin's representation (1981, Annals of Statistics 9(5), 1123): multinomial loads are independent Poisson
    loads given their sum, so P(all <= m) = prod P(X_r <= m) x P(W = n) / P(N = n), with W the sum of the X_r
    truncated at m and N their sum. Both last probabilities by the normal density. Independent loads alone
    (the product) give nearly the right mean if their variances are n p_r, not n p_r (1 - p_r): the loads'
    negative correlation makes up for their smaller variance.
    """
    means = pairs * shares
    spread = WIDTH * np.sqrt(means)
    low = max(0.0, float(np.floor((means - spread).max())), np.ceil(pairs / ranks) - 1.0)
    high = min(pairs, float(np.ceil((means + spread).max())) + WIDTH)
    exact = float(means.max()) <= POISSON_MEAN or high - low < GRID
    loads = np.arange(low, high + 1.0) if exact else np.linspace(low, high, GRID)
    # ranks below even the lowest load for certain are most where shares differ; all of their load counts, and varies
    held = means > _sure_below(low)
    idle = float((means * number)[~held].sum())
    means, number = means[held], number[held]
    x, mean = loads[:, None], means[None, :]
    if (
        ranks == 1
    ):  # it has them all: what is below does not matter, and a probability of the load may be no number
        below = np.ones_like(x * mean)
    elif exact:
        below = poisson_cdf(int(high), means)[int(low) :]
    else:  # Wilson and Hilferty's cube root, which unlike a normal of the load keeps its skewness
        above = x + 1.0
        root = np.sqrt(above)
        open_ = mean > _sure_below(x)
        row, column = np.nonzero(open_)
        at_row = above[row, 0]
        below = np.ones_like(x * mean)
        below[open_] = normal_cdf(
            -3.0 * root[row, 0] * (np.cbrt(mean[0, column] / at_row) - 1.0 + 1.0 / (9.0 * at_row))
        )
    below = np.maximum(below, 1e-300)
    at = np.exp(x * np.log(mean) - mean - log_gamma(x + 1.0)) / below
    cut = mean * (1.0 - at)
    variance = np.maximum((cut - mean * at * (x - cut)) @ number + idle, 1e-9 * pairs)
    gap = (mean * at) @ number
    logs = np.log(below) @ number + 0.5 * np.log(pairs / variance) - 0.5 * gap**2 / variance
    result = np.exp(np.minimum(logs, 0.0))
    result[loads < pairs / ranks] = 0.0
    result[loads >= pairs] = 1.0
    return loads, np.maximum.accumulate(result)


def _sure_below(load: Floats | float) -> Floats:
    """Mean up to which a Poisson load is at most ``load`` for certain, to the last digit: SURE deviations below it."""
    above = np.asarray(load, dtype=np.float64) + 1.0
    found: Floats = above * np.maximum(1.0 - 1.0 / (9.0 * above) - SURE / (3.0 * np.sqrt(above)), 0.0) ** 3
    return found


def _interpolate(rank_shares: npt.ArrayLike, pairs: npt.ArrayLike, probability: float | None) -> Floats:
    """Imbalance at ``pairs``: the mean, or the quantile of ``probability``."""
    shares = np.sort(_probabilities(rank_shares, "rank_shares")).tobytes()
    curve = _curve(shares, probability)
    numbers = np.asarray(pairs, dtype=np.float64)
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        raise DataError("pairs must be finite numbers of at least 0; a step can't have fewer")
    logs = np.log(np.clip(numbers, 1.0, curve.most_pairs))
    result = np.exp(curve(logs))
    return np.asarray(np.clip(result, curve.lowest, curve.ranks))
