"""Graphs of ops of several layouts that wait to be run, all of one structure together."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.explore.plan_training.kernels import PARTS
from perfmodel.kernels.timing import Timing
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.twin import step_times, worth_compiled
from perfmodel.training.overlap import Sketch

Floats = NDArray[np.float64]
HELD = PARTS.index("held_sms")


class Runs:
    """What was asked, and where the seconds go."""

    def __init__(self, *, contention: bool) -> None:
        self.contention = contention
        self.asked: dict[tuple[Any, ...], list[tuple[Sketch, Floats, Floats, Any, int]]] = defaultdict(list)
        """By structure: streams, what waits for what, and which SMs are held, of which a run has one."""

    def ask(self, graph: Sketch, into: Floats, at: Any, over: int = 1) -> None:
        """Put a graph's seconds, divided by ``over``, where ``into[at]`` has its layouts, one after the other."""
        layouts = into[at].size
        if not graph.ops:
            into[at] = 0.0
            return
        parts = np.empty((len(graph.ops), len(PARTS), layouts))
        for own, timing in zip(parts, graph.timings, strict=True):
            for row, part in enumerate(PARTS):
                own[row] = getattr(timing, part)
        held, which = np.unique(parts[:, HELD], axis=1, return_inverse=True)
        streams = (*(op.stream for op in graph.ops), *graph.after)
        for number, own in enumerate(held.T):
            chosen = np.flatnonzero(which == number)
            place = (*at[:-1], at[-1][chosen])
            self.asked[(*streams, *own.tolist())].append((graph, parts[:, :, chosen], into, place, over))

    def finish(self) -> None:
        """Run them."""
        compiled = worth_compiled(sum(one[1].shape[2] for asked in self.asked.values() for one in asked))
        for asked in self.asked.values():
            parts = np.concatenate([one[1] for one in asked], axis=2)
            found = self._seconds(asked[0][0], parts, compiled=compiled)
            start = 0
            for _, own, into, place, over in asked:
                into[place] = found[start : start + own.shape[2]] / over
                start += own.shape[2]
        self.asked.clear()

    def _seconds(self, graph: Sketch, parts: Floats, *, compiled: bool) -> Floats:
        """Seconds of layouts whose graphs are alike, (layouts,); ``parts``: (tasks, PARTS, layouts)."""
        timings: Sequence[Timing] = tuple(
            Timing(**dict(zip(PARTS[:HELD], own, strict=False)), held_sms=float(own[HELD, 0]))
            for own in parts
        )
        segment = Segment("stage", graph.tasks(), tuple(timings))
        return step_times((segment,), contention=self.contention, compiled=compiled).step_time_s
