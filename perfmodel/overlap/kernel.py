"""The twin's rounds in compiled code: :meth:`perfmodel.overlap.state.State.run`, one scenario after the other.

The same formulas on the same numbers in the same order, so the arrays that are left are equal to the last bit.
"""

from typing import Any, TypeAlias

import numpy as np

from perfmodel.jit import compiled
from perfmodel.overlap.compiled import KERNEL

Array: TypeAlias = Any

COMPUTES, COMMUNICATES, SHARES, FREE, MARKS, FIRST_SHARING = 1, 2, 4, 8, 16, 32
"""What a stream is, as bits."""
SECONDS, LATENCY, COMPUTE, SHARE, HELD, FIGURES = 0, 1, 2, 6, 10, 11
"""Columns of a task's figures: see :func:`perfmodel.overlap.state._table`."""
BESIDE = 8
"""Scenarios whose figures are read together: a line of the processor's cache holds as many numbers."""


@compiled
def _shared(figures: Array, kinds: Array, running: Array, count: int, contention: bool, alone: Array) -> None:
    """Seconds that the task of each of the first ``count`` of ``running`` takes while that set stays as it is, into
    ``alone`` at its place there.
    """
    if not contention:
        for place in range(count):
            alone[place] = figures[kinds[running[place]], SECONDS]
        return
    compute, memory, link, network, held = 0.0, 0.0, 0.0, 0.0, 0.0
    for place in range(count):
        kind = kinds[running[place]]
        compute += figures[kind, SHARE]
        memory += figures[kind, SHARE + 1]
        link += figures[kind, SHARE + 2]
        network += figures[kind, SHARE + 3]
        held += figures[kind, HELD]
    compute = max(compute / (1.0 - held), 1.0)
    memory, link, network = max(memory, 1.0), max(link, 1.0), max(network, 1.0)
    for place in range(count):
        kind = kinds[running[place]]
        most = max(
            max(figures[kind, COMPUTE] * compute, figures[kind, COMPUTE + 1] * memory),
            max(figures[kind, COMPUTE + 2] * link, figures[kind, COMPUTE + 3] * network),
        )
        alone[place] = figures[kind, LATENCY] + most


@compiled
def _scenario(
    j: int,
    figures: Array,
    queues: Array,
    missing: Array,
    dependents: Array,
    kind_of: Array,
    stream_of: Array,
    roles: Array,
    lengths: Array,
    host_row: int,
    contention: bool,
    closed: Array,
    heads: Array,
    task: Array,
    remaining: Array,
    scalars: Array,
    turn_ends: Array,
    mark_progress: Array,
    marks: Array,
    scratch: Array,
    numbers: Array,
) -> None:
    """Scenario ``j``, whose own figures and counts of missing tasks are ``figures`` and ``missing``, to its end."""
    streams, total, width = lengths.size, dependents.shape[0], dependents.shape[1]
    now, exposed, held_up, host_end = scalars[0, j], scalars[1, j], scalars[2, j], scalars[3, j]
    wait, seconds, left = scratch[0], scratch[1], scratch[2]
    own_heads, own_task, kinds, running = numbers[0], numbers[1], numbers[2], numbers[3]
    left_in_turn, turns = numbers[4], numbers[5]
    shut = False
    for row in range(streams):
        own_heads[row], own_task[row] = 0, queues[row, 0]
        kinds[row] = kind_of[own_task[row]]
        left[row] = 1.0
        left_in_turn[row], turns[row] = lengths[row], 0
        shut = shut or closed[row, j] > now
    while True:
        count, waiting_alone, opens, first = 0, False, np.inf, np.inf
        computes, communicates = False, False
        for row in range(streams):
            if missing[own_task[row]] != 0:
                continue
            if shut and closed[row, j] > now:
                waiting_alone = True
                opens = min(opens, closed[row, j])
                continue
            running[count] = row
            count += 1
            computes = computes or (roles[row] & COMPUTES) != 0
            communicates = communicates or (roles[row] & COMMUNICATES) != 0
        if count == 0 and not waiting_alone:
            break
        _shared(figures, kinds, running, count, contention, seconds)
        for place in range(count):
            wait[place] = left[running[place]] * seconds[place]
            first = min(first, wait[place])
        step = first
        if opens == np.inf:
            if step == np.inf:
                step = 0.0
            now = now + step
        else:
            until = opens - now
            step = min(first, until)
            if step == np.inf:
                step = 0.0
            now = opens if until <= first else now + step
        if communicates and not computes:
            exposed += step
        for place in range(count):  # all advance before any ends
            row = running[place]
            left[row] = max(left[row] - (step / seconds[place] if seconds[place] > 0.0 else 1.0), 0.0)
        for place in range(count):
            if wait[place] > step * (1.0 + 1e-12):
                continue
            row = running[place]
            done = own_task[row]
            for column in range(width):
                waiting = dependents[done, column]
                missing[waiting] -= 1
                if missing[waiting] == 0 and (roles[row] & FREE) != 0 and waiting < total:
                    other = stream_of[waiting]
                    if (roles[other] & SHARES) != 0 and own_task[other] == waiting:
                        held_up += 1.0
            own_heads[row] += 1
            own_task[row] = queues[row, own_heads[row]]
            kinds[row] = kind_of[own_task[row]]
            left[row] = 1.0
            if row == host_row:
                host_end = now
            left_in_turn[row] -= 1
            if left_in_turn[row] != 0:
                continue
            left_in_turn[row] = lengths[row]
            turn = turns[row]
            turns[row] += 1
            if (roles[row] & MARKS) != 0:
                turn_ends[turn, row, j] = now
                if (roles[row] & FIRST_SHARING) != 0:
                    for other in range(streams):
                        mark_progress[turn, other, j] = own_heads[other] + 1.0 - left[other]
                    marks[0, turn, j], marks[1, turn, j] = exposed, held_up
    scalars[0, j], scalars[1, j], scalars[2, j], scalars[3, j] = now, exposed, held_up, host_end
    for row in range(streams):
        heads[row, j], task[row, j], remaining[row, j] = own_heads[row], own_task[row], left[row]


@KERNEL.entry
def run_all(
    table: Array,
    queues: Array,
    missing: Array,
    dependents: Array,
    kind_of: Array,
    stream_of: Array,
    roles: Array,
    lengths: Array,
    host_row: int,
    contention: bool,
    closed: Array,
    heads: Array,
    task: Array,
    remaining: Array,
    scalars: Array,
    turn_ends: Array,
    mark_progress: Array,
    marks: Array,
) -> None:
    """Every scenario from its start to its end. Arrays as in :class:`~perfmodel.overlap.state.State`, but ``missing``
    (tasks + 2,), which is alike in all scenarios at first, ``kind_of`` (tasks + 1,), which column of the table a task
    has, and ``stream_of`` (tasks + 1,), its row; ``scalars`` (4, scenarios): now, exposed, held up, the host's end;
    ``marks`` (2, iterations, scenarios): exposed, held up.
    """
    streams, tasks, size = lengths.size, table.shape[1], table.shape[2]
    figures = np.empty((BESIDE, tasks, FIGURES))
    own_missing = np.empty(missing.size, np.int32)
    scratch, numbers = np.empty((3, streams)), np.empty((6, streams), np.uint32)
    for start in range(0, size, BESIDE):
        beside = min(BESIDE, size - start)
        for figure in range(FIGURES):  # numbers beside each other are read together
            for kind in range(tasks):
                for place in range(beside):
                    figures[place, kind, figure] = table[figure, kind, start + place]
        for place in range(beside):
            own_missing[:] = missing
            _scenario(
                start + place, figures[place], queues, own_missing, dependents, kind_of, stream_of, roles, lengths,
                host_row, contention, closed, heads, task, remaining, scalars, turn_ends, mark_progress, marks,
                scratch, numbers,
            )  # fmt: skip


def compile_all() -> None:
    """What Python calls, as it calls it: for no scenario at all."""
    table, missing, tasks = np.zeros((FIGURES, 1, 0)), np.zeros(3, np.int32), np.zeros((1, 1), np.uint32)
    rows, numbers, marks = np.zeros((1, 0)), np.zeros((1, 0), np.int64), np.zeros((1, 1, 0))
    one, task = np.zeros(1, np.int64), np.zeros(1, np.uint32)
    run_all(
        table, tasks, missing, tasks, task, task, one, one, -1, True, rows, numbers, numbers, rows, np.zeros((4, 0)),
        marks, marks, np.zeros((2, 1, 0)),
    )  # fmt: skip
