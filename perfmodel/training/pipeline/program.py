"""The same step for many scenarios at once: actions in waves, each of which waits for earlier ones alone, and a few
numpy operations per wave. Several schedules of the same stages go through their waves together.

Equals :mod:`perfmodel.training.pipeline.simulate` to rounding (tests): orders are fixed, so a step is a longest path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.training.pipeline.actions import (
    BACKWARD,
    FORWARD,
    INPUT,
    KIND,
    PAIR,
    STAGE,
    WEIGHT,
    Action,
    Ints,
    Schedule,
    actions,
)
from perfmodel.training.pipeline.coded import Coded, coded
from perfmodel.training.pipeline.simulate import DeadlockError
from perfmodel.training.pipeline.times import StageTimes

WAITS = 3
"""What an action waits for: its rank's action before, what its forward, what its backward needs."""


@dataclass(frozen=True, slots=True)
class Program:
    """Schedules, compiled: actions in the order of their waves."""

    waves: tuple[int, ...]
    """First action of every wave, and how many there are."""
    needs: Ints
    """(WAITS, actions): rows of what is known of a run: ends of all actions, the same where they have reached another
    rank, and a row of zeros for what nothing is waited for."""
    kinds: Ints
    """(actions,): its place in ``distinct``."""
    distinct: tuple[tuple[int, Action], ...]
    """One (rank, action) for each set of actions that take equally long."""
    last: tuple[Ints, ...]
    """Of each schedule: the last action of every rank."""


@lru_cache(maxsize=64)
def compiled(schedules: tuple[Schedule, ...]) -> Program:
    """Put actions in waves.

    Raises:
        DeadlockError: orders wait for each other.
    """
    parts = [coded(one) for one in schedules]
    starts = np.cumsum([0, *(len(one.rank) for one in parts)])
    total = int(starts[-1])
    needed = np.full((WAITS, total), total)
    for one, own, start in zip(schedules, parts, starts.tolist(), strict=False):
        before = _before(own, one.num_stages, one.micro_batches)
        nothing = before == len(own.rank)
        needed[:, start : start + len(own.rank)] = np.where(nothing, total, before + start)
    firsts = np.concatenate([own.starts[:-1] + start for own, start in zip(parts, starts, strict=False)])
    ends = np.concatenate([own.starts[1:] + start for own, start in zip(parts, starts, strict=False)])
    order, waves = _waves(firsts, ends, needed, schedules[0].name)
    place = np.empty(total + 1, dtype=np.intp)
    place[order] = np.arange(total)
    place[total] = 2 * total
    ranks = np.concatenate([own.rank for own in parts])
    crosses = (needed[1:] < total) & (ranks != np.append(ranks, -1)[needed[1:]])
    needs = place[needed]
    needs[1:][crosses] += total
    rows = np.concatenate([np.concatenate(one.rows) for one in schedules])
    largest = schedules[0].num_stages + 1
    back = np.concatenate([own.back_stage for own in parts])
    marks = ((ranks * 5 + rows[:, KIND]) * largest + rows[:, STAGE]) * largest + back + 1
    _, first, kinds = np.unique(marks, return_index=True, return_inverse=True)
    return Program(
        waves,
        needs[:, order],
        kinds[order],
        tuple(zip(ranks[first].tolist(), actions(rows[first]), strict=True)),
        tuple(
            place[own.starts[1:] - 1 + start] for own, start in zip(parts, starts.tolist(), strict=False)
        ),
    )


def _before(own: Coded, stages: int, micro_batches: int) -> Ints:
    """(WAITS, actions): indices of what each action waits for; one past the last: nothing."""
    total = len(own.rank)
    number = np.arange(total)
    forwards = np.full((stages + 1, micro_batches), total)
    inputs = np.full((stages + 1, micro_batches), total)
    ahead = (own.kind == FORWARD) | (own.kind == PAIR)
    forwards[own.stage[ahead], own.micro_batch[ahead]] = number[ahead]
    back = (own.kind == INPUT) | (own.kind == BACKWARD) | (own.kind == PAIR)
    inputs[own.back_stage[back], own.back_micro_batch[back]] = number[back]
    found = np.full((WAITS, total), total)
    found[0, 1:] = np.where(own.rank[1:] == own.rank[:-1], number[:-1], total)
    later = ahead & (own.stage > 0)
    found[1, later] = forwards[own.stage[later] - 1, own.micro_batch[later]]
    stage, micro = own.back_stage[back], own.back_micro_batch[back]
    found[2, back] = np.where(stage + 1 < stages, inputs[stage + 1, micro], forwards[stage, micro])
    weight = own.kind == WEIGHT
    found[2, weight] = inputs[own.back_stage[weight], own.back_micro_batch[weight]]
    return found


def _waves(firsts: Ints, ends: Ints, before: Ints, name: str) -> tuple[Ints, tuple[int, ...]]:
    """Actions in order, and where each wave begins: at most one of every rank, when all that it waits for is done.

    Args:
        firsts: each rank's first action.
        ends: one past its last.
        before: as :func:`_before` has it.
        name: of the schedule, for an error.
    """
    total = before.shape[1]
    done = np.zeros(total + 1, dtype=bool)
    done[total] = True
    at = firsts.copy()
    needed = before[1:]
    open_ = np.flatnonzero(at < ends)
    found: list[Ints] = []
    waves = [0]
    while open_.size:
        next_ = at[open_]
        ready = done[needed[0, next_]] & done[needed[1, next_]]
        if not ready.any():
            raise DeadlockError(f"{name}: its orders wait for each other")
        own_wave = next_[ready]
        found.append(own_wave)
        waves.append(waves[-1] + own_wave.size)
        done[own_wave] = True
        at[open_[ready]] += 1
        open_ = open_[at[open_] < ends[open_]]
    return np.concatenate(found), tuple(waves)


def makespans(schedule: Schedule, times: StageTimes) -> Any:
    """Makespan of each scenario, s: a float where times are (stages,), (scenarios,) where they are (stages,
    scenarios).
    """
    return makespans_of((schedule,), times)[0]


def makespans_of(schedules: Sequence[Schedule], times: StageTimes) -> tuple[Any, ...]:
    """:func:`makespans` of schedules that differ in their numbers of micro-batches alone."""
    program = compiled(tuple(schedules))
    durations: Sequence[Any] = [np.asarray(times.seconds(action, rank)) for rank, action in program.distinct]
    transfer = np.asarray(times.transfer_s)
    width = np.broadcast_shapes(transfer.shape, *(duration.shape for duration in durations))
    size = width or (1,)
    takes = np.array([np.broadcast_to(duration, size) for duration in durations])
    total = len(program.kinds)
    known = np.zeros((2 * total + 1, *size))
    for first, last in zip(program.waves, program.waves[1:], strict=False):
        end = known[program.needs[:, first:last]].max(axis=0)
        end += takes[program.kinds[first:last]]
        known[first:last] = end
        np.add(end, transfer, out=known[total + first : total + last])
    found = (known[last].max(axis=0) for last in program.last)
    return tuple(latest if width else float(latest[0]) for latest in found)
