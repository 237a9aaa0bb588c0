"""The vectorised twin: the timeline of one representative rank, for arrays of scenarios at once.

The same fluid model as :mod:`perfmodel.overlap.timeline`, advanced event by event for all scenarios together: each
round every scenario moves to its own next end. Ops that follow each other need no simulation
(:mod:`perfmodel.overlap.chains`). Another segment that joins between iterations is simulated once and
multiplied. A segment that carries over (two-batch overlap) is simulated until an iteration repeats an earlier one and
then extended by that period; where micro-batches drift against each other for longer, more is simulated, in the
end all of it. With a host that launches, iterations differ by how far the host is ahead: its lead goes from iteration
to iteration and from segment to segment. Tests hold the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Stream
from perfmodel.overlap.chains import chain_iterations, chain_seconds, exposed_seconds
from perfmodel.overlap.graph import Segment

FIRST_UNROLLED = 4
"""Iterations of a carrying segment that are simulated before asking whether it has settled; doubled where not. At least
four, because a period of two is seen in four."""

SETTLED = 1e-7
"""Share of an iteration's time within which two iterations count as equal."""

PIECE = 1000
"""Scenarios that are advanced together."""

SECONDS, LATENCY, PARTS, SHARES_AND_HELD = 0, 1, slice(2, 6), slice(6, 11)
"""Rows of a state's table."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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
        clock = Clock(*(np.zeros(piece.size) for _ in range(3)))
        for segment in segments:
            clock = _advanced(_selected(segment, piece, size), clock, contention)
        total[piece] = np.maximum(clock.gpu, clock.host)
        exposed[piece] = clock.exposed
    return StepTimes(total, exposed)


class Clock(NamedTuple):
    """Instants from which host and GPU are free, and exposed communication so far: s, one per scenario."""

    host: FloatArray
    gpu: FloatArray
    exposed: FloatArray


def _advanced(segment: Segment, clock: Clock, contention: bool) -> Clock:
    """After all iterations of a segment."""
    if segment.is_chain:
        exposed = clock.exposed + exposed_seconds(segment)
        if not segment.has_host:
            return Clock(clock.host, clock.gpu + chain_seconds(segment), exposed)
        return Clock(*chain_iterations(segment).apply(clock.host, clock.gpu), exposed)
    if segment.has_host and not segment.carries:
        return _joining(segment, clock, contention)
    lead = clock.gpu - clock.host if segment.has_host else None
    time_s, exposed_s, left = _segment_times(segment, clock.gpu.size, contention, lead)
    gpu = clock.gpu + time_s
    return Clock(clock.host if left is None else gpu - left, gpu, clock.exposed + exposed_s)


def _segment_times(
    segment: Segment, size: int, contention: bool, lead: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """Time and exposed communication of all iterations, and the host's lead after them, s; ``lead`` is how far the
    host is ahead at first, where it does something.
    """
    if not segment.carries:
        run = _run(segment, size, 1, contention)
        return run.iteration_ends[-1] * segment.repeat, run.iteration_exposed[-1] * segment.repeat, None
    total, exposed, ahead = np.zeros(size), np.zeros(size), np.zeros(size)
    left = np.arange(size)
    unrolled = min(FIRST_UNROLLED, segment.repeat)
    while left.size:
        part = _selected(segment, left, size)
        run = _run(part, left.size, unrolled, contention, None if lead is None else lead[left])
        time_s, exposed_s, settled = _extended(run, segment.repeat)
        done = left[settled]
        total[done], exposed[done], ahead[done] = time_s[settled], exposed_s[settled], run.lead[settled]
        left = left[~settled]
        unrolled = min(2 * unrolled, segment.repeat)
    if lead is None:
        return total, exposed, None
    return (
        total,
        exposed,
        ahead if _host_waits(segment) else lead + total - segment.repeat * _host_seconds(segment),
    )


def _joining(segment: Segment, clock: Clock, contention: bool) -> Clock:
    """After all iterations of a segment that joins in between, whose ops wait for launches.

    An iteration depends on the host's lead alone. Once it is long enough for all launches the GPU goes its own
    pace, which is simulated without the host; a lead that an iteration leaves as it was stays so.
    """
    size = clock.gpu.size
    launches = np.broadcast_to(np.asarray(_host_seconds(segment), dtype=float), (size,))
    enough = np.broadcast_to(np.asarray(_host_seconds(segment, until_wait=True), dtype=float), (size,))
    waits = _host_waits(segment)
    lead, time_s, exposed_s = clock.gpu - clock.host, np.zeros(size), np.zeros(size)
    missing = np.full(size, segment.repeat)
    alone: tuple[FloatArray, FloatArray] | None = None

    def go(which: IntArray, count: IntArray, each_s: FloatArray, each_exposed: FloatArray) -> None:
        time_s[which] += count * each_s
        exposed_s[which] += count * each_exposed
        missing[which] -= count

    while (left := np.flatnonzero(missing)).size:
        free = left[lead[left] >= launches[left]] if not waits else left[:0]
        if free.size:
            if alone is None:
                run = _run(_without_host(segment), size, 1, contention)
                alone = run.iteration_ends[-1], run.iteration_exposed[-1]
            own, exposed = alone[0][free], alone[1][free]
            shrinks = np.maximum(launches[free] - own, 0.0)
            most = np.full(free.size, segment.repeat)
            np.floor_divide(
                lead[free] - launches[free], shrinks, out=most, where=shrinks > 0.0, casting="unsafe"
            )
            count = np.minimum(missing[free], most + (shrinks > 0.0))
            go(free, count, own, exposed)
            lead[free] += count * (own - launches[free])
            left = np.flatnonzero(missing)
            left = left[lead[left] < launches[left]]
            if not left.size:
                continue
        run = _run(_selected(segment, left, size), left.size, 1, contention, lead[left])
        own = run.iteration_ends[-1]
        steady = np.abs(run.lead - lead[left]) <= SETTLED * own
        if waits:
            steady |= (lead[left] >= enough[left]) & (run.lead >= enough[left])
        go(left, np.where(steady, missing[left], 1), own, run.iteration_exposed[-1])
        lead[left] = run.lead
    gpu = clock.gpu + time_s
    return Clock(gpu - lead, gpu, clock.exposed + exposed_s)


def _host_seconds(segment: Segment, *, until_wait: bool = False) -> Num:
    """Time of the host's tasks in one iteration, s; ``until_wait``: of those before it first waits for the GPU."""
    total: Num = 0.0
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        if task.op.stream == Stream.HOST:
            if until_wait and task.after:
                break
            total = total + timing.seconds
    return total


def _host_waits(segment: Segment) -> bool:
    """Whether the host waits for the GPU in it."""
    return any(task.op.stream == Stream.HOST and task.after for task in segment.tasks)


def _without_host(segment: Segment) -> Segment:
    """The segment with everything launched."""
    kept = [i for i, task in enumerate(segment.tasks) if task.op.stream != Stream.HOST]
    place = {old: new for new, old in enumerate(kept)}
    tasks = (
        replace(
            segment.tasks[i],
            after=tuple(place[other] for other in segment.tasks[i].after if other in place),
            after_previous=tuple(place[other] for other in segment.tasks[i].after_previous if other in place),
        )
        for i in kept
    )
    return replace(segment, tasks=tuple(tasks), timings=tuple(segment.timings[i] for i in kept))


def _extended(run: "_State", repeat: int) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Time and exposed communication after ``repeat`` iterations, and where they are certain.

    An iteration whose tasks end at the same times, relative to its own end, as one or two iterations before has
    settled: what follows repeats it. With every iteration simulated all is certain.
    """
    last = run.iterations - 1
    missing = repeat - run.iterations
    if missing == 0:
        return run.iteration_ends[last], run.iteration_exposed[last], np.ones(run.size, dtype=bool)
    every = run.task_ends[:-1].reshape(run.iterations, run.per_iteration, run.size)
    ends = every[:, run.on_gpu]
    relative = ends - ends.max(axis=1, keepdims=True)
    tolerance = SETTLED * (run.iteration_ends[last] - run.iteration_ends[last - 1])
    one = (np.abs(relative[last] - relative[last - 1]) <= tolerance).all(axis=0)
    two = (np.abs(relative[last] - relative[last - 2]) <= tolerance).all(axis=0)
    two &= (np.abs(relative[last - 1] - relative[last - 3]) <= tolerance).all(axis=0)
    if not run.on_gpu.all():  # the host's lead may grow for ever, but not shrink
        ahead = ends.max(axis=1) - every[:, ~run.on_gpu].max(axis=1)
        one &= ahead[last] - ahead[last - 1] >= -tolerance
        two &= ahead[last] - ahead[last - 2] >= -tolerance

    def extend(values: FloatArray) -> FloatArray:
        by_one = values[last] + missing * (values[last] - values[last - 1])
        odd = missing % 2
        by_two = values[last - odd] + (missing + odd) // 2 * (values[last - odd] - values[last - odd - 2])
        extended: FloatArray = np.where(one, by_one, by_two)
        return extended

    return extend(run.iteration_ends), extend(run.iteration_exposed), one | two


def _selected(segment: Segment, scenarios: IntArray, size: int) -> Segment:
    """The segment for some of its scenarios."""
    if scenarios.size == size:
        return segment
    return replace(segment, timings=tuple(timing.selected(scenarios) for timing in segment.timings))


def _size(timing: Timing) -> int:
    parts = (timing.latency_s, timing.compute_s, timing.memory_s, timing.link_s, timing.network_s)
    return max(int(np.size(part)) for part in parts)


def _run(
    segment: Segment, size: int, iterations: int, contention: bool, lead: FloatArray | None = None
) -> "_State":
    """The state after so many iterations: from 0 on the GPU is free, and the host since ``lead`` before."""
    state = _State(segment, size, iterations, contention, lead)
    while state.advance():
        pass
    return state


class _State:
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
        self.on_gpu = np.array([task.op.stream != Stream.HOST for task in segment.tasks])
        self.closed: FloatArray | None = None  # until when a stream may not start, for the first time
        if lead is not None:
            self.closed = np.zeros(shape)
            self.closed[self.streams.index(Stream.HOST)] = -lead
            self.now = self.closed.min(axis=0)
        self.task_ends = np.zeros((self.total_tasks + 1, size))
        self.task_exposed = np.zeros((self.total_tasks + 1, size))
        self.computes = [row for row, s in enumerate(self.streams) if s in COMPUTE_STREAMS]
        self.communicates = [row for row, s in enumerate(self.streams) if s in COMMUNICATION_STREAMS]
        for row in range(len(self.streams)):
            self._next(row, self.columns)

    @property
    def iteration_ends(self) -> FloatArray:
        """When all tasks of each iteration are done: [iterations, scenarios]."""
        return self._by_iteration(self.task_ends)

    @property
    def iteration_exposed(self) -> FloatArray:
        """Exposed communication up to the end of each iteration: [iterations, scenarios]."""
        return self._by_iteration(self.task_exposed)

    @property
    def lead(self) -> FloatArray:
        """How far the host is ahead at the end: [scenarios]."""
        ends = self.task_ends[:-1].reshape(self.iterations, self.per_iteration, self.size)[-1]
        ahead: FloatArray = ends.max(axis=0) - ends[~self.on_gpu].max(axis=0, initial=-np.inf)
        return ahead

    def _by_iteration(self, values: FloatArray) -> FloatArray:
        shape = (self.iterations, self.per_iteration, self.size)
        latest: FloatArray = values[:-1].reshape(shape).max(axis=1)
        return latest

    def advance(self) -> bool:
        """Move every scenario to its next end; False once all are over."""
        running = self.missing[self.task, self.columns] == 0
        if not running.any():
            return False
        opening: FloatArray | None = None
        if self.closed is not None:
            opening = self.closed - self.now
            running &= opening <= 0.0
        seconds = self._shared_seconds(running)
        wait = np.where(running, self.remaining * seconds, np.inf)
        step = wait.min(axis=0)
        if opening is not None:
            step = np.minimum(step, self._until_open(opening))
        step[np.isinf(step)] = 0.0
        self.now += step
        if opening is not None:
            self._open(opening, step)
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

    @staticmethod
    def _until_open(opening: FloatArray) -> FloatArray:
        """Until the next stream may start: [scenarios]."""
        until: FloatArray = np.where(opening > 0.0, opening, np.inf).min(axis=0)
        return until

    def _open(self, opening: FloatArray, step: FloatArray) -> None:
        """Streams that may start after a step of so long."""
        assert self.closed is not None
        self.closed[opening <= step * (1.0 + 1e-12)] = -np.inf
        if np.isinf(self.closed).all():
            self.closed = None

    def _end(self, row: int, scenarios: IntArray) -> None:
        """The running task of one stream is over in these scenarios: tell who waits, and take the next one."""
        task = self.task[row, scenarios]
        self.task_ends[task, scenarios] = self.now[scenarios]
        self.task_exposed[task, scenarios] = self.exposed[scenarios]
        for waiting in self.dependents[task].T:
            self.missing[waiting, scenarios] -= 1
        self.heads[row, scenarios] += 1
        self._next(row, scenarios)

    def _next(self, row: int, scenarios: IntArray) -> None:
        """Renew what is kept of a stream's next task."""
        task = self.queues[row, self.heads[row, scenarios]]
        kind = np.where(task < self.total_tasks, task % self.per_iteration, self.per_iteration)
        self.task[row, scenarios] = task
        self.remaining[row, scenarios] = 1.0
        self.current[:, row, scenarios] = self.table[:, kind, scenarios]

    def _count_exposed(self, running: NDArray[np.bool_], step: FloatArray) -> None:
        """Add the time to the next end where something communicates and nothing computes."""
        exposed = running[self.communicates].any(axis=0)
        exposed &= ~running[self.computes].any(axis=0)
        self.exposed += np.where(exposed, step, 0.0)

    def _shared_seconds(self, running: NDArray[np.bool_]) -> FloatArray:
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
