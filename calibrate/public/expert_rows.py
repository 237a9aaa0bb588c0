"""How many rows, experts and tokens the timed rank got: what the collectors of the expert tables routed to rank 0.

The tables give the tokens of the whole expert-parallel group, not what rank 0 computed. Routing was synthetic, and its
rule is public (``collector/helper.py`` of github.com/ai-dynamo/aiconfigurator at 095f58a, read, not copied): balanced
routing can be counted exactly; power-law routing was drawn at random, so its expected value is taken, over our own
draws.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 8
"""Random routings whose mean stands for the drawn ones. With 5 draws per timing the tables themselves are as noisy."""
SEED = 20260824
CAP_SHARE = 0.8
"""The power law runs from 1 to this share of the tokens, for one expert."""


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Work of rank 0."""

    rows: float
    """Token-expert pairs."""
    groups: float
    """Experts with at least one row."""
    tokens: float
    """Tokens with at least one row: what a dispatch would have sent here."""
    spread: float = 0.0
    """Relative standard deviation of ``rows`` from draw to draw."""


@cache
def balanced(tokens: int, experts: int, top_k: int, ep: int) -> RankLoad:
    """Balanced routing, counted exactly.

    Token t chooses experts t, t + s, t + 2 s, ... (mod experts) with s = ceil(experts / top_k); fewer tokens than s
    start evenly spaced instead. So the load is even only where s divides the tokens, and rank 0, which owns the first
    experts, never has fewer rows than another: with one token and more ranks than picks it still has one row.
    """
    stride = -(-experts // top_k)
    first = np.arange(tokens)[:, None].astype(float)
    if tokens < stride:
        first = first * stride / tokens
    chosen = (first + stride * np.arange(top_k)[None, :]).astype(int) % experts
    own = chosen < experts // ep
    return RankLoad(float(own.sum()), float(len(np.unique(chosen[own]))), float(own.any(axis=1).sum()))


@cache
def power_law(
    tokens: int, experts: int, top_k: int, ep: int, exponent: float, slots: int = 0, *, placed: bool = False
) -> RankLoad:
    """Expected work of the busiest rank, which the collectors make rank 0, when experts' loads follow a power law.

    ``placed``: experts are copied into ``slots`` and put on ranks, heaviest first, each on the least loaded (EPLB).
    Otherwise ranks own consecutive experts.
    """
    generator = np.random.default_rng([SEED, tokens, experts, top_k, ep, slots, round(1000 * exponent)])
    found = []
    for _ in range(DRAWS):
        counts = _draw(generator, tokens, experts, top_k, exponent)
        if placed:
            counts, ranks = _placed(counts, ep, slots or experts)
        else:
            ranks = np.arange(experts) // (experts // ep)
        loads = np.bincount(ranks, weights=counts, minlength=ep)
        own = ranks == int(np.argmax(loads))
        found.append((loads.max(), float((counts[own] >= 0.5).sum()), _reached(counts, own, tokens)))
    rows, groups, reached = np.array(found).T
    return RankLoad(
        float(rows.mean()),
        max(float(groups.mean()), 1.0),
        float(reached.mean()),
        float(rows.std() / rows.mean()),
    )


def uniform_decode(tokens: int, experts: int, top_k: int, ep: int) -> RankLoad:
    """Equal rows for every local expert, rounded down; too few tokens: one row each for as many experts as there are
    rows.
    """
    local, each = experts // ep, tokens * top_k // experts
    if each == 0:
        rows = float(max(tokens * top_k // ep, 1))
        return RankLoad(rows, min(rows, float(local)), rows)
    return RankLoad(float(each * local), float(local), float(min(each * local, tokens)))


def _draw(generator: np.random.Generator, tokens: int, experts: int, top_k: int, exponent: float) -> Array:
    """Rows per expert: power-law shares of all rows, none above one row per token."""
    low, high = (1.0, CAP_SHARE * tokens) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    drawn = (low**power + generator.random(experts) * (high**power - low**power)) ** (1.0 / power)
    counts = np.minimum(np.rint(drawn / drawn.sum() * tokens * top_k), tokens)
    while (missing := int(tokens * top_k - counts.sum())) != 0:
        # what rounding and the cap left over goes to the least loaded, as far as they have room
        # (of equally loaded ones to the first: an unstable sort leaves that to the processor)
        order = np.argsort(counts if missing > 0 else -counts, kind="stable")
        open_ = [at for at in order if (counts[at] < tokens if missing > 0 else counts[at] > 0)]
        share = max(abs(missing) // len(open_), 1)
        for at in open_[: abs(missing)]:
            room = tokens - counts[at] if missing > 0 else counts[at]
            counts[at] += np.sign(missing) * min(share, room)
    result: Array = counts
    return result


def _placed(counts: Array, ep: int, slots: int) -> tuple[Array, NDArray[np.int_]]:
    """(rows per slot, rank per slot) after copying the hottest experts and placing heaviest first."""
    copies = np.ones(len(counts))
    for _ in range(slots - len(counts)):
        copies[int(np.argmax(counts / copies))] += 1
    rows = _whole(np.repeat(counts / copies, copies.astype(int)))
    ranks = np.zeros(slots, dtype=int)
    loads, room = np.zeros(ep), np.full(ep, slots // ep)
    for slot in np.argsort(-rows, kind="stable"):
        rank = int(np.argmin(np.where(room > 0, loads, np.inf)))
        ranks[slot] = rank
        loads[rank] += rows[slot]
        room[rank] -= 1
    return rows, ranks


def _whole(rows: Array) -> Array:
    """Whole rows of the same sum: those with the largest fractions are rounded up."""
    whole = np.floor(rows)
    whole[np.argsort(whole - rows, kind="stable")[: round(float(rows.sum() - whole.sum()))]] += 1.0
    return whole


def _reached(counts: Array, own: NDArray[np.bool_], tokens: int) -> float:
    """Tokens with a row on the rank: experts, heaviest first, take the tokens in turn, round and round."""
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum(counts[order])
    marks = np.zeros(tokens + 1)
    for at, (end, count) in enumerate(zip(ends, counts[order], strict=True)):
        if not own[order[at]] or count < 0.5:
            continue
        start, length = int(end - count) % tokens, min(round(count), tokens)
        marks[start] += 1
        marks[min(start + length, tokens)] -= 1
        if start + length > tokens:
            marks[0] += 1
            marks[start + length - tokens] -= 1
    return float((np.cumsum(marks[:-1]) > 0).sum())
