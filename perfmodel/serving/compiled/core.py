"""A whole run: what arrives when, which replica has it, what happens next. The only functions that Python calls.

:class:`perfmodel.serving.cluster._Cluster` and :class:`perfmodel.serving.pool.Pool` on arrays. Events are ordered as
simpy orders them: by time, then by when they were planned; what waits for the end of an instant comes after them.
"""

import math
from typing import Any

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import steps, tree
from perfmodel.serving.compiled.blocks import give_up, has_room_behind_queue, keep, running, trim, wait
from perfmodel.serving.compiled.jit import compiled, entry
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    NEXT,
    push_back,
    remove,
    timed_pop,
    timed_push,
)
from perfmodel.serving.compiled.lockstep import PROMPTING, file, first_of, leaves
from perfmodel.serving.compiled.state import (
    ALL_ENDED,
    ARRIVES,
    CENTRAL,
    DRAINING,
    FULL,
    LOST,
    NEVER,
    NONE,
    OUTSIDE,
    PREFIX_AWARE,
    PROGRESS,
    PROMPT_DONE,
    ROUND_ROBIN,
    STUCK,
    TAKEN_IN,
    UP,
    WORLD,
    Array,
    State,
)

CACHED_SHARE = 0.5
"""See :data:`perfmodel.serving.pool.CACHED_SHARE`."""


# --- routing --------------------------------------------------------------------------------------------------------


@compiled
def _queue(s: State) -> int:
    """The list of those that wait before all replicas."""
    return 3 * s.num_ranks + s.num_replicas


@compiled
def _least(outstanding: Array, begin: int, end: int) -> int:
    best = begin
    for at in range(begin + 1, end):
        if outstanding[at] < outstanding[best]:
            best = at
    return best


@compiled
def _found(s: State, g: int, i: int) -> int:
    return tree.found(s, g, i)[0] if s.caches else 0


@compiled
def _nth_up(s: State, number: int) -> int:
    for r in range(s.num_replicas):
        if m.replicas(s)[r].up:
            if number == 0:
                return r
            number -= 1
    return NONE


@compiled
def _choose(s: State, i: int) -> int:
    if s.up == 1:
        return _nth_up(s, 0)
    if s.router == ROUND_ROBIN:
        s.turn = (s.turn + 1) % s.up
        return _nth_up(s, (s.turn - 1) % s.up) if s.up < s.num_replicas else (s.turn - 1) % s.up
    if s.router == PREFIX_AWARE and s.caches:
        best, most = NONE, NONE
        for r in range(s.num_replicas):
            if m.replicas(s)[r].up:
                for g in range(r * s.per_replica, (r + 1) * s.per_replica):
                    own = _found(s, g, i)
                    if own > most:
                        best, most = r, own
        if most > CACHED_SHARE * m.rows(s)[i].prompt:
            return best
    if s.up == s.num_replicas:
        return _least(m.outstanding(s), 0, s.num_replicas)
    best = NONE
    for r in range(s.num_replicas):
        if m.replicas(s)[r].up and (best == NONE or m.outstanding(s)[r] < m.outstanding(s)[best]):
            best = r
    return best


@compiled
def _choose_rank(s: State, r: int, i: int) -> int:
    q = m.replicas(s)[r]
    begin, end = r * s.per_replica, (r + 1) * s.per_replica
    if s.per_replica == 1:
        return begin
    if s.rank_router == ROUND_ROBIN:
        turn = q.rank_turn
        q.rank_turn = (turn + 1) % s.per_replica
        return begin + turn
    if s.rank_router == PREFIX_AWARE and s.caches:
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
    best = NONE
    step = m.replicas(s)[r].step + 1
    per_decode = s.per_decode if s.mixed else 0
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        if best != NONE and m.rank_outstanding(s)[g] >= m.rank_outstanding(s)[best]:
            continue
        if m.ranks(s)[g].promised + per_decode * running(s, g) < s.budget and has_room_behind_queue(
            s, g, tokens, step
        ):
            best = g
    return best


@compiled
def _offer(s: State, but: int) -> None:
    """Those that have room for the first of the queue shall look."""
    tokens = m.rows(s)[m.lists(s)[_queue(s), FIRST]].prompt
    for r in range(s.num_replicas):
        q = m.replicas(s)[r]
        waits = q.busy and (
            q.running == 0 or q.steps == 1 or q.cut_short
        )  # it looks at its step's end anyway
        if r != but and q.up and not waits and _open_rank(s, r, tokens) != NONE:
            steps.wake(s, r)


@compiled
def _enqueue(s: State, i: int, r: int, g: int) -> None:
    """A request waits on a rank; nothing is begun."""
    one = m.rows(s)[i]
    one.replica, one.rank = r, g
    wait(s, g, i, False)
    file(s, r, g)
    m.replicas(s)[r].present += 1
    m.rank_outstanding(s)[g] += one.tokens
    m.outstanding(s)[r] += one.tokens


@compiled
def _submit(s: State, i: int) -> None:
    """A request comes: to a replica, or into the queue before them."""
    if s.up == 0 or s.router == CENTRAL:
        push_back(m.lists(s), _queue(s), m.waits(s), i)
        if s.up:
            _offer(s, NONE)
        return
    if s.caches and (s.router == PREFIX_AWARE or s.rank_router == PREFIX_AWARE):
        for r in range(s.num_replicas):
            if m.replicas(s)[r].up:
                steps.settle(s, r)
    r = _choose(s, i)
    g = _choose_rank(s, r, i)
    _enqueue(s, i, r, g)
    q = m.replicas(s)[r]
    if not q.busy:
        steps.soon(s, r)
    elif q.running and steps.first_has_room(s, r, g):
        steps.cut_unless_held(s, r)


@compiled
def _refill(s: State, r: int) -> None:
    """A replica that looks for work takes what it has room for."""
    queue, taken = _queue(s), 0
    while m.lists(s)[queue, COUNT]:
        i = m.lists(s)[queue, FIRST]
        g = _open_rank(s, r, m.rows(s)[i].prompt)
        if g == NONE:
            if taken:
                _offer(s, r)
            return
        remove(m.lists(s), queue, m.waits(s), i)
        taken += 1
        _enqueue(s, i, r, g)


@compiled
def _next(s: State, r: int) -> None:
    if m.replicas(s)[r].up:
        _refill(s, r)
    steps.next_step(s, r)


# --- requests come and go -------------------------------------------------------------------------------------------


@compiled
def _later(s: State, seconds: float, i: int, kind: int) -> None:
    timed_push(m.timed(s), s.num_timed, s.now + seconds, s.events, i, kind)
    s.events += 1
    s.num_timed += 1


@compiled
def _next_root(s: State) -> int:
    """The next request that is nobody's follower; -1: there is none."""
    while s.root_at < s.n and not m.rows(s)[s.root_at].root:
        s.root_at += 1
    if s.root_at == s.n:
        return NONE
    s.root_at += 1
    s.roots_left -= 1
    return s.root_at - 1


@compiled
def _slot_free(s: State) -> None:
    """A slot of the closed loop sends the next session."""
    i = _next_root(s)
    if i != NONE:
        one = m.rows(s)[i]
        _later(s, max(0.0, max(one.think, one.pause - s.now)), i, ARRIVES)


@compiled
def _arrive(s: State, i: int) -> None:
    m.rows(s)[i].arrived = s.now
    if not s.delays:
        _submit(s, i)
        return
    s.front_free = max(s.now, s.front_free) + s.front_serial
    _later(s, s.front_free - s.now + s.front_latency, i, TAKEN_IN)


@compiled
def _roots_arrive(s: State) -> None:
    """All that come now, and when the next one does; where the table ends before all of them, it is asked for more."""
    i = s.first_root
    while True:
        if i != NONE:
            _arrive(s, i)
        i = _next_root(s)
        if i == NONE:
            s.root_event = NEVER
            s.starved = s.more
            return
        ahead = m.rows(s)[i].pause - s.now
        if ahead > 0.0:
            s.first_root, s.root_time, s.root_event = i, s.now + ahead, s.events
            s.events += 1
            return


@compiled
def _ended(s: State, i: int) -> None:
    """A request has its last token."""
    one = m.rows(s)[i]
    r, g = one.replica, one.rank
    m.replicas(s)[r].present -= 1
    m.replicas(s)[r].taken -= 1
    m.rank_outstanding(s)[g] -= one.tokens
    m.outstanding(s)[r] -= one.tokens
    s.ended += 1
    if one.child != NONE:
        _later(s, max(0.0, m.rows(s)[one.child].pause), one.child, ARRIVES)
    elif s.capped:
        _slot_free(s)


# --- steps end ------------------------------------------------------------------------------------------------------


@compiled
def _end_finished(s: State, r: int) -> None:
    """Take out requests whose last token has come."""
    q, now = m.replicas(s)[r], s.now
    while q.root != NONE and m.rows(s)[q.root].finish <= q.step:
        i = q.root
        one = m.rows(s)[i]
        leaves(s, r, one.rank, i)
        q.steady -= 1
        keep(s, one.rank, i, one.nodes, True)
        one.end = now
        _ended(s, i)


@compiled
def _prompt_done(s: State, r: int) -> None:
    if steps.note_prompt_step(s, r):
        _end_finished(s, r)
    n = s.num_ranks
    g = first_of(s, r, PROMPTING)
    while g != NONE:
        after = m.rank_links(s)[PROMPTING, g, NEXT]
        i = m.lists(s)[n + g, FIRST]
        while i != NONE:
            other, one = m.holds(s)[i, NEXT], m.rows(s)[i]
            if one.now:
                one.done += one.now
                m.ranks(s)[g].promised -= one.now
                one.now = 0
                if one.done == one.prompt and steps.prompt_is_done(s, r, g, i):
                    _ended(s, i)
            i = other
        g = after
    _next(s, r)


@compiled
def _run_done(s: State, r: int) -> None:
    q = m.replicas(s)[r]
    q.running = 0
    if s.caches:
        for g in range(r * s.per_replica, (r + 1) * s.per_replica):
            trim(s, g, q.step + q.steps)
    steps.keep_run(s, r)
    _end_finished(s, r)
    _next(s, r)


@compiled
def _is_full(s: State) -> bool:
    """Whether a table may be too small for one more event."""
    most = 0
    for r in range(s.num_replicas):
        most = max(most, m.replicas(s)[r].present)
    most += m.lists(s)[_queue(s), COUNT]
    return (
        (s.more and s.capped and s.roots_left <= most)
        or s.num_gaps + most + 8 > s.most_gaps
        or s.num_runs + 2 > s.most_runs
        or (s.caches and s.num_nodes + (most + 1) * s.max_path + 1 > s.most_nodes)
    )


@entry
def advance(world: Array) -> int:
    """Go on until something has to be said or done outside: see :mod:`perfmodel.serving.compiled.state`."""
    s = world[0]
    if s.starved and s.root_at < s.n:  # go on where the last table ended
        s.starved, s.first_root = 0, NONE
        _roots_arrive(s)
    looked = 0
    while s.ended < s.total:
        if looked <= 0:
            if s.starved or _is_full(s):
                return FULL
            looked = 1 + _events_before_full(s)
        looked -= 1
        if s.progress and s.ended - s.told >= s.progress:
            s.told = s.ended
            return PROGRESS
        time, event, source = s.root_time, s.root_event, 0
        if s.root_event == NEVER:
            time, source = math.inf, NONE
        if s.num_timed:
            one = m.timed(s)[0]
            if (one.time, one.event) < (time, event):
                time, event, source = one.time, one.event, 1
        if s.num_plans:
            q = m.replicas(s)[m.plans(s)[0]]
            if (q.plan_time, q.plan_event) < (time, event):
                time, event, source = q.plan_time, q.plan_event, 2
        if (s.outside_time, s.outside_event) < (time, event):
            time, event, source = s.outside_time, s.outside_event, 3
        if s.num_wakes and (source == NONE or time > s.now):
            r = m.wakes(s)[s.first_wake]
            s.first_wake = (s.first_wake + 1) % s.num_replicas
            s.num_wakes -= 1
            m.replicas(s)[r].waking = 0
            if not m.replicas(s)[r].busy:
                _next(s, r)
            continue
        if source == NONE:
            return STUCK
        s.now = time
        if source == 0:
            before = s.root_at
            _roots_arrive(s)
            looked -= max(0, s.root_at - before - 1)  # each of a crowd may leave as much as an event
            looked = 0 if s.starved else looked
        elif source == 1:
            one = m.timed(s)[0]
            i, kind = one.row, one.kind
            timed_pop(m.timed(s), s.num_timed)
            s.num_timed -= 1
            if kind == ARRIVES:
                _arrive(s, i)
            else:
                _submit(s, i)
        elif source == 2:
            r = m.plans(s)[0]
            kind = m.replicas(s)[r].plan
            steps.forget_plan(s, r)
            if kind == PROMPT_DONE:
                _prompt_done(s, r)
            else:
                _run_done(s, r)
        else:
            s.outside_time, s.outside_event = math.inf, NEVER
            return OUTSIDE
    return ALL_ENDED


@compiled
def _events_before_full(s: State) -> int:
    """Events that surely find room for what they leave."""
    most = 1
    for r in range(s.num_replicas):
        most = max(most, m.replicas(s)[r].present)
    most += m.lists(s)[_queue(s), COUNT]
    count = min((s.most_gaps - s.num_gaps) // (most + 64 + 8), s.most_runs - s.num_runs - 2)
    if s.caches:
        count = min(count, (s.most_nodes - s.num_nodes) // ((most + 64) * s.max_path + 1))
    if s.more and s.capped:
        count = min(count, s.roots_left // (most + 64))
    return max(0, min(count - 1, 64))


# --- from outside ---------------------------------------------------------------------------------------------------


@compiled
def _lose(s: State, r: int) -> None:
    """Everything that is there is lost, the step under way too; its requests, in order, into ``scratch``."""
    q, n = m.replicas(s)[r], s.num_ranks
    if q.running:
        whole = steps.steps_after(s, r, s.now - q.start) - 1
        if whole:
            q.steps = whole
            steps.keep_run(s, r)
    steps.forget_plan(s, r)
    q.running, q.busy = 0, 0
    s.num_lost = 0
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        for which in (2 * n + g, n + g, g):
            while m.lists(s)[which, COUNT]:
                i = m.lists(s)[which, FIRST]
                one = m.rows(s)[i]
                if which == 2 * n + g:
                    leaves(s, r, g, i)
                    steps.stop(s, r, i, False)
                elif which == n + g:
                    remove(m.lists(s), which, m.holds(s), i)
                else:
                    remove(m.lists(s), which, m.waits(s), i)
                    if one.swapped:
                        one.swapped = 0
                        one.prompt += 1
                        one.steps -= 1
                m.scratch(s)[s.num_lost] = i
                s.num_lost += 1
        k = m.ranks(s)[g]
        k.prompt_blocks, k.waiting_blocks, k.promised, k.shared, k.copied = 0, 0, 0, 0, 0
        k.constant, k.growth = 0.0, 0.0
        if s.caches:
            tree.clear(s, g)
        m.rank_outstanding(s)[g] = 0
        file(s, r, g)
    q.present, q.taken, q.held_at = 0, 0, NONE
    m.outstanding(s)[r] = 0


@compiled
def _drain(s: State, r: int) -> None:
    """It takes no more requests; those that waited there, into ``scratch``."""
    q = m.replicas(s)[r]
    s.num_lost = 0
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        i = m.lists(s)[g, FIRST]
        while i != NONE:
            after, one = m.waits(s)[i, NEXT], m.rows(s)[i]
            if not one.swapped:
                m.scratch(s)[s.num_lost] = i
                s.num_lost += 1
            i = after
    for at in range(s.num_lost):
        i = m.scratch(s)[at]
        one = m.rows(s)[i]
        give_up(s, one.rank, i)
        file(s, r, one.rank)
        q.present -= 1
        m.rank_outstanding(s)[one.rank] -= one.tokens
        m.outstanding(s)[r] -= one.tokens


@compiled
def _submit_again(s: State) -> None:
    for at in range(s.num_lost):
        _submit(s, m.scratch(s)[at])


@entry
def change(world: Array, r: int, times: int, state: int) -> None:
    """Something happens to a replica: other step times (unless -1), or (unless -1) it is lost, drained or up again."""
    s = world[0]
    q, queue = m.replicas(s)[r], _queue(s)
    if times != NONE:
        q.times = times
        if q.running:
            steps.cut(s, r)
    if state == UP:
        q.up = 1
        s.up += 1
        if s.router == CENTRAL:
            steps.wake(s, r)
            return
        s.num_lost = 0
        while m.lists(s)[queue, COUNT]:
            i = m.lists(s)[queue, FIRST]
            remove(m.lists(s), queue, m.waits(s), i)
            m.scratch(s)[s.num_lost] = i
            s.num_lost += 1
        _submit_again(s)
    elif state in (LOST, DRAINING):
        q.up = 0
        s.up -= 1
        if state == LOST:
            _lose(s, r)
            for at in range(s.num_lost):
                m.rows(s)[m.scratch(s)[at]].retries += 1
        else:
            _drain(s, r)
        _submit_again(s)


@entry
def index_nodes(world: Array) -> None:
    """A new hash table learns of all nodes."""
    s = world[0]
    for g in range(s.num_ranks):
        node = m.ranks(s)[g].oldest
        while node != NONE:
            tree.index_node(s, node)
            node = m.nodes(s)[node].newer


@entry
def begin(world: Array) -> None:
    """The first arrivals."""
    s = world[0]
    if not s.capped:
        s.first_root = NONE
        _roots_arrive(s)
        return
    for _ in range(s.capped):
        _slot_free(s)


def compile_all() -> None:
    """Every function that Python calls, as it calls it."""
    import numba
    import numpy as np

    world = numba.typeof(np.zeros(1, WORLD))
    entries: list[Any] = [begin, advance, index_nodes]
    for function in entries:
        function.compile((world,))
    changes: Any = change
    changes.compile((world, numba.int64, numba.int64, numba.int64))
