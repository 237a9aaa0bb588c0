"""Where the twin's scenarios stand: the timeline's fluid model, advanced event by event for all of them together.

Each round every scenario moves to its own next end. Two kinds of state know a host that launches: :class:`State` takes
it as one stream more, which shares nothing and may have been free before the GPU was; :class:`LaunchedState` knows when
each op will have been launched, so it needs no rounds for that, for one iteration.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Stream
from perfmodel.overlap.graph import Segment, Task

SETTLED = 1e-7
"""Share of a task within which two streams count as equally far."""

SECONDS, LATENCY, PARTS, SHARES_AND_HELD = 0, 1, slice(2, 6), slice(6, 11)
"""Rows of a state's table."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Bools = NDArray[np.bool_]


class State:
    """Where every scenario stands. Arrays are [streams, scenarios] unless said otherwise.

    What each stream's next task is and needs is kept beside it and renewed only where a task ended.
    """

    def __init__(
        self,
        segment: Segment,
        size: int,
        iterations: int,
        contention: bool,
        lead: FloatArray | None = None,
    ) -> None:
        """At instant 0, from which the GPU is free; the host, where ``lead`` is given, since ``lead`` before."""
        self.per_iteration, self.iterations = len(segment.tasks), iterations
        self.total_tasks = self.per_iteration * iterations
        self.streams = sorted({task.op.stream for task in segment.tasks}, key=list(Stream).index)
        self.contention, self.size = contention, size
        self.table = _table(segment.timings, size)
        self.queues = _queues(segment, self.streams, iterations)
        self.missing, self.dependents = _dependencies(segment, iterations, size)
        shape = (len(self.streams), size)
        self.heads = np.zeros(shape, dtype=np.int64)
        self.task = np.zeros(shape, dtype=np.int64)
        self.remaining = np.ones(shape)
        self.current = np.zeros((len(self.table), *shape))  # the table's rows for each stream's next task
        self.columns = np.arange(size)
        self.now, self.exposed = np.zeros(size), np.zeros(size)
        self.computes = [row for row, s in enumerate(self.streams) if s in COMPUTE_STREAMS]
        self.communicates = [row for row, s in enumerate(self.streams) if s in COMMUNICATION_STREAMS]
        self.lengths = np.array([sum(task.op.stream == s for task in segment.tasks) for s in self.streams])
        self.first = np.array([_first_waiting(segment, s) for s in self.streams])
        self.sharing, self.free = self._by_sharing(segment)
        self.marking = (self.sharing[0], *self.free) if iterations > 1 else ()
        self.turn_ends, self.mark_progress = np.zeros((2, iterations, *shape))
        self.mark_now = self.turn_ends[:, self.sharing[0]]
        self.mark_exposed, self.mark_held_up = np.zeros((2, iterations, size))
        self.host_row = -1
        self.held_up = np.zeros(size)  # tasks that could have started before a free stream's ended
        self.closed: FloatArray | None = None  # until when a stream may not start its first task
        if lead is not None:
            self.host_row = self.streams.index(Stream.HOST)
            self.host_end = np.zeros(size)
            self.closed = np.zeros(shape)
            self.closed[self.host_row] = -lead
            self.now = self.closed.min(axis=0)
        for row in range(len(self.streams)):
            self._next(row, self.columns)

    @property
    def lead(self) -> FloatArray:
        """How long before the end the host was done."""
        return self.now - self.host_end

    def run(self) -> Self:
        """To the end."""
        while self.advance():
            pass
        return self

    def run_compiled(self) -> Self:
        """As :meth:`run`, from the start: the same, in compiled code."""
        from perfmodel.overlap import kernel

        roles = np.zeros(len(self.streams), dtype=np.int64)
        for rows, bit in (
            (self.computes, kernel.COMPUTES),
            (self.communicates, kernel.COMMUNICATES),
            (self.sharing, kernel.SHARES),
            (self.free, kernel.FREE),
            (self.marking, kernel.MARKS),
            (self.sharing[:1], kernel.FIRST_SHARING),
        ):
            roles[list(rows)] |= bit
        host_end = self.host_end if self.host_row >= 0 else np.zeros(self.size)
        scalars = np.stack([self.now, self.exposed, self.held_up, host_end])
        marks = np.stack([self.mark_exposed, self.mark_held_up])
        tasks = np.arange(self.total_tasks + 1)
        kinds = np.where(tasks < self.total_tasks, tasks % self.per_iteration, self.per_iteration)
        streams = np.zeros(self.total_tasks + 1, dtype=np.int64)
        for row, queue in enumerate(self.queues):
            streams[queue] = row
        closed = np.full(self.heads.shape, -np.inf) if self.closed is None else self.closed
        queues, dependents, of_kind, of_stream = (
            one.astype(np.uint32) for one in (self.queues, self.dependents, kinds, streams)
        )
        kernel.run_all(
            self.table, queues, self.missing[:, 0].astype(np.int32), dependents, of_kind, of_stream, roles,
            self.lengths, self.host_row, self.contention, closed, self.heads, self.task, self.remaining, scalars,
            self.turn_ends, self.mark_progress, marks,
        )  # fmt: skip
        self.now, self.exposed, self.held_up, host_end = scalars
        if self.host_row >= 0:
            self.host_end = host_end
        self.mark_exposed, self.mark_held_up = marks
        return self

    def _by_sharing(self, segment: Segment) -> tuple[list[int], list[int]]:
        """Streams whose tasks slow others or count as exposed, and streams that do neither (a host's)."""
        loads: Bools = np.logical_or.reduce(self.table[SHARES_AND_HELD] > 0.0, axis=(0, 2))
        sharing = {self.streams.index(task.op.stream) for i, task in enumerate(segment.tasks) if loads[i]}
        sharing |= {*self.computes, *self.communicates}
        rows = range(len(self.streams))
        return sorted(sharing or rows), [row for row in rows if sharing and row not in sharing]

    def marks_within(self) -> Bools:
        """Marks from which a longer run cannot differ, [iterations, scenarios]: every stream still has tasks, and none
        is at a task of the first iteration that would wait for a previous one.
        """
        far = self.mark_progress
        inside: Bools = np.logical_and.reduce(far >= self.first[:, None] - SETTLED, axis=1)
        for row in self.sharing:
            inside &= far[:, row] < self.lengths[row] * self.iterations - SETTLED
        return inside

    def recurs(self, mark: int, period: int) -> Bools:
        """Where every stream is as far into its iterations as ``period`` iterations before: [scenarios].

        A stream that shares no resource (a host that launches) may be further than it was, time after time: others feel
        it only where they wait for it, and once nobody has waited for a whole period nobody will.
        """
        grown = self.mark_progress[mark] - self.mark_progress[mark - period] - period * self.lengths[:, None]
        equal: Bools = np.logical_and.reduce(np.abs(grown[self.sharing]) <= SETTLED)
        if not self.free:
            return equal
        took = self.mark_now[mark] - self.mark_now[mark - period]
        unfelt = self.mark_held_up[mark] == self.mark_held_up[mark - period]
        for row in self.free:
            done = self.mark_progress[mark, row] >= self.lengths[row] * self.iterations - SETTLED
            own = self.turn_ends[-1, row] - self.turn_ends[-1 - period, row]  # once it is done: its last ones
            keeps_up = np.where(done, own <= took * (1.0 + SETTLED), grown[row] >= -SETTLED)
            equal &= keeps_up & (unfelt | ~(done | (grown[row] > SETTLED)))
        return equal

    def advance(self) -> bool:
        """Move every scenario to its next end; False once all are over."""
        ready = self.missing[self.task, self.columns] == 0
        if not ready.any():
            return False
        if self.closed is None:
            self._move(ready)
            return True
        held = ready & (self.closed > self.now)
        self._move(ready & ~held, np.where(held, self.closed, np.inf).min(axis=0))
        if (self.closed <= self.now).all():
            self.closed = None
        return True

    def _move(self, running: Bools, opens: FloatArray | None = None) -> None:
        """To the next end, or to the instant at which something opens, where that comes first."""
        seconds = self._shared_seconds(running)
        wait = np.where(running, self.remaining * seconds, np.inf)
        step = wait.min(axis=0)
        if opens is None:
            step[np.isinf(step)] = 0.0
            self.now += step
        else:
            until = opens - self.now
            first = until <= step
            step = np.minimum(step, until)
            step[np.isinf(step)] = 0.0
            self.now = np.where(first & np.isfinite(opens), opens, self.now + step)
        self._count_exposed(running, step)
        ended = running & (wait <= step * (1.0 + 1e-12))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(seconds > 0.0, step / seconds, 1.0)
        self.remaining -= np.where(running, share, 0.0)
        np.maximum(self.remaining, 0.0, out=self.remaining)
        for row in range(len(self.streams)):
            scenarios = np.flatnonzero(ended[row])
            if scenarios.size:
                self._end(row, scenarios)

    def _end(self, row: int, scenarios: IntArray) -> None:
        """The running task of one stream is over in these scenarios: tell who waits, and take the next one."""
        task = self.task[row, scenarios]
        for waiting in self.dependents[task].T:
            self.missing[waiting, scenarios] -= 1
            if row in self.free and (waiting < self.total_tasks).any():
                starts = (self.task[self.sharing][:, scenarios] == waiting).any(axis=0)
                self.held_up[scenarios] += starts & (self.missing[waiting, scenarios] == 0)
        self.heads[row, scenarios] += 1
        self._next(row, scenarios)
        if row == self.host_row:
            self.host_end[scenarios] = self.now[scenarios]
        if row in self.marking:
            turns, within = np.divmod(self.heads[row, scenarios], self.lengths[row])
            self._mark(row, turns[within == 0] - 1, scenarios[within == 0])

    def _mark(self, row: int, turns: IntArray, scenarios: IntArray) -> None:
        """Note when a stream has ended an iteration; of the first that shares, how far all are then. Tasks end in order
        on a stream, so this says who waits for what, too. One that ends at this moment counts as ended, told or not.
        """
        self.turn_ends[turns, row, scenarios] = self.now[scenarios]
        if row == self.sharing[0]:
            far = self.heads[:, scenarios] + 1.0 - self.remaining[:, scenarios]
            self.mark_progress[turns, :, scenarios] = far.T
            self.mark_exposed[turns, scenarios] = self.exposed[scenarios]
            self.mark_held_up[turns, scenarios] = self.held_up[scenarios]

    def _next(self, row: int, scenarios: IntArray) -> None:
        """Renew what is kept of a stream's next task."""
        task = self.queues[row, self.heads[row, scenarios]]
        kind = np.where(task < self.total_tasks, task % self.per_iteration, self.per_iteration)
        self.task[row, scenarios] = task
        self.remaining[row, scenarios] = 1.0
        self.current[:, row, scenarios] = self.table[:, kind, scenarios]

    def _count_exposed(self, running: Bools, step: FloatArray) -> None:
        """Add the time to the next end where something communicates and nothing computes."""
        exposed = running[self.communicates].any(axis=0)
        exposed &= ~running[self.computes].any(axis=0)
        self.exposed += np.where(exposed, step, 0.0)

    def _shared_seconds(self, running: Bools) -> FloatArray:
        """The same formula as :func:`perfmodel.overlap.contention.shared_seconds`, for all scenarios."""
        if not self.contention:
            alone: FloatArray = self.current[SECONDS]
            return alone
        together = (self.current[SHARES_AND_HELD] * running).sum(axis=1)  # [5, scenarios]
        together[0] /= 1.0 - together[4]
        np.maximum(together, 1.0, out=together)
        stretched = (self.current[PARTS] * together[:4, None, :]).max(axis=0)
        shared: FloatArray = self.current[LATENCY] + stretched
        return shared


class LaunchedState(State):
    """One iteration of a segment whose ops wait for launches; the host is no stream of it.

    The host launches in order and nothing slows it, so when an op will have been launched is known, but for what it
    launches after waiting for the GPU: that becomes known when the GPU is there. Launches up to a wait are a block.
    """

    def __init__(self, segment: Segment, size: int, contention: bool, lead: FloatArray) -> None:
        """At instant 0, from which the GPU is free, and the host since ``lead`` before."""
        kept, tasks, timings = _on_gpu(segment)
        super().__init__(Segment(segment.name, tasks, timings), size, iterations=1, contention=contention)
        self.launched = np.full((self.total_tasks + 1, size), -np.inf)
        self.blocks = _blocks(segment, kept, size)
        for launched, _ in (one for block in self.blocks for one in block.launches):
            self.launched[launched] = np.inf
        self.felt = np.zeros(size, dtype=bool)  # whether an op waited for its launch alone
        self.host_end = -lead
        self.ends = np.full((self.total_tasks + 1, size), np.inf)
        self.block = np.zeros(size, dtype=np.int64)
        self._launch(self.columns)

    def advance(self) -> bool:
        """Move every scenario to its next end or launch that is waited for; False once all are over."""
        ready = self.missing[self.task, self.columns] == 0
        if not ready.any():
            return False
        launched = self.launched[self.task, self.columns]
        held = ready & (launched > self.now)
        if not held.any():
            self._move(ready)
            return True
        self.felt |= held.any(axis=0)
        opens = np.where(held, launched, np.inf).min(axis=0)
        idle = held.any(axis=0) & ~(ready & ~held).any(axis=0)
        if idle.any():  # nothing runs there until the next launch, which needs no round of its own
            self.now = np.where(idle, opens, self.now)
            held = ready & (launched > self.now)
            opens = np.where(held, launched, np.inf).min(axis=0)
        self._move(ready & ~held, opens)
        return True

    def _end(self, row: int, scenarios: IntArray) -> None:
        if len(self.blocks) == 1:
            super()._end(row, scenarios)
            return
        self.ends[self.task[row, scenarios], scenarios] = self.now[scenarios]
        super()._end(row, scenarios)
        self._launch(scenarios)

    def _launch(self, scenarios: IntArray) -> None:
        """Go on launching where what the host waits for is over."""
        for number, block in enumerate(self.blocks):
            own = scenarios[self.block[scenarios] == number]
            if not own.size:
                continue
            start = self.host_end[own]
            if block.waits:
                there = self.ends[np.ix_(block.waits, own)].max(axis=0)
                own, start = own[np.isfinite(there)], np.maximum(start, there)[np.isfinite(there)]
            for tasks, seconds in block.launches:
                start = start + seconds[own]
                for task in tasks:
                    self.launched[task, own] = start
            self.host_end[own] = start
            self.block[own] += 1


class _Block(NamedTuple):
    """What the host launches in one go, once it has waited."""

    waits: list[int]
    """Tasks on the GPU."""
    launches: list[tuple[list[int], FloatArray]]
    """What is launched, and how long that takes the host, s, one per scenario."""


def _blocks(segment: Segment, kept: Sequence[int], size: int) -> list[_Block]:
    place = {old: new for new, old in enumerate(kept)}
    launches: dict[int, list[int]] = {}
    for index, new in place.items():
        for other in segment.tasks[index].after:
            launches.setdefault(other, []).append(new)
    blocks = [_Block([], [])]
    for index, (task, timing) in enumerate(zip(segment.tasks, segment.timings, strict=True)):
        if index in place:
            continue
        if task.after:
            blocks.append(_Block([place[other] for other in task.after if other in place], []))
        seconds = np.broadcast_to(np.asarray(timing.seconds, dtype=float), (size,))
        blocks[-1].launches.append((launches.get(index, []), seconds))
    return blocks


def _on_gpu(segment: Segment) -> tuple[list[int], tuple[Task, ...], tuple[Timing, ...]]:
    """Places, tasks and timings of what runs on the GPU, as if everything were launched."""
    kept = [i for i, task in enumerate(segment.tasks) if task.op.stream != Stream.HOST]
    place = {old: new for new, old in enumerate(kept)}
    tasks = tuple(
        replace(
            segment.tasks[i],
            after=tuple(place[other] for other in segment.tasks[i].after if other in place),
            after_previous=tuple(place[other] for other in segment.tasks[i].after_previous if other in place),
        )
        for i in kept
    )
    return kept, tasks, tuple(segment.timings[i] for i in kept)


def without_host(segment: Segment) -> Segment:
    """The segment with everything launched."""
    _, tasks, timings = _on_gpu(segment)
    return replace(segment, tasks=tasks, timings=timings)


def _table(timings: Sequence[Timing], size: int) -> FloatArray:
    """Figures of each task, [11, tasks + 1, scenarios]: time alone, latency, the parts on the four resources, the
    shares of the time alone on them, held SMs. The last task is the one that never runs.
    """
    table = np.zeros((11, len(timings) + 1, size))
    for index, t in enumerate(timings):
        own = (t.latency_s, t.compute_s, t.memory_s, t.link_s, t.network_s)
        for row, part in enumerate(own, start=LATENCY):
            table[row, index] = part
        table[10, index] = t.held_sms
    seconds, parts = table[SECONDS], table[PARTS]
    seconds[:] = table[LATENCY] + parts.max(axis=0)
    np.divide(parts, seconds, out=table[6:10], where=seconds > 0.0)
    return table


def _queues(segment: Segment, streams: Sequence[Stream], iterations: int) -> IntArray:
    """Task numbers in each stream's order, padded with the number of the task that never runs."""
    count = len(segment.tasks)
    orders = [[i for i, task in enumerate(segment.tasks) if task.op.stream == s] for s in streams]
    longest = max(len(order) for order in orders) * iterations
    queues = np.full((len(streams), longest + 1), count * iterations, dtype=np.int64)
    for row, order in enumerate(orders):
        numbers = [i + count * turn for turn in range(iterations) for i in order]
        queues[row, : len(numbers)] = numbers
    return queues


def _first_waiting(segment: Segment, stream: Stream) -> int:
    """Tasks of a stream up to the last one that waits for another stream's in a previous iteration: from there on the
    first iteration is like any other.
    """
    own = [task for task in segment.tasks if task.op.stream == stream]
    waits = [any(segment.tasks[other].op.stream != stream for other in task.after_previous) for task in own]
    return max((place + 1 for place, waiting in enumerate(waits) if waiting), default=0)


def _dependencies(segment: Segment, iterations: int, size: int) -> tuple[NDArray[np.int16], IntArray]:
    """How many tasks of other streams each task still waits for [tasks + 2, scenarios], and who waits for each task
    [tasks, most]. Row ``tasks`` never runs; row ``tasks + 1`` takes the padding. Order within a stream is implied.
    """
    count, total = len(segment.tasks), len(segment.tasks) * iterations
    waiting: list[list[int]] = [[] for _ in range(total)]
    missing = np.zeros((total + 2, size), dtype=np.int16)
    missing[total] = 1
    for turn in range(iterations):
        for index, task in enumerate(segment.tasks):
            needs = [(other, turn) for other in task.after]
            needs += [(other, turn - 1) for other in task.after_previous if turn]
            for other, when in needs:
                if segment.tasks[other].op.stream != task.op.stream:
                    waiting[other + count * when].append(index + count * turn)
                    missing[index + count * turn] += 1
    most = max(len(own) for own in waiting)
    padded = [own + [total + 1] * (most - len(own)) for own in waiting]
    return missing, np.array(padded, dtype=np.int64).reshape(total, most)
