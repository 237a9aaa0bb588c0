"""The same step for many scenarios at once: a schedule's actions in waves, each of which waits for earlier ones alone,
and a few numpy operations per wave.

Equals :mod:`perfmodel.training.pipeline.simulate` to rounding (tests): orders are fixed, so a step is a longest path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.training.pipeline.actions import Action, Schedule
from perfmodel.training.pipeline.coded import BACKWARD, FORWARD, INPUT, PAIR, WEIGHT, Coded, Ints, coded
from perfmodel.training.pipeline.simulate import DeadlockError
from perfmodel.training.pipeline.times import StageTimes


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule, compiled: actions in the order of their waves; the action that is one past the last one has always
    ended.
    """

    schedule: Schedule
    waves: tuple[int, ...]
    """First action of every wave, and how many there are."""
    before: Ints
    """(3, actions): its rank's action before, what its forward waits for, what its backward does."""
    crosses: np.ndarray
    """(2, actions, 1): 1.0 where what the forward, the backward waits for ran on another rank."""
    kinds: Ints
    """(actions,): its place in ``distinct``."""
    distinct: tuple[tuple[int, Action], ...]
    """One (rank, action) for each set of actions that take equally long."""


@lru_cache(maxsize=64)
def compiled(schedule: Schedule) -> Program:
    """Put a schedule's actions in waves.

    Raises:
        DeadlockError: its orders wait for each other.
    """
    own = coded(schedule)
    before = _before(own, schedule.num_stages, schedule.micro_batches)
    order, waves = _waves(own, before, schedule.name)
    total = len(order)
    place = np.empty(total + 1, dtype=np.intp)
    place[order] = np.arange(total)
    place[total] = total
    crosses = (own.rank[order] != np.append(own.rank, -1)[before[1:, order]]) & (before[1:, order] < total)
    largest = schedule.num_stages + 1
    marks = ((own.rank * 5 + own.kind) * largest + own.stage) * largest + own.back_stage + 1
    _, first, kinds = np.unique(marks, return_index=True, return_inverse=True)
    ranks = own.rank[first].tolist()
    at = (first - own.starts[own.rank[first]]).tolist()
    return Program(
        schedule,
        waves,
        place[before[:, order]],
        crosses[:, :, None].astype(float),
        kinds[order],
        tuple((rank, schedule.orders[rank][i]) for rank, i in zip(ranks, at, strict=True)),
    )


def _before(own: Coded, stages: int, micro_batches: int) -> Ints:
    """(3, actions): indices of what each action waits for; one past the last: nothing."""
    total = len(own.rank)
    number = np.arange(total)
    forwards = np.full((stages + 1, micro_batches), total)
    inputs = np.full((stages + 1, micro_batches), total)
    ahead = (own.kind == FORWARD) | (own.kind == PAIR)
    forwards[own.stage[ahead], own.micro_batch[ahead]] = number[ahead]
    back = (own.kind == INPUT) | (own.kind == BACKWARD) | (own.kind == PAIR)
    inputs[own.back_stage[back], own.back_micro_batch[back]] = number[back]
    found = np.full((3, total), total)
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
    program = compiled(schedule)
    durations: Sequence[Any] = [np.asarray(times.seconds(action, rank)) for rank, action in program.distinct]
    transfer = np.asarray(times.transfer_s)
    width = np.broadcast_shapes(transfer.shape, *(duration.shape for duration in durations))
    size = width or (1,)
    takes = np.array([np.broadcast_to(duration, size) for duration in durations])
    total = len(program.kinds)
    ends = np.zeros((total + 1, *size))
    own, *others = program.before
    for first, last in zip(program.waves, program.waves[1:], strict=False):
        wave = slice(first, last)
        end = ends[own[wave]]
        for other, crosses in zip(others, program.crosses, strict=True):
            np.maximum(end, ends[other[wave]] + crosses[wave] * transfer, out=end)
        end += takes[program.kinds[wave]]
        ends[wave] = end
    latest = ends.max(axis=0)
    return latest if width else float(latest[0])
