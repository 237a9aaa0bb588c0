"""A serving run as rows for charts: latency distributions, and what waits and runs over time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfmodel.economics.requests import latencies
from perfmodel.serving.records import StepRuns
from perfmodel.serving.serve import Served
from perfmodel.serving.window import counted
from perfmodel.units import PERCENT

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

MARKED_PCT = (50.0, 90.0, 99.0)
"""Percentiles that charts mark."""
MOST_SHARES = 400
"""Points of one distribution."""
MOST_POINTS = 1_000
"""Points of one line over time."""
IDLE_S = 1e-9
"""A replica whose next step begins later than this after the last one's end has nothing to do meanwhile."""


def latency_rows(served: Served) -> "pd.DataFrame":
    """Distributions of TTFT, TPOT and E2E over the requests that are judged: quantity, pct, seconds.

    ``pct`` of the requests took at most ``seconds``; the percentiles are those of ``perfmodel serve``.
    """
    import pandas as pd

    found = latencies(counted(served.records, served.scenario.workload))
    frames = []
    for name, values in zip(("TTFT", "TPOT", "E2E"), found, strict=True):
        finite = values[np.isfinite(values)]
        if len(finite):
            pct = np.unique([*np.linspace(0.0, PERCENT, min(len(finite), MOST_SHARES)), *MARKED_PCT])
            frames.append(pd.DataFrame({"quantity": name, "pct": pct, "seconds": np.percentile(finite, pct)}))
    return pd.concat(frames, ignore_index=True)


def load_rows(served: Served, most: int = MOST_POINTS) -> "pd.DataFrame":
    """What all replicas of a pool have to do over time: pool, quantity, at_s, value (holds until the next row).

    ``waiting`` and ``in progress`` are requests of all replicas together, ``decode batch`` those that the rank with
    most of them decodes, on the replica that has the fullest. Of each line at most ``most`` points are kept, with the
    least and the most of every stretch of time among them.
    """
    import pandas as pd

    runs, decode = served.records.load.runs, served.pool.layout.replicas
    pools = [("", runs)]
    if served.prefill is not None:
        pools = [
            ("decode", runs.where(runs.replica < decode)),
            ("prefill", runs.where(runs.replica >= decode)),
        ]
    frames = []
    for pool, own in pools:
        at_s, lines = _together(own)
        for name, values in lines.items():
            kept = _extremes(at_s, values, most)
            frames.append(
                pd.DataFrame({"pool": pool, "quantity": name, "at_s": at_s[kept], "value": values[kept]})
            )
    return pd.concat(frames, ignore_index=True)


def _together(runs: StepRuns) -> tuple[Floats, dict[str, Floats]]:
    """(times, what there is from each on), over all replicas."""
    own = [_alone(runs.where(runs.replica == number)) for number in np.unique(runs.replica)]
    at_s = np.unique(np.concatenate([times for times, _ in own])) if own else np.zeros(1)
    waiting, held, batch = (np.zeros(len(at_s)) for _ in range(3))
    for times, values in own:
        row = np.searchsorted(times, at_s, side="right") - 1
        now = np.where(row >= 0, values[:, np.maximum(row, 0)], 0.0)
        waiting += now[0]
        held += now[1]
        batch = np.maximum(batch, now[2])
    return at_s, {"waiting": waiting, "in progress": held, "decode batch": batch}


def _alone(runs: StepRuns) -> tuple[Floats, Floats]:
    """(times, (3, times) values) of one replica: what each step began with, and nothing from where it is idle."""
    order = np.argsort(runs.start_s, kind="stable")
    own = runs.where(order)
    ends = own.start_s + own.seconds
    idle = ends[np.append(own.start_s[1:] - ends[:-1] > IDLE_S, True)]
    times = np.concatenate([own.start_s, idle])
    values = np.array([own.waiting, own.held, _last_decodes(own)])
    values = np.concatenate([values, np.zeros((3, len(idle)))], axis=1)
    order = np.argsort(times, kind="stable")
    return times[order], values[:, order]


def _last_decodes(runs: StepRuns) -> Floats:
    """The batch of each run of steps, where it has prompts alone that of the last decode steps before."""
    rows = np.where(runs.requests > 0.0, np.arange(len(runs.requests)), 0)
    last: Floats = runs.requests[np.maximum.accumulate(rows)]
    return last


def _extremes(at_s: Floats, values: Floats, most: int) -> NDArray[np.int64]:
    """Rows to keep: the first, the last, and of equal stretches of time those with the least and the most."""
    if len(at_s) <= most:
        return np.arange(len(at_s))
    edges = np.searchsorted(at_s, np.linspace(at_s[0], at_s[-1], most // 2))
    return np.unique([0, *_of_stretches(values, edges), len(at_s) - 1])


def _of_stretches(values: Floats, edges: NDArray[np.int64]) -> Iterator[int]:
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if end > start:
            yield start + int(values[start:end].argmin())
            yield start + int(values[start:end].argmax())
