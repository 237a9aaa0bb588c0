"""Which requests count: those that came once the traffic had settled, and before it faded out.

All requests are served. The first ``workload.warm_up_requests`` to arrive find an empty system and the last
``cool_down_requests`` an emptying one; they are left out of what is judged. What is judged are the others, over the
window from the first of their arrivals to the last of their ends: their tokens, and all GPUs in that window. What GPUs
do there for requests that are left out is paid and not counted, so rates are a little low and never too high.
"""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError
from perfmodel.serving.records import Records, StepRuns
from perfmodel.spec.workload import Workload


def check_left(workload: Workload, num_requests: int) -> None:
    """Refuses a cut that leaves nothing.

    Raises:
        SpecError: warm-up and cool-down are as many as there are requests.
    """
    first, last = workload.warm_up_requests, workload.cool_down_requests
    if first + last < max(num_requests, 1):
        return
    names = [f"{n} = {v}" for n, v in (("warm_up_requests", first), ("cool_down_requests", last)) if v]
    raise SpecError(
        f"workload.{' and '.join(names)}: leaves none of {num_requests:,} requests to judge; must be fewer together, "
        "or raise num_requests"
    )


def counted_rows(records: Records, workload: Workload) -> NDArray[np.bool_]:
    """Which requests (n,) are judged: all but the first and the last to arrive (at one instant: by row).

    Raises:
        SpecError: none is left.
    """
    n = len(records.arrival_s)
    check_left(workload, n)
    order = np.argsort(records.arrival_s, kind="stable")
    rows = np.zeros(n, dtype=bool)
    rows[order[workload.warm_up_requests : n - workload.cool_down_requests]] = True
    return rows


def counted(records: Records, workload: Workload) -> Records:
    """The records of those alone, and of the steps in their window; the same object where nothing is cut.

    A run of steps that reaches over an end of the window counts with its share.
    """
    if not workload.warm_up_requests and not workload.cool_down_requests:
        return records
    own = records.where(counted_rows(records, workload))
    start, end = float(own.arrival_s.min()), float(own.end_s.max())
    return replace(own, load=replace(own.load, runs=between(own.load.runs, start, end)))


def between(runs: StepRuns, start: float, end: float) -> StepRuns:
    """Steps from ``start`` to ``end``, those that reach over one of them by their share."""
    first = np.maximum(runs.start_s, start)
    seconds = np.minimum(runs.start_s + runs.seconds, end) - first
    inside = seconds > 0.0
    steps = runs.steps * np.divide(seconds, runs.seconds, out=np.zeros(len(seconds)), where=inside)
    cut = replace(runs, start_s=first, seconds=seconds, steps=steps)
    return StepRuns(**{one.name: getattr(cut, one.name)[inside] for one in fields(cut)})
