"""How many (token, real expert) pairs land on each expert-parallel rank in one step of one layer.

Two levels of detail. Exact: :func:`sample_experts` draws every token's distinct experts, and
:func:`rank_loads` adds them up by rank. Fast: pairs land on ranks independently of each other, so loads are
multinomial (:func:`multinomial_rank_loads`), and the busiest rank's load has a closed approximation
(:mod:`perfmodel.routing.largest`).

The fast form ignores that a token's experts are distinct. Distinct experts spread a token's pairs, so exact
loads vary less: for k of E equally popular experts, the variance of an expert's load, or of that of a rank
holding whole experts, is (E - k) / (E - 1) of the multinomial one: 1.4 % less at 8 of 512, 43 % at 4 of 8. With
skewed popularity the popular experts are also chosen less often than k times their popularity (never more
than once a token): give shares of *pairs*, not popularity, to the fast form. Nothing here knows bytes or
seconds.
"""

import numpy as np
import numpy.typing as npt

from perfmodel.errors import DataError

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


def sample_activation(rng: np.random.Generator, pmf: npt.ArrayLike, tokens: int) -> Ints:
    """Numbers of real experts (tokens,) of ``tokens`` tokens; ``pmf`` (K + 1,) is that of 0, 1, .. K.

    Raises:
        DataError: ``pmf`` is not a vector of probabilities that sum to one.
    """
    return _draw(rng, probabilities(pmf, "pmf of real experts"), (tokens,)).astype(np.int64)


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
    shares = probabilities(rank_shares, "rank_shares")
    if pairs < 0:
        raise DataError(f"pairs is {pairs}; it must be at least 0")
    return rng.multinomial(pairs, shares / shares.sum(), size=draws)


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


def probabilities(values: npt.ArrayLike, name: str) -> Floats:
    """A vector of probabilities that sum to one, or DataError."""
    vector = _weights(values, name)
    total = float(vector.sum())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise DataError(f"{name} sums to {total:.6g}; it must sum to 1, so divide it by its sum")
    return vector
