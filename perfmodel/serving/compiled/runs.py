"""What a replica has under way, as :class:`perfmodel.serving.replica.Replica` plans, cuts and notes it, on arrays."""

import math

import numpy as np

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import times
from perfmodel.serving.compiled.blocks import has_room, prompts, queued, trim
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    LAST,
    NEXT,
    PREVIOUS,
    fresh_of,
    plan_moved,
    plan_out,
    push_back,
    remove,
)
from perfmodel.serving.compiled.lockstep import CROWDED, QUEUED, first_of, plan_decodes
from perfmodel.serving.compiled.state import DECODE, NEVER, NO_PLAN, NONE, OUT, RUN_DONE, State
from perfmodel.serving.sharing import MOST

QUARTERS = 4
"""See :data:`perfmodel.serving.gaps.QUARTERS`."""


# --- notes ----------------------------------------------------------------------------------------------------------


@compiled
def add_gap(s: State, seconds: float, count: int) -> None:
    """So many gaps between outputs, of so many seconds each."""
    m.gap_s(s)[s.num_gaps] = seconds
    m.gap_count(s)[s.num_gaps] = count
    s.num_gaps += 1


@compiled
def joined(s: State, r: int, i: int, now: float) -> None:
    """Its last output came now, and it decodes from now on."""
    m.rows(s)[i].last_output = now
    push_back(m.lists(s), fresh_of(s, r), m.fresh(s), i)


@compiled
def output(s: State, i: int) -> None:
    """A request has an output from its prefill, wherever that was."""
    now, one = s.now, m.rows(s)[i]
    if one.first < 0.0:
        one.first = now
    else:
        add_gap(s, now - one.last_output, 1)


@compiled
def lost_blocks(s: State, r: int, i: int) -> None:
    """A decoding request has lost its blocks: when its last output came."""
    q = m.replicas(s)[r]
    if m.fresh(s)[i, PREVIOUS] == OUT:
        q.steady -= 1
        m.rows(s)[i].last_output = q.steady_s
    else:
        remove(m.lists(s), fresh_of(s, r), m.fresh(s), i)


@compiled
def decoded(s: State, r: int, steps: int, first_end: float, last_end: float) -> None:
    """All running requests have decoded ``steps`` steps."""
    q, which = m.replicas(s)[r], fresh_of(s, r)
    if q.steady:
        add_gap(s, first_end - q.steady_s, q.steady)
    i = m.lists(s)[which, FIRST]
    while i != NONE:
        after = m.fresh(s)[i, NEXT]
        add_gap(s, first_end - m.rows(s)[i].last_output, 1)
        m.fresh(s)[i, PREVIOUS] = OUT
        i = after
    q.steady += m.lists(s)[which, COUNT]
    m.lists(s)[which, FIRST] = NONE
    m.lists(s)[which, LAST] = NONE
    m.lists(s)[which, COUNT] = 0
    q.steady_s = last_end
    q.step += steps


@compiled
def _ran(s: State, r: int, first: float, mean: float, steps: int) -> None:
    """The gaps of a run's steps behind its first."""
    steady = m.replicas(s)[r].steady
    if steps < QUARTERS:
        add_gap(s, mean, steady * steps)
        return
    for part in range(QUARTERS):
        begin, end = steps * part // QUARTERS, steps * (part + 1) // QUARTERS
        from_middle = (begin + end - 1) / 2.0 - (steps - 1) / 2.0
        add_gap(s, mean + (mean - first) * from_middle / (steps / 2.0), steady * (end - begin))


@compiled
def note(s: State, r: int, seconds: float, steps: int, tokens: float, prompt: float, attended: float) -> None:
    """A row of the table of steps."""
    q = m.replicas(s)[r]
    row = m.runs(s)[s.num_runs]
    row[0], row[1], row[2], row[3], row[4], row[5] = q.start, r, seconds, steps, q.waiting, q.held
    row[6], row[7], row[8], row[9], row[10] = q.requests, tokens, prompt, attended, q.even
    s.num_runs += 1


# --- plans ----------------------------------------------------------------------------------------------------------


@compiled
def after(s: State, r: int, seconds: float, kind: int) -> None:
    """Something ends later, instead of what was planned."""
    q = m.replicas(s)[r]
    q.plan, q.plan_time, q.plan_event = kind, s.now + seconds, s.events
    s.events += 1
    if q.place == NONE:
        q.place = s.num_plans
        m.plans(s)[s.num_plans] = r
        s.num_plans += 1
    plan_moved(m.replicas(s), m.plans(s), q.place, s.num_plans)


@compiled
def forget_plan(s: State, r: int) -> None:
    """Nothing is planned."""
    q = m.replicas(s)[r]
    if q.place != NONE:
        plan_out(m.replicas(s), m.plans(s), q.place, s.num_plans)
        s.num_plans -= 1
    q.plan, q.plan_event = NO_PLAN, NEVER


@compiled
def at_the_end(s: State, number: int) -> None:
    """Something is done once everything else of this instant has happened: see :func:`memory.wakes`."""
    m.wakes(s)[(s.first_wake + s.num_wakes) % (s.num_replicas + 1)] = number
    s.num_wakes += 1


@compiled
def soon(s: State, r: int) -> None:
    """It looks for work once everything else of this instant has happened."""
    q = m.replicas(s)[r]
    if q.waking:
        return
    q.waking = 1
    at_the_end(s, r)


@compiled
def wake(s: State, r: int) -> None:
    """Requests may be had: look, or stop at the end of the step under way."""
    q = m.replicas(s)[r]
    if not q.busy:
        soon(s, r)
    elif q.running:
        cut(s, r)


@compiled
def looks_if_told(s: State, r: int) -> None:
    """Keep in ``candidates`` whether it is up and would look for work sooner if it were woken."""
    q = m.replicas(s)[r]
    looks = q.up and (not q.busy or (q.running and q.steps > 1 and not q.cut_short))
    bit = np.uint64(1) << np.uint64(r & 63)
    if looks:
        m.candidates(s)[r >> 6] |= bit
    else:
        m.candidates(s)[r >> 6] &= ~bit


# --- runs of decode steps -------------------------------------------------------------------------------------------


@compiled
def seconds_of(s: State, r: int, steps: int) -> float:
    """Of so many steps of the run under way."""
    q = m.replicas(s)[r]
    late = q.late if steps == q.steps else 0.0
    if steps == 1:
        return q.copying + times.decode_s(s, q.run_times, q.requests, q.tokens, q.even, q.run_stretch) + late
    own = times.decode_run_s(s, q.run_times, q.requests, q.tokens, q.growth, steps, q.even, q.run_stretch)
    return q.copying + own + late


@compiled
def steps_after(s: State, r: int, passed: float) -> int:
    """Steps of a run until the first one that ends ``passed`` seconds after its start, or later; at least one."""
    q = m.replicas(s)[r]
    steps = max(1, min(q.steps, int(passed / seconds_of(s, r, q.steps) * q.steps)))
    while steps < q.steps and seconds_of(s, r, steps) < passed:
        steps += 1
    while steps > 1 and seconds_of(s, r, steps - 1) >= passed:
        steps -= 1
    return steps


@compiled
def polled(s: State, r: int, step: int) -> int:
    """The first step, from ``step`` on, at whose end requests are looked at."""
    poll = m.pool_with(s, r).poll
    return -(-step // poll) * poll


@compiled
def cut(s: State, r: int) -> None:
    """End the run at the end of the step that is under way."""
    q = m.replicas(s)[r]
    if q.steps == 1 or q.cut_short:  # a run that ends with the step under way is cut already
        return
    passed = s.now - q.start
    steps = steps_after(s, r, passed)
    steps = polled(s, r, q.step + steps) - q.step
    if steps < q.steps:
        q.steps, q.cut_short = steps, 1
        looks_if_told(s, r)
        after(s, r, max(0.0, seconds_of(s, r, steps) - passed), RUN_DONE)


@compiled
def settle(s: State, r: int) -> None:
    """Evict what a run's steps up to now have pushed out of the caches, unless that was done in this very step."""
    q = m.replicas(s)[r]
    if q.running == 0 or q.steps == 1 or s.now <= q.step_end:
        return
    steps = steps_after(s, r, s.now - q.start)
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        trim(s, g, q.step + steps)
    q.step_end = q.start + seconds_of(s, r, steps) - 1e-9 * (s.now + 1.0)


@compiled
def keep_run(s: State, r: int) -> None:
    """A run's steps are done: what is kept of them."""
    q = m.replicas(s)[r]
    seconds, first = seconds_of(s, r, q.steps), seconds_of(s, r, 1)
    middle = q.tokens + q.growth * (q.steps - 1) / 2.0
    note(s, r, seconds, q.steps, middle, 0.0, 0.0)
    steps = q.steps
    decoded(s, r, steps, q.start + first, q.start + seconds)
    if steps > 1:
        _ran(s, r, first, (seconds - first) / (steps - 1), steps - 1)


@compiled
def decode_run(s: State, r: int) -> None:
    """Decode steps until a request ends, blocks run out, or another rank becomes the fullest."""
    q, pool = m.replicas(s)[r], m.pool_with(s, r)
    plan_decodes(s, r)
    if pool.poll > 1 and first_of(s, r, QUEUED) != NONE:
        q.steps = min(q.steps, polled(s, r, q.step + 1) - q.step)
    if q.held_at >= 0:
        q.steps = min(q.steps, polled(s, r, q.held_at + pool.hold) - q.step)
    if pool.last_size > pool.sizes and q.requests <= m.sizes(s)[pool.last_size - 1]:
        at = pool.sizes
        while m.sizes(s)[at] < q.requests:
            at += 1
        q.requests = m.sizes(s)[at]
    q.running, q.start, q.run_times, q.run_stretch, q.cut_short = 1, s.now, q.times, q.stretch, 0
    q.copying = copying_s(s, r)
    q.waiting, q.held = q.present - q.taken, q.taken
    q.step_end, q.late = -math.inf, 0.0
    if s.shared and q.pool == DECODE:
        leave_room(s, r, times.room(s, q.times, q.requests, q.even))
    after(s, r, seconds_of(s, r, q.steps), RUN_DONE)


# --- caches on the same wire ----------------------------------------------------------------------------------------


@compiled
def plan_soon(s: State) -> None:
    """Flows are planned anew when this instant is over."""
    if not s.planning:
        s.planning = 1
        at_the_end(s, s.num_replicas)


@compiled
def crowded(s: State, g: int) -> None:
    """A rank's link is shared otherwise than before."""
    plan_soon(s)
    links = m.rank_links(s)[CROWDED]
    if links[g, PREVIOUS] == OUT:
        push_back(m.rank_lists(s), CROWDED * s.num_replicas, links, g)


@compiled
def leave_room(s: State, r: int, room: float) -> None:
    """Steps leave such a share of their ranks' wires to the caches that come over them."""
    q = m.replicas(s)[r]
    if not s.shared or room == q.room:
        return
    q.room = room
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        if m.ranks(s)[g].share > 0.0:
            crowded(s, g)


@compiled
def caches_come(s: State, r: int) -> None:
    """Caches take other shares of a replica's wires: all ranks wait for the one of which they take most."""
    q = m.replicas(s)[r]
    begin, end = m.rank_range(s, r)
    most = 0.0
    for g in range(begin, end):
        most = max(most, m.ranks(s)[g].share)
    stretch = 1.0 / (1.0 - min(most, MOST))
    if stretch != q.stretch:
        if q.running:
            _plan_anew(s, r, stretch)
        q.stretch = stretch


@compiled
def _plan_anew(s: State, r: int, stretch: float) -> None:
    """What is left of the step under way takes another time, and the run ends with it."""
    q = m.replicas(s)[r]
    cut(s, r)
    q.cut_short = 1
    looks_if_told(s, r)
    tokens = q.tokens + q.growth * (q.steps - 1)
    left = max(0.0, q.start + seconds_of(s, r, q.steps) - s.now)
    before = times.decode_s(s, q.run_times, q.requests, tokens, q.even, q.stretch)
    then = times.decode_s(s, q.run_times, q.requests, tokens, q.even, stretch)
    q.late += left * (then / before - 1.0)
    after(s, r, max(0.0, q.start + seconds_of(s, r, q.steps) - s.now), RUN_DONE)


@compiled
def copying_s(s: State, r: int) -> float:
    """Seconds in which caches are copied before a step, of the rank that copies most; asked once per step."""
    swap_s = m.pool_with(s, r).swap_s
    if swap_s < 0.0:
        return 0.0
    most = 0
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        most = max(most, m.ranks(s)[g].copied)
        m.ranks(s)[g].copied = 0
    return most * swap_s


# --- whether prompts are held back ----------------------------------------------------------------------------------


@compiled
def first_has_room(s: State, r: int, g: int) -> bool:
    """Whether the next step could take the first of a rank's queue in."""
    i = m.lists(s)[g, FIRST]
    return has_room(s, g, m.rows(s)[i].prompt, m.replicas(s)[r].step + 1, i)


@compiled
def has_work(s: State, r: int, g: int) -> bool:
    """Whether a rank has a prompt that its next step could carry."""
    return prompts(s, g) > 0 or (queued(s, g) > 0 and first_has_room(s, r, g))


@compiled
def working(s: State, r: int) -> int:
    """How many of a replica's ranks have work."""
    count = 0
    begin, end = m.rank_range(s, r)
    for g in range(begin, end):
        if has_work(s, r, g):
            count += 1
    return count


@compiled
def cut_unless_held(s: State, r: int) -> None:
    """Prompts that are held back wait for all ranks."""
    if m.replicas(s)[r].held_at < 0 or working(s, r) == m.pool_with(s, r).per_replica:
        cut(s, r)
