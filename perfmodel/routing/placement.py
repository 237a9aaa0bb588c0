"""Which rank holds which expert, and how evenly that spreads the work.

A rank holds the same number of physical *slots* as every other; a slot holds one logical expert, and an
expert may have several slots (replicas), which share its tokens evenly. Work is counted in shares of all
(token, expert) pairs of one layer; nothing here knows bytes or seconds.

The balancer is DeepSeek's EPLB, written from its description at https://github.com/deepseek-ai/EPLB.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.routing.popularity import as_weights

BILLION = 1e9
ROUNDING = 1e-12
"""Relative difference between two shares that is only the order of summation."""


@dataclass(frozen=True, slots=True, eq=False)  # == on arrays has no truth value
class Placement:
    """Experts of one layer on ranks.

    Raises:
        DataError: slots don't divide over the ranks, name an unknown expert, or leave one out.
    """

    slots: NDArray[np.int64]
    """Logical expert of each physical slot: rank r holds slots[r * per_rank : (r + 1) * per_rank]; of unequal ranks
    the first have one more (vLLM's determine_expert_map, linear)."""
    num_experts: int
    """Logical experts, each of which has at least one slot."""
    num_ranks: int
    uneven: bool = False
    """Whether ranks may hold unequal numbers of slots."""

    def __post_init__(self) -> None:
        _check_positive(num_experts=self.num_experts, num_ranks=self.num_ranks)
        slots = np.array(self.slots, dtype=np.int64)
        if slots.ndim != 1:
            raise DataError(f"slots has {slots.ndim} dimensions: give one plain list, rank after rank")
        if not self.uneven:
            _check_divides("slots", len(slots), "ranks", self.num_ranks)
        elif len(slots) < self.num_ranks:
            raise DataError(f"{len(slots)} slots leave some of {self.num_ranks} ranks without any")
        for slot in np.flatnonzero((slots < 0) | (slots >= self.num_experts)):
            last = self.num_experts - 1
            raise DataError(f"slot {slot} holds expert {slots[slot]}: experts are numbered 0 to {last}")
        missing = np.flatnonzero(np.bincount(slots, minlength=self.num_experts) == 0)
        if len(missing):
            raise DataError(
                f"expert {missing[0]} has no slot ({len(missing)} experts have none): give each one"
            )
        slots.flags.writeable = False
        object.__setattr__(self, "slots", slots)

    @property
    def per_rank(self) -> int:
        """Slots of one rank; of unequal ones, of those with fewer."""
        return len(self.slots) // self.num_ranks

    @property
    def starts(self) -> NDArray[np.int64]:
        """First slot of each rank, (num_ranks,)."""
        number = np.arange(self.num_ranks)
        return number * self.per_rank + np.minimum(number, len(self.slots) % self.num_ranks)

    @property
    def replicas(self) -> NDArray[np.int64]:
        """Slots of each expert, (num_experts,)."""
        return np.bincount(self.slots, minlength=self.num_experts)

    def rank_shares(self, popularity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of all (token, expert) pairs that each rank gets, (num_ranks,); sums to what popularity does.

        ``popularity`` is the share of each logical expert, (num_experts,), and sums to one.

        Raises:
            DataError: not one finite share per expert, or a negative one.
        """
        shares = as_weights(popularity, self.num_experts, "the popularity")
        per_slot = (shares / self.replicas)[self.slots]
        if len(self.slots) % self.num_ranks:
            unequal: NDArray[np.float64] = np.add.reduceat(per_slot, self.starts)
            return unequal
        per_rank: NDArray[np.float64] = per_slot.reshape(self.num_ranks, self.per_rank).sum(axis=1)
        return per_rank

    def ranks_of(self, rng: np.random.Generator, experts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank of one replica of each of ``experts`` (any shape), each replica as likely."""
        replicas = self.replicas
        first = np.cumsum(replicas) - replicas
        chosen = (rng.random(experts.shape) * replicas[experts]).astype(np.int64)
        by_expert = np.argsort(self.slots, kind="stable")
        at = by_expert[first[experts] + chosen]
        if len(self.slots) % self.num_ranks:
            found: NDArray[np.int64] = np.searchsorted(self.starts, at, side="right") - 1
            return found
        ranks: NDArray[np.int64] = at // self.per_rank
        return ranks

    def imbalance(self, popularity: NDArray[np.float64]) -> float:
        """Busiest rank's work over the mean rank's: 1 if even, num_ranks if one rank does everything."""
        return float(self.rank_shares(popularity).max()) * self.num_ranks


def contiguous(num_experts: int, num_ranks: int) -> Placement:
    """Every expert once, in order: rank r holds experts r N / P to (r + 1) N / P - 1.

    Raises:
        DataError: the experts don't divide over the ranks.
    """
    _check_positive(num_experts=num_experts, num_ranks=num_ranks)
    _check_divides("experts", num_experts, "ranks", num_ranks)
    return Placement(np.arange(num_experts, dtype=np.int64), num_experts, num_ranks)


def eplb(
    load: Sequence[float] | NDArray[np.float64],
    *,
    num_slots: int,
    num_groups: int,
    num_nodes: int,
    num_ranks: int,
) -> Placement:
    """DeepSeek's EPLB for one layer: replicas for the busiest experts, then the heaviest slots apart.

    Hierarchical where the nodes divide the expert groups: groups are packed onto nodes, experts replicated
    inside their node, and its slots packed onto its ranks, so that a token that is sent to few groups reaches
    few nodes. Otherwise global: as one node with one group, whatever the sizes.

    Args:
        load: work of each logical expert (num_experts,), in any unit; need not sum to one.
        num_slots: physical slots on all ranks together, redundant ones included.
        num_groups: groups of neighbouring experts that a router chooses among; 1 where it knows none.
        num_nodes: nodes; node n holds ranks n R / N to (n + 1) R / N - 1.
        num_ranks: ranks on all nodes together.

    Raises:
        DataError: fewer slots than experts, sizes that don't divide, or a load that is negative or not finite.
    """
    num_experts = np.size(load)
    sizes = {"num_slots": num_slots, "num_groups": num_groups, "num_nodes": num_nodes, "num_ranks": num_ranks}
    _check_positive(num_experts=num_experts, **sizes)
    weights = _whole(as_weights(load, num_experts, "the load"))
    if num_slots < num_experts:
        raise DataError(
            f"{num_slots} slots can't hold {num_experts} experts, {num_experts - num_slots} too few: "
            f"give at least {num_experts}"
        )
    _check_divides("slots", num_slots, "ranks", num_ranks)
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
    _check_divides("ranks", num_ranks, "nodes", num_nodes)
    _check_divides("experts", num_experts, "groups", num_groups)

    experts_of_group = np.arange(num_experts).reshape(num_groups, -1)
    slots: list[NDArray[np.int64]] = []
    for groups in _packed(weights[experts_of_group].sum(axis=1), num_nodes):
        experts = experts_of_group[groups].ravel()
        copies = _replicated(weights[experts], num_slots // num_nodes)
        per_copy = weights[experts] // np.bincount(copies)
        slots.extend(experts[copies[rank]] for rank in _packed(per_copy[copies], num_ranks // num_nodes))
    return Placement(np.concatenate(slots), num_experts, num_ranks)


def better(old: Placement, new: Placement, popularity: NDArray[np.float64]) -> Placement:
    """The placement whose busiest rank has less work; the old one where they are equal (up to rounding)."""
    before, after = old.rank_shares(popularity).max(), new.rank_shares(popularity).max()
    return new if after < before * (1.0 - ROUNDING) else old


def _whole(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Weights in whole billionths of the largest. Half of one expert's load is often just another's (popularity by a
    power law), and sums of whole numbers are equal where they should be, on every processor.
    """
    largest = float(weights.max(initial=0.0))
    scaled = weights / largest if largest > 0.0 else weights
    whole: NDArray[np.int64] = np.rint(scaled * BILLION).astype(np.int64)
    return whole


def _replicated(weights: NDArray[np.int64], num_slots: int) -> NDArray[np.int64]:
    """Which item each slot holds: every item once, in order, then one more of the heaviest per replica, ..

    Of equally heavy items the first gets the slot.
    """
    copies = list(range(len(weights)))
    counts = np.ones(len(weights), dtype=np.int64)
    for _ in range(num_slots - len(weights)):
        heaviest = int(np.argmax(weights // counts))
        copies.append(heaviest)
        counts[heaviest] += 1
    return np.array(copies, dtype=np.int64)


def _packed(weights: NDArray[np.int64], num_packs: int) -> list[list[int]]:
    """Items of each pack, equally many in each: the heaviest first, into the lightest pack that has room.

    Equally heavy items go in their own order, and of equally light packs the first is taken. Packs of one
    item have nothing to balance, so there every item keeps its place.
    """
    room = len(weights) // num_packs
    if room == 1:
        return [[item] for item in range(num_packs)]
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    lightest = [(0, pack) for pack in range(num_packs)]
    for item in np.argsort(-weights, kind="stable").tolist():
        held, pack = heapq.heappop(lightest)
        packs[pack].append(item)
        if len(packs[pack]) < room:
            heapq.heappush(lightest, (held + int(weights[item]), pack))
    return packs


def _check_positive(**sizes: int) -> None:
    """Every size is 1 or more."""
    for name, value in sizes.items():
        if value < 1:
            raise DataError(f"{name} is {value}: give 1 or more")


def _check_divides(what: str, count: int, over: str, parts: int) -> None:
    """``count`` things lie evenly on ``parts`` others."""
    if count % parts:
        raise DataError(
            f"{count} {what} don't divide over {parts} {over}: give a multiple of {parts}, "
            f"such as {-(-count // parts) * parts}"
        )
