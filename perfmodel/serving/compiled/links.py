"""Bytes on their way between ranks: :class:`perfmodel.serving.links.Links` on arrays; a flow is a request's row."""

import math

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    FLOWS,
    NEXT,
    PREVIOUS,
    plan_moved,
    plan_out,
    push_back,
    remove,
    touched,
)
from perfmodel.serving.compiled.lockstep import CROWDED
from perfmodel.serving.compiled.runs import caches_come, crowded, plan_soon
from perfmodel.serving.compiled.state import DECODE, EMPTIED, HERE, NEVER, NO_PLAN, NONE, OUT, PREFILL, State

LEFT_BYTES = 1e-3
"""See :data:`perfmodel.serving.links.LEFT_BYTES`."""
SOURCE, TARGET, TOUCHED = range(3)


@compiled
def begin(s: State, i: int, source: int, target: int) -> None:
    """A flow between two ranks that has nothing to move yet."""
    f = m.flows(s)[i]
    f.source, f.target, f.flowing, f.closed = source, target, 1, 0
    f.cap, f.left, f.rate, f.since = 0.0, 0.0, 0.0, 0.0


@compiled
def more(s: State, i: int, size: float, cap: float) -> None:
    """A flow has ``size`` more bytes to move, none faster than ``cap`` bytes/s."""
    f = m.flows(s)[i]
    _advance(s, i)
    f.left += size
    f.cap = cap
    _changed(s, i)


@compiled
def close(s: State, i: int, size: float) -> None:
    """The last ``size`` bytes are there, and nothing caps the flow any more."""
    m.flows(s)[i].closed = 1
    more(s, i, size, math.inf)


@compiled
def cancel(s: State, i: int) -> None:
    """The flow ends and has not arrived."""
    f = m.flows(s)[i]
    _advance(s, i)
    f.left, f.closed = 0.0, 0
    _changed(s, i)
    f.flowing = 0


@compiled
def resize(s: State, g: int, bytes_per_s: float) -> None:
    """A rank's link moves so many bytes/s from now on."""
    m.ranks(s)[g].link_bytes_per_s = bytes_per_s
    crowded(s, g)


@compiled
def emptied(s: State, i: int) -> None:
    """All that it had has been moved."""
    f = m.flows(s)[i]
    f.left = 0.0
    f.since = s.now
    _changed(s, i)


@compiled
def _is_active(s: State, i: int) -> bool:
    return m.flow_links(s)[SOURCE][i, PREVIOUS] != OUT


@compiled
def _is_touched(s: State, i: int) -> bool:
    return m.flow_links(s)[TOUCHED][i, PREVIOUS] != OUT


@compiled
def _changed(s: State, i: int) -> None:
    """Its bytes or cap have changed, and what it was is accounted for."""
    f, n = m.flows(s)[i], s.num_ranks
    _forget_plan(s, i)
    if f.left > LEFT_BYTES:
        if not _is_active(s, i):
            push_back(m.lists(s), FLOWS * n + f.source, m.flow_links(s)[SOURCE], i)
            push_back(m.lists(s), FLOWS * n + f.target, m.flow_links(s)[TARGET], i)
            crowded(s, f.source)
            crowded(s, f.target)
        if not _is_touched(s, i):
            push_back(m.lists(s), touched(s), m.flow_links(s)[TOUCHED], i)
        plan_soon(s)
        return
    if _is_active(s, i):
        remove(m.lists(s), FLOWS * n + f.source, m.flow_links(s)[SOURCE], i)
        remove(m.lists(s), FLOWS * n + f.target, m.flow_links(s)[TARGET], i)
        crowded(s, f.source)
        crowded(s, f.target)
    if _is_touched(s, i):
        remove(m.lists(s), touched(s), m.flow_links(s)[TOUCHED], i)
    if f.closed:
        _later(s, i, s.latency_s, HERE)


@compiled
def _share(s: State, i: int) -> float:
    """Bytes/s at which it can move now; it is active."""
    f, n = m.flows(s)[i], s.num_ranks
    source = m.ranks(s)[f.source].link_bytes_per_s / m.lists(s)[FLOWS * n + f.source, COUNT]
    target, receives = m.ranks(s)[f.target], m.rows(s)[i].replica
    room = target.link_bytes_per_s * m.replicas(s)[receives].room
    return min(f.cap, min(source, room / m.lists(s)[FLOWS * n + f.target, COUNT]))


@compiled
def plan_all(s: State) -> None:
    """Plan what has changed, and whatever moves faster or slower for it: little, where caps bind."""
    n, crowded, which = s.num_ranks, CROWDED * s.num_replicas, touched(s)
    s.planning = 0
    while m.rank_lists(s)[crowded, FIRST] != NONE:
        g = m.rank_lists(s)[crowded, FIRST]
        remove(m.rank_lists(s), crowded, m.rank_links(s)[CROWDED], g)
        m.ranks(s)[g].told = 1
        side = SOURCE if m.ranks(s)[g].pool == PREFILL else TARGET
        i = m.lists(s)[FLOWS * n + g, FIRST]
        while i != NONE:
            if not _is_touched(s, i) and m.flows(s)[i].rate != _share(s, i):
                push_back(m.lists(s), which, m.flow_links(s)[TOUCHED], i)
            i = m.flow_links(s)[side, i, NEXT]
    while m.lists(s)[which, FIRST] != NONE:
        i = m.lists(s)[which, FIRST]
        remove(m.lists(s), which, m.flow_links(s)[TOUCHED], i)
        f = m.flows(s)[i]
        _advance(s, i)
        f.rate = _share(s, i)
        m.ranks(s)[f.target].told = 1
        _later(s, i, f.left / f.rate, EMPTIED)
    if s.shared:
        _tell_replicas(s)


@compiled
def _tell_replicas(s: State) -> None:
    """Decode replicas are told what caches take of their ranks' links, in the ranks' order."""
    pool = m.pools(s)[DECODE]
    for r in range(pool.first, pool.first + pool.replicas):
        begin, end = m.rank_range(s, r)
        told = False
        for g in range(begin, end):
            k = m.ranks(s)[g]
            if not k.told:
                continue
            k.told, told = 0, True
            rate = 0.0
            i = m.lists(s)[FLOWS * s.num_ranks + g, FIRST]
            while i != NONE:
                rate += m.flows(s)[i].rate
                i = m.flow_links(s)[TARGET, i, NEXT]
            k.share = rate / k.link_bytes_per_s
        if told:
            caches_come(s, r)


@compiled
def _advance(s: State, i: int) -> None:
    f = m.flows(s)[i]
    if _is_active(s, i):
        f.left = max(0.0, f.left - f.rate * (s.now - f.since))
    f.since = s.now


@compiled
def _later(s: State, i: int, seconds: float, kind: int) -> None:
    """It ends something later, instead of what was planned."""
    f = m.flows(s)[i]
    f.plan, f.plan_time, f.plan_event = kind, s.now + seconds, s.events
    s.events += 1
    if f.place == NONE:
        f.place = s.num_flow_plans
        m.flow_plans(s)[s.num_flow_plans] = i
        s.num_flow_plans += 1
    plan_moved(m.flows(s), m.flow_plans(s), f.place, s.num_flow_plans)


@compiled
def _forget_plan(s: State, i: int) -> None:
    """Nothing is planned."""
    f = m.flows(s)[i]
    if f.place != NONE:
        plan_out(m.flows(s), m.flow_plans(s), f.place, s.num_flow_plans)
        s.num_flow_plans -= 1
    f.plan, f.plan_event = NO_PLAN, NEVER


@compiled
def next_end(s: State) -> tuple[int, int]:
    """Take out the plan that comes first: the flow, and what it ends."""
    i = m.flow_plans(s)[0]
    kind = m.flows(s)[i].plan
    _forget_plan(s, i)
    return i, kind
