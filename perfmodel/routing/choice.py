"""Tokens drawn one by one where routing is limited to a few groups of experts, which no closed form covers.

The toy router: expert i's affinity for a token is p_i / E with E drawn from the unit exponential distribution, so the
experts in order of affinity are those of successive sampling by popularity p (the smallest of exponential clocks with
rates p_i). As in DeepSeek-V3's router, a group's score is the sum of its two largest affinities, the groups with the
largest scores stay, and the experts with the largest affinities inside them are chosen.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

GROUP_SCORE = 2
"""Affinities that a group's score adds up [DeepSeek-V3, modeling_deepseek.py]."""
TIE = 1e-13
"""Relative handicap of an expert against the one before it: of two with equal clocks the first is taken."""
TOKENS = 8192
"""Drawn for a mean: its standard error is 0.1 % for distinct ranks and nodes of DeepSeek-V3."""


def preferred(
    rng: np.random.Generator, popularity: Array, top_k: int, tokens: int, num_groups: int, top_groups: int
) -> Ints:
    """Experts of ``tokens`` tokens, (tokens, top_k), the one with the largest affinity first.

    ``popularity`` (num_experts,) are weights of any sum; groups are equal and hold neighbouring experts. The experts in
    the chosen groups must be at least ``top_k``.
    """
    clocks = rng.standard_exponential((tokens, len(popularity)), dtype=np.float32)
    first = 1.0 - TIE * np.arange(len(popularity))  # partitions leave ties to the processor
    affinity = popularity * first / np.maximum(clocks, np.float32(1e-30))
    if top_groups < num_groups:
        grouped = affinity.reshape(tokens, num_groups, -1)
        best = min(GROUP_SCORE, grouped.shape[2])
        score = np.partition(grouped, -best, axis=2)[:, :, -best:].sum(axis=2)
        closed = np.argpartition(score, num_groups - top_groups, axis=1)[:, : num_groups - top_groups]
        np.put_along_axis(grouped, closed[:, :, None], -1.0, axis=1)
    chosen = np.argpartition(affinity, -top_k, axis=1)[:, -top_k:]
    order = np.argsort(-np.take_along_axis(affinity, chosen, axis=1), axis=1)
    return np.take_along_axis(chosen, order, axis=1).astype(np.int64)


@lru_cache(maxsize=16)
def alike(num_experts: int, top_k: int, num_groups: int, top_groups: int) -> Ints:
    """:func:`preferred` for experts that all tokens like alike, (TOKENS, top_k); the same tokens every time."""
    rng = np.random.default_rng([0, num_experts, top_k, num_groups, top_groups])
    return preferred(rng, np.ones(num_experts), top_k, TOKENS, num_groups, top_groups)


def distinct(places: Ints, weights: Array | None = None) -> Array:
    """Mean number of different places among a token's first 0, 1, .. K experts, (K + 1,); ``places`` is (tokens, K).

    With ``weights`` by place, the mean sum of the different places' weights.
    """
    new = np.ones(places.shape, dtype=bool)
    for later in range(1, places.shape[1]):
        new[:, later] = (places[:, :later] != places[:, later : later + 1]).all(axis=1)
    means = np.zeros(places.shape[1] + 1)
    counted = new if weights is None else new * weights[places]
    means[1:] = np.cumsum(counted.mean(axis=0))
    return means
