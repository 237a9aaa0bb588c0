"""A step of micro-batches through a pipeline, as a discrete-event simulation: every rank is a process that takes its
order in turn and waits for what other ranks send.

An action's input is there when the action that makes it has ended, plus the transfer if that ran on another rank.
Sends don't hold the sender, and don't queue.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import simpy

from perfmodel.training.pipeline.actions import (
    BACK_STAGE,
    BACKWARD,
    FORWARD,
    INPUT,
    KIND,
    PAIR,
    STAGE,
    WEIGHT,
    Action,
    Schedule,
)
from perfmodel.training.pipeline.times import StageTimes


@dataclass(frozen=True, slots=True)
class Span:
    """One action as it ran."""

    rank: int
    action: Action
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """A step's pipeline, simulated."""

    schedule: Schedule
    spans: tuple[tuple[Span, ...], ...]
    """Per rank, in order."""

    @property
    def makespan_s(self) -> float:
        """From the first action's start to the last one's end, over all ranks."""
        return max(own[-1].end_s for own in self.spans)

    def busy_s(self, rank: int) -> float:
        """Time in which a rank computes."""
        return sum(span.end_s - span.start_s for span in self.spans[rank])

    def own_idle_s(self, rank: int) -> float:
        """Idle time inside a rank's own span: the bubble that "zero bubble" is about."""
        own = self.spans[rank]
        return own[-1].end_s - own[0].start_s - self.busy_s(rank)

    def idle_s(self, rank: int) -> float:
        """Idle time of a rank within the makespan."""
        return self.makespan_s - self.busy_s(rank)

    @property
    def bubble_fraction(self) -> float:
        """Mean over ranks of the share of the makespan in which a rank computes nothing."""
        ranks = range(self.schedule.ranks)
        return sum(self.idle_s(rank) for rank in ranks) / (len(ranks) * self.makespan_s)


class DeadlockError(AssertionError):
    """A schedule's orders wait for each other: a defect of the schedule."""


Passed = tuple[int, int, int]
"""What a rank may wait for: a forward or an input gradient (FORWARD, INPUT), its stage and micro-batch."""


def needs(row: Sequence[int], num_stages: int) -> Iterator[Passed]:
    """What an action, as a row, waits for."""
    kind, stage, micro_batch, back_stage, back_micro_batch = row
    if kind in (FORWARD, PAIR) and stage > 0:
        yield FORWARD, stage - 1, micro_batch
    if kind == WEIGHT:
        yield INPUT, back_stage, back_micro_batch
    elif kind != FORWARD:
        last = back_stage + 1 == num_stages
        yield (FORWARD, back_stage, back_micro_batch) if last else (INPUT, back_stage + 1, back_micro_batch)


def passes_on(row: Sequence[int]) -> Iterator[Passed]:
    """What is there once an action has ended: a backward holds an input gradient."""
    kind, stage, micro_batch, back_stage, back_micro_batch = row
    if kind in (FORWARD, PAIR):
        yield FORWARD, stage, micro_batch
    if kind in (INPUT, BACKWARD, PAIR):
        yield INPUT, back_stage, back_micro_batch


def simulate(schedule: Schedule, times: StageTimes) -> Run:
    """Run one step.

    Raises:
        DeadlockError: the orders wait for each other.
    """
    env = simpy.Environment()
    done: dict[Passed, simpy.Event] = defaultdict(env.event)
    spans: list[list[Span]] = [[] for _ in range(schedule.ranks)]
    transfer_s = float(times.transfer_s)

    def rank_process(rank: int) -> Generator[simpy.Event, Any, None]:
        takes: dict[Passed, float] = {}
        for action, row in zip(schedule.orders[rank], schedule.rows[rank].tolist(), strict=True):
            for needed in needs(row, schedule.num_stages):
                event = done[needed]
                if not event.processed:
                    yield event
                ended, by = cast(tuple[float, int], event.value)
                there = ended + (transfer_s if by != rank else 0.0)
                if there > env.now:
                    yield env.timeout(there - env.now)
            alike = row[KIND], row[STAGE], row[BACK_STAGE]
            if alike not in takes:
                takes[alike] = float(times.seconds(action, rank))
            start = env.now
            yield env.timeout(takes[alike])
            spans[rank].append(Span(rank, action, start, env.now))
            for result in passes_on(row):
                done[result].succeed((env.now, rank))

    processes = [env.process(rank_process(rank)) for rank in range(schedule.ranks)]
    env.run()
    stuck = [rank for rank, process in enumerate(processes) if process.is_alive]
    if stuck:
        rank = stuck[0]
        waits = schedule.orders[rank][len(spans[rank])]
        raise DeadlockError(f"{schedule.name}: rank {rank} waits for ever before {waits}")
    return Run(schedule, tuple(tuple(own) for own in spans))
