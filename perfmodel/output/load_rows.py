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

STRETCHES = 200
"""Of time, of each of which a batch's mean and largest are told."""
WHAT = ("waiting", "held")
"""Requests that wait for a step, and that are worked on: columns of the step runs."""


def load_frame(served: Served, most: int = MOST_POINTS) -> "pd.DataFrame":
    """Rows of ``pool`` (empty, or ``decode`` and ``prefill`` where they are apart), ``what`` (of :data:`WHAT`),
    ``time_s`` and ``requests``: step functions over time, of all replicas of a pool together. At most ``most`` rows per
    line; peaks and troughs are kept.
    """
    import pandas

    parts = [
        pandas.DataFrame({"pool": pool, "what": what, "time_s": times, "requests": values})
        for pool, runs in _pools(served)
        for what in WHAT
        for times, values in (thinned(*_over_time(runs, what), most),)
    ]
    return pandas.concat(parts, ignore_index=True)


def batch_frame(served: Served, stretches: int = STRETCHES) -> "pd.DataFrame":
    """Rows of ``time_s`` (a stretch's beginning), ``largest`` and ``mean``: requests that decode on the fullest rank of
    any replica, the mean over the time in which steps are taken.
    """
    import pandas

    runs = next(iter(_pools(served)))[1]
    end = float((runs.start_s + runs.seconds).max())
    edges = np.linspace(0.0, end, stretches + 1)
    at = np.clip(np.searchsorted(edges, runs.start_s, side="right") - 1, 0, stretches - 1)
    largest, weight, total = np.zeros(stretches), np.zeros(stretches), np.zeros(stretches)
    np.maximum.at(largest, at, runs.requests)
    np.add.at(weight, at, runs.seconds)
    np.add.at(total, at, runs.seconds * runs.requests)
    mean = np.divide(total, weight, out=np.zeros(stretches), where=weight > 0.0)
    return pandas.DataFrame({"time_s": edges[:-1], "largest": largest, "mean": mean})


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
    times = np.concatenate([when for when, _ in changes])
    steps = np.concatenate([np.diff(values, prepend=0.0) for _, values in changes])
    order = np.argsort(times, kind="stable")
    total = np.cumsum(steps[order])
    last = np.append(times[order][1:] != times[order][:-1], True)  # of several changes at one time
    return times[order][last], total[last]


def _changes(runs: StepRuns, what: str) -> tuple[Floats, Floats]:
    """One replica's: at the beginning of every run of steps; 0 from the end of one that no other follows at once."""
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
