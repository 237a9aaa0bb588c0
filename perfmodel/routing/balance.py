"""How unevenly a step's pairs (token, real expert) land on ranks: from popularity and placement to the busiest rank.

Popular experts come in another order in every layer, so each layer has its own shares. A token never picks an expert
twice, so a popular expert gets less than its popularity says: :func:`pair_shares`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.numeric import Num
from perfmodel.routing.choice import distinct, preferred
from perfmodel.routing.destinations import Destinations
from perfmodel.routing.largest import expected_maxima
from perfmodel.routing.loads import multinomial_rank_loads
from perfmodel.routing.placement import Placement, better, eplb
from perfmodel.routing.popularity import dirichlet, drifted, from_histogram, power_law, shuffled
from perfmodel.spec.model import Moe
from perfmodel.spec.routing import Routing

Array = NDArray[np.float64]

MOST_LAYERS = 16
"""Layers whose orders are drawn. Another seed moves the mean over 16 by 3 % (LongCat-Flash on 128 ranks in order, power
law of 0.6 and 0.8), all 28 of the same seed by 0.2 %.
"""
TOKENS = 4096
"""Drawn per layer for what has no closed form; the share of one group of eight has a standard error of 1.5 %."""
LOAD_STREAM = 4
DESTINATION_STREAM = 6
GROUP_STREAM = 7
"""Of the random numbers that draw one step's loads, destinations and shares of groups."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What decides which rank a pair lands on; hashable."""

    num_experts: int
    redundant: int
    ranks: int
    nodes: int
    domain: int
    """Ranks that share a node."""
    groups: int
    top_groups: int
    popularity: str
    skew: float
    histogram: tuple[tuple[float, ...], ...]
    """One row for all layers, or one per layer."""
    placement: str
    drift: float
    pmf: tuple[float, ...]
    """Probability of 0, 1, .. real experts per token."""
    layers: int
    seed: int


def balance_of(
    moe: Moe,
    routing: Routing,
    pmf: Sequence[float],
    *,
    ranks: int,
    domain: int,
    redundant: int,
    layers: int,
    seed: int,
) -> Balance:
    """The balance that a scenario describes; ``domain`` ranks share a node."""
    return Balance(
        num_experts=moe.num_experts,
        redundant=redundant,
        ranks=ranks,
        nodes=max(1, ranks // domain) if ranks % domain == 0 else 1,
        domain=min(domain, ranks),
        groups=moe.num_groups,
        top_groups=moe.top_groups,
        popularity=routing.popularity,
        skew=routing.skew or 0.0,
        histogram=routing.histogram or (),
        placement=routing.placement,
        drift=routing.drift,
        pmf=tuple(float(p) for p in pmf),
        layers=min(layers, MOST_LAYERS) if len(routing.histogram or ()) < 2 else layers,
        seed=seed,
    )


def busiest(balance: Balance, pairs: Num) -> Num:
    """Expected load of the busiest rank relative to the mean, averaged over layers; ``pairs`` may be an array."""
    found = np.mean(expected_maxima(rank_shares(balance), pairs), axis=0)
    return found if np.ndim(pairs) else float(found)


def drawn_loads(balance: Balance, pairs: int, draws: int, seed: int) -> Array:
    """Loads relative to the mean of ``draws`` layers, (draws, ranks): layers take turns, pairs land independently."""
    return _in_turn(_drawn_by_layer(balance, pairs, draws, seed)) / _mean_load(balance, pairs)


def drawn_busiest(balance: Balance, pairs: int, draws: int, seed: int) -> Array:
    """The largest of :func:`drawn_loads` of each draw, (draws,)."""
    largest = [loads.max(axis=1) for loads in _drawn_by_layer(balance, pairs, draws, seed)]
    return _in_turn(largest) / _mean_load(balance, pairs)


def _mean_load(balance: Balance, pairs: int) -> float:
    return max(pairs / balance.ranks, 1e-300)


def _drawn_by_layer(balance: Balance, pairs: int, draws: int, seed: int) -> list[NDArray[np.int64]]:
    """Pairs on each rank, (draws of the layer, ranks), of each layer that has a turn."""
    every = rank_shares(balance)
    rng = np.random.default_rng([seed, LOAD_STREAM])
    turns = [len(range(layer, draws, len(every))) for layer in range(len(every))]
    return [
        multinomial_rank_loads(rng, shares, pairs, turn)
        for shares, turn in zip(every, turns, strict=True)
        if turn
    ]


def _in_turn(by_layer: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """What each layer has drawn, in the order first of layer 0, 1, .., second of layer 0, 1, .."""
    found = np.empty((sum(map(len, by_layer)), *by_layer[0].shape[1:]), dtype=np.int64)
    for layer, own in enumerate(by_layer):
        found[layer :: len(by_layer)] = own
    return found


@lru_cache(maxsize=64)
def rank_shares(balance: Balance) -> tuple[Array, ...]:
    """Share of the pairs that each rank gets, (ranks,), of each layer that is drawn."""
    found = []
    for placement, _, experts in placed_layers(balance):
        shares = placement.rank_shares(experts)
        found.append(shares / shares.sum())
    return tuple(found)


def reached(balance: Balance, pmf: Sequence[Num]) -> Destinations:
    """Distinct ranks and nodes that a token is sent to under the actual placement.

    ``pmf``: probability of 0, 1, .. real experts, which may be arrays. The sender sits on any rank.
    """
    ranks: Num = 0.0
    nodes: Num = 0.0
    own: Num = 0.0
    for probability, (more_ranks, more_nodes, at_home) in zip(pmf, _reached_by(balance), strict=True):
        ranks = ranks + probability * more_ranks
        nodes = nodes + probability * more_nodes
        own = own + probability * at_home
    return Destinations(
        ranks=ranks, remote_ranks=ranks * (1.0 - 1.0 / balance.ranks), nodes=nodes, remote_nodes=nodes - own
    )


@lru_cache(maxsize=64)
def _reached_by(balance: Balance) -> tuple[tuple[float, float, float], ...]:
    """Of tokens with 0, 1, .. real experts, drawn in every layer: mean distinct ranks and nodes, and how often the
    sender's own node is among them, senders being spread over the ranks evenly.

    Of an expert's replicas each is as likely.
    """
    layers = placed_layers(balance)
    total = np.zeros((len(balance.pmf), 3))
    node_ranks = np.bincount(np.arange(balance.ranks) // balance.domain)
    for layer, (placement, popularity, _) in enumerate(layers):
        experts, rng = _drawn(balance, popularity, DESTINATION_STREAM, layer)
        at = placement.ranks_of(rng, experts)
        nodes = at // balance.domain
        at_home = distinct(nodes, node_ranks / balance.ranks)
        total += np.stack([distinct(at), distinct(nodes), at_home], axis=1) / len(layers)
    return tuple((float(ranks), float(nodes), float(at_home)) for ranks, nodes, at_home in total)


@lru_cache(maxsize=64)
def placed_layers(balance: Balance) -> tuple[tuple[Placement, Array, Array], ...]:
    """Of each layer that is drawn: where experts are, how popular they are now, and their shares of the pairs.

    Experts are placed by their popularity as it was; ``drift`` of it has moved since.
    """
    found = []
    for layer in range(1 if balance.popularity == "uniform" else max(balance.layers, 1)):
        popularity = _popularity(balance, layer)
        shares = expert_shares(balance, popularity, layer)
        placement = placed(balance, shares)
        if balance.drift:
            popularity = drifted(popularity, balance.drift, balance.seed, layer)
            shares = expert_shares(balance, popularity, layer)
        found.append((placement, popularity, shares))
    return tuple(found)


def expert_shares(balance: Balance, popularity: Array, layer: int) -> Array:
    """Share of all pairs that each expert gets, (num_experts,).

    Where routing is limited to a few groups of experts, how often a group is open and how many of its experts are then
    picked is counted over drawn tokens, since popular groups are open more often; inside an open group an expert's
    chance is as in :func:`pair_shares`, so no token picks it twice. Experts that are all liked alike share alike.
    """
    if (popularity == popularity[0]).all():
        return np.full(balance.num_experts, 1.0 / balance.num_experts)
    if balance.top_groups == balance.groups:
        return pair_shares(popularity, balance.pmf)
    size = balance.num_experts // balance.groups
    groups = _drawn(balance, popularity, GROUP_STREAM, layer)[0] // size
    picks = np.array([(groups == group).sum(axis=1) for group in range(balance.groups)])
    chances = np.zeros(balance.num_experts)
    for group, own in enumerate(picks):
        is_open = own > 0
        if is_open.any():
            members = slice(group * size, (group + 1) * size)
            chances[members] = is_open.mean() * _chances(popularity[members], float(own[is_open].mean()))
    shares: Array = chances / chances.sum()
    return shares


def _drawn(
    balance: Balance, popularity: Array, stream: int, layer: int
) -> tuple[NDArray[np.int64], np.random.Generator]:
    """Experts of tokens that all wake as many as they can, the best first, (TOKENS, top-k), and what goes on drawing.

    Where experts are changes nothing of it: layouts of one model share the tokens.
    """
    rng = np.random.default_rng([balance.seed, stream, layer])
    most = len(balance.pmf) - 1
    experts, rng.bit_generator.state = _tokens(
        (balance.seed, stream, layer), popularity.tobytes(), most, balance.groups, balance.top_groups
    )
    return experts.astype(np.int64), rng


@lru_cache(maxsize=64)
def _tokens(
    seeds: tuple[int, ...], popularity: bytes, top_k: int, num_groups: int, top_groups: int
) -> tuple[NDArray[np.uint32], Mapping[str, Any]]:
    """What :func:`~perfmodel.routing.choice.preferred` draws (260 kB), and the generator's state after it."""
    rng = np.random.default_rng(seeds)
    found = preferred(rng, np.frombuffer(popularity), top_k, TOKENS, num_groups, top_groups)
    return found.astype(np.uint32), rng.bit_generator.state


def placed(balance: Balance, shares: Array) -> Placement:
    """Experts on ranks: in order, redundant slots holding the first experts again, or by EPLB where that is better."""
    slots = np.arange(balance.num_experts + balance.redundant) % balance.num_experts
    plain = Placement(slots, balance.num_experts, balance.ranks, uneven=bool(len(slots) % balance.ranks))
    if balance.placement != "eplb":
        return plain
    balanced = eplb(
        shares,
        num_slots=len(slots),
        num_groups=balance.groups,
        num_nodes=balance.nodes,
        num_ranks=balance.ranks,
    )
    return better(plain, balanced, shares)


def pair_shares(popularity: Array, pmf: Sequence[float]) -> Array:
    """Share of all pairs that each expert gets when a token picks distinct experts one after the other.

    Picking k one by one without replacement is the order of exponential clocks with rates p: expert i is among the
    first k when its clock runs off before the time at which k have. That time is taken as the one by which k are
    expected to, T with sum (1 - exp(-p T)) = k: chances are 1 - exp(-p_i T). Exact for many experts; tested against
    draws.
    """
    order, shares = np.argsort(popularity, kind="stable"), np.empty_like(popularity)
    shares[order] = _sorted_pair_shares(popularity[order].tobytes(), tuple(pmf))
    return shares


@lru_cache(maxsize=64)
def _sorted_pair_shares(sorted_popularity: bytes, pmf: tuple[float, ...]) -> Array:
    """Of popularity in order: layers often differ in which experts are popular alone."""
    popularity = np.frombuffer(sorted_popularity)
    total = np.zeros_like(popularity)
    for k, probability in enumerate(pmf):
        if k and probability > 0.0:
            total += probability * _chances(popularity, k)
    return total / total.sum() if total.sum() > 0.0 else popularity


def _chances(popularity: Array, k: float) -> Array:
    """Chance that each expert is among a token's k, by bisection in the logarithm of T; certain if all are needed."""
    liked = popularity > 0.0
    if k >= liked.sum():
        return liked.astype(np.float64)
    rates = popularity / popularity.sum()
    low, high = np.log(1e-6), np.log(1e30)
    for _ in range(90):
        middle = (low + high) / 2.0
        if (-np.expm1(-rates * np.exp(middle))).sum() < k:
            low = middle
        else:
            high = middle
    chances: Array = -np.expm1(-rates * np.exp((low + high) / 2.0))
    return chances


def _popularity(balance: Balance, layer: int) -> Array:
    if balance.popularity == "histogram":
        return from_histogram(balance.histogram[layer % len(balance.histogram)], balance.num_experts)
    if balance.popularity == "dirichlet":
        return dirichlet(balance.num_experts, balance.skew, balance.seed * balance.layers + layer)
    return shuffled(power_law(balance.num_experts, balance.skew), balance.seed, layer)
