"""Replicas that do the same work and the router before them: :class:`perfmodel.serving.pool.Pool` on arrays."""

import numpy as np

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import runs, tree
from perfmodel.serving.compiled.blocks import give_up, has_room_behind_queue, running, wait
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import COUNT, FIRST, NEXT, before, push_back, remove
from perfmodel.serving.compiled.lockstep import file
from perfmodel.serving.compiled.state import CENTRAL, NONE, PREFIX_AWARE, ROUND_ROBIN, Array, State

CACHED_SHARE = 0.5
"""See :data:`perfmodel.serving.pool.CACHED_SHARE`."""


@compiled
def _least(outstanding: Array, begin: int, end: int) -> int:
    best = begin
    for at in range(begin + 1, end):
        if outstanding[at] < outstanding[best]:
            best = at
    return best


@compiled
def _found(s: State, g: int, i: int) -> int:
    return tree.known(s, g, i) if m.pool_of(s, g).caches else 0


@compiled
def _nth_up(s: State, p: int, number: int) -> int:
    pool = m.pools(s)[p]
    if pool.up == pool.replicas:
        return pool.first + number
    for r in range(pool.first, pool.first + pool.replicas):
        if m.replicas(s)[r].up:
            if number == 0:
                return r
            number -= 1
    return NONE


@compiled
def _choose(s: State, p: int, i: int) -> int:
    pool = m.pools(s)[p]
    if pool.up == 1:
        return _nth_up(s, p, 0)
    if pool.router == ROUND_ROBIN:
        pool.turn = (pool.turn + 1) % pool.up
        return _nth_up(s, p, (pool.turn - 1) % pool.up)
    begin, end = pool.first, pool.first + pool.replicas
    if pool.router == PREFIX_AWARE and pool.caches:
        best, most = NONE, NONE
        for r in range(begin, end):
            if m.replicas(s)[r].up:
                first, last = m.rank_range(s, r)
                for g in range(first, last):
                    own = _found(s, g, i)
                    if own > most:
                        best, most = r, own
        if most > CACHED_SHARE * m.rows(s)[i].prompt:
            return best
    if pool.up == pool.replicas:
        return _least(m.outstanding(s), begin, end)
    best = NONE
    for r in range(begin, end):
        if m.replicas(s)[r].up and (best == NONE or m.outstanding(s)[r] < m.outstanding(s)[best]):
            best = r
    return best


@compiled
def _choose_rank(s: State, r: int, i: int) -> int:
    q, pool = m.replicas(s)[r], m.pool_with(s, r)
    begin, end = m.rank_range(s, r)
    if pool.per_replica == 1:
        return begin
    if pool.rank_router == ROUND_ROBIN:
        turn = q.rank_turn
        q.rank_turn = (turn + 1) % pool.per_replica
        return begin + turn
    if pool.rank_router == PREFIX_AWARE and pool.caches:
        best, most = begin, NONE
        for g in range(begin, end):
            own = _found(s, g, i)
            if own > most:
                best, most = g, own
        if most > CACHED_SHARE * m.rows(s)[i].prompt:
            return best
    return _least(m.rank_outstanding(s), begin, end)


@compiled
def _open_rank(s: State, r: int, tokens: int) -> int:
    """Of the ranks whose next step could take a prompt in behind what waits there, the one with least to do; or -1."""
    best, pool = NONE, m.pool_with(s, r)
    step = m.replicas(s)[r].step + 1
    per_decode = pool.per_decode if pool.mixed else 0
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        if best != NONE and m.rank_outstanding(s)[g] >= m.rank_outstanding(s)[best]:
            continue
        if m.ranks(s)[g].promised + per_decode * running(s, g) < pool.budget and has_room_behind_queue(
            s, g, tokens, step
        ):
            best = g
    return best


@compiled
def _offer(s: State, p: int, but: int) -> None:
    """Those that have room for the first of the queue shall look; of the others, none would look sooner."""
    pool = m.pools(s)[p]
    tokens = m.rows(s)[m.lists(s)[before(s, p), FIRST]].prompt
    begin, end = pool.first, pool.first + pool.replicas
    for word in range(begin >> 6, ((end - 1) >> 6) + 1):
        bits = m.candidates(s)[word]
        while bits:
            r = (word << 6) + m.trailing_zeros(bits)
            bits &= bits - np.uint64(1)
            inside = r != but and begin <= r < end
            if inside and (m.replicas(s)[r].present == 0 or _open_rank(s, r, tokens) != NONE):
                runs.wake(s, r)


@compiled
def _enqueue(s: State, i: int, r: int, g: int) -> None:
    """A request waits on a rank; nothing is begun."""
    one, q = m.rows(s)[i], m.replicas(s)[r]
    one.replica, one.rank, one.queued = r, g, s.now
    wait(s, g, i, False)
    file(s, r, g)
    q.present += 1
    s.most_present = max(s.most_present, q.present)
    m.rank_outstanding(s)[g] += one.tokens
    m.outstanding(s)[r] += one.tokens


@compiled
def leaves_queue(s: State, i: int) -> None:
    """It goes elsewhere, and nothing of it is here."""
    one = m.rows(s)[i]
    give_up(s, one.rank, i)
    file(s, one.replica, one.rank)
    m.replicas(s)[one.replica].present -= 1
    m.rank_outstanding(s)[one.rank] -= one.tokens
    m.outstanding(s)[one.replica] -= one.tokens


@compiled
def release(s: State, i: int) -> None:
    """It has ended, or has left this pool."""
    one = m.rows(s)[i]
    q = m.replicas(s)[one.replica]
    q.present -= 1
    q.taken -= 1
    m.rank_outstanding(s)[one.rank] -= one.tokens
    m.outstanding(s)[one.replica] -= one.tokens


@compiled
def submit(s: State, p: int, i: int) -> None:
    """A request comes to a pool: to a replica, or into the queue before them."""
    pool = m.pools(s)[p]
    if pool.up == 0 or pool.router == CENTRAL:
        first = m.lists(s)[before(s, p), COUNT] == 0  # else whoever has room for the first was told of it
        push_back(m.lists(s), before(s, p), m.waits(s), i)
        if pool.up and first:
            _offer(s, p, NONE)
        return
    if pool.caches and (pool.router == PREFIX_AWARE or pool.rank_router == PREFIX_AWARE):
        for r in range(pool.first, pool.first + pool.replicas):
            if m.replicas(s)[r].up:
                runs.settle(s, r)
    r = _choose(s, p, i)
    g = _choose_rank(s, r, i)
    _enqueue(s, i, r, g)
    q = m.replicas(s)[r]
    if not q.busy:
        runs.soon(s, r)
    elif q.running and runs.first_has_room(s, r, g):
        runs.cut_unless_held(s, r)


@compiled
def refill(s: State, r: int) -> None:
    """A replica that looks for work takes what it has room for."""
    p = m.replicas(s)[r].pool
    queue, taken = before(s, p), 0
    while m.lists(s)[queue, COUNT]:
        i = m.lists(s)[queue, FIRST]
        g = _open_rank(s, r, m.rows(s)[i].prompt)
        if g == NONE:
            if taken:
                _offer(s, p, r)
            return
        remove(m.lists(s), queue, m.waits(s), i)
        taken += 1
        _enqueue(s, i, r, g)


@compiled
def drain(s: State, r: int) -> None:
    """It takes no more requests; those that waited there, into ``scratch``."""
    s.num_lost = 0
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        i = m.lists(s)[g, FIRST]
        while i != NONE:
            after, one = m.waits(s)[i, NEXT], m.rows(s)[i]
            if not one.swapped:
                m.scratch(s)[s.num_lost] = i
                s.num_lost += 1
            i = after
    for at in range(s.num_lost):
        leaves_queue(s, m.scratch(s)[at])
