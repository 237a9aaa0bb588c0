"""The same step for many scenarios at once: actions in waves, each of which waits for earlier ones alone, and a few
numpy operations per wave.

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
    KINDS,
    PAIR,
    WEIGHT,
    Action,
    Ints,
    Schedule,
    actions,
)
from perfmodel.training.pipeline.coded import Coded, coded
from perfmodel.training.pipeline.simulate import DeadlockError
from perfmodel.training.pipeline.times import StageTimes

TOGETHER = 256
"""Scenarios that are run together: their ends stay in the processor's caches."""
WAITS = 3
"""What an action waits for: its rank's action before, what its forward, what its backward needs."""


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule, compiled: actions in the order of their waves."""

    waves: tuple[int, ...]
    """First action of every wave, and how many there are."""
    needs: Ints
    """(WAITS, actions): rows of what is known of a run: ends of all actions, the same where they have reached another
    rank, and a row of zeros for what nothing is waited for."""
    kinds: Ints
    """(actions,): its place in ``distinct``."""
    distinct: tuple[tuple[int, Action], ...]
    """One (rank, action) for each set of actions that take equally long."""
    place: Ints
    """(actions,): where each stands in the waves, in order of rank and within it in the order that it runs them."""


@lru_cache(maxsize=64)
def compiled(schedule: Schedule) -> Program:
    """Put a schedule's actions in waves.

    Raises:
        DeadlockError: its orders wait for each other.
    """
    own = coded(schedule)
    total = len(own.rank)
    needed = waits(schedule)
    order, waves = _waves(own, needed, schedule.name)
    place = np.empty(total + 1, dtype=np.intp)
    place[order] = np.arange(total)
    place[total] = 2 * total
    crosses = (needed[1:] < total) & (own.rank != np.append(own.rank, -1)[needed[1:]])
    needs = place[needed]
    needs[1:][crosses] += total
    largest = schedule.num_stages + 1
    marks = ((own.rank * len(KINDS) + own.kind) * largest + own.stage) * largest + own.back_stage + 1
    _, first, kinds = np.unique(marks, return_index=True, return_inverse=True)
    return Program(
        waves,
        needs[:, order],
        kinds[order],
        tuple(zip(own.rank[first].tolist(), actions(np.concatenate(schedule.rows)[first]), strict=True)),
        place[:total],
    )


@lru_cache(maxsize=64)
def waits(schedule: Schedule) -> Ints:
    """(WAITS, actions): indices of what each action waits for, counted as in :class:`Coded`; one past the last:
    nothing.
    """
    own, stages, micro_batches = coded(schedule), schedule.num_stages, schedule.micro_batches
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


def _waves(own: Coded, before: Ints, name: str) -> tuple[Ints, tuple[int, ...]]:
    """Actions in order, and where each wave begins: at most one of every rank, when all that it waits for is done."""
    total = len(own.rank)
    done = np.zeros(total + 1, dtype=bool)
    done[total] = True
    ends = own.starts[1:]
    at = own.starts[:-1].copy()
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
    last = ends(schedule, times, coded(schedule).starts[1:] - 1).max(axis=0)
    return last if last.shape else float(last)


def durations(schedule: Schedule, times: StageTimes) -> Any:
    """How long each of :attr:`Program.distinct` takes, s: (distinct,) or (distinct, scenarios)."""
    found: Sequence[Any] = [times.seconds(action, rank) for rank, action in compiled(schedule).distinct]
    return np.array(np.broadcast_arrays(*found, times.transfer_s)[:-1])


def ends(schedule: Schedule, times: StageTimes, of: Ints) -> Any:
    """When actions end, s: (actions,) or (actions, scenarios); ``of``: which, counted as in :class:`Coded`."""
    program, takes = compiled(schedule), durations(schedule, times)
    transfer = np.broadcast_to(times.transfer_s, takes.shape[1:])
    if takes.ndim == 1:
        return _ends(program, takes[:, None], transfer[None], of)[:, 0]
    found = np.empty((len(of), takes.shape[1]))
    for start in range(0, takes.shape[1], TOGETHER):
        some = slice(start, start + TOGETHER)
        found[:, some] = _ends(program, takes[:, some], transfer[some], of)
    return found


def _ends(program: Program, takes: Any, transfer: Any, of: Ints) -> Any:
    """:func:`ends` of (actions, scenarios), wave by wave."""
    each = takes[program.kinds]
    total = len(each)
    known = np.zeros((2 * total + 1, each.shape[1]))
    for first, last in zip(program.waves, program.waves[1:], strict=False):
        end = np.maximum.reduce(known[program.needs[:, first:last]], axis=0)
        end += each[first:last]
        known[first:last] = end
        np.add(end, transfer, out=known[total + first : total + last])
    return known[program.place[of]]
