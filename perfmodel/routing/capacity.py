"""Experts with a capacity: how many pairs (token, expert) find their expert full and are dropped.

A rank that holds T tokens gives each of E experts room for

    C = ceil(T k / E x factor)

of them (Megatron-Core's get_capacity), k experts per token. Tokens choose independently, each expert once or not at
all, so the tokens of one rank that choose expert e are Binomial(T, q_e), q_e the chance that a token has it among its
experts, and what is dropped is the sum over experts of E[(X_e - C)+]: exact, whichever tokens are dropped (by the
router's probability, or by their place).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.routing.balance import Balance, placed_layers
from perfmodel.routing.largest import expected_maximum
from perfmodel.special import log_gamma

Array = NDArray[np.float64]
SIDE = 14.0
"""Standard deviations beyond the mean, and as many tokens, after which a binomial's terms are left out (1e-40)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a capacity leaves of a step's pairs."""

    room: int
    """Tokens of one rank that an expert takes, C."""
    dropped: float
    """Share of the pairs that are dropped, mean over layers."""
    busiest: float
    """Kept pairs of the busiest expert-parallel rank over the mean rank's, mean over layers."""


def room(tokens: int, experts: int, mean: float, factor: float) -> int:
    """C for one rank's tokens; ``mean``: experts per token."""
    return max(1, math.ceil(tokens * mean / experts * factor))


def kept_pairs(balance: Balance, tokens: int, mean: float, factor: float) -> Kept:
    """What is kept of pairs that land as ``balance`` says.

    Args:
        balance: popularity and placement.
        tokens: of one rank.
        mean: real experts per token.
        factor: capacity over the mean number of tokens per expert.
    """
    size = room(tokens, balance.num_experts, mean, factor)
    dropped, busiest = [], []
    for placement, _, shares in placed_layers(balance):
        chances = np.minimum(mean * shares, 1.0)
        taken = tokens * chances - excess(tokens, chances, size)
        dropped.append(1.0 - float(taken.sum() / (tokens * chances.sum())))
        by_rank = placement.rank_shares(taken)
        pairs = balance.ranks * float(taken.sum())
        most = float(expected_maximum(by_rank / by_rank.sum(), pairs))
        slots = placement.per_rank * size / (float(taken.sum()) / balance.ranks)
        busiest.append(min(most, slots))
    return Kept(size, max(0.0, float(np.mean(dropped))), max(1.0, float(np.mean(busiest))))


def excess(tokens: int, chances: Array, size: int) -> Array:
    """E[(X - size)+] of X ~ Binomial(tokens, chance), for each chance: the tail's sum, or where the mean is above
    ``size`` that of the other side, E[(X - size)+] = mean - size + E[(size - X)+].
    """
    distinct, where = np.unique(chances, return_inverse=True)
    found = np.array([_excess(tokens, float(chance), size) for chance in distinct])
    return np.asarray(found[where])


def _excess(tokens: int, chance: float, size: int) -> float:
    mean = tokens * chance
    if chance <= 0.0 or size >= tokens:
        return 0.0
    if chance >= 1.0:
        return mean - size
    width = SIDE * math.sqrt(mean * (1.0 - chance)) + SIDE
    if mean <= size:
        counts = np.arange(size + 1, min(tokens, math.ceil(max(mean, size) + width)) + 1, dtype=float)
        return float(((counts - size) * _pmf(tokens, chance, counts)).sum())
    counts = np.arange(max(0, math.floor(min(mean, size) - width)), size, dtype=float)
    return mean - size + float(((size - counts) * _pmf(tokens, chance, counts)).sum())


def _pmf(tokens: int, chance: float, counts: Array) -> Array:
    ways = log_gamma(tokens + 1.0) - log_gamma(counts + 1.0) - log_gamma(tokens - counts + 1.0)
    return np.exp(ways + counts * math.log(chance) + (tokens - counts) * math.log1p(-chance))
