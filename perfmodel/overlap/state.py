"""Where the twin's scenarios stand: the timeline's fluid model, advanced event by event for all of them together.

Each round every scenario moves to its own next end. Two kinds of state know a host that launches: :class:`State` takes
it as one stream more, which shares nothing and may have been free before the GPU was; :class:`LaunchedState` knows when
each op will have been launched, so it needs no rounds for that, for one iteration.

Iterations that carry over come to a period. Each time the first stream ends one it is noted how far all streams are;
where that is as some iterations before, whatever came after the earlier mark comes after the later one too, as long as
no stream runs out of tasks. So the scenario is put on by as many periods as fit, and what is left is simulated.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Stream
from perfmodel.overlap.graph import Segment, Task
from perfmodel.overlap.orders import Orders

SETTLED = 1e-7
"""Share of a task within which two streams count as equally far."""
LONGEST_PERIOD = 12
"""Iterations, of the periods that are looked for; 1, 2, 3, 4 and 6 divide it."""

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
        self.orders = Orders.of(segment, iterations)
        self.contention, self.size = contention, size
        kinds, self.kinds = distinct(segment.timings)
        self.table = _table(kinds, size)
        shape = (len(self.orders.streams), size)
        self.heads = np.zeros(shape, dtype=np.int64)  # tasks that are done
        self.task = np.zeros(shape, dtype=np.int64)  # the next one; the number of tasks where there is none
        self.needs = np.zeros((*shape[:1], *shape), dtype=np.int64)  # heads [first axis] that it waits for
        self.remaining = np.ones(shape)
        self.current = np.zeros((len(self.table), *shape))  # the table's rows for each stream's next task
        self.columns = np.arange(size)
        self.now, self.exposed = np.zeros(size), np.zeros(size)
        self.computes, self.communicates = list(self.orders.computes), list(self.orders.communicates)
        self.marks = _Marks(shape)
        self.held_up = np.zeros(size)  # tasks that could have started before the host's ended
        self.host_end = np.zeros(size)
        self.closed: FloatArray | None = None  # until when a stream may not start its first task
        if lead is not None:
            self.closed = np.zeros(shape)
            self.closed[self.orders.host_row] = -lead
            self.now = self.closed.min(axis=0)
        for row in range(len(self.heads)):
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

    def ready(self) -> Bools:
        """Whether a stream has a task left whose inputs are there."""
        there: Bools = np.logical_and.reduce(self.heads[:, None] >= self.needs, axis=0)
        return there & (self.task < self.orders.count)

    def advance(self) -> bool:
        """Move every scenario to its next end; False once all are over."""
        ready = self.ready()
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
        for row in range(len(self.heads)):
            scenarios = np.flatnonzero(ended[row])
            if scenarios.size:
                self._end(row, scenarios)

    def _end(self, row: int, scenarios: IntArray) -> None:
        """The running task of one stream is over in these scenarios: take the next one."""
        if row == self.orders.host_row:
            blocked = ~self.ready()[:, scenarios]
            self.heads[row, scenarios] += 1
            starts = blocked & self.ready()[:, scenarios]
            starts[row] = False
            self.held_up[scenarios] += starts.sum(axis=0)
            self.host_end[scenarios] = self.now[scenarios]
        else:
            self.heads[row, scenarios] += 1
        self.remaining[row, scenarios] = 1.0
        self._next(row, scenarios)
        if row == self.orders.marking:
            ended = self.heads[row, scenarios] % self.orders.lengths[row] == 0
            self._mark(scenarios[ended & ~self.marks.settled[scenarios]])

    def _next(self, row: int, scenarios: IntArray) -> None:
        """Renew what is kept of a stream's next task."""
        orders = self.orders
        turn, place = np.divmod(self.heads[row, scenarios], orders.lengths[row])
        task = np.where(turn < orders.iterations, orders.tasks[row, place], orders.count)
        self.task[row, scenarios] = task
        self.needs[:, row, scenarios] = orders.needs[row, place].T + turn * orders.lengths[:, None]
        self.current[:, row, scenarios] = self.table[:, self.kinds[task], scenarios]

    def _mark(self, scenarios: IntArray) -> None:
        """Note how far all streams are, and put those scenarios on that are as they were some iterations before.

        Tasks end in order on a stream, so this says who waits for what, too. One that ends at this moment counts as
        ended, told or not.
        """
        orders, marks = self.orders, self.marks
        mark = self.heads[orders.marking, scenarios] // orders.lengths[orders.marking] - 1
        far = self.heads[:, scenarios] + 1.0 - self.remaining[:, scenarios]
        for period in range(1, min(int(mark.max(initial=0)), LONGEST_PERIOD) + 1):
            own = np.flatnonzero((mark >= period) & ~marks.settled[scenarios])
            periods = self._periods(scenarios[own], far[:, own], mark[own] - period, period)
            goes, periods = own[periods > 0], periods[periods > 0]
            if goes.size:
                self._put_on(scenarios[goes], mark[goes] - period, period, periods)
        left = ~marks.settled[scenarios]
        kept, place = scenarios[left], mark[left] % LONGEST_PERIOD
        marks.far[place, :, kept] = far[:, left].T
        marks.now[place, kept] = self.now[kept]
        marks.exposed[place, kept] = self.exposed[kept]
        marks.held_up[place, kept] = self.held_up[kept]

    def _periods(self, scenarios: IntArray, far: FloatArray, earlier: IntArray, period: int) -> IntArray:
        """By how many periods each scenario can be put on; 0 where it is not as it was at the earlier mark.

        No stream may run out of tasks on the way, and none may have been at one of the first iteration that would wait
        for a previous one. A host that waits for nobody may be further than it was, or done: others feel it only where
        they wait for it, and if nobody has in a whole period nobody will.
        """
        orders, marks = self.orders, self.marks
        before = marks.far[earlier % LONGEST_PERIOD, :, scenarios].T
        unfelt = marks.held_up[earlier % LONGEST_PERIOD, scenarios] == self.held_up[scenarios]
        possible = np.ones(scenarios.size, dtype=bool)
        fit = np.full(scenarios.size, float(orders.iterations))
        for row, length in enumerate(orders.lengths):
            total = length * orders.iterations
            grown = far[row] - before[row] - period * length
            fits = np.floor((total - far[row] + SETTLED) / (period * length))
            possible &= before[row] >= orders.first[row] - SETTLED
            ahead = np.zeros(scenarios.size, dtype=bool)
            if row == orders.host_row:
                ahead = (far[row] >= total - SETTLED) | ((grown > SETTLED) & (not orders.host_waits))
            possible &= np.where(ahead, unfelt, np.abs(grown) <= SETTLED)
            fit = np.where(ahead, fit, np.minimum(fit, fits))
        return np.where(possible, fit, 0.0).astype(np.int64)

    def _put_on(self, scenarios: IntArray, earlier: IntArray, period: int, periods: IntArray) -> None:
        """Go on so many periods later."""
        orders, marks = self.orders, self.marks
        place = earlier % LONGEST_PERIOD
        later_s = periods * (self.now[scenarios] - marks.now[place, scenarios])
        if orders.host_row >= 0:  # what it has done last it does last of all, unless that was all
            left = (
                self.heads[orders.host_row, scenarios] < orders.lengths[orders.host_row] * orders.iterations
            )
            self.host_end[scenarios] += np.where(left, later_s, 0.0)
        self.now[scenarios] += later_s
        self.exposed[scenarios] += periods * (self.exposed[scenarios] - marks.exposed[place, scenarios])
        for row, length in enumerate(orders.lengths):
            later = self.heads[row, scenarios] + periods * (period * length)
            over = later >= length * orders.iterations  # a host that is ahead
            self.heads[row, scenarios] = np.minimum(later, length * orders.iterations)
            self.remaining[row, scenarios[over]] = 1.0
            self._next(row, scenarios)
        marks.settled[scenarios] = True

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


class _Marks:
    """What was noted of the last iterations, at the place of each in a circle."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.far = np.zeros((LONGEST_PERIOD, *shape))
        """Tasks that each stream had done, and its share of the next."""
        self.now, self.exposed, self.held_up = np.zeros((3, LONGEST_PERIOD, shape[1]))
        self.settled = np.zeros(shape[1], dtype=bool)
        """Where no more need be noted."""


class LaunchedState(State):
    """One iteration of a segment whose ops wait for launches; the host is no stream of it.

    The host launches in order and nothing slows it, so when an op will have been launched is known, but for what it
    launches after waiting for the GPU: that becomes known when the GPU is there. Launches up to a wait are a block.
    """

    def __init__(self, segment: Segment, size: int, contention: bool, lead: FloatArray) -> None:
        """At instant 0, from which the GPU is free, and the host since ``lead`` before."""
        kept, tasks, timings = _on_gpu(segment)
        super().__init__(Segment(segment.name, tasks, timings), size, iterations=1, contention=contention)
        self.launched = np.full((self.orders.count + 1, size), -np.inf)
        self.blocks = _blocks(segment, kept, size)
        for launched, _ in (one for block in self.blocks for one in block.launches):
            self.launched[launched] = np.inf
        self.felt = np.zeros(size, dtype=bool)  # whether an op waited for its launch alone
        self.host_end = -lead
        self.ends = np.full((self.orders.count + 1, size), np.inf)
        self.block = np.zeros(size, dtype=np.int64)
        self._launch(self.columns)

    def advance(self) -> bool:
        """Move every scenario to its next end or launch that is waited for; False once all are over."""
        ready = self.ready()
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


def distinct(timings: Sequence[Timing]) -> tuple[list[Timing], IntArray]:
    """The timings that there are, each once, and which of them each task has [tasks + 1]; the last has none of them."""
    each = {id(timing): timing for timing in timings}
    place = {one: number for number, one in enumerate(each)}
    return list(each.values()), np.array([*(place[id(timing)] for timing in timings), len(place)])


def _table(timings: Sequence[Timing], size: int) -> FloatArray:
    """Figures of each timing, [11, timings + 1, scenarios]: time alone, latency, the parts on the four resources, the
    shares of the time alone on them, held SMs. The last is of the task that never runs.
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
