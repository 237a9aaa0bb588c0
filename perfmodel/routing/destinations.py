"""How many different ranks and nodes a token is sent to.

Experts lie evenly and contiguously on *places* (ranks, or nodes of ranks): N experts on P places give each
place N / P. A token that wakes k experts is sent to every place that holds at least one of them, so what
counts is the expected number of distinct places, P x P(a place is hit). Nothing here knows bytes or seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.numeric import Num, maximum, minimum
from perfmodel.routing.choice import alike, distinct
from perfmodel.spec.model import Moe
from perfmodel.special import log_gamma

TINY = 1e-9
"""Rounding in counts of experts."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Expected number of places that one token reaches; fields may be arrays."""

    ranks: Num
    """Distinct ranks, the sender's own included."""
    remote_ranks: Num
    """Distinct ranks other than the sender's own."""
    nodes: Num
    """Distinct nodes (link domains), the sender's own included."""
    remote_nodes: Num
    """Distinct nodes other than the sender's own."""


def destinations(
    moe: Moe,
    ranks: Num,
    domain: Num,
    *,
    mean_real_experts: Num | None = None,
    pmf: Sequence[Num] | None = None,
) -> Destinations:
    """Destinations of one token of ``moe`` on ``ranks`` ranks, ``domain`` of them to a node.

    The number of real experts has the distribution ``pmf`` (probability of 0, 1, .. top_k); by default
    Binomial(top_k, mean / top_k), which for a model without zero-computation experts is top_k always. Experts
    are chosen uniformly; where routing is group-limited, as :mod:`perfmodel.routing.choice` draws them. The sender sits
    anywhere: it owns one place in P, whatever the token chose, so 1 / P of the places reached are its own.
    """
    mean = moe.mean_real_experts if mean_real_experts is None else mean_real_experts
    weights = binomial_pmf(moe.top_k, mean) if pmf is None else pmf
    distinct_ranks = _mixed(moe, ranks, weights)
    if np.ndim(ranks) == 0 and np.ndim(domain) == 0 and ranks > domain and ranks % domain:
        nodes, own = _uneven_nodes(moe, int(ranks), int(domain), weights)
        return Destinations(distinct_ranks, distinct_ranks * (1.0 - 1.0 / ranks), nodes, nodes - own)
    nodes = maximum(1.0, ranks / domain)
    distinct_nodes = _mixed(moe, nodes, weights)
    return Destinations(
        ranks=distinct_ranks,
        remote_ranks=distinct_ranks * (1.0 - 1.0 / ranks),
        nodes=distinct_nodes,
        remote_nodes=distinct_nodes * (1.0 - 1.0 / nodes),
    )


def _uneven_nodes(moe: Moe, ranks: int, domain: int, pmf: Sequence[Num]) -> tuple[Num, Num]:
    """(distinct nodes, how often the sender's own is among them) where the last node has fewer ranks than the others.

    Experts are taken as liked alike and spread over ranks; a node with s of N experts is missed by k of them with
    probability C(N - s, k) / C(N, k). Groups of experts are left out of account.
    """
    nodes: Num = 0.0
    own: Num = 0.0
    for first in range(0, ranks, domain):
        share = min(domain, ranks - first) / ranks
        held = moe.num_experts * share
        hit: Num = 0.0
        for k, probability in enumerate(pmf):
            hit = hit + probability * (1.0 - _miss(moe.num_experts, held, float(k)))
        nodes, own = nodes + hit, own + share * hit
    return nodes, own


def binomial_pmf(top_k: int, mean: Num) -> tuple[Num, ...]:
    """Probability of 0 .. top_k real experts if each selection is real with chance mean / top_k.

    LongCat-Flash's own spread is wider (standard deviation about 2.6 against 1.6); a wider distribution
    lowers the number of distinct places a little, since that number is concave in k.
    """
    real = mean / top_k
    return tuple(math.comb(top_k, k) * real**k * (1.0 - real) ** (top_k - k) for k in range(top_k + 1))


def expected_distinct(num_experts: Num, places: Num, experts_per_token: Num) -> Num:
    """Expected distinct places for k experts drawn without replacement: P (1 - C(N - N/P, k) / C(N, k)).

    Through log-gamma, so that k and N / P need not be whole; all arguments may be arrays.
    """
    return places * (1.0 - _miss(num_experts, num_experts / places, experts_per_token))


def _mixed(moe: Moe, places: Num, pmf: Sequence[Num]) -> Num:
    """Expected distinct places, averaged over the number of real experts."""
    limited = moe.top_groups < moe.num_groups
    hits = (
        _group_limited_hits(moe.num_experts, places, len(pmf) - 1, moe.num_groups, moe.top_groups)
        if limited
        else _uniform_hits(moe.num_experts, places, len(pmf) - 1)
    )
    mean: Num = 0.0
    for weight, hit in zip(pmf, hits, strict=True):
        mean = mean + weight * hit
    return places * mean


def _uniform_hits(num_experts: int, places: Num, most: int) -> tuple[Num, ...]:
    """P(a place is hit) for 0 .. most experts: 1 - prod over i < k of (N - s - i) / (N - i), s = N / P."""
    held = num_experts / places
    miss: Num = 1.0 + 0.0 * held
    hits: list[Num] = [1.0 - miss]
    for i in range(most):
        miss = miss * maximum(0.0, num_experts - held - i) / (num_experts - i)
        hits.append(1.0 - miss)
    return tuple(hits)


def _group_limited_hits(
    num_experts: int, places: Any, most: int, num_groups: int, top_groups: int
) -> tuple[Num, ...]:
    """P(a place is hit) for 0 .. most experts, of drawn tokens; an array of places is done once per distinct value."""
    values, index = np.unique(np.asarray(places, dtype=np.float64), return_inverse=True)
    table = np.array([_hits_of_places(num_experts, float(v), most, num_groups, top_groups) for v in values])
    if not isinstance(places, np.ndarray):
        return tuple(float(hit) for hit in table[0])
    chosen: Any = table[index.reshape(places.shape)]
    return tuple(chosen[..., k] for k in range(most + 1))


@lru_cache(maxsize=1024)
def _hits_of_places(
    num_experts: int, places: float, most: int, num_groups: int, top_groups: int
) -> tuple[float, ...]:
    """Mean over the places of P(hit), for 0 .. most experts: distinct places over their number."""
    experts = alike(num_experts, most, num_groups, top_groups)
    held = (experts * places // num_experts).astype(np.int64)
    return tuple(float(mean) / places for mean in distinct(held))


def _miss(num_experts: Num, held: Num, experts_per_token: Num) -> Num:
    """P(none of k experts is among the ``held``): C(N - s, k) / C(N, k), and 0 where k >= N - s + 1."""
    n, s, k = num_experts, held, experts_per_token
    left = n - s - k
    inside = maximum(left, TINY - 1.0)  # keeps log-gamma in its domain where the answer is 0 anyway
    numerator = _log_gamma(n - s + 1.0) + _log_gamma(n - k + 1.0)
    miss: Num = _exp(numerator - _log_gamma(inside + 1.0) - _log_gamma(n + 1.0)) * _step(left)
    return minimum(miss, 1.0)


def _step(left: Any) -> Any:
    """1 where ``left`` > -1 (up to rounding), else 0."""
    return (left > TINY - 1.0) * 1.0


def _log_gamma(x: Any) -> Any:
    """Logarithm of the gamma function, element by element."""
    if not isinstance(x, np.ndarray):
        return math.lgamma(x)
    return log_gamma(x)


def _exp(x: Any) -> Any:
    """Exponential, element by element."""
    return np.exp(x) if isinstance(x, np.ndarray) else math.exp(x)
