"""Many steps through the vectorised twin in one go: those whose tasks hang together alike are one array.

The twin advances all scenarios of a segment together, so what it takes is by number of rounds, not of scenarios. Steps of
different layouts have other times and the same graph: their timings are laid end to end. A test holds that each comes
out as alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.overlap.graph import Segment
from perfmodel.overlap.twin import step_times

Array = NDArray[np.float64]
Step = tuple[Segment, ...]
PARTS = ("latency_s", "compute_s", "memory_s", "link_s", "network_s", "gap_s")


def stacked_step_times(
    steps: Sequence[Step], sizes: Sequence[int], contention: Sequence[bool]
) -> list[Array]:
    """Seconds of each step's scenarios, (sizes[i],) each.

    Args:
        steps: segments whose timings hold arrays of that size, or floats.
        sizes: scenarios of each.
        contention: whether its ops slow each other.
    """
    alike: dict[Hashable, list[int]] = {}
    for number, step in enumerate(steps):
        alike.setdefault((contention[number], *map(_graph, step)), []).append(number)
    found: list[Array] = [np.empty(0)] * len(steps)
    for members in alike.values():
        together = tuple(
            _laid_end_to_end([steps[i][place] for i in members], [sizes[i] for i in members])
            for place in range(len(steps[members[0]]))
        )
        times = step_times(together, contention=contention[members[0]]).step_time_s
        ends = np.cumsum([sizes[i] for i in members])
        for i, part in zip(members, np.split(times, ends[:-1]), strict=True):
            found[i] = part
    return found


def _graph(segment: Segment) -> Hashable:
    """All that the twin reads of a segment beside its times."""
    tasks = tuple(
        (task.op.stream, task.after, task.after_previous, timing.held_sms)
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    )
    return segment.repeat, segment.carries, tasks


def _laid_end_to_end(segments: Sequence[Segment], sizes: Sequence[int]) -> Segment:
    timings = []
    for same in zip(*(segment.timings for segment in segments), strict=True):
        parts = {
            name: np.concatenate(
                [_full(getattr(one, name), size) for one, size in zip(same, sizes, strict=True)]
            )
            for name in PARTS
        }
        timings.append(replace(same[0], **parts))
    return replace(segments[0], timings=tuple(timings))


def _full(value: float | Array, size: int) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=float), (size,))
