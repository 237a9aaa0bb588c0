"""The same step for many scenarios at once: a schedule put in an order in which every action's inputs come before it,
and one numpy maximum per action.

Equals :mod:`perfmodel.training.pipeline.simulate` to rounding (tests): orders are fixed, so a step is a longest path.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.training.pipeline.actions import Action, Kind, Schedule
from perfmodel.training.pipeline.simulate import DeadlockError
from perfmodel.training.pipeline.times import StageTimes


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule, compiled."""

    schedule: Schedule
    actions: tuple[tuple[int, Action], ...]
    """(rank, action), inputs before what needs them."""
    waits: tuple[tuple[tuple[int, bool], ...], ...]
    """Per action: (index of what it waits for, whether that ran on another rank); its rank's action before included."""
    kinds: tuple[int, ...]
    """Per action: its place in ``distinct``."""
    distinct: tuple[tuple[int, Action], ...]
    """One (rank, action) for each set of actions that take equally long."""


@lru_cache(maxsize=64)
def compiled(schedule: Schedule) -> Program:
    """Put a schedule's actions in an order in which they may be computed.

    Raises:
        DeadlockError: there is none.
    """
    at = [0] * schedule.ranks
    stages = schedule.num_stages
    # per stage: micro-batch -> index of the action that made its activations, or its input gradient
    forwards: list[dict[int, int]] = [{} for _ in range(stages)]
    inputs: list[dict[int, int]] = [{} for _ in range(stages)]
    last: list[int] = [-1] * schedule.ranks
    actions: list[tuple[int, Action]] = []
    waits: list[tuple[tuple[int, bool], ...]] = []

    def needed(action: Action) -> list[int | None]:
        """As :func:`perfmodel.training.pipeline.simulate.inputs_of`, by index; None: not there yet."""
        kind, stage, k, back, back_k = action
        found: list[int | None] = []
        if kind is Kind.FORWARD or kind is Kind.PAIR:
            if stage > 0:
                found.append(forwards[stage - 1].get(k))
            if kind is Kind.FORWARD:
                return found
            stage, k = back, back_k
        if kind is Kind.WEIGHT:
            return [inputs[stage].get(k)]
        found.append(inputs[stage + 1].get(k) if stage + 1 < stages else forwards[stage].get(k))
        return found

    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(schedule.orders):
            while at[rank] < len(order):
                action = order[at[rank]]
                before = needed(action)
                if None in before:
                    break
                own = [(last[rank], False)] if last[rank] >= 0 else []
                waits.append((*own, *((one, actions[one][0] != rank) for one in before if one is not None)))
                index = last[rank] = len(actions)
                actions.append((rank, action))
                kind, stage, k, back, back_k = action
                if kind is Kind.FORWARD or kind is Kind.PAIR:
                    forwards[stage][k] = index
                if kind is Kind.PAIR:
                    inputs[back][back_k] = index
                elif kind is not Kind.FORWARD and kind is not Kind.WEIGHT:
                    inputs[stage][k] = index
                at[rank] += 1
                moved = True
    if any(at[rank] < len(order) for rank, order in enumerate(schedule.orders)):
        raise DeadlockError(f"{schedule.name}: its orders wait for each other")
    places: dict[tuple[int, Any, int, int], int] = {}
    distinct: list[tuple[int, Action]] = []
    kinds = []
    for rank, action in actions:
        key = (rank, action.kind, action.stage, action.other_stage)
        if key not in places:
            places[key] = len(distinct)
            distinct.append((rank, action))
        kinds.append(places[key])
    return Program(schedule, tuple(actions), tuple(waits), tuple(kinds), tuple(distinct))


def makespans(schedule: Schedule, times: StageTimes) -> Any:
    """Makespan of each scenario, s: a float where times are (stages,), (scenarios,) where they are (stages,
    scenarios).
    """
    program = compiled(schedule)
    durations = [np.asarray(times.seconds(action, rank)) for rank, action in program.distinct]
    transfer = np.asarray(times.transfer_s)
    if transfer.ndim == 0 and all(duration.ndim == 0 for duration in durations):
        return _one(program, [float(duration) for duration in durations], float(transfer))
    width = np.broadcast_shapes(transfer.shape, *(duration.shape for duration in durations))
    ends = np.empty((len(program.actions), *width))
    latest = np.zeros(width)
    for index, (waits, kind) in enumerate(zip(program.waits, program.kinds, strict=True)):
        end = ends[index]
        end[...] = 0.0
        for before, crosses in waits:
            np.maximum(end, ends[before] + transfer if crosses else ends[before], out=end)
        end += durations[kind]
        np.maximum(latest, end, out=latest)
    return latest


def _one(program: Program, durations: list[float], transfer: float) -> float:
    """Makespan of one scenario, without numpy's overhead."""
    ends: list[float] = []
    for waits, kind in zip(program.waits, program.kinds, strict=True):
        start = 0.0
        for before, crosses in waits:
            there = ends[before] + transfer if crosses else ends[before]
            start = max(start, there)
        ends.append(start + durations[kind])
    return max(ends)
