"""The ranks of a replica together: :class:`perfmodel.serving.lockstep.Lockstep` on arrays."""

import math

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.blocks import fits, join, leave, running, safe, tokens_at
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    NEXT,
    PREVIOUS,
    PROMPTS,
    QUEUE,
    RUNNING,
    ends_with,
    ends_without,
    push_back,
    remove,
)
from perfmodel.serving.compiled.state import NONE, OUT, State

DECODING, PROMPTING, QUEUED, ARRIVALS, CROWDED = range(5)


@compiled
def _filed(s: State, r: int, g: int, which: int, has: int) -> None:
    links = m.rank_links(s)[which]
    inside = links[g, PREVIOUS] != OUT
    number = which * s.num_replicas + r
    if has > 0 and not inside:
        push_back(m.rank_lists(s), number, links, g)
    elif has == 0 and inside:
        remove(m.rank_lists(s), number, links, g)


@compiled
def file(s: State, r: int, g: int) -> None:
    """What a rank has may have changed."""
    n = s.num_ranks
    _filed(s, r, g, DECODING, m.lists(s)[RUNNING * n + g, COUNT])
    _filed(s, r, g, PROMPTING, m.lists(s)[PROMPTS * n + g, COUNT])
    _filed(s, r, g, QUEUED, m.lists(s)[QUEUE * n + g, COUNT])


@compiled
def first_of(s: State, r: int, which: int) -> int:
    """The first rank that decodes, has prompts, has a queue, or has got caches."""
    return m.rank_lists(s)[which * s.num_replicas + r, FIRST]


@compiled
def joins(s: State, r: int, g: int, i: int, tokens: int, shared: int, nodes: int) -> None:
    """A request decodes from now on."""
    q = m.replicas(s)[r]
    join(s, g, i, tokens, q.step, shared, nodes)
    q.root = ends_with(m.rows(s), m.ends(s), q.root, i)
    file(s, r, g)


@compiled
def leaves(s: State, r: int, g: int, i: int) -> None:
    """It does no more."""
    q = m.replicas(s)[r]
    q.root = ends_without(m.rows(s), m.ends(s), q.root, i)
    leave(s, g, i)
    file(s, r, g)


@compiled
def _until_full(s: State, g: int, step: int, steps: int) -> int:
    """Most steps, fewer than ``steps``, after which the rank's blocks suffice; 0: not even for one."""
    first = safe(s, g)
    low = 0 if first < step else max(0, min(steps, math.floor(first) - step))
    high = steps
    while high - low > 1:
        middle = (low + high) // 2
        if fits(s, g, step + middle, 0, 0.0):
            low = middle
        else:
            high = middle
    return low


@compiled
def plan_decodes(s: State, r: int) -> None:
    """What runs now, up to the next change, into the replica's record; some must."""
    q = m.replicas(s)[r]
    step = q.step
    steps = m.rows(s)[q.root].finish - step
    last = step + steps
    requests, total = 0, 0
    tokens, growth = 0.0, 0.0
    g = first_of(s, r, DECODING)
    alone = m.rank_links(s)[DECODING, g, NEXT] == NONE
    while g != NONE:
        count = running(s, g)
        total += count
        requests = max(requests, count)
        own = tokens_at(s, g, step)
        k = m.ranks(s)[g]
        if own > tokens or (own == tokens and k.growth > growth):
            tokens, growth = own, k.growth
        if last > safe(s, g) and not fits(s, g, last, 0, 0.0):
            steps = min(steps, max(1, _until_full(s, g, step, steps)))
        g = m.rank_links(s)[DECODING, g, NEXT]
    if steps > 1 and not alone:
        g = first_of(s, r, DECODING)
        while g != NONE:
            k = m.ranks(s)[g]
            if k.growth > growth:
                steps = min(steps, 1 + int((tokens - tokens_at(s, g, step)) / (k.growth - growth)))
            g = m.rank_links(s)[DECODING, g, NEXT]
    q.steps, q.requests, q.tokens, q.growth = steps, requests, tokens, growth
    q.even = total / (m.pool_with(s, r).per_replica * requests)
