"""A replica's steps: :class:`perfmodel.serving.replica.Replica` on arrays."""

import math

from perfmodel.serving.compiled import handoff, tiers, times
from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.blocks import (
    admit,
    comes_from_elsewhere,
    copied_tokens,
    first_out,
    fits,
    hand_over,
    has_room,
    held,
    keep,
    prefilled,
    queued,
    reserve,
    running,
    safe,
    tokens_at,
    trim,
    unreserve,
    wait,
)
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    ARRIVED,
    FIRST,
    LAST,
    NEXT,
    PREVIOUS,
    PROMPTS,
    RUNNING,
    remove,
)
from perfmodel.serving.compiled.lockstep import (
    ARRIVALS,
    DECODING,
    PROMPTING,
    QUEUED,
    file,
    first_of,
    joins,
    leaves,
)
from perfmodel.serving.compiled.runs import (
    after,
    copying_s,
    decode_run,
    decoded,
    joined,
    leave_room,
    looks_if_told,
    lost_blocks,
    note,
    output,
    working,
)
from perfmodel.serving.compiled.state import DECODE, NONE, OUT, PREFILL, PROMPT_DONE, State

# --- what comes next ------------------------------------------------------------------------------------------------


@compiled
def _holds(s: State, r: int) -> bool:
    """Whether prompts are held back until every rank has one."""
    q, pool = m.replicas(s)[r], m.pool_with(s, r)
    if pool.hold == 0:
        return False
    have = working(s, r)
    if have == 0 or have == pool.per_replica or first_of(s, r, DECODING) == NONE:
        q.held_at = NONE
        return False
    if q.held_at < 0:
        q.held_at = q.step
    if q.step - q.held_at >= pool.hold:
        q.held_at = NONE
        return False
    return True


@compiled
def next_step(s: State, r: int) -> None:
    """Plan what comes at a step's end, requests from outside having been taken."""
    q = m.replicas(s)[r]
    join_arrived(s, r)
    _make_room(s, r)
    looks = q.step % m.pool_with(s, r).poll == 0 or first_of(s, r, DECODING) == NONE
    taken = 0
    if not (looks and _holds(s, r)):
        count = 0
        g = first_of(s, r, PROMPTING)
        while g != NONE:
            m.scratch(s)[count] = g
            count += 1
            g = m.rank_links(s)[PROMPTING, g, NEXT]
        if looks:
            g = first_of(s, r, QUEUED)
            while g != NONE:
                if m.rank_links(s)[PROMPTING, g, PREVIOUS] == OUT:
                    m.scratch(s)[count] = g
                    count += 1
                g = m.rank_links(s)[QUEUED, g, NEXT]
        for at in range(count):
            taken += _take(s, r, m.scratch(s)[at], looks)
    q.busy = 1 if taken or first_of(s, r, DECODING) != NONE else 0
    if q.busy and taken:
        _prompt_step(s, r)
    elif q.busy:
        decode_run(s, r)
    elif q.pool == DECODE:
        leave_room(s, r, 1.0)
    looks_if_told(s, r)


@compiled
def join_arrived(s: State, r: int) -> None:
    """Requests whose caches have come begin to decode."""
    g = first_of(s, r, ARRIVALS)
    while g != NONE:
        which = ARRIVED * s.num_ranks + g
        while m.lists(s)[which, FIRST] != NONE:
            i = m.lists(s)[which, FIRST]
            one = m.rows(s)[i]
            remove(m.lists(s), which, m.waits(s), i)
            unreserve(s, g, i)
            joins(s, r, g, i, one.prompt, 0, 0)
            joined(s, r, i, one.last_output)
        other = m.rank_links(s)[ARRIVALS, g, NEXT]
        remove(m.rank_lists(s), ARRIVALS * s.num_replicas + r, m.rank_links(s)[ARRIVALS], g)
        g = other


@compiled
def _make_room(s: State, r: int) -> None:
    """Preempt where the next step's tokens would not find blocks."""
    step = m.replicas(s)[r].step + 1
    count = 0
    g = first_of(s, r, DECODING)
    while g != NONE:
        if step > safe(s, g):
            m.scratch(s)[count] = g
            count += 1
        g = m.rank_links(s)[DECODING, g, NEXT]
    for at in range(count):
        g = m.scratch(s)[at]
        while running(s, g) and held(s, g) > 1 and not fits(s, g, step, 0, 0.0):
            _preempt(s, r, g)
    if m.pool_with(s, r).caches:
        begin, end = m.rank_range(s, r)
        for g in range(begin, end):
            trim(s, g, step)


@compiled
def stop(s: State, r: int, i: int, kept: bool) -> None:
    """A request decodes no more for now; unless its cache is kept, it is computed again, with the last token."""
    q, one = m.replicas(s)[r], m.rows(s)[i]
    again = 0 if kept else 1
    cached = one.base + one.growth * (q.step - one.start)
    one.prompt = _rounded(cached) + again
    one.steps = one.finish - q.step - again
    lost_blocks(s, r, i)


@compiled
def _rounded(x: float) -> int:
    """The nearest whole number, of two the even one."""
    low = math.floor(x)
    rest = x - low
    if rest > 0.5 or (rest == 0.5 and low % 2 == 1):
        return low + 1
    return low


@compiled
def _preempt(s: State, r: int, g: int) -> None:
    """The youngest loses its blocks."""
    q = m.replicas(s)[r]
    i = m.lists(s)[RUNNING * s.num_ranks + g, LAST]
    one = m.rows(s)[i]
    leaves(s, r, g, i)
    keep(s, g, i, one.nodes, False)
    swaps = m.pool_of(s, g).swap_s >= 0.0
    stop(s, r, i, swaps)
    one.preemptions += 1
    if swaps:
        one.swapped = 1
        m.ranks(s)[g].copied += copied_tokens(s, g, i)
    q.taken -= 1
    one.queued = s.now
    wait(s, g, i, True)
    file(s, r, g)


@compiled
def _take(s: State, r: int, g: int, looks: bool) -> int:
    """Prompts of one rank that the next step works on: how many; if it looks, those that wait are taken in."""
    q, pool = m.replicas(s)[r], m.pool_with(s, r)
    budget, taken = pool.budget, 0
    if pool.mixed:
        budget -= running(s, g) * pool.per_decode
    i = m.lists(s)[PROMPTS * s.num_ranks + g, FIRST]
    while i != NONE and budget > 0:
        one = m.rows(s)[i]
        one.now = min(budget, one.prompt - one.done)
        budget -= one.now
        taken += 1
        i = m.holds(s)[i, NEXT]
    while looks and queued(s, g):
        i = m.lists(s)[g, FIRST]
        one = m.rows(s)[i]
        if one.swapped:
            if not _swap_in(s, r, g, i):
                break
            continue
        if comes_from_elsewhere(s, i):
            if not has_room(s, g, one.prompt, q.step + 1, NONE):
                break
            q.taken += 1
            reserve(s, g, i)
            handoff.reserved(s, i)
            continue
        if budget <= 0 or not has_room(s, g, one.prompt, q.step + 1, i):
            break
        host, storage, state = admit(s, g, i)
        q.taken += 1
        known = m.rows(s)[m.request_of(s, i)]
        if known.scheduled < 0.0:
            known.scheduled = s.now
            known.cached, known.host, known.storage = one.done, host, storage
        if pool.tiers:
            tiers.reads(s, g, i, host, storage, state)
        one.now = min(budget, one.prompt - one.done)
        budget -= one.now
        taken += 1
    file(s, r, g)
    trim(s, g, q.step + 1)
    return taken


@compiled
def _swap_in(s: State, r: int, g: int, i: int) -> bool:
    """Give a request its blocks back, if there are enough: it decodes at once."""
    q, one = m.replicas(s)[r], m.rows(s)[i]
    tokens = one.prompt
    if not has_room(s, g, tokens + math.ceil(one.growth) - 1, q.step + 1, NONE):
        return False
    q.taken += 1
    first_out(s, g, i)
    one.swapped = 0
    joins(s, r, g, i, tokens, 0, 0)
    joined(s, r, i, one.last_output)
    m.ranks(s)[g].copied += copied_tokens(s, g, i)
    return True


# --- steps with prompts ---------------------------------------------------------------------------------------------


@compiled
def _prompt_step(s: State, r: int) -> None:
    """One step that carries prompts; the rank with most sets its time."""
    q, pool = m.replicas(s)[r], m.pool_with(s, r)
    prompt, attended, fullest, total, tokens = 0.0, 0.0, 0.0, 0.0, 0.0
    requests, computed = 0, 0
    for which in range(2):
        if which == 1 and not pool.mixed:
            break
        g = first_of(s, r, PROMPTING if which == 0 else DECODING)
        while g != NONE:
            if which == 0 or m.rank_links(s)[PROMPTING, g, PREVIOUS] == OUT:
                own, pairs = 0, 0.0
                i = m.lists(s)[PROMPTS * s.num_ranks + g, FIRST]
                while i != NONE:
                    one = m.rows(s)[i]
                    own += one.now
                    pairs += one.now * (one.done + one.now / 2.0)
                    i = m.holds(s)[i, NEXT]
                computed += own
                prompt, attended = max(prompt, float(own)), max(attended, pairs)
                count = running(s, g)
                if pool.mixed and count:
                    requests, tokens = max(requests, count), max(tokens, tokens_at(s, g, q.step))
                    own += count * pool.per_decode
                total, fullest = total + own, max(fullest, float(own))
            g = m.rank_links(s)[PROMPTING if which == 0 else DECODING, g, NEXT]
    q.even = total / (fullest * pool.per_replica)
    seconds = times.prompt_s(s, q.times, prompt, attended, requests, tokens, q.even)
    if pool.tiers:
        reading = tiers.reading_s(s, r)
        seconds = max(seconds, reading) if pool.overlapped else seconds + reading
    seconds += copying_s(s, r)
    if s.apart and q.pool == PREFILL:
        _caches_leave(s, r, seconds)
    q.prefilled += computed
    q.start, q.seconds, q.waiting, q.held = s.now, seconds, q.present - q.taken, q.taken
    q.requests, q.tokens, q.prompt, q.attended = requests, tokens, prompt, attended
    after(s, r, seconds, PROMPT_DONE)


@compiled
def _caches_leave(s: State, r: int, seconds: float) -> None:
    """A step of so many seconds begins that computes caches which others wait for."""
    g = first_of(s, r, PROMPTING)
    while g != NONE:
        i = m.lists(s)[PROMPTS * s.num_ranks + g, FIRST]
        while i != NONE:
            one = m.rows(s)[i]
            if one.now:
                found = 0 if one.begun else one.done
                one.begun = 1
                handoff.computing(s, m.request_of(s, i), one.now + found, seconds)
            i = m.holds(s)[i, NEXT]
        g = m.rank_links(s)[PROMPTING, g, NEXT]


@compiled
def note_prompt_step(s: State, r: int) -> bool:
    """A step with prompts is over; whether requests decoded in it too."""
    q = m.replicas(s)[r]
    note(s, r, q.seconds, 1, q.tokens, q.prompt, q.attended)
    if q.requests:
        now = s.now
        decoded(s, r, 1, now, now)
    return q.requests > 0


@compiled
def prompt_is_done(s: State, r: int, g: int, i: int) -> bool:
    """A prompt's end is its request's first output, or its cache leaves; whether it is also its last one."""
    one, now = m.rows(s)[i], s.now
    ends = one.steps == 0
    request = m.request_of(s, i)
    known = m.rows(s)[request]
    known.prefilled = now
    if s.apart and m.replicas(s)[r].pool == PREFILL and not ends:
        hand_over(s, g, i)
        file(s, r, g)
        handoff.computed(s, request)
        return False
    shared, nodes = prefilled(s, g, i)
    output(s, request)
    if not ends:
        joins(s, r, g, i, one.prompt, shared, nodes)
        joined(s, r, i, now)
        return False
    file(s, r, g)
    keep(s, g, i, nodes, True)
    known.end = now
    return True
