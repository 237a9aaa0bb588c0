"""What replicas did over time, as rows of a chart: requests that wait and that are served, few enough to be drawn."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from perfmodel.serving.records import Floats, StepRuns
from perfmodel.serving.serve import Served

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 2000
"""Of one line."""

COLUMNS = {
    "waiting": "wait for a step",
    "held": "are worked on",
    "requests": "decode on the fullest rank",
}
"""Column of the step runs -> what its requests do."""


def load_frame(served: Served, most: int = MOST_POINTS) -> "pd.DataFrame":
    """Rows of ``pool`` (empty, or ``prefill`` and ``decode`` where they are apart), ``what`` (of :data:`COLUMNS`),
    ``time_s`` and ``requests``: a step function over time, of all replicas of a pool together (``requests`` is the
    largest batch of any rank instead). At most ``most`` rows per line; peaks and troughs are kept.
    """
    import pandas

    parts = [
        pandas.DataFrame({"pool": pool, "what": what, "time_s": times, "requests": values})
        for pool, runs in _pools(served)
        for what in COLUMNS
        if (pool, what) != ("prefill", "requests")  # a prompt's replica decodes nothing
        for times, values in (thinned(*_over_time(runs, what), most),)
    ]
    return pandas.concat(parts, ignore_index=True)


def _pools(served: Served) -> Iterator[tuple[str, StepRuns]]:
    runs, decode = served.records.load.runs, served.pool.layout.replicas
    if served.prefill is None:
        yield "", runs
    else:
        yield "decode", runs.where(runs.replica < decode)
        yield "prefill", runs.where(runs.replica >= decode)


def _over_time(runs: StepRuns, what: str) -> tuple[Floats, Floats]:
    """When it changes, and to what; a replica that does nothing has none."""
    changes = [_changes(runs.where(runs.replica == number), what) for number in np.unique(runs.replica)]
    if not changes:
        return np.zeros(1), np.zeros(1)
    if what == "requests":
        return _highest(changes)
    times = np.concatenate([when for when, _ in changes])
    steps = np.concatenate([np.diff(values, prepend=0.0) for _, values in changes])
    order = np.argsort(times, kind="stable")
    total = np.cumsum(steps[order])
    last = np.append(times[order][1:] != times[order][:-1], True)  # of several changes at one time
    return times[order][last], total[last]


def _highest(changes: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The largest of several step functions."""
    times = np.unique(np.concatenate([when for when, _ in changes]))
    largest = np.zeros(len(times))
    for when, values in changes:
        at = np.searchsorted(when, times, side="right") - 1
        largest = np.maximum(largest, np.where(at >= 0, values[at], 0.0))
    return times, largest


def _changes(runs: StepRuns, what: str) -> tuple[Floats, Floats]:
    """One replica's: at the beginning of every run of steps, and 0 from the end of one that no other follows at once."""
    order = np.argsort(runs.start_s, kind="stable")
    starts, ends = runs.start_s[order], (runs.start_s + runs.seconds)[order]
    values = getattr(runs, what)[order]
    idle = np.append(starts[1:] > ends[:-1] * (1.0 + 1e-12) + 1e-9, True)
    times = np.concatenate([starts, ends[idle]])
    both = np.concatenate([values, np.zeros(int(idle.sum()))])
    again = np.argsort(times, kind="stable")
    return times[again], both[again]


def thinned(times: Floats, values: Floats, most: int) -> tuple[Floats, Floats]:
    """At most ``most`` points of a step function: of every stretch of time the lowest and the highest, and the ends."""
    if len(times) <= most:
        return times, values
    edges = np.linspace(times[0], times[-1], max((most - 2) // 2, 1) + 1)
    bucket = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
    by_value = np.lexsort((values, bucket))  # in every bucket from the lowest to the highest
    own = bucket[by_value]
    first = np.append(True, own[1:] != own[:-1])
    last = np.append(own[1:] != own[:-1], True)
    kept = np.unique(np.concatenate([by_value[first], by_value[last], [0, len(times) - 1]]))
    return times[kept], values[kept]
