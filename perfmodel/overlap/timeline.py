"""The timeline: a discrete-event simulation of one step on one rank, or on all ranks of a group.

Each stream of each rank is a process that takes its tasks in order: wait for their inputs, wait for the
other ranks at a barrier (dispatch and combine), run, say so. What runs on one rank shares that rank's chip; when an op
starts or ends, everybody's rate there changes and the next end is planned anew. Events at equal time run in the
order of their creation.

A process per stream rather than per op gives the same order (a stream is a queue of one) at a third of the
events.

Segments follow each other, and so do iterations that do not carry over: the GPU's streams join in between. The host's
stream is one process for the whole step: it waits for its own order and for what its tasks name, and runs ahead.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Stream
from perfmodel.overlap.clock import Call, Clock, Event, Process, Run, ended
from perfmodel.overlap.contention import Demand, shared_seconds
from perfmodel.overlap.graph import Segment


class Span(NamedTuple):
    """One op that ran: what a trace shows."""

    rank: int
    segment: int
    iteration: int
    task: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that ran, and when it was over."""

    segments: tuple[Segment, ...]
    spans: tuple[Span, ...]
    """In the order in which they ended."""
    step_time_s: float
    num_ranks: int
    paths: dict[int, tuple[Any, ...]] = field(default_factory=dict, compare=False, repr=False)
    """Critical paths that were asked for, by rank (:func:`perfmodel.overlap.analysis.critical_path`)."""
    looked: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the analysis has found out of a rank's spans, by rank."""


class _Chip:
    """What one rank's running ops share. Plans the next end; an op that starts or ends voids the plan."""

    __slots__ = ("clock", "first", "last_s", "plan", "rates", "running")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.running: list[list[Any]] = []  # [demand, remaining share, what is called when it is done]
        self.rates: list[float] = []  # seconds that each op takes as things stand
        self.last_s = 0.0
        self.plan = self.first = 0

    def run(self, demand: Demand, done: Call) -> None:
        """Start an op; ``done`` is called at its end."""
        self._advance()
        self.running.append([demand, 1.0, done])
        self._replan()

    def _advance(self) -> None:
        now = self.clock.now
        if now > self.last_s:
            elapsed = now - self.last_s
            for item, seconds in zip(self.running, self.rates, strict=True):
                item[1] -= elapsed / seconds
        self.last_s = now

    def _replan(self) -> None:
        self.plan = plan = self.plan + 1
        running = self.running
        if not running:
            self.rates = []
            return
        if len(running) == 1:
            seconds = running[0][0].seconds
            self.rates = [seconds]
            delay, first = running[0][1] * seconds, 0
        else:
            self.rates = rates = shared_seconds([item[0] for item in running])
            delay, first = running[0][1] * rates[0], 0
            for index in range(1, len(running)):
                other = running[index][1] * rates[index]
                if other < delay:
                    delay, first = other, index
        self.first = first
        self.clock.after(delay if delay > 0.0 else 0.0, lambda: self._finish(plan))

    def _finish(self, plan: int) -> None:
        if plan != self.plan:
            return
        self._advance()
        first = self.first
        _, _, done = self.running.pop(first)
        self.rates.pop(first)
        self._replan()
        self.clock.soon.append(done)


class _Barrier:
    """Opens once every rank has arrived; the next use starts afresh."""

    __slots__ = ("arrived", "clock", "event", "num_ranks")

    def __init__(self, clock: Clock, num_ranks: int) -> None:
        self.clock, self.num_ranks, self.arrived, self.event = clock, num_ranks, 0, Event(clock)

    def arrive(self) -> Event:
        event = self.event
        self.arrived += 1
        if self.arrived == self.num_ranks:
            self.arrived, self.event = 0, Event(self.clock)
            event.succeed()
        return event


@dataclass(slots=True)
class _Plan:
    """A segment prepared: who waits for whom across streams."""

    segment: Segment
    streams: dict[Stream, list[int]]
    """The GPU's."""
    host: list[int]
    waits: list[tuple[int, ...]]
    carried: list[tuple[int, ...]]
    announces: list[bool]
    demands: list[Demand] = field(default_factory=list)
    """One rank's."""

    def of_rank(self, rank: int) -> "_Plan":
        """The same with what one rank's ops ask of its chip."""
        return replace(self, demands=[demand(timing, rank) for timing in self.segment.timings])


class _Iteration:
    """One iteration of a segment on one rank while it runs."""

    __slots__ = ("done", "remaining", "started")

    def __init__(self, clock: Clock, plan: _Plan) -> None:
        self.started = Event(clock)
        self.remaining = len(plan.streams)
        self.done = [Event(clock) if announced else None for announced in plan.announces]


def simulate(segments: Sequence[Segment], *, num_ranks: int = 1, contention: bool = True) -> Timeline:
    """Run the segments one after another and record every op.

    With ``num_ranks`` > 1 timings may be arrays over ranks; every rank starts a barrier op together. Ranks whose times
    are equal do the same at the same instants: one of them is run, and its spans are all of theirs. With ``contention``
    off each op takes its time alone.
    """
    clock = Clock()
    spans: list[Span] = []
    barriers: dict[tuple[int, int], _Barrier] = {}
    alike = _alike(segments, num_ranks)
    plans = [_plan(segment) for segment in segments]
    with _uncollected():
        for ranks in alike:
            _Rank(clock, plans, ranks, len(alike), barriers, spans, contention)
        clock.run()
    return Timeline(tuple(segments), tuple(spans), clock.now, num_ranks)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for cycles: a run of all ranks holds half a million events and spans, which no search frees."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _alike(segments: Sequence[Segment], num_ranks: int) -> list[tuple[int, ...]]:
    """Ranks with equal times of all ops together, by the first of each."""
    each = [timing for segment in segments for timing in segment.timings]
    every: list[Any] = [
        part
        for timing in each
        for part in (timing.latency_s, timing.compute_s, timing.memory_s, timing.link_s, timing.network_s)
    ]
    parts = [part for part in every if np.ndim(part)]
    found: dict[bytes, list[int]] = {}
    for rank in range(num_ranks):
        found.setdefault(np.array([part[rank] for part in parts]).tobytes(), []).append(rank)
    return [tuple(ranks) for ranks in found.values()]


class _Rank:
    """The processes of one rank, which stands for others that are like it."""

    def __init__(
        self,
        clock: Clock,
        plans: Sequence["_Plan"],
        ranks: tuple[int, ...],
        num_ranks: int,
        barriers: dict[tuple[int, int], _Barrier],
        spans: list[Span],
        contention: bool,
    ) -> None:
        self.clock, self.ranks, self.num_ranks = clock, ranks, num_ranks
        self.barriers, self.spans = barriers, spans
        self.chip = _Chip(clock) if contention else None
        plans = [plan.of_rank(ranks[0]) for plan in plans]
        iterations = [[_Iteration(clock, plan) for _ in range(plan.segment.repeat)] for plan in plans]
        Process(clock, lambda _: self._segments(plans, iterations))
        Process(clock, lambda resume: self._host(plans, iterations, resume))

    def _host(self, plans: Sequence[_Plan], runs: Sequence[Sequence[_Iteration]], resume: Call) -> Run:
        """The host's tasks of the whole step, in order; nothing on the GPU slows them."""
        clock = self.clock
        for number, (plan, iterations) in enumerate(zip(plans, runs, strict=True)):
            if not plan.host:
                continue
            for count, iteration in enumerate(iterations):
                for index in plan.host:
                    awaited = [iteration.done[other] for other in plan.waits[index]]
                    if count:
                        awaited += [iterations[count - 1].done[other] for other in plan.carried[index]]
                    for done in awaited:
                        if done is not None and not done.happened:
                            yield done
                    start, seconds = clock.now, plan.demands[index].seconds
                    if seconds > 0.0:
                        clock.after(seconds, resume)
                        yield None
                    for rank in self.ranks:
                        self.spans.append(Span(rank, number, count, index, start, clock.now))
                    announced = iteration.done[index]
                    if announced is not None:
                        announced.succeed()

    def _segments(self, plans: Sequence[_Plan], runs: Sequence[Sequence[_Iteration]]) -> Run:
        for number, (plan, iterations) in enumerate(zip(plans, runs, strict=True)):
            iterations[0].started.succeed()
            yield from ended(
                [self._process(plan, number, indices, iterations) for indices in plan.streams.values()]
            )

    def _process(
        self, plan: _Plan, number: int, indices: Sequence[int], iterations: Sequence[_Iteration]
    ) -> Process:
        return Process(self.clock, lambda resume: self._stream(plan, number, indices, iterations, resume))

    def _stream(
        self,
        plan: _Plan,
        number: int,
        indices: Sequence[int],
        iterations: Sequence[_Iteration],
        resume: Call,
    ) -> Run:
        clock, segment, carries = self.clock, plan.segment, plan.segment.carries
        tasks, demands, chip, ranks = segment.tasks, plan.demands, self.chip, self.ranks
        record = self.spans.append
        previous: _Iteration | None = None
        for count, iteration in enumerate(iterations):
            if not (carries or iteration.started.happened):
                yield iteration.started
            for index in indices:
                for other in plan.waits[index]:
                    done = iteration.done[other]
                    if done is not None and not done.happened:
                        yield done
                if previous is not None:
                    for other in plan.carried[index]:
                        done = previous.done[other]
                        if done is not None and not done.happened:
                            yield done
                if self.num_ranks > 1 and tasks[index].op.barrier:
                    yield self._barrier(number, index).arrive()
                start, demand = clock.now, demands[index]
                if demand.seconds > 0.0:
                    if chip is None:
                        clock.after(demand.seconds, resume)
                    else:
                        chip.run(demand, resume)
                    yield None
                for rank in ranks:
                    record(Span(rank, number, count, index, start, clock.now))
                announced = iteration.done[index]
                if announced is not None:
                    announced.succeed()
            iteration.remaining -= 1
            if iteration.remaining == 0 and not carries and count + 1 < len(iterations):
                iterations[count + 1].started.succeed()
            previous = iteration

    def _barrier(self, number: int, index: int) -> _Barrier:
        key = (number, index)
        if key not in self.barriers:
            self.barriers[key] = _Barrier(self.clock, self.num_ranks)
        return self.barriers[key]


def _plan(segment: Segment) -> _Plan:
    """Who runs where, and which ends others wait for; waiting within a stream is implied by its order."""
    streams: dict[Stream, list[int]] = {}
    for index, task in enumerate(segment.tasks):
        streams.setdefault(task.op.stream, []).append(index)
    host = streams.pop(Stream.HOST, [])

    def elsewhere(index: int, others: Sequence[int]) -> tuple[int, ...]:
        own = segment.tasks[index].op.stream
        return tuple(other for other in others if segment.tasks[other].op.stream != own)

    waits = [elsewhere(i, task.after) for i, task in enumerate(segment.tasks)]
    carried = [elsewhere(i, task.after_previous) for i, task in enumerate(segment.tasks)]
    awaited = {other for group in (*waits, *carried) for other in group}
    announces = [i in awaited for i in range(len(segment.tasks))]
    return _Plan(segment, streams, host, waits, carried, announces)


def demand(timing: Timing, rank: int = 0) -> Demand:
    """A timing as plain floats; parts that are arrays over ranks give the rank's own value."""

    def own(value: Any) -> float:
        return float(value[rank]) if isinstance(value, np.ndarray) and value.ndim else float(value)

    latency, compute, memory = own(timing.latency_s), own(timing.compute_s), own(timing.memory_s)
    link, network = own(timing.link_s), own(timing.network_s)
    return Demand(
        latency + max(compute, memory, link, network),
        latency,
        compute,
        memory,
        link,
        network,
        timing.held_sms,
    )
