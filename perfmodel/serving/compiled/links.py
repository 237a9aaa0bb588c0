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
from perfmodel.serving.compiled.runs import at_the_end
from perfmodel.serving.compiled.state import EMPTIED, HERE, NEVER, NO_PLAN, NONE, OUT, PREFILL, State

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
    _crowded(s, g)


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
            _crowded(s, f.source)
            _crowded(s, f.target)
        if not _is_touched(s, i):
            push_back(m.lists(s), touched(s), m.flow_links(s)[TOUCHED], i)
        _plan_soon(s)
        return
    if _is_active(s, i):
        remove(m.lists(s), FLOWS * n + f.source, m.flow_links(s)[SOURCE], i)
        remove(m.lists(s), FLOWS * n + f.target, m.flow_links(s)[TARGET], i)
        _crowded(s, f.source)
        _crowded(s, f.target)
    if _is_touched(s, i):
        remove(m.lists(s), touched(s), m.flow_links(s)[TOUCHED], i)
    if f.closed:
        _later(s, i, s.latency_s, HERE)


@compiled
def _plan_soon(s: State) -> None:
    """Plan anew when this instant is over."""
    if not s.planning:
        s.planning = 1
        at_the_end(s, s.num_replicas)


@compiled
def _crowded(s: State, g: int) -> None:
    """A link is shared by others than before."""
    _plan_soon(s)
    links = m.rank_links(s)[CROWDED]
    if links[g, PREVIOUS] == OUT:
        push_back(m.rank_lists(s), CROWDED * s.num_replicas, links, g)


@compiled
def _share(s: State, i: int) -> float:
    """Bytes/s at which it can move now; it is active."""
    f, n = m.flows(s)[i], s.num_ranks
    source = m.ranks(s)[f.source].link_bytes_per_s / m.lists(s)[FLOWS * n + f.source, COUNT]
    target = m.ranks(s)[f.target].link_bytes_per_s / m.lists(s)[FLOWS * n + f.target, COUNT]
    return min(f.cap, min(source, target))


@compiled
def plan_all(s: State) -> None:
    """Plan what has changed, and whatever moves faster or slower for it: little, where caps bind."""
    n, crowded, which = s.num_ranks, CROWDED * s.num_replicas, touched(s)
    s.planning = 0
    while m.rank_lists(s)[crowded, FIRST] != NONE:
        g = m.rank_lists(s)[crowded, FIRST]
        remove(m.rank_lists(s), crowded, m.rank_links(s)[CROWDED], g)
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
        _later(s, i, f.left / f.rate, EMPTIED)


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
