"""A compiled run from Python: :func:`perfmodel.serving.cluster.simulate` with the same arguments and records."""

import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from perfmodel.serving.batching import Batching
from perfmodel.serving.changes import Change, stuck
from perfmodel.serving.cluster import PROGRESS_EVERY, FrontEndTimes, PrefillSide, Progress, check_lengths
from perfmodel.serving.compiled import window
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
from perfmodel.serving.compiled.tables import (
    Arrivals,
    Times,
    arrivals_in_stream,
    arrivals_of,
    flat_times,
    make_room,
    state_of,
)
from perfmodel.serving.notes import Kept, Notes, Turn
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import Records, StepRuns
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import GridStepTimes, StepTimes
from perfmodel.serving.stream import RequestStream, portions_of
from perfmodel.serving.stretch import Stretched

TIMES = {
    "arrival_s": "arrived",
    "scheduled_s": "scheduled",
    "prefilled_s": "prefilled",
    "first_token_s": "first",
    "end_s": "end",
}
COUNTS = {
    "preemptions": "preemptions",
    "retries": "retries",
    "cached_tokens": "cached",
    "host_tokens": "host",
    "storage_tokens": "storage",
}
"""Columns of records -> fields of a row."""
STATES = {"lost": LOST, "draining": DRAINING, "up": UP}


def _on_grids(times: StepTimes) -> bool:
    return isinstance(times.times if isinstance(times, Stretched) else times, GridStepTimes)


def _grids_of(times: Times) -> GridStepTimes:
    return times.grids if isinstance(times, Stretched) else times


def simulate(
    requests: Requests,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: np.ndarray,
    *,
    prefill: PrefillSide | None = None,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> Records:
    """Serve every request and note when: see :func:`perfmodel.serving.cluster.simulate`.

    Raises:
        InfeasibleError: a request is longer than one rank's cache, or some wait for ever.
    """
    check_lengths(requests.input_tokens + requests.output_tokens, requests, layout)
    if prefill is not None:
        check_lengths(requests.input_tokens + 1, requests, prefill.layout)
    kept, caches = Kept(requests), (layout if prefill is None else prefill.layout).prefix_cache
    arrivals = arrivals_of(requests, decode_steps, window.ROWS, caches=caches)
    run = _Run(
        arrivals, times, layout, batching, kept, changes, progress, front_end or FrontEndTimes(), prefill
    )
    return kept.records(*run.run())


def stream(
    asked: Requests | RequestStream,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: Iterator[np.ndarray],
    notes: Notes,
    *,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> None:
    """As :func:`simulate`, of requests that come in portions or are there, with steps for them a piece at a time; what
    is noted goes to ``notes`` and is not kept.

    Raises:
        InfeasibleError: as said there.
    """
    first = 0
    for portion in portions_of(asked):
        check_lengths(portion.input_tokens + portion.output_tokens, portion, layout, first=first)
        first += portion.num_requests
    if isinstance(asked, Requests):
        steps = np.concatenate(list(decode_steps))
        arrivals = arrivals_of(asked, steps, window.ROWS, caches=layout.prefix_cache)
    else:
        arrivals = arrivals_in_stream(asked, decode_steps, window.ROWS)
    _Run(arrivals, times, layout, batching, notes, changes, progress, front_end or FrontEndTimes()).run()


def _own(times: StepTimes) -> Times:
    if not isinstance(times, GridStepTimes | Stretched) or not _on_grids(times):
        raise TypeError(f"{type(times).__name__}: the compiled core takes step times on grids")
    return times


class _Run:
    """One run and what goes on outside of it."""

    def __init__(
        self,
        arrivals: Arrivals,
        times: Callable[[int], StepTimes],
        layout: Layout,
        batching: Batching,
        notes: Notes,
        changes: Iterable[Change],
        progress: Progress | None,
        front_end: FrontEndTimes,
        prefill: PrefillSide | None = None,
    ) -> None:
        if not compiled_before():
            print("perfmodel: compiling the serving core, once (about half a minute)", file=sys.stderr)
        from perfmodel.serving.compiled import core

        kinds: list[Times] = [_own(times(r)) for r in range(layout.replicas)]
        if prefill is not None and prefill.path.shared:
            assert all(_grids_of(one).sharing for one in kinds), "steps that share a wire know how"
        self.mixes = batching.policy == "mixed"
        if prefill is not None:
            kinds += [_own(prefill.times(r)) for r in range(prefill.layout.replicas)]
            self.mixes = self.mixes or prefill.batching.policy == "mixed"
        self.core, self.notes, self.progress = core, notes, progress
        self.state = state_of(arrivals, layout, batching, kinds, front_end, prefill)
        self.window = window.Window(self.state, arrivals.portions)
        self.total = arrivals.total
        self.kinds = list(dict.fromkeys(kinds))
        self.changes = iter(changes)
        self.change: Change | None = None
        self._next_change()
        self.state.world["progress"] = PROGRESS_EVERY if progress is not None else 0

    def run(self) -> tuple[float, int]:
        """Everything, from empty to empty: when it ends, and the prompt tokens that were computed."""
        core, world = self.core, self.state.world
        self._turn()
        core.begin(world)
        while (why := core.advance(world)) != ALL_ENDED:
            if why == PROGRESS:
                self._tell()
            elif why == OUTSIDE:
                self._change()
            elif why == FULL:
                self._turn()
            else:
                left = self.total - int(world["ended"][0])
                raise stuck(left, down=not self.state["replicas"]["up"].all())
        self._tell()
        self._turn()
        return float(world["now"][0]), int(self.state["replicas"]["prefilled"].sum())

    def _turn(self) -> None:
        """What has been noted is handed over, who has ended goes, who comes next is let in."""
        state, w = self.state, self.state.world[0]
        gaps, ended = int(w["num_gaps"]), self.window.ended()
        rows, prompts = state["rows"][: len(self.window.numbers)], self.window.prompts
        columns = {name: rows[field][ended] for name, field in TIMES.items()}
        columns |= {name: rows[field][ended].astype(np.int64) for name, field in COUNTS.items()}
        replica, prefill = (one["replica"][ended].astype(np.int64) for one in (rows, prompts))
        columns |= {
            "replica": np.where(replica < 0, prefill, replica),
            "prefill_replica": np.where(prefill < 0, replica, prefill),
        }
        self.notes.take(
            Turn(
                now_s=float(w["now"]),
                numbers=self.window.numbers[ended],
                columns=columns,
                gap_s=state["gap_s"][:gaps].copy(),
                gap_count=state["gap_count"][:gaps].copy(),
                runs=StepRuns.of(state["runs"][: int(w["num_runs"])].copy()),
            )
        )
        self.window.move(ended)
        if make_room(state):
            self.core.index_nodes(state.world)

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(int(self.state.world["ended"][0]), self.total)

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
        link = -1.0 if change.link_bytes_per_s is None else change.link_bytes_per_s
        self.core.change(self.state.world, change.replica, times, link, state)

    def _number(self, times: Times) -> int:
        """Of these step times among those that the core knows."""
        if times not in self.kinds:
            self.kinds.append(times)
            grids, numbers, factors = flat_times(self.kinds, mixes=self.mixes)
            self.state.put(grids=grids, numbers=numbers, factors=factors)
        return self.kinds.index(times)
