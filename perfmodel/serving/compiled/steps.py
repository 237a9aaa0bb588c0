"""A replica's steps: :class:`perfmodel.serving.replica.Replica` on arrays, and what it notes."""

import math

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import times
from perfmodel.serving.compiled.blocks import (
    admit,
    first_out,
    fits,
    has_room,
    held,
    keep,
    prefilled,
    prompts,
    queued,
    running,
    safe,
    tokens_at,
    trim,
    wait,
)
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    LAST,
    NEXT,
    PREVIOUS,
    plan_moved,
    plan_out,
    push_back,
    remove,
)
from perfmodel.serving.compiled.lockstep import (
    DECODING,
    PROMPTING,
    QUEUED,
    file,
    first_of,
    joins,
    leaves,
    plan_decodes,
)
from perfmodel.serving.compiled.state import NEVER, NO_PLAN, NONE, OUT, PROMPT_DONE, RUN_DONE, State

QUARTERS = 4
"""See :data:`perfmodel.serving.gaps.QUARTERS`."""


# --- notes ----------------------------------------------------------------------------------------------------------


@compiled
def _add_gap(s: State, seconds: float, count: int) -> None:
    m.gap_s(s)[s.num_gaps] = seconds
    m.gap_count(s)[s.num_gaps] = count
    s.num_gaps += 1


@compiled
def _fresh_list(s: State, r: int) -> int:
    return 3 * s.num_ranks + r


@compiled
def _joined(s: State, r: int, i: int, now: float) -> None:
    """Its last output came now, and it decodes from now on."""
    m.rows(s)[i].last_output = now
    push_back(m.lists(s), _fresh_list(s, r), m.fresh(s), i)


@compiled
def lost_blocks(s: State, r: int, i: int) -> None:
    """A decoding request has lost its blocks: when its last output came."""
    q = m.replicas(s)[r]
    if m.fresh(s)[i, PREVIOUS] == OUT:
        q.steady -= 1
        m.rows(s)[i].last_output = q.steady_s
    else:
        remove(m.lists(s), _fresh_list(s, r), m.fresh(s), i)


@compiled
def _decoded(s: State, r: int, steps: int, first_end: float, last_end: float) -> None:
    """All running requests have decoded ``steps`` steps."""
    q, which = m.replicas(s)[r], _fresh_list(s, r)
    if q.steady:
        _add_gap(s, first_end - q.steady_s, q.steady)
    i = m.lists(s)[which, FIRST]
    while i != NONE:
        after = m.fresh(s)[i, NEXT]
        _add_gap(s, first_end - m.rows(s)[i].last_output, 1)
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
        _add_gap(s, mean, steady * steps)
        return
    for part in range(QUARTERS):
        begin, end = steps * part // QUARTERS, steps * (part + 1) // QUARTERS
        from_middle = (begin + end - 1) / 2.0 - (steps - 1) / 2.0
        _add_gap(s, mean + (mean - first) * from_middle / (steps / 2.0), steady * (end - begin))


@compiled
def _note(
    s: State, r: int, seconds: float, steps: int, tokens: float, prompt: float, attended: float
) -> None:
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
def soon(s: State, r: int) -> None:
    """It looks for work once everything else of this instant has happened."""
    q = m.replicas(s)[r]
    if q.waking:
        return
    q.waking = 1
    m.wakes(s)[(s.first_wake + s.num_wakes) % s.num_replicas] = r
    s.num_wakes += 1


@compiled
def wake(s: State, r: int) -> None:
    """Requests may be had: look, or stop at the end of the step under way."""
    q = m.replicas(s)[r]
    if not q.busy:
        soon(s, r)
    elif q.running:
        cut(s, r)


# --- runs of decode steps -------------------------------------------------------------------------------------------


@compiled
def seconds_of(s: State, r: int, steps: int) -> float:
    """Of so many steps of the run under way."""
    q = m.replicas(s)[r]
    if steps == 1:
        return q.copying + times.decode_s(s, q.run_times, q.requests, q.tokens, q.even)
    return q.copying + times.decode_run_s(s, q.run_times, q.requests, q.tokens, q.growth, steps, q.even)


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
def polled(s: State, step: int) -> int:
    """The first step, from ``step`` on, at whose end requests are looked at."""
    poll = s.poll
    return -(-step // poll) * poll


@compiled
def cut(s: State, r: int) -> None:
    """End the run at the end of the step that is under way."""
    q = m.replicas(s)[r]
    if q.steps == 1 or q.cut_short:  # a run that ends with the step under way is cut already
        return
    passed = s.now - q.start
    steps = steps_after(s, r, passed)
    steps = polled(s, q.step + steps) - q.step
    if steps < q.steps:
        q.steps, q.cut_short = steps, 1
        after(s, r, max(0.0, seconds_of(s, r, steps) - passed), RUN_DONE)


@compiled
def settle(s: State, r: int) -> None:
    """Evict what a run's steps up to now have pushed out of the caches, unless that was done in this very step."""
    q = m.replicas(s)[r]
    if q.running == 0 or q.steps == 1 or s.now <= q.step_end:
        return
    steps = steps_after(s, r, s.now - q.start)
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        trim(s, g, q.step + steps)
    q.step_end = q.start + seconds_of(s, r, steps) - 1e-9 * (s.now + 1.0)


@compiled
def keep_run(s: State, r: int) -> None:
    """A run's steps are done: what is kept of them."""
    q = m.replicas(s)[r]
    seconds, first = seconds_of(s, r, q.steps), seconds_of(s, r, 1)
    middle = q.tokens + q.growth * (q.steps - 1) / 2.0
    _note(s, r, seconds, q.steps, middle, 0.0, 0.0)
    steps = q.steps
    _decoded(s, r, steps, q.start + first, q.start + seconds)
    if steps > 1:
        _ran(s, r, first, (seconds - first) / (steps - 1), steps - 1)


@compiled
def _decode_run(s: State, r: int) -> None:
    """Decode steps until a request ends, blocks run out, or another rank becomes the fullest."""
    q = m.replicas(s)[r]
    plan_decodes(s, r)
    if s.poll > 1 and first_of(s, r, QUEUED) != NONE:
        q.steps = min(q.steps, polled(s, q.step + 1) - q.step)
    if q.held_at >= 0:
        q.steps = min(q.steps, polled(s, q.held_at + s.hold) - q.step)
    if s.num_sizes and q.requests <= m.sizes(s)[s.num_sizes - 1]:
        at = 0
        while m.sizes(s)[at] < q.requests:
            at += 1
        q.requests = m.sizes(s)[at]
    q.running, q.start, q.run_times, q.cut_short = 1, s.now, q.times, 0
    q.copying = _copying_s(s, r)
    q.waiting, q.held = q.present - q.taken, q.taken
    q.step_end = -math.inf
    after(s, r, seconds_of(s, r, q.steps), RUN_DONE)


@compiled
def _copying_s(s: State, r: int) -> float:
    """Seconds in which caches are copied before a step, of the rank that copies most; asked once per step."""
    if s.swap_s < 0.0:
        return 0.0
    most = 0
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        most = max(most, m.ranks(s)[g].copied)
        m.ranks(s)[g].copied = 0
    return most * s.swap_s


# --- what comes next ------------------------------------------------------------------------------------------------


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
def _working(s: State, r: int) -> int:
    count = 0
    for g in range(r * s.per_replica, (r + 1) * s.per_replica):
        if has_work(s, r, g):
            count += 1
    return count


@compiled
def cut_unless_held(s: State, r: int) -> None:
    """Prompts that are held back wait for all ranks."""
    if m.replicas(s)[r].held_at < 0 or _working(s, r) == s.per_replica:
        cut(s, r)


@compiled
def _holds(s: State, r: int) -> bool:
    """Whether prompts are held back until every rank has one."""
    q = m.replicas(s)[r]
    if s.hold == 0:
        return False
    have = _working(s, r)
    if have == 0 or have == s.per_replica or first_of(s, r, DECODING) == NONE:
        q.held_at = NONE
        return False
    if q.held_at < 0:
        q.held_at = q.step
    if q.step - q.held_at >= s.hold:
        q.held_at = NONE
        return False
    return True


@compiled
def next_step(s: State, r: int) -> None:
    """Plan what comes at a step's end, requests from outside having been taken."""
    q = m.replicas(s)[r]
    _make_room(s, r)
    looks = q.step % s.poll == 0 or first_of(s, r, DECODING) == NONE
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
    if not q.busy:
        return
    if taken:
        _prompt_step(s, r)
    else:
        _decode_run(s, r)


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
    if s.caches:
        for g in range(r * s.per_replica, (r + 1) * s.per_replica):
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
    i = m.lists(s)[2 * s.num_ranks + g, LAST]
    one = m.rows(s)[i]
    leaves(s, r, g, i)
    keep(s, g, i, one.nodes, False)
    swaps = s.swap_s >= 0.0
    stop(s, r, i, swaps)
    one.preemptions += 1
    if swaps:
        one.swapped = 1
        m.ranks(s)[g].copied += one.prompt + s.swap_tokens
    q.taken -= 1
    wait(s, g, i, True)
    file(s, r, g)


@compiled
def _take(s: State, r: int, g: int, looks: bool) -> int:
    """Prompts of one rank that the next step works on: how many; if it looks, those that wait are taken in."""
    q = m.replicas(s)[r]
    budget, taken = s.budget, 0
    if s.mixed:
        budget -= running(s, g) * s.per_decode
    i = m.lists(s)[s.num_ranks + g, FIRST]
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
        if budget <= 0 or not has_room(s, g, one.prompt, q.step + 1, i):
            break
        admit(s, g, i)
        q.taken += 1
        if one.scheduled < 0.0:
            one.scheduled = s.now
            one.cached = one.done
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
    _joined(s, r, i, one.last_output)
    m.ranks(s)[g].copied += tokens + s.swap_tokens
    return True


# --- steps with prompts ---------------------------------------------------------------------------------------------


@compiled
def _prompt_step(s: State, r: int) -> None:
    """One step that carries prompts; the rank with most sets its time."""
    q = m.replicas(s)[r]
    prompt, attended, fullest, total, tokens = 0.0, 0.0, 0.0, 0.0, 0.0
    requests, computed = 0, 0
    for which in range(2):
        if which == 1 and not s.mixed:
            break
        g = first_of(s, r, PROMPTING if which == 0 else DECODING)
        while g != NONE:
            if which == 0 or m.rank_links(s)[PROMPTING, g, PREVIOUS] == OUT:
                own, pairs = 0, 0.0
                i = m.lists(s)[s.num_ranks + g, FIRST]
                while i != NONE:
                    one = m.rows(s)[i]
                    own += one.now
                    pairs += one.now * (one.done + one.now / 2.0)
                    i = m.holds(s)[i, NEXT]
                computed += own
                prompt, attended = max(prompt, float(own)), max(attended, pairs)
                count = running(s, g)
                if s.mixed and count:
                    requests, tokens = max(requests, count), max(tokens, tokens_at(s, g, q.step))
                    own += count * s.per_decode
                total, fullest = total + own, max(fullest, float(own))
            g = m.rank_links(s)[PROMPTING if which == 0 else DECODING, g, NEXT]
    q.even = total / (fullest * s.per_replica)
    seconds = times.prompt_s(s, q.times, prompt, attended, requests, tokens, q.even) + _copying_s(s, r)
    q.prefilled += computed
    q.start, q.seconds, q.waiting, q.held = s.now, seconds, q.present - q.taken, q.taken
    q.requests, q.tokens, q.prompt, q.attended = requests, tokens, prompt, attended
    after(s, r, seconds, PROMPT_DONE)


@compiled
def note_prompt_step(s: State, r: int) -> bool:
    """A step with prompts is over; whether requests decoded in it too."""
    q = m.replicas(s)[r]
    _note(s, r, q.seconds, 1, q.tokens, q.prompt, q.attended)
    if q.requests:
        now = s.now
        _decoded(s, r, 1, now, now)
    return q.requests > 0


@compiled
def output(s: State, i: int) -> None:
    """A request has an output from its prefill."""
    now, one = s.now, m.rows(s)[i]
    if one.first < 0.0:
        one.first = now
    else:
        _add_gap(s, now - one.last_output, 1)


@compiled
def prompt_is_done(s: State, r: int, g: int, i: int) -> bool:
    """A prompt's end is its request's first output; whether it is also its last one."""
    one, now = m.rows(s)[i], s.now
    ends = one.steps == 0
    one.prefilled = now
    shared, nodes = prefilled(s, g, i)
    output(s, i)
    if not ends:
        joins(s, r, g, i, one.prompt, shared, nodes)
        _joined(s, r, i, now)
        return False
    file(s, r, g)
    keep(s, g, i, nodes, True)
    one.end = now
    return True
