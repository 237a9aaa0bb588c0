"""The twin's rounds in compiled code: :meth:`perfmodel.overlap.state.State.run`, one scenario after the other.

The same formulas on the same numbers in the same order, so times are equal to the last bit. What is faster: a
scenario's figures lie beside each other, one or two streams go on task by task until something else than taking the
next is to be done, and whether a task may run is asked only where it is new or might not.
"""

from typing import Any, TypeAlias

import numpy as np

from perfmodel.jit import compiled, inlined
from perfmodel.overlap.compiled import KERNEL
from perfmodel.overlap.orders import NOTHING
from perfmodel.overlap.state import LONGEST_PERIOD, SETTLED

Array: TypeAlias = Any

COMPUTES, COMMUNICATES = 1, 2
"""What a stream does, as bits."""
ALONE, LATENCY, COMPUTE, MEMORY, LINK, NETWORK, SHARES, HELD, FIGURES = 0, 1, 2, 3, 4, 5, 6, 10, 11
"""Of a kind of task: time where nothing else runs, latency, parts on the four resources, the shares of its time alone
on them, held SMs."""
BESIDE = 8
"""Scenarios whose figures are read together: a line of the processor's cache holds as many numbers."""
AT, EXPOSED, HELD_UP = -3, -2, -1
"""The end of a mark, behind how far each stream is: the instant, exposed communication and tasks held up so far."""
READY, ASKED, OVER = 1, 2, 3
"""What is known of a stream's next task: it may run; it is to be asked whether it may; there is none."""


@compiled
def _figures(
    start: int,
    beside: int,
    arrays: Array,
    rows: Array,
    fixed: Array,
    held: Array,
    contention: bool,
    own: Array,
    figures: Array,
) -> None:
    """Figures of each kind in some scenarios that follow each other, into ``figures`` [scenarios, kinds, figures]."""
    for kind in range(held.size):
        for figure in range(5):
            row = rows[kind, figure]
            if row < 0:
                for place in range(beside):
                    own[figure, place] = fixed[kind, figure]
            else:
                for place in range(beside):
                    own[figure, place] = arrays[row, start + place]
        holds = held[kind] if contention else 0.0
        for place in range(beside):
            most = max(max(own[1, place], own[2, place]), max(own[3, place], own[4, place]))
            seconds = own[0, place] + most
            figures[place, kind, LATENCY] = own[0, place]
            for resource in range(4):
                part = own[1 + resource, place]
                figures[place, kind, COMPUTE + resource] = part
                figures[place, kind, SHARES + resource] = part / seconds if seconds > 0.0 else 0.0
            slowed = max(figures[place, kind, SHARES] / (1.0 - holds), 1.0)
            figures[place, kind, ALONE] = own[0, place] + max(own[1, place] * slowed, most)
            figures[place, kind, HELD] = holds


@compiled
def _together(figures: Array, kinds: Array, running: Array, count: int, seconds: Array) -> None:
    """Seconds that the task of each of the first ``count`` of ``running`` takes while that set stays as it is, into
    ``seconds`` at its place there: :func:`perfmodel.overlap.contention.shared_seconds`.
    """
    compute, memory, link, network, held = 0.0, 0.0, 0.0, 0.0, 0.0
    for place in range(count):
        kind = kinds[running[place]]
        compute += figures[kind, SHARES]
        memory += figures[kind, SHARES + 1]
        link += figures[kind, SHARES + 2]
        network += figures[kind, SHARES + 3]
        held += figures[kind, HELD]
    compute = max(compute / (1.0 - held), 1.0)
    memory, link, network = max(memory, 1.0), max(link, 1.0), max(network, 1.0)
    for place in range(count):
        kind = kinds[running[place]]
        most = max(
            max(figures[kind, COMPUTE] * compute, figures[kind, MEMORY] * memory),
            max(figures[kind, LINK] * link, figures[kind, NETWORK] * network),
        )
        seconds[place] = figures[kind, LATENCY] + most


@inlined
def _two(figures: Array, one: int, two: int, contention: bool) -> tuple[float, float]:
    """The same of two kinds."""
    if not contention:
        return figures[one, ALONE], figures[two, ALONE]
    held = figures[one, HELD] + figures[two, HELD]
    compute = max((figures[one, SHARES] + figures[two, SHARES]) / (1.0 - held), 1.0)
    memory = max(figures[one, SHARES + 1] + figures[two, SHARES + 1], 1.0)
    link = max(figures[one, SHARES + 2] + figures[two, SHARES + 2], 1.0)
    network = max(figures[one, SHARES + 3] + figures[two, SHARES + 3], 1.0)
    first = max(
        max(figures[one, COMPUTE] * compute, figures[one, MEMORY] * memory),
        max(figures[one, LINK] * link, figures[one, NETWORK] * network),
    )
    second = max(
        max(figures[two, COMPUTE] * compute, figures[two, MEMORY] * memory),
        max(figures[two, LINK] * link, figures[two, NETWORK] * network),
    )
    return figures[one, LATENCY] + first, figures[two, LATENCY] + second


@inlined
def _there(row: int, place: int, turn: int, heads: Array, needs: Array, lengths: Array) -> bool:
    """Whether what a stream's task waits for is done."""
    done = True
    for other in range(lengths.size):
        done = done and heads[other] >= needs[row, place, other] + turn * lengths[other]
    return done


@inlined
def _unwatched(
    row: int,
    plain: Array,
    needs: Array,
    lengths: Array,
    heads: Array,
    places: Array,
    turns: Array,
    there: Array,
) -> int:
    """How many tasks of a stream may end with nothing to do but to take its next one: that may run at once, and no
    other stream waits for what ended.
    """
    count: int = plain[row, places[row]]
    for other in range(lengths.size):
        if there[other] == ASKED:
            need = needs[other, places[other], row] + turns[other] * lengths[row] - heads[row]
            if 0 < need <= count:
                count = need - 1
    return count


@compiled
def _periods(
    mark: int,
    period: int,
    iterations: int,
    lengths: Array,
    first: Array,
    host_row: int,
    host_waits: bool,
    far: Array,
    marks: Array,
) -> int:
    """By how many periods a scenario can be put on: :meth:`perfmodel.overlap.state.State._periods`.

    ``far`` is how far each stream is now, and what else a mark holds.
    """
    before = (mark - period) % LONGEST_PERIOD
    unfelt = marks[before, HELD_UP] == far[HELD_UP]
    fit = float(iterations)
    for row in range(lengths.size):
        total = lengths[row] * iterations
        grown = far[row] - marks[before, row] - period * lengths[row]
        fits = np.floor((total - far[row] + SETTLED) / (period * lengths[row]))
        if not marks[before, row] >= first[row] - SETTLED:
            return 0
        if row == host_row and (far[row] >= total - SETTLED or (grown > SETTLED and not host_waits)):
            if not unfelt:
                return 0
        elif abs(grown) <= SETTLED:
            fit = min(fit, fits)
        else:
            return 0
    return int(fit)


@inlined
def _scenario(
    figures: Array,
    kind_of: Array,
    bound: Array,
    plain: Array,
    needs: Array,
    lengths: Array,
    first: Array,
    roles: Array,
    iterations: int,
    host_row: int,
    host_waits: bool,
    marking: int,
    contention: bool,
    opens: float,
    marks: Array,
    far: Array,
    seconds: Array,
    wait: Array,
    left: Array,
    heads: Array,
    places: Array,
    turns: Array,
    kinds: Array,
    running: Array,
    there: Array,
) -> tuple[float, float, float]:
    """One scenario to its end: the instant, exposed communication so far, the host's end."""
    streams = lengths.size
    exposed, held_up, host_end = 0.0, 0.0, 0.0
    now = min(opens, 0.0)
    shut = opens != 0.0
    for row in range(streams):
        heads[row], places[row], turns[row] = 0, 0, 0
        kinds[row], left[row], there[row] = kind_of[row, 0], 1.0, ASKED
    settled = marking < 0
    a, b = 0, 0
    while True:
        count, opening, doing = 0, np.inf, 0
        for row in range(streams):
            if there[row] != READY:
                if turns[row] >= iterations:
                    there[row] = OVER
                    continue
                if bound[row, places[row]] and not _there(
                    row, places[row], turns[row], heads, needs, lengths
                ):
                    there[row] = ASKED
                    continue
                there[row] = READY
            if shut:
                from_when = opens if row == host_row else 0.0
                if from_when > now:
                    opening = min(opening, from_when)
                    continue
            running[count] = row
            count += 1
            doing |= roles[row]
        ended = 0
        if opening < np.inf or count > 2 or (count > 0 and running[count - 1] == host_row):
            first_end = np.inf
            if contention and count > 1:
                _together(figures, kinds, running, count, seconds)
            else:
                for place in range(count):
                    seconds[place] = figures[kinds[running[place]], ALONE]
            for place in range(count):
                wait[place] = left[running[place]] * seconds[place]
                first_end = min(first_end, wait[place])
            step = first_end
            if opening == np.inf:
                now += step
            else:
                until = opening - now
                step = min(first_end, until)
                now = opening if until <= first_end else now + step
                shut = opens > now or now < 0.0
            if doing == COMMUNICATES:
                exposed += step
            limit = step * (1.0 + 1e-12)
            for place in range(count):
                row = running[place]
                if wait[place] <= limit:
                    ended |= 1 << row
                    left[row] = 0.0
                elif seconds[place] > 0.0:
                    left[row] = max(left[row] - step / seconds[place], 0.0)
                else:
                    left[row] = max(left[row] - 1.0, 0.0)
        elif count == 0:
            break
        else:
            a = running[0]
            place_a, left_a = places[a], left[a]
            ends_a = _unwatched(a, plain, needs, lengths, heads, places, turns, there)
            if count == 1:
                for _ in range(ends_a + 1):
                    step = left_a * figures[kind_of[a, place_a], ALONE]
                    now += step
                    if doing == COMMUNICATES:
                        exposed += step
                    left_a = 1.0
                    place_a += 1
                place_a -= 1
                ended = 1 << a
                left_a = 0.0
            else:
                b = running[1]
                place_b, left_b = places[b], left[b]
                ends_b = _unwatched(b, plain, needs, lengths, heads, places, turns, there)
                one, two = kind_of[a, place_a], kind_of[b, place_b]
                while ended == 0:
                    seconds_a, seconds_b = _two(figures, one, two, contention)
                    wait_a, wait_b = left_a * seconds_a, left_b * seconds_b
                    step = min(wait_a, wait_b)
                    limit = step * (1.0 + 1e-12)
                    now += step
                    if doing == COMMUNICATES:
                        exposed += step
                    if wait_a <= limit:
                        if ends_a == 0:
                            ended |= 1 << a
                            left_a = 0.0
                        else:
                            left_a = 1.0
                            place_a += 1
                            one = kind_of[a, place_a]
                            ends_a -= 1
                    elif seconds_a > 0.0:
                        left_a = max(left_a - step / seconds_a, 0.0)
                    else:
                        left_a = max(left_a - 1.0, 0.0)
                    if wait_b <= limit:
                        if ends_b == 0:
                            ended |= 1 << b
                            left_b = 0.0
                        else:
                            left_b = 1.0
                            place_b += 1
                            two = kind_of[b, place_b]
                            ends_b -= 1
                    elif seconds_b > 0.0:
                        left_b = max(left_b - step / seconds_b, 0.0)
                    else:
                        left_b = max(left_b - 1.0, 0.0)
                heads[b] += place_b - places[b]
                places[b], left[b], kinds[b] = place_b, left_b, two
            heads[a] += place_a - places[a]
            places[a], left[a], kinds[a] = place_a, left_a, kind_of[a, place_a]
        for row in range(streams):
            if (ended >> row) & 1 == 0:
                continue
            if row == host_row:
                host_end = now
                for other in range(streams):
                    if other == row or turns[other] >= iterations:
                        continue
                    if not _there(other, places[other], turns[other], heads, needs, lengths):
                        heads[row] += 1
                        held_up += _there(other, places[other], turns[other], heads, needs, lengths)
                        heads[row] -= 1
            heads[row] += 1
            left[row], there[row] = 1.0, ASKED
            places[row] += 1
            if places[row] == lengths[row]:
                places[row] = 0
                turns[row] += 1
            kinds[row] = kind_of[row, places[row]]
            if settled or row != marking or places[row] != 0:
                continue
            for other in range(streams):
                far[other] = heads[other] + 1.0 - left[other]
            far[AT], far[EXPOSED], far[HELD_UP] = now, exposed, held_up
            mark = turns[row] - 1
            for period in range(1, min(mark, LONGEST_PERIOD) + 1):
                periods = _periods(mark, period, iterations, lengths, first, host_row, host_waits, far, marks)
                if periods == 0:
                    continue
                before = (mark - period) % LONGEST_PERIOD
                later_s = periods * (now - marks[before, AT])
                if host_row >= 0 and heads[host_row] < iterations * lengths[host_row]:
                    host_end += later_s  # what it has done last it does last of all, unless that was all
                now += later_s
                exposed += periods * (exposed - marks[before, EXPOSED])
                for other in range(streams):
                    heads[other] += periods * period * lengths[other]
                    turns[other] += periods * period
                    if heads[other] >= iterations * lengths[other]:  # a host that is ahead
                        heads[other] = iterations * lengths[other]
                        places[other], turns[other], left[other], there[other] = 0, iterations, 1.0, ASKED
                settled = True
                break
            if not settled:
                for figure in range(far.size):
                    marks[mark % LONGEST_PERIOD, figure] = far[figure]
    return now, exposed, host_end


@KERNEL.entry
def run_all(
    arrays: Array,
    rows: Array,
    fixed: Array,
    held: Array,
    kind_of: Array,
    needs: Array,
    lengths: Array,
    first: Array,
    roles: Array,
    iterations: int,
    host_row: int,
    host_waits: bool,
    marking: int,
    contention: bool,
    opens: Array,
    ends: Array,
) -> None:
    """Every scenario from its start to its end.

    ``arrays``, ``rows`` and ``fixed`` are times of kinds of tasks (:mod:`perfmodel.overlap.compiled`), ``held``
    their SMs; ``kind_of`` the kind of each task [streams, places]; what follows as in
    :class:`~perfmodel.overlap.orders.Orders`; ``opens`` when the host is free, one per scenario, or none where it is
    the start; ``ends`` (3, scenarios) is filled.
    """
    streams, size = lengths.size, ends.shape[1]
    bound = np.zeros(kind_of.shape, np.bool_)
    for row in range(streams):
        for place in range(lengths[row]):
            for other in range(streams):
                bound[row, place] = bound[row, place] or needs[row, place, other] > NOTHING
    plain = np.zeros(kind_of.shape, np.int64)  # tasks behind each until one waits or the iteration ends
    for row in range(streams):
        for place in range(lengths[row] - 2, -1, -1):
            if not bound[row, place + 1]:
                plain[row, place] = plain[row, place + 1] + 1
    figures, own = np.empty((BESIDE, held.size, FIGURES)), np.empty((5, BESIDE))
    seconds, wait, left = np.empty(streams), np.empty(streams), np.empty(streams)
    heads, places, turns = (
        np.empty(streams, np.int64),
        np.empty(streams, np.int64),
        np.empty(streams, np.int64),
    )
    kinds, running, there = (
        np.empty(streams, np.int64),
        np.empty(streams, np.int64),
        np.empty(streams, np.int64),
    )
    marks, far = np.empty((LONGEST_PERIOD, streams + 3)), np.empty(streams + 3)
    for start in range(0, size, BESIDE):
        beside = min(BESIDE, size - start)
        _figures(start, beside, arrays, rows, fixed, held, contention, own, figures)
        for place in range(beside):
            scenario = start + place
            ends[0, scenario], ends[1, scenario], ends[2, scenario] = _scenario(
                figures[place], kind_of, bound, plain, needs, lengths, first, roles, iterations, host_row, host_waits,
                marking, contention, opens[scenario] if opens.size else 0.0, marks, far, seconds, wait, left, heads,
                places, turns, kinds, running, there,
            )  # fmt: skip


def compile_all() -> None:
    """What Python calls, as it calls it: for no scenario at all."""
    one, place = np.zeros(1, np.int64), np.zeros((1, 1), np.int64)
    run_all(
        np.zeros((0, 0)), np.zeros((1, 5), np.int64), np.zeros((1, 5)), np.zeros(1), place,
        np.zeros((1, 1, 1), np.int64), one, one, one, 1, -1, False, -1, True, np.zeros(0), np.zeros((3, 0)),
    )  # fmt: skip
