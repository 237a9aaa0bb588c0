"""A segment's tasks as numbers: each stream's order, and how far the other streams must be before a task may start.

Streams run their tasks in order, so what a task waits for on another stream is one number: how many of that stream's
tasks must be done. For a task of iteration t it is t times the stream's length, and a number that is the task's own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Stream
from perfmodel.overlap.graph import Segment

IntArray = NDArray[np.int64]

NOTHING = -(2**40)
"""Tasks of a stream that a task needs where it needs none of it, in any iteration."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Streams are rows, in the order of :class:`~perfmodel.ops.op.Stream`."""

    count: int
    """Tasks of an iteration."""
    iterations: int
    streams: tuple[Stream, ...]
    lengths: IntArray
    """Tasks of an iteration, by stream."""
    tasks: IntArray
    """Which they are [streams, places], padded with ``count``."""
    needs: IntArray
    """Tasks of other streams that each needs, beyond those of earlier iterations [streams, places, streams]."""
    first: IntArray
    """Places up to the last that waits for another stream's task of the previous iteration, by stream: from there on
    the first iteration is like any other."""
    host_row: int
    """The host's, whose tasks share nothing with others; -1: it does nothing."""
    host_waits: bool
    """Whether the host waits for the GPU."""
    computes: tuple[int, ...]
    communicates: tuple[int, ...]

    @property
    def marking(self) -> int:
        """The stream at the end of whose iterations it is noted how far all are: the first of the GPU's; -1: none."""
        rows = (row for row, stream in enumerate(self.streams) if stream != Stream.HOST)
        return next(rows, -1) if self.iterations > 1 else -1

    @classmethod
    def of(cls, segment: Segment, iterations: int) -> "Orders":
        """Of a segment that is run so many times; ``after_previous`` counts where that is more than once."""
        used = {task.op.stream for task in segment.tasks}
        streams = tuple(stream for stream in Stream if stream in used)
        rows = {stream: row for row, stream in enumerate(streams)}
        orders: list[list[int]] = [[] for _ in streams]
        place = []
        for index, task in enumerate(segment.tasks):
            own = orders[rows[task.op.stream]]
            place.append(len(own))
            own.append(index)
        lengths = [len(own) for own in orders]
        tasks = np.full((len(streams), max(lengths)), len(segment.tasks), dtype=np.int64)
        needs = np.full((*tasks.shape, len(streams)), NOTHING, dtype=np.int64)
        first = np.zeros(len(streams), dtype=np.int64)
        for row, own in enumerate(orders):
            tasks[row, : len(own)] = own
            for at, index in enumerate(own):
                task = segment.tasks[index]
                for others, before in ((task.after, 0), (task.after_previous, 1)):
                    for other in others:
                        its = rows[segment.tasks[other].op.stream]
                        if its == row:
                            continue
                        needs[row, at, its] = max(
                            needs[row, at, its], place[other] + 1 - before * lengths[its]
                        )
                        if before:
                            first[row] = at + 1
        host_row = rows.get(Stream.HOST, -1)
        return cls(
            len(segment.tasks),
            iterations,
            streams,
            np.array(lengths),
            tasks,
            needs,
            first,
            host_row,
            host_row >= 0 and bool((needs[host_row] > NOTHING).any()),
            tuple(row for row, stream in enumerate(streams) if stream in COMPUTE_STREAMS),
            tuple(row for row, stream in enumerate(streams) if stream in COMMUNICATION_STREAMS),
        )
