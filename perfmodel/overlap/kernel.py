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


@compiled
def _shared(figures: Array, kinds: Array, running: Array, alone: Array, contention: bool) -> None:
    """Seconds that each running stream's task would take if that set stayed as it is, into ``alone``."""
    streams = kinds.size
    if not contention:
        for row in range(streams):
            alone[row] = figures[kinds[row], SECONDS]
        return
    compute, memory, link, network, held = 0.0, 0.0, 0.0, 0.0, 0.0
    for row in range(streams):
        if running[row]:
            own = figures[kinds[row]]
            compute += own[SHARE]
            memory += own[SHARE + 1]
            link += own[SHARE + 2]
            network += own[SHARE + 3]
            held += own[HELD]
    compute = max(compute / (1.0 - held), 1.0)
    memory, link, network = max(memory, 1.0), max(link, 1.0), max(network, 1.0)
    for row in range(streams):
        own = figures[kinds[row]]
        most = max(
            max(own[COMPUTE] * compute, own[COMPUTE + 1] * memory),
            max(own[COMPUTE + 2] * link, own[COMPUTE + 3] * network),
        )
        alone[row] = own[LATENCY] + most


@compiled
def _scenario(
    j: int,
    figures: Array,
    queues: Array,
    missing: Array,
    dependents: Array,
    roles: Array,
    lengths: Array,
    per_iteration: int,
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
    running: Array,
    kinds: Array,
) -> None:
    """Scenario ``j``, whose own figures and counts of missing tasks are ``figures`` and ``missing``, to its end."""
    streams, total = lengths.size, dependents.shape[0]
    now, exposed, held_up, host_end = scalars[0, j], scalars[1, j], scalars[2, j], scalars[3, j]
    wait, seconds, left = scratch[0], scratch[1], scratch[2]
    own_heads, own_task = np.zeros(streams, np.int64), np.zeros(streams, np.int64)
    for row in range(streams):
        own_task[row] = queues[row, 0]
        kinds[row] = own_task[row] % per_iteration if own_task[row] < total else per_iteration
        left[row] = 1.0
    while True:
        ready, opens, first = False, np.inf, np.inf
        for row in range(streams):
            running[row] = missing[own_task[row]] == 0
            ready = ready or running[row]
            if running[row] and closed[row, j] > now:
                running[row] = False
                opens = min(opens, closed[row, j])
        if not ready:
            break
        _shared(figures, kinds, running, seconds, contention)
        for row in range(streams):
            wait[row] = left[row] * seconds[row] if running[row] else np.inf
            first = min(first, wait[row])
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
        computes, communicates = False, False
        for row in range(streams):
            if running[row]:
                computes = computes or (roles[row] & COMPUTES) != 0
                communicates = communicates or (roles[row] & COMMUNICATES) != 0
        if communicates and not computes:
            exposed += step
        for row in range(streams):  # all advance before any ends
            if running[row]:
                left[row] = max(left[row] - (step / seconds[row] if seconds[row] > 0.0 else 1.0), 0.0)
        for row in range(streams):
            if not (running[row] and wait[row] <= step * (1.0 + 1e-12)):
                continue
            for waiting in dependents[own_task[row]]:
                missing[waiting] -= 1
                if (roles[row] & FREE) != 0 and waiting < total and missing[waiting] == 0:
                    for other in range(streams):
                        if (roles[other] & SHARES) != 0 and own_task[other] == waiting:
                            held_up += 1.0
            own_heads[row] += 1
            own_task[row] = queues[row, own_heads[row]]
            kinds[row] = own_task[row] % per_iteration if own_task[row] < total else per_iteration
            left[row] = 1.0
            if row == host_row:
                host_end = now
            if (roles[row] & MARKS) != 0 and own_heads[row] % lengths[row] == 0:
                turn = own_heads[row] // lengths[row] - 1
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
    """Every scenario from its start to its end. Arrays as in :class:`~perfmodel.overlap.state.State`; ``scalars``
    (4, scenarios): now, exposed, held up, the host's end; ``marks`` (2, iterations, scenarios): exposed, held up.
    """
    streams, tasks, size = lengths.size, table.shape[1], table.shape[2]
    figures = np.empty((tasks, FIGURES))
    own_missing = np.empty(missing.shape[0], np.int64)
    scratch, running = np.empty((3, streams)), np.zeros(streams, np.bool_)
    kinds = np.zeros(streams, np.int64)
    for j in range(size):
        for kind in range(tasks):
            for figure in range(FIGURES):
                figures[kind, figure] = table[figure, kind, j]
        for number in range(own_missing.size):
            own_missing[number] = missing[number, j]
        _scenario(
            j, figures, queues, own_missing, dependents, roles, lengths, tasks - 1, host_row, contention, closed,
            heads, task, remaining, scalars, turn_ends, mark_progress, marks, scratch, running, kinds,
        )  # fmt: skip


def compile_all() -> None:
    """What Python calls, as it calls it: for no scenario at all."""
    table, queues, missing = np.zeros((FIGURES, 1, 0)), np.zeros((1, 1), np.int64), np.zeros((3, 0), np.int16)
    rows, numbers, marks = np.zeros((1, 0)), np.zeros((1, 0), np.int64), np.zeros((1, 1, 0))
    one = np.zeros(1, np.int64)
    run_all(
        table, queues, missing, np.zeros((1, 1), np.int64), one, one, -1, True, rows, numbers, numbers, rows,
        np.zeros((4, 0)), marks, marks, np.zeros((2, 1, 0)),
    )  # fmt: skip
