"""What an answer needs to know of a run, in the same few numbers whether its records were kept or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.economics.energy import WorkSums, work_sums
from perfmodel.economics.quantiles import Exact, Floats, Ints, Sketched
from perfmodel.economics.requests import Tally
from perfmodel.serving.records import Records, StepRuns
from perfmodel.serving.spread import TimedWork
from perfmodel.serving.window import counted
from perfmodel.spec.scenario import Scenario

Write = Callable[[Records, NDArray[np.bool_]], None]


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one run."""

    metrics: dict[str, Any]
    """See :func:`perfmodel.economics.requests.serving_metrics`."""
    output_tokens: int
    """Of the requests that are judged."""
    work: tuple[WorkSums, WorkSums]
    """Of steps in their window: of the replicas that decode, and of those that compute prompts only."""
    decodes: TimedWork
    """Of all decode steps."""
    prompts: TimedWork
    """Of all others."""
    preempted: int
    """Requests that lost their KV blocks for a while."""
    arrivals_s: tuple[float, float]
    """The first and the last."""
    end_s: float
    """The last token of all."""


class Gathered:
    """Facts of a run that is told a block at a time (:class:`perfmodel.serving.in_order.Sums`)."""

    def __init__(self, scenario: Scenario, *, keep: bool = False, write: Write | None = None) -> None:
        """``keep``: percentiles are exact, of all values; else from a sketch. ``write`` is given all requests."""
        self._scenario, self._write = scenario, write
        self._tally = Tally(scenario, Exact if keep else Sketched)
        self._work = (WorkSums(), WorkSums())
        self._decodes = self._prompts = TimedWork()
        self._preempted = 0
        self._first_s, self._last_s, self._end_s = np.inf, -np.inf, -np.inf

    def requests(self, records: Records, judged: NDArray[np.bool_]) -> None:
        """Requests that follow each other; which of them are judged (n,)."""
        if self._write is not None:
            self._write(records, judged)
        self._all(records)
        self._tally.requests(records if judged.all() else records.where(judged))

    def _all(self, records: Records) -> None:
        self._tally.served += len(records.arrival_s)
        self._preempted += int((records.preemptions > 0).sum())
        self._first_s = min(self._first_s, float(records.arrival_s.min()))
        self._last_s = max(self._last_s, float(records.arrival_s.max()))
        self._end_s = max(self._end_s, float(records.end_s.max()))

    def gaps(self, seconds: Floats, counts: Ints) -> None:
        """Gaps between outputs."""
        self._tally.gaps(seconds, counts)

    def runs(self, runs: StepRuns) -> None:
        """Steps."""
        decodes = runs.prompt == 0.0
        self._decodes += TimedWork.of(runs, decodes)
        self._prompts += TimedWork.of(runs, ~decodes)

    def counted_runs(self, runs: StepRuns) -> None:
        """Steps in the window of the requests that are judged."""
        self._tally.runs(runs)
        own, side = runs.replica < self._scenario.serving.replicas, self._scenario.prefill_side
        decode, prefill = self._work
        decode += work_sums(self._scenario, runs if own.all() else runs.where(own))
        if side is not None:
            prefill += work_sums(side, runs.where(~own))
        self._work = decode, prefill

    def whole(self, records: Records) -> None:
        """All that there is of a run whose records were kept."""
        judged = counted(records, self._scenario.workload)
        self._all(records)
        self._tally.requests(judged)
        self.gaps(records.gap_s, records.gap_count)
        self.runs(records.load.runs)
        self.counted_runs(judged.load.runs)

    def facts(self) -> Facts:
        """Of all that was told."""
        return Facts(
            self._tally.metrics(),
            self._tally.output_tokens,
            self._work,
            self._decodes,
            self._prompts,
            self._preempted,
            (self._first_s, self._last_s),
            self._end_s,
        )


def facts_of(records: Records, scenario: Scenario) -> Facts:
    """Of a run whose records were kept; percentiles are exact.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    gathered = Gathered(scenario, keep=True)
    gathered.whole(records)
    return gathered.facts()
