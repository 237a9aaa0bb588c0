"""A compiled run from Python: :func:`perfmodel.serving.cluster.simulate` with the same arguments and records."""

import sys
from collections.abc import Callable, Iterable

import numpy as np

from perfmodel.errors import InfeasibleError
from perfmodel.serving.batching import Batching
from perfmodel.serving.changes import Change
from perfmodel.serving.cluster import PROGRESS_EVERY, FrontEndTimes, Progress, check_lengths
from perfmodel.serving.compiled.jit import compiled_before
from perfmodel.serving.compiled.state import (
    ALL_ENDED,
    DRAINING,
    FULL,
    LOST,
    NONE,
    OUTSIDE,
    PROGRESS,
    UP,
)
from perfmodel.serving.compiled.tables import Tables, Times, flat_times, grow, state_of
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import Load, Records, StepRuns
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import GridStepTimes, StepTimes
from perfmodel.serving.stretch import Stretched

STATES = {"lost": LOST, "draining": DRAINING, "up": UP}


def _on_grids(times: StepTimes) -> bool:
    return isinstance(times.times if isinstance(times, Stretched) else times, GridStepTimes)


def simulate(
    requests: Requests,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: np.ndarray,
    *,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> Records:
    """Serve every request and note when: see :func:`perfmodel.serving.cluster.simulate`.

    Raises:
        InfeasibleError: a request is longer than one rank's cache, or waits for a replica that never comes back.
    """
    check_lengths(requests.input_tokens + requests.output_tokens, requests, layout)
    kinds: list[Times] = [_own(times(r)) for r in range(layout.replicas)]
    state = state_of(requests, layout, batching, decode_steps, kinds, front_end or FrontEndTimes())
    return _Run(state, kinds, batching, requests, changes, progress).run()


def _own(times: StepTimes) -> Times:
    if not isinstance(times, GridStepTimes | Stretched) or not _on_grids(times):
        raise TypeError(f"{type(times).__name__}: the compiled core takes step times on grids")
    return times


class _Run:
    """One run and what goes on outside of it."""

    def __init__(
        self,
        state: Tables,
        kinds: list[Times],
        batching: Batching,
        requests: Requests,
        changes: Iterable[Change],
        progress: Progress | None,
    ) -> None:
        if not compiled_before():
            print("perfmodel: compiling the serving core, once (about half a minute)", file=sys.stderr)
        from perfmodel.serving.compiled import core

        self.core, self.state, self.requests, self.progress = core, state, requests, progress
        self.mixes = batching.policy == "mixed"
        self.kinds = list(dict.fromkeys(kinds))
        self.changes = iter(changes)
        self.change: Change | None = None
        self._next_change()
        state.world["progress"] = PROGRESS_EVERY if progress is not None else 0

    def run(self) -> Records:
        core = self.core
        core.begin(self.state.world)
        while (why := core.advance(self.state.world)) != ALL_ENDED:
            if why == PROGRESS:
                self._tell()
            elif why == OUTSIDE:
                self._change()
            elif why == FULL:
                if grow(self.state):
                    core.index_nodes(self.state.world)
            else:
                left = self.requests.num_requests - int(self.state.world["ended"][0])
                raise InfeasibleError(f"{left} requests wait for a replica that never comes back")
        self._tell()
        return self._records()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(int(self.state.world["ended"][0]), self.requests.num_requests)

    def _next_change(self) -> None:
        """One at a time: there may be no end of them."""
        w = self.state.world[0]
        self.change = next(self.changes, None)
        if self.change is not None:
            w["outside_time"] = w["now"] + max(0.0, self.change.at_s - w["now"])
            w["outside_event"] = w["events"]
            w["events"] += 1

    def _change(self) -> None:
        change = self.change
        assert change is not None
        self._next_change()
        times = NONE if change.times is None else self._number(_own(change.times))
        state = NONE if change.state is None else STATES[change.state]
        self.core.change(self.state.world, change.replica, times, state)

    def _number(self, times: Times) -> int:
        """Of these step times among those that the core knows."""
        if times not in self.kinds:
            self.kinds.append(times)
            grids, numbers, factors = flat_times(self.kinds, mixes=self.mixes)
            self.state.put(grids=grids, numbers=numbers, factors=factors)
        return self.kinds.index(times)

    def _records(self) -> Records:
        rows, requests, w = self.state["rows"], self.requests, self.state.world[0]
        gaps, replica = int(w["num_gaps"]), rows["replica"].astype(np.int64)
        return Records(
            arrival_s=rows["arrived"].copy(),
            scheduled_s=rows["scheduled"].copy(),
            prefilled_s=rows["prefilled"].copy(),
            first_token_s=rows["first"].copy(),
            end_s=rows["end"].copy(),
            input_tokens=requests.input_tokens,
            output_tokens=requests.output_tokens,
            preemptions=rows["preemptions"].astype(np.int64),
            retries=rows["retries"].astype(np.int64),
            cached_tokens=rows["cached"].astype(np.int64),
            replica=replica,
            prefill_replica=replica.copy(),
            gap_s=self.state["gap_s"][:gaps].copy(),
            gap_count=self.state["gap_count"][:gaps].copy(),
            load=Load(
                span_s=float(w["now"]),
                prefilled_tokens=int(self.state["replicas"]["prefilled"].sum()),
                runs=StepRuns.of(self.state["runs"][: int(w["num_runs"])]),
            ),
        )
