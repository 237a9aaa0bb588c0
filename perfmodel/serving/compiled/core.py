"""A whole run: what arrives when, what happens next, and faults. The only functions that Python calls.

:class:`perfmodel.serving.cluster._Cluster` on arrays. Events are ordered as simpy orders them: by time, then by when
they were planned; what waits for the end of an instant comes after them.
"""

import math
from typing import Any

from perfmodel.serving.compiled import handoff, links, routing, runs, steps, tree
from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.blocks import keep, trim
from perfmodel.serving.compiled.hashed import index_node
from perfmodel.serving.compiled.jit import compiled, entry
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    INCOMING,
    NEXT,
    PROMPTS,
    QUEUE,
    RUNNING,
    SENDING,
    before,
    remove,
    timed_pop,
    timed_push,
)
from perfmodel.serving.compiled.lockstep import PROMPTING, file, first_of, leaves
from perfmodel.serving.compiled.state import (
    ALL_ENDED,
    ARRIVES,
    CENTRAL,
    DECODE,
    DRAINING,
    EMPTIED,
    FULL,
    LOST,
    NEVER,
    NONE,
    OUTSIDE,
    PREFILL,
    PROGRESS,
    PROMPT_DONE,
    STUCK,
    TAKEN_IN,
    UP,
    WORLD,
    Array,
    State,
)


@compiled
def _next(s: State, r: int) -> None:
    if m.replicas(s)[r].up:
        routing.refill(s, r)
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
def _take_in(s: State, i: int) -> None:
    """A request reaches the engines."""
    if s.apart:
        handoff.start(s, i)
    else:
        routing.submit(s, DECODE, i)


@compiled
def _arrive(s: State, i: int) -> None:
    m.rows(s)[i].arrived = s.now
    if not s.delays:
        _take_in(s, i)
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
    routing.release(s, i)
    one = m.rows(s)[m.request_of(s, i)]
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
        i = m.lists(s)[PROMPTS * n + g, FIRST]
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
    if m.pool_with(s, r).caches:
        begin, end = m.rank_range(s, r)
        for g in range(begin, end):
            trim(s, g, q.step + q.steps)
    runs.keep_run(s, r)
    _end_finished(s, r)
    _next(s, r)


@compiled
def _most_at_once(s: State) -> int:
    """Requests that may be at one replica at the next event, and more."""
    most = s.most_present
    for p in range(s.num_pools):
        most += m.lists(s)[before(s, p), COUNT]
    return most


@compiled
def _is_full(s: State) -> bool:
    """Whether a table may be too small for one more event."""
    most = _most_at_once(s)
    return (
        (s.more and s.capped and s.roots_left <= most)
        or s.num_gaps + most + 8 > s.most_gaps
        or s.num_runs + 2 > s.most_runs
        or (s.caches and s.num_nodes + (most + 1) * s.max_path + 1 > s.most_nodes)
    )


@compiled
def _end_of_instant(s: State) -> None:
    """The first of what waits until everything else of this instant has happened."""
    r = m.wakes(s)[s.first_wake]
    s.first_wake = (s.first_wake + 1) % (s.num_replicas + 1)
    s.num_wakes -= 1
    if r == s.num_replicas:
        links.plan_all(s)
        return
    q = m.replicas(s)[r]
    q.waking = 0
    if not q.busy and (q.present or m.lists(s)[before(s, q.pool), COUNT]):  # else it has nothing to find
        _next(s, r)


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
        if s.num_flow_plans:
            f = m.flows(s)[m.flow_plans(s)[0]]
            if (f.plan_time, f.plan_event) < (time, event):
                time, event, source = f.plan_time, f.plan_event, 4
        if (s.outside_time, s.outside_event) < (time, event):
            time, event, source = s.outside_time, s.outside_event, 3
        if s.num_wakes and (source == NONE or time > s.now):
            _end_of_instant(s)
            continue
        if source == NONE:
            return STUCK
        s.now = time
        if source == 0:
            first = s.root_at
            _roots_arrive(s)
            looked -= max(0, s.root_at - first - 1)  # each of a crowd may leave as much as an event
            looked = 0 if s.starved else looked
        elif source == 1:
            one = m.timed(s)[0]
            i, kind = one.row, one.kind
            timed_pop(m.timed(s), s.num_timed)
            s.num_timed -= 1
            if kind == ARRIVES:
                _arrive(s, i)
            else:
                _take_in(s, i)
        elif source == 4:
            i, kind = links.next_end(s)
            if kind == EMPTIED:
                links.emptied(s, i)
            else:
                handoff.arrived(s, i)
        elif source == 2:
            r = m.plans(s)[0]
            kind = m.replicas(s)[r].plan
            runs.forget_plan(s, r)
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
    most = 1 + _most_at_once(s)
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
        whole = runs.steps_after(s, r, s.now - q.start) - 1
        if whole:
            q.steps, q.late = whole, 0.0
            runs.keep_run(s, r)
    runs.forget_plan(s, r)
    q.running, q.busy = 0, 0
    steps.join_arrived(s, r)
    s.num_lost = 0
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        for kind in (RUNNING, INCOMING, PROMPTS, SENDING, QUEUE):
            which = kind * n + g
            while m.lists(s)[which, COUNT]:
                i = m.lists(s)[which, FIRST]
                one = m.rows(s)[i]
                if kind == RUNNING:
                    leaves(s, r, g, i)
                    steps.stop(s, r, i, False)
                elif kind == QUEUE:
                    remove(m.lists(s), which, m.waits(s), i)
                    if one.swapped:
                        one.swapped = 0
                        one.prompt += 1
                        one.steps -= 1
                else:
                    remove(m.lists(s), which, m.holds(s), i)
                m.scratch(s)[s.num_lost] = i
                s.num_lost += 1
        k = m.ranks(s)[g]
        k.prompt_blocks, k.waiting_blocks, k.promised, k.shared, k.beside, k.copied = 0, 0, 0, 0, 0, 0
        k.constant, k.growth, k.from_host, k.from_storage = 0.0, 0.0, 0, 0.0
        if m.pool_with(s, r).caches:
            tree.clear(s, g)
        m.rank_outstanding(s)[g] = 0
        file(s, r, g)
    q.present, q.taken, q.held_at = 0, 0, NONE
    if q.pool == DECODE:
        runs.leave_room(s, r, 1.0)
    m.outstanding(s)[r] = 0


@compiled
def _again(s: State, p: int, i: int) -> None:
    """A request whose replica was lost."""
    if not s.apart:
        routing.submit(s, p, i)
    elif p == PREFILL:
        handoff.prefill_lost(s, m.request_of(s, i))
    else:
        handoff.decode_lost(s, i)


@compiled
def _goes_elsewhere(s: State, p: int, i: int) -> None:
    """A request that waited at a replica which is drained."""
    if not s.apart or p == PREFILL:
        routing.submit(s, p, i)
    else:
        handoff.turned_away(s, i)


@compiled
def _up_again(s: State, r: int) -> None:
    q = m.replicas(s)[r]
    pool, queue = m.pools(s)[q.pool], before(s, q.pool)
    q.up = 1
    pool.up += 1
    runs.looks_if_told(s, r)
    if pool.router == CENTRAL:
        runs.wake(s, r)
        return
    s.num_lost = 0
    while m.lists(s)[queue, COUNT]:
        i = m.lists(s)[queue, FIRST]
        remove(m.lists(s), queue, m.waits(s), i)
        m.scratch(s)[s.num_lost] = i
        s.num_lost += 1
    for at in range(s.num_lost):
        routing.submit(s, q.pool, m.scratch(s)[at])


@entry
def change(world: Array, r: int, times: int, bytes_per_s: float, state: int) -> None:
    """Something happens to a replica: other step times (unless -1), another bandwidth of its first rank's link (unless
    negative), or (unless -1) it is lost, drained or up again.
    """
    s = world[0]
    q = m.replicas(s)[r]
    if times != NONE:
        q.times = times
        if q.running:
            runs.cut(s, r)
    if bytes_per_s >= 0.0 and s.apart:
        links.resize(s, m.rank_range(s, r)[0], bytes_per_s)
    if state == UP:
        _up_again(s, r)
    elif state in (LOST, DRAINING):
        q.up = 0
        m.pools(s)[q.pool].up -= 1
        runs.looks_if_told(s, r)
        if state == LOST:
            _lose(s, r)
        else:
            routing.drain(s, r)
        for at in range(s.num_lost):
            i = m.scratch(s)[at]
            if state == LOST:
                m.rows(s)[m.request_of(s, i)].retries += 1
                _again(s, q.pool, i)
            else:
                _goes_elsewhere(s, q.pool, i)


@entry
def index_nodes(world: Array) -> None:
    """A new hash table learns of all nodes."""
    s = world[0]
    for g in range(s.num_ranks):
        node = m.ranks(s)[g].oldest
        while node != NONE:
            index_node(s, node)
            node = m.nodes(s)[node].newer
    for t in range(s.num_tiers):
        node = m.tiers(s)[t].oldest
        while node != NONE:
            index_node(s, node)
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
    changes.compile((world, numba.int64, numba.int64, numba.float64, numba.int64))
