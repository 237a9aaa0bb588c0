"""The vectorised twin: the timeline of one representative rank, for arrays of scenarios at once.

The same fluid model as :mod:`perfmodel.overlap.timeline`, advanced event by event for all scenarios together
(:mod:`perfmodel.overlap.state`). Ops that follow each other need no simulation (:mod:`perfmodel.overlap.chains`).
Another segment that joins between iterations is simulated once and multiplied. A segment that carries over (two-batch
overlap) is simulated until its state, which is how far every stream has come, is that of an earlier iteration, and is
then put on by as many such periods as are left; where micro-batches drift against each other for longer, more is
simulated, in the end all of it. With a host that launches, iterations differ by how far the host is ahead: its lead
goes from iteration to iteration and from segment to segment. Tests hold the two together.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from perfmodel.jit import available
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num
from perfmodel.ops.op import Stream
from perfmodel.overlap.chains import chain_iterations, chain_seconds, exposed_seconds, joined
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.state import (
    SETTLED,
    FloatArray,
    IntArray,
    LaunchedState,
    State,
    without_host,
)

WORTH_COMPILED = 10_000
"""Scenarios from which on it is shorter to load compiled code."""
LOADING_S = 0.5
"""How long that takes: a process whose rounds in numpy have taken as long loads it, too, as more may come."""
_SPENT = [0.0]
"""Seconds that rounds in numpy have taken in this process."""

PIECE = 1000
"""Scenarios that are advanced together."""
PIECE_COMPILED = 4000
"""The same in compiled code, which has few scenarios at a time in the processor's caches."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What the twin tells of each scenario."""

    step_time_s: FloatArray
    """Time of the whole step, s, one per scenario."""
    exposed_communication_s: FloatArray
    """Time in which something communicates and nothing computes, s."""


def step_times(
    segments: Sequence[Segment], *, contention: bool = True, compiled: bool | None = None
) -> StepTimes:
    """Step time and exposed communication for every scenario that the segments' timings hold.

    Timings may be floats or arrays of one length; they are taken in pieces that stay in the processor's caches.
    ``compiled`` says whether streams that share a chip are advanced in compiled code (None: where that is worth it);
    the times are the same.
    """
    size = max(_size(timing) for segment in segments for timing in segment.timings)
    if not contention:
        segments = [joined(one) if one.carries and not one.has_host else one for one in segments]
    how = How(contention, worth_compiled(size) if compiled is None else compiled)
    total, exposed = np.zeros(size), np.zeros(size)
    together = PIECE_COMPILED if how.compiled else PIECE
    for start in range(0, size, together):
        piece = slice(start, min(start + together, size))
        clock = Clock(*np.zeros((3, piece.stop - start)))
        for segment in segments:
            clock = _advanced(_selected(segment, piece) if size > together else segment, clock, how)
        total[piece] = np.maximum(clock.gpu, clock.host)
        exposed[piece] = clock.exposed
    return StepTimes(total, exposed)


class Clock(NamedTuple):
    """Instants from which host and GPU are free, and exposed communication so far: s, one per scenario."""

    host: FloatArray
    gpu: FloatArray
    exposed: FloatArray


class How(NamedTuple):
    """How scenarios are advanced."""

    contention: bool
    """Whether ops that run together slow each other."""
    compiled: bool


class Ran(Protocol):
    """Scenarios that were run to their end, s, one each."""

    @property
    def now(self) -> FloatArray:
        """When that was."""

    @property
    def exposed(self) -> FloatArray:
        """Exposed communication until then."""

    @property
    def lead(self) -> FloatArray:
        """How long before it the host was done."""


def worth_compiled(size: int) -> bool:
    """Whether so many scenarios are worth compiled code: it is loaded already, or was compiled before and will pay."""
    if "perfmodel.overlap.kernel" in sys.modules:
        return True
    if (size < WORTH_COMPILED and _SPENT[0] < LOADING_S) or not available():
        return False
    from perfmodel.overlap.compiled import KERNEL

    return KERNEL.compiled_before()


def _advanced(segment: Segment, clock: Clock, how: How) -> Clock:
    """After all iterations of a segment."""
    if segment.is_chain:
        exposed = clock.exposed + exposed_seconds(segment)
        if not segment.has_host:
            return Clock(clock.host, clock.gpu + chain_seconds(segment), exposed)
        return Clock(*chain_iterations(segment).apply(clock.host, clock.gpu), exposed)
    if segment.has_host and not segment.carries:
        return _joining(segment, clock, how)
    lead = clock.gpu - clock.host if segment.has_host else None
    time_s, exposed_s, left = _segment_times(segment, clock.gpu.size, how, lead)
    gpu = clock.gpu + time_s
    return Clock(clock.host if left is None else gpu - left, gpu, clock.exposed + exposed_s)


def _segment_times(
    segment: Segment, size: int, how: How, lead: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """Time and exposed communication of all iterations, and the host's lead after them, s; ``lead`` is how far the
    host is ahead at first, where it does something.
    """
    if not segment.carries:
        run = _run(segment, size, 1, how)
        return run.now * segment.repeat, run.exposed * segment.repeat, None
    run = _run(segment, size, segment.repeat, how, lead)
    if lead is None:
        return run.now, run.exposed, None
    if not _host_waits(segment):  # it may have run away from the GPU
        return run.now, run.exposed, lead + run.now - segment.repeat * _host_seconds(segment)
    return run.now, run.exposed, run.lead


def _run(segment: Segment, size: int, iterations: int, how: How, lead: FloatArray | None = None) -> Ran:
    """So many iterations."""
    if how.compiled:
        from perfmodel.overlap.compiled import run

        return run(segment, size, iterations, how.contention, lead)
    start = time.perf_counter()
    state = State(segment, size, iterations, how.contention, lead).run()
    _SPENT[0] += time.perf_counter() - start
    return state


def _joining(segment: Segment, clock: Clock, how: How) -> Clock:
    """After all iterations of a segment that joins in between, whose ops wait for launches.

    An iteration depends on the host's lead alone. Once it is long enough for all launches the GPU goes its own
    pace, which is simulated without the host; a lead that an iteration leaves as it was stays so.
    """
    size = clock.gpu.size
    launches = _everywhere(_host_seconds(segment), size)
    enough = _everywhere(_host_seconds(segment, until_wait=True), size)
    waits = _host_waits(segment)
    alone = without_host(segment)
    lead, time_s, exposed_s = clock.gpu - clock.host, np.zeros(size), np.zeros(size)
    alone_s, alone_exposed = np.full(size, np.nan), np.zeros(size)
    missing = np.full(size, segment.repeat)

    def go(which: IntArray, count: IntArray, each_s: FloatArray, each_exposed: FloatArray) -> None:
        time_s[which] += count * each_s
        exposed_s[which] += count * each_exposed
        missing[which] -= count

    while (left := np.flatnonzero(missing)).size:
        free = left[lead[left] >= launches[left]] if not waits else left[:0]
        if free.size:
            new = free[np.isnan(alone_s[free])]
            if new.size:
                state = _run(_selected(alone, new), new.size, 1, how)
                alone_s[new], alone_exposed[new] = state.now, state.exposed
            count = _free_iterations(lead[free], launches[free], alone_s[free], missing[free])
            go(free, count, alone_s[free], alone_exposed[free])
            lead[free] += count * (alone_s[free] - launches[free])
            left = left[(missing[left] > 0) & (lead[left] < launches[left])]
            if not left.size:
                continue
        run = LaunchedState(_selected(segment, left), left.size, how.contention, lead[left]).run()
        steady = np.abs(run.lead - lead[left]) <= SETTLED * run.now
        if (
            waits
        ):  # what comes before the first wait is launched in time, and what comes after starts from there
            steady |= (lead[left] >= enough[left]) & (run.lead >= enough[left])
        else:  # no op waited for its launch, and none will
            steady |= ~run.felt & (run.lead >= lead[left])
        count = np.where(steady, missing[left], 1)
        go(left, count, run.now, run.exposed)
        lead[left] = run.lead if waits else lead[left] + count * (run.now - launches[left])
    gpu = clock.gpu + time_s
    return Clock(gpu - lead, gpu, clock.exposed + exposed_s)


def _free_iterations(lead: FloatArray, launches: FloatArray, own: FloatArray, missing: IntArray) -> IntArray:
    """Iterations that start with all their ops launched: all that are missing, or as long as the lead lasts."""
    shrinks = launches - own
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.floor((lead - launches) / shrinks) + 1.0
    return np.where(shrinks > 0.0, np.minimum(most, missing), missing).astype(np.int64)


def _everywhere(value: Num, size: int) -> FloatArray:
    return np.broadcast_to(np.asarray(value, dtype=float), (size,))


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
    return any(
        segment.tasks[other].op.stream != Stream.HOST
        for task in segment.tasks
        if task.op.stream == Stream.HOST
        for other in (*task.after, *task.after_previous)
    )


def _selected(segment: Segment, scenarios: IntArray | slice) -> Segment:
    """The segment for some of its scenarios; timings that were one stay one."""
    made: dict[int, Timing] = {}
    for timing in segment.timings:
        if id(timing) not in made:
            made[id(timing)] = timing.selected(scenarios)
    return replace(segment, timings=tuple(made[id(timing)] for timing in segment.timings))


def _size(timing: Timing) -> int:
    parts = (timing.latency_s, timing.compute_s, timing.memory_s, timing.link_s, timing.network_s)
    return max(int(np.size(part)) for part in parts)
