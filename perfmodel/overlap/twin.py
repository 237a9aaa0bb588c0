"""The vectorised twin: the timeline of one representative rank, for arrays of scenarios at once.

The same fluid model as :mod:`perfmodel.overlap.timeline`, advanced event by event for all scenarios together: each
round every scenario moves to its own next end. A segment that joins between iterations is simulated once and
multiplied. A segment that carries over (two-batch overlap) is simulated until its state, which is how far every stream
has come, is that of an earlier iteration, and is then extended by that period; where micro-batches drift against each
other for longer, more is simulated, in the end all of it. Tests hold the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Stream
from perfmodel.overlap.graph import Segment

FIRST_UNROLLED = 4
"""Iterations of a carrying segment that are simulated (or one more) before asking whether it has settled; doubled where
not. At least four, because a period of two is seen in four."""

FIRST_CYCLE, CYCLE = 2, 12
"""What is left out is a multiple of so many iterations, which periods divide: 1 and 2 in a first run, then 3, 4, 6."""

SETTLED = 1e-7
"""Share of a task within which two streams count as equally far."""

PIECE = 1000
"""Scenarios that are advanced together."""

SECONDS, LATENCY, PARTS, SHARES_AND_HELD = 0, 1, slice(2, 6), slice(6, 11)
"""Rows of a state's table."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What the twin tells of each scenario."""

    step_time_s: FloatArray
    """Time of the whole step, s, one per scenario."""
    exposed_communication_s: FloatArray
    """Time in which something communicates and nothing computes, s."""


def step_times(segments: Sequence[Segment], *, contention: bool = True) -> StepTimes:
    """Step time and exposed communication for every scenario that the segments' timings hold.

    Timings may be floats or arrays of one length; they are taken in pieces that stay in the processor's caches.
    """
    size = max(_size(timing) for segment in segments for timing in segment.timings)
    total, exposed = np.zeros(size), np.zeros(size)
    for start in range(0, size, PIECE):
        piece = np.arange(start, min(start + PIECE, size))
        for segment in segments:
            part = _selected(segment, piece, size)
            time_s, exposed_s = _segment_times(part, piece.size, contention)
            total[piece] += time_s
            exposed[piece] += exposed_s
    return StepTimes(total, exposed)


def _segment_times(segment: Segment, size: int, contention: bool) -> tuple[FloatArray, FloatArray]:
    if not segment.carries:
        run = _run(segment, size, 1, contention)
        return run.now * segment.repeat, run.exposed * segment.repeat
    total, exposed = np.zeros(size), np.zeros(size)
    left = np.arange(size)
    unrolled = FIRST_UNROLLED
    while left.size:
        part = _selected(segment, left, size)
        run = _run(part, left.size, _alike(unrolled, segment.repeat), contention)
        time_s, exposed_s, settled = _extended(run, segment.repeat)
        total[left[settled]], exposed[left[settled]] = time_s[settled], exposed_s[settled]
        left = left[~settled]
        unrolled *= 2
    return total, exposed


def _alike(unrolled: int, repeat: int) -> int:
    """How many iterations to simulate: ``unrolled`` or a few more, so that whole periods are missing; at most all."""
    cycle = CYCLE if unrolled >= CYCLE else FIRST_CYCLE
    return repeat - max(repeat - unrolled, 0) // cycle * cycle


def _extended(run: "_State", repeat: int) -> tuple[FloatArray, FloatArray, Bools]:
    """Time and exposed communication after ``repeat`` iterations, and where they are certain.

    Two marks of equal state, one period apart, before any stream has run out of tasks: whatever came after the first
    comes after the second too, the end of the segment included. So a run that is longer by a period takes longer by
    the time between them. With every iteration simulated all is certain.
    """
    missing = repeat - run.iterations
    time_s, exposed_s = run.now.copy(), run.exposed.copy()
    settled = np.full(run.size, missing == 0)
    within = run.marks_within()
    for period in range(1, run.iterations - 1):
        if missing % period or settled.all():
            continue
        for mark in range(run.iterations - 2, period - 1, -1):
            found = ~settled & within[mark] & within[mark - period] & run.recurs(mark, period)
            if not found.any():
                continue
            for values, at_mark in ((time_s, run.mark_now), (exposed_s, run.mark_exposed)):
                extra = missing // period * (at_mark[mark] - at_mark[mark - period])
                values[found] += extra[found]
            settled |= found
    return time_s, exposed_s, settled


def _selected(segment: Segment, scenarios: IntArray, size: int) -> Segment:
    """The segment for some of its scenarios."""
    if scenarios.size == size:
        return segment
    return replace(segment, timings=tuple(timing.selected(scenarios) for timing in segment.timings))


def _size(timing: Timing) -> int:
    parts = (timing.latency_s, timing.compute_s, timing.memory_s, timing.link_s, timing.network_s)
    return max(int(np.size(part)) for part in parts)


def _run(segment: Segment, size: int, iterations: int, contention: bool) -> "_State":
    """The state after so many iterations."""
    state = _State(segment, size, iterations, contention)
    while state.advance():
        pass
    return state


class _State:
    """Where every scenario stands. Arrays are [streams, scenarios] unless said otherwise.

    What each stream's next task is and needs is kept beside it and renewed only where a task ended.
    """

    def __init__(self, segment: Segment, size: int, iterations: int, contention: bool) -> None:
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
        self.held_up = np.zeros(size)  # tasks that could have started before a free stream's ended
        for row in range(len(self.streams)):
            self._next(row, self.columns)

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
        running = self.missing[self.task, self.columns] == 0
        if not running.any():
            return False
        seconds = self._shared_seconds(running)
        wait = np.where(running, self.remaining * seconds, np.inf)
        step = wait.min(axis=0)
        step[np.isinf(step)] = 0.0
        self.now += step
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
        return True

    def _end(self, row: int, scenarios: IntArray) -> None:
        """The running task of one stream is over in these scenarios: tell who waits, and take the next one."""
        task = self.task[row, scenarios]
        for waiting in self.dependents[task].T:
            self.missing[waiting, scenarios] -= 1
            if row in self.free:
                starts = (self.task[self.sharing][:, scenarios] == waiting).any(axis=0)
                self.held_up[scenarios] += starts & (self.missing[waiting, scenarios] == 0)
        self.heads[row, scenarios] += 1
        self._next(row, scenarios)
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
