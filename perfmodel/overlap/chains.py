"""Segments whose ops follow each other: their time needs no simulation.

Alone on the chip, every op takes its solo time, so a chain takes their sum. With a host that launches, an op starts at
the later of two instants: when the one before it is over, and when it has been launched. Both are sums and maxima of
what was there before, so one iteration is a linear map of (host, GPU), the instants from which each is free, over the
numbers with max for plus and plus for times [Baccelli et al., Synchronization and Linearity, 1992]:

    host' = max(host + a, gpu + b)        gpu' = max(host + c, gpu + d)

and ``repeat`` iterations are that 2 x 2 matrix to the power of ``repeat``. Without waits of the host a is the sum of
the launches, d the sum of the ops, c the maximum over ops k of (launches up to k + ops from k on), b nothing.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Stream
from perfmodel.overlap.graph import Segment, Task

NEVER = -np.inf


class Iterations(NamedTuple):
    """What one iteration, or several, do to (host, GPU). Entries are floats or arrays over scenarios, s."""

    host_host: Any
    host_gpu: Any
    """How the host's end depends on when the GPU was free."""
    gpu_host: Any
    """How the GPU's end depends on when the host was free."""
    gpu_gpu: Any

    def after(self, first: "Iterations") -> "Iterations":
        """``first``, and then these."""
        return Iterations(
            np.maximum(self.host_host + first.host_host, self.host_gpu + first.gpu_host),
            np.maximum(self.host_host + first.host_gpu, self.host_gpu + first.gpu_gpu),
            np.maximum(self.gpu_host + first.host_host, self.gpu_gpu + first.gpu_host),
            np.maximum(self.gpu_host + first.host_gpu, self.gpu_gpu + first.gpu_gpu),
        )

    def apply(self, host: Any, gpu: Any) -> tuple[Any, Any]:
        """Instants from which host and GPU are free afterwards, from those before."""
        return (
            np.maximum(host + self.host_host, gpu + self.host_gpu),
            np.maximum(host + self.gpu_host, gpu + self.gpu_gpu),
        )


def chain_iterations(segment: Segment) -> Iterations:
    """What all iterations of a chain do."""
    power, result, square = segment.repeat, None, _iteration(segment)
    while True:
        if power % 2:
            result = square if result is None else square.after(result)
        power //= 2
        if not power:
            assert result is not None
            return result
        square = square.after(square)


def chain_seconds(segment: Segment) -> Any:
    """Time of a chain that waits for no host, s."""
    return segment.repeat * sum(timing.seconds for timing in segment.timings)


def exposed_seconds(segment: Segment) -> Any:
    """Time of a chain's communication, s: all of it is exposed."""
    own = (
        t.seconds for task, t in zip(segment.tasks, segment.timings, strict=True) if task.op.is_communication
    )
    return segment.repeat * sum(own)


def joined(segment: Segment) -> Segment:
    """The segment with each run of ops that follow each other on one stream as one op of their seconds together: where
    nothing slows anything else, what waits for the last of them waits as long. The first may wait for others, and only
    the next op may wait for any but the last.
    """
    waited = {other for task in segment.tasks for other in task.after_previous}
    waiters: dict[int, set[int]] = {}
    for index, task in enumerate(segment.tasks):
        for other in task.after:
            waiters.setdefault(other, set()).add(index)
    place: list[int] = []
    tasks: list[Task] = []
    seconds: list[Any] = []
    for index, (task, timing) in enumerate(zip(segment.tasks, segment.timings, strict=True)):
        before = index - 1
        follows = task.after == (before,) and waiters[before] == {index} and before not in waited
        if follows and not task.after_previous and task.op.stream == segment.tasks[before].op.stream:
            seconds[-1] = seconds[-1] + timing.seconds
        else:
            tasks.append(replace(task, after=tuple(place[other] for other in task.after)))
            seconds.append(timing.seconds)
        place.append(len(tasks) - 1)
    renumbered = tuple(
        replace(task, after_previous=tuple(place[other] for other in task.after_previous)) for task in tasks
    )
    return replace(segment, tasks=renumbered, timings=tuple(Timing(latency_s=one) for one in seconds))


def _iteration(segment: Segment) -> Iterations:
    """What one iteration does: two vectors carried through it, one from each start."""
    ends: list[tuple[Any, Any]] = []
    host: tuple[Any, Any] = (0.0, NEVER)
    gpu: tuple[Any, Any] = (NEVER, 0.0)
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        on_host = task.op.stream == Stream.HOST
        start = host if on_host else gpu
        for other in task.after:  # what runs on the GPU comes in order already, and so does the host
            if (segment.tasks[other].op.stream == Stream.HOST) != on_host:
                start = (np.maximum(start[0], ends[other][0]), np.maximum(start[1], ends[other][1]))
        seconds = timing.seconds
        end = (start[0] + seconds, start[1] + seconds)
        ends.append(end)
        if on_host:
            host = end
        else:
            gpu = end
    return Iterations(host[0], host[1], gpu[0], gpu[1])
