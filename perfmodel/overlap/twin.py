"""The vectorised twin: the timeline of one representative rank, for arrays of scenarios at once.

The same fluid model as :mod:`perfmodel.overlap.timeline`, advanced event by event for all scenarios together: each
round every scenario moves to its own next end. A segment that joins between iterations is simulated once and
multiplied. A segment that carries over (two-batch overlap) is simulated until an iteration repeats an earlier one and
then extended by that period; where micro-batches drift against each other for longer, more is simulated, in the
end all of it. Tests hold the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.cost import Timing
from perfmodel.ops.op import COMPUTE_STREAMS, Stream
from perfmodel.overlap.graph import Segment

FIRST_UNROLLED = 8
"""Iterations of a carrying segment that are simulated before asking whether it has settled; doubled where not."""

SETTLED = 1e-7
"""Share of an iteration's time within which two iterations count as equal."""

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

    Timings may be floats or arrays of one length. A large set is best given in pieces of some 5,000, which stay in the
    processor's caches.
    """
    size = max(_size(timing) for segment in segments for timing in segment.timings)
    total, exposed = np.zeros(size), np.zeros(size)
    for segment in segments:
        time_s, exposed_s = _segment_times(segment, size, contention)
        total += time_s
        exposed += exposed_s
    return StepTimes(total, exposed)


def _segment_times(segment: Segment, size: int, contention: bool) -> tuple[FloatArray, FloatArray]:
    if not segment.carries:
        run = _run(segment, size, 1, contention)
        return run.iteration_ends[-1] * segment.repeat, run.iteration_exposed[-1] * segment.repeat
    total, exposed = np.zeros(size), np.zeros(size)
    left = np.arange(size)
    unrolled = min(FIRST_UNROLLED, segment.repeat)
    while left.size:
        part = _selected(segment, left, size)
        run = _run(part, left.size, unrolled, contention)
        time_s, exposed_s, settled = _extended(run, segment.repeat)
        total[left[settled]], exposed[left[settled]] = time_s[settled], exposed_s[settled]
        left = left[~settled]
        unrolled = min(2 * unrolled, segment.repeat)
    return total, exposed


def _extended(run: "_State", repeat: int) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Time and exposed communication after ``repeat`` iterations, and where they are certain.

    An iteration whose tasks end at the same times, relative to its own end, as one or two iterations before has settled:
    what follows repeats it. With every iteration simulated all is certain.
    """
    last = run.iterations - 1
    missing = repeat - run.iterations
    if missing == 0:
        return run.iteration_ends[last], run.iteration_exposed[last], np.ones(run.size, dtype=bool)
    ends = run.task_ends.reshape(run.iterations, run.per_iteration, run.size)
    relative = ends - ends.max(axis=1, keepdims=True)
    tolerance = SETTLED * (run.iteration_ends[last] - run.iteration_ends[last - 1])
    one = (np.abs(relative[last] - relative[last - 1]) <= tolerance).all(axis=0)
    two = (np.abs(relative[last] - relative[last - 2]) <= tolerance).all(axis=0)
    two &= (np.abs(relative[last - 1] - relative[last - 3]) <= tolerance).all(axis=0)

    def extend(values: Sequence[FloatArray]) -> FloatArray:
        by_one = values[last] + missing * (values[last] - values[last - 1])
        odd = missing % 2
        by_two = values[last - odd] + (missing + odd) // 2 * (values[last - odd] - values[last - odd - 2])
        return np.where(one, by_one, by_two)

    return extend(run.iteration_ends), extend(run.iteration_exposed), one | two


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
    """Where every scenario stands. Arrays are [streams, scenarios] unless said otherwise."""

    def __init__(self, segment: Segment, size: int, iterations: int, contention: bool) -> None:
        tasks, count = segment.tasks, len(segment.tasks)
        self.streams = sorted({task.op.stream for task in tasks}, key=list(Stream).index)
        self.contention, self.size = contention, size
        self.total_tasks = count * iterations
        self.per_iteration, self.iterations = count, iterations
        self.parts = _parts(segment.timings, size)  # [5, tasks, size]
        self.seconds = self.parts[0] + self.parts[1:].max(axis=0)
        self.held = np.array([timing.held_sms for timing in segment.timings])
        self.queues, self.lengths = _queues(segment, self.streams, iterations)
        self.needs = _needs(segment, iterations)  # [tasks, most needs], padded with a task that is always done
        self.done = np.zeros((self.total_tasks + 2, size), dtype=bool)
        self.done[self.total_tasks] = True  # what a task without needs waits for; the last row is never done
        self.heads = np.zeros((len(self.streams), size), dtype=np.int64)
        self.remaining = np.ones((len(self.streams), size))
        self.columns = np.arange(size)
        self.rows = np.arange(len(self.streams))[:, None]
        self.now = np.zeros(size)
        self.exposed = np.zeros(size)
        self.left = np.full((iterations, size), count)
        self.task_ends = np.zeros((self.total_tasks, size))
        self.iteration_ends = [np.zeros(size) for _ in range(iterations)]
        self.iteration_exposed = [np.zeros(size) for _ in range(iterations)]
        self.computes = np.array([stream in COMPUTE_STREAMS for stream in self.streams])[:, None]
        self.communicates = np.array(
            [stream not in (*COMPUTE_STREAMS, Stream.HOST) for stream in self.streams]
        )[:, None]

    def advance(self) -> bool:
        """Move every scenario to its next end; False once all are over."""
        task = self.queues[self.rows, np.minimum(self.heads, self.lengths[:, None])]
        running = self.done[self.needs[task].transpose(2, 0, 1), self.columns].all(axis=0)
        running &= task < self.total_tasks
        if not running.any():
            return False
        kind = np.where(running, task, 0) % self.per_iteration
        seconds = self._shared_seconds(kind, running)
        wait = np.where(running, self.remaining * seconds, np.inf)
        step = wait.min(axis=0)
        step[~np.isfinite(step)] = 0.0
        self.now += step
        exposed = (running & self.communicates).any(axis=0) & ~(running & self.computes).any(axis=0)
        self.exposed += np.where(exposed, step, 0.0)
        self._finish(task, running, wait <= step * (1.0 + 1e-12), step, seconds)
        return True

    def _finish(
        self,
        task: IntArray,
        running: NDArray[np.bool_],
        over: NDArray[np.bool_],
        step: FloatArray,
        seconds: FloatArray,
    ) -> None:
        """Take the elapsed share off what runs; mark what is over and move its stream on."""
        ended = running & over
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(seconds > 0.0, step / seconds, 1.0)
        self.remaining = np.where(running, np.maximum(self.remaining - share, 0.0), self.remaining)
        self.remaining[ended] = 1.0
        self.heads += ended
        stream, scenario = np.nonzero(ended)
        self.done[task[stream, scenario], scenario] = True
        self.task_ends[task[stream, scenario], scenario] = self.now[scenario]
        iteration = task[stream, scenario] // self.per_iteration
        np.subtract.at(self.left, (iteration, scenario), 1)
        for number in np.unique(iteration):
            over_now = (self.left[number] == 0) & (self.iteration_ends[number] == 0.0)
            self.iteration_ends[number][over_now] = self.now[over_now]
            self.iteration_exposed[number][over_now] = self.exposed[over_now]

    def _shared_seconds(self, kind: IntArray, running: NDArray[np.bool_]) -> FloatArray:
        """The same formula as :func:`perfmodel.overlap.contention.shared_seconds`, for all scenarios."""
        alone = self.seconds[kind, self.columns]
        if not self.contention:
            return alone
        parts = self.parts[:, kind, self.columns]  # [5, streams, scenarios]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(running & (alone > 0.0), parts[1:] / alone, 0.0)
        together = shares.sum(axis=1)  # [4, scenarios]
        held = np.where(running, self.held[kind], 0.0).sum(axis=0)
        together[0] /= 1.0 - held
        stretched = parts[1:] * np.maximum(1.0, together)[:, None, :]
        shared: FloatArray = parts[0] + stretched.max(axis=0)
        return shared


def _parts(timings: Sequence[Timing], size: int) -> FloatArray:
    """Latency, compute, memory, link and network seconds: [5, tasks, scenarios]."""
    parts: Any = [
        [
            np.broadcast_to(np.asarray(part, dtype=float), (size,))
            for part in (t.latency_s, t.compute_s, t.memory_s, t.link_s, t.network_s)
        ]
        for t in timings
    ]
    return np.array(parts).transpose(1, 0, 2)


def _queues(
    segment: Segment, streams: Sequence[Stream], iterations: int
) -> tuple[IntArray, IntArray]:
    """Task numbers in each stream's order, padded with a number that never runs; and how many there are."""
    count = len(segment.tasks)
    orders = [[i for i, task in enumerate(segment.tasks) if task.op.stream == s] for s in streams]
    lengths = np.array([len(order) * iterations for order in orders])
    queues = np.full((len(streams), int(lengths.max()) + 1), count * iterations + 1, dtype=np.int64)
    for row, order in enumerate(orders):
        numbers = [i + count * turn for turn in range(iterations) for i in order]
        queues[row, : len(numbers)] = numbers
    return queues, lengths


def _needs(segment: Segment, iterations: int) -> IntArray:
    """What each task waits for, padded with a task that is always done. Order within a stream is not repeated."""
    count = len(segment.tasks)
    always, never = count * iterations, count * iterations + 1
    needs: list[list[int]] = []
    for turn in range(iterations):
        for task in segment.tasks:
            own = [other + count * turn for other in task.after]
            if turn:
                own += [other + count * (turn - 1) for other in task.after_previous]
            needs.append(own)
    needs += [[always], [never]]
    width = max(1, *(len(own) for own in needs))
    return np.array([own + [always] * (width - len(own)) for own in needs], dtype=np.int64)
