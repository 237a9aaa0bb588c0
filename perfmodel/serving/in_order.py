"""Notes of a run that is not kept, put in order: requests in theirs, steps in the window of those that are judged.

Requests end in another order than they came in; each is held until all before it have ended too, so what is held are at
most those that came since the oldest one that is still served. Everything goes on in blocks of a fixed size, so that
sums don't depend on when turns were.
"""

from collections.abc import Iterator
from itertools import tee
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.serving.notes import COUNTS, TIMES, Ints, Turn
from perfmodel.serving.pieces import Blocks, Pieces
from perfmodel.serving.records import Floats, Load, Records, StepRuns
from perfmodel.serving.window import between

BLOCK = 1 << 16
"""Requests, gaps or runs of steps that go on together."""


class Sums(Protocol):
    """Who takes blocks."""

    def requests(self, records: Records, judged: NDArray[np.bool_]) -> None:
        """Requests that follow each other, without gaps and steps; which of them are judged (n,)."""

    def gaps(self, seconds: Floats, counts: Ints) -> None:
        """Gaps between outputs."""

    def runs(self, runs: StepRuns) -> None:
        """Steps."""

    def counted_runs(self, runs: StepRuns) -> None:
        """Steps in the window of the requests that are judged."""


class InOrder:
    """Takes turns (:class:`perfmodel.serving.notes.Notes`), gives blocks."""

    def __init__(
        self, sums: Sums, lengths: Iterator[tuple[Ints, Ints]], judged: range, *, whole: bool
    ) -> None:
        """``lengths``: prompts and outputs of all requests, a piece at a time; ``judged``: the requests that are.
        Unless that is the ``whole`` of them, they come in the order of their numbers.
        """
        self._whole = whole
        self._sums, self._judged = sums, judged
        inputs, outputs = _two(lengths)
        self._inputs, self._outputs = Pieces(inputs), Pieces(outputs)
        self._first = self._given = 0
        """The first request that is held; and how many have gone on."""
        self._there = np.zeros(0, dtype=bool)
        self._held: dict[str, Any] = {name: np.zeros(0) for name in TIMES}
        self._held |= {name: np.zeros(0, np.int64) for name in COUNTS}
        self._gaps, self._runs, self._counted = Blocks(BLOCK), Blocks(BLOCK), Blocks(BLOCK)
        self._undecided = StepRuns.of(np.zeros(0))
        self._start_s = self._seen_s = self._end_s = -np.inf
        """When the first judged request came, or one before it; and when the last judged one ended, so far."""

    def take(self, turn: Turn) -> None:
        """One turn's."""
        for seconds, counts in self._gaps.add(turn.gap_s, turn.gap_count):
            self._sums.gaps(seconds, counts)
        for columns in self._runs.add(*(getattr(turn.runs, name) for name in StepRuns.__slots__)):
            self._run(StepRuns(*columns))
        if not self._whole:
            self._look(turn)
            self._cut(turn.runs, self._end_s)
        self._hold(turn)
        self._go_on(BLOCK)

    def finish(self) -> None:
        """Everything has ended."""
        if not self._whole:
            self._cut(StepRuns.of(np.zeros(0)), np.inf)
        self._go_on(1)
        for blocks, take in ((self._runs, self._run), (self._counted, self._sums.counted_runs)):
            columns = blocks.rest()
            if columns is not None:
                take(StepRuns(*columns))
        gaps = self._gaps.rest()
        if gaps is not None:
            self._sums.gaps(*gaps)

    # --- requests -----------------------------------------------------------------------------------------------

    def _hold(self, turn: Turn) -> None:
        places = turn.numbers - self._first
        if len(places) and places[-1] >= len(self._there):
            more = int(places[-1]) + 1 - len(self._there) + BLOCK
            self._there = np.concatenate([self._there, np.zeros(more, dtype=bool)])
            self._held = {
                name: np.concatenate([column, np.empty(more, column.dtype)])
                for name, column in self._held.items()
            }
        self._there[places] = True
        for name, column in self._held.items():
            column[places] = turn.columns[name]

    def _go_on(self, least: int) -> None:
        """Blocks of requests all of which have ended; the last one may be as small as ``least``."""
        missing = np.flatnonzero(~self._there)
        whole, at = int(missing[0]) if len(missing) else len(self._there), 0
        while whole - at >= least:
            rows = slice(at, min(at + BLOCK, whole))
            self._give({name: column[rows] for name, column in self._held.items()}, rows.stop - rows.start)
            at = rows.stop
        if at:
            self._first += at
            self._there = self._there[at:].copy()
            self._held = {name: column[at:].copy() for name, column in self._held.items()}

    def _give(self, columns: dict[str, Any], rows: int) -> None:
        numbers = np.arange(self._given, self._given + rows)
        self._given += rows
        records = Records(
            **columns,
            input_tokens=self._inputs.take(rows),
            output_tokens=self._outputs.take(rows),
            gap_s=np.zeros(0),
            gap_count=np.zeros(0, np.int64),
            load=Load(0.0, 0, StepRuns.of(np.zeros(0))),
        )
        self._sums.requests(records, (numbers >= self._judged.start) & (numbers < self._judged.stop))

    def _run(self, runs: StepRuns) -> None:
        self._sums.runs(runs)
        if self._whole:
            self._sums.counted_runs(runs)

    # --- steps --------------------------------------------------------------------------------------------------

    def _look(self, turn: Turn) -> None:
        """Learns of the window: it begins when the first judged request came, and ends no sooner than one has."""
        numbers, arrivals, ends = turn.numbers, turn.columns["arrival_s"], turn.columns["end_s"]
        before = numbers <= self._judged.start
        if before.any():
            self._seen_s = max(self._seen_s, float(arrivals[before].max()))
            if numbers[before][-1] == self._judged.start:
                self._start_s = self._seen_s
        own = (numbers >= self._judged.start) & (numbers < self._judged.stop)
        if own.any():
            self._end_s = max(self._end_s, float(ends[own].max()))

    def _cut(self, new: StepRuns, upto_s: float) -> None:
        """Of ``new`` steps and those not yet decided on, what has ended before ``upto_s`` goes on, as far as it is in
        the window.
        """
        both = ((getattr(self._undecided, name), getattr(new, name)) for name in StepRuns.__slots__)
        runs = StepRuns(*(np.concatenate(pair) for pair in both))
        ended = runs.start_s + runs.seconds
        ahead = ended <= self._seen_s  # before anybody came who is judged
        sure = ended <= upto_s if self._start_s > -np.inf else np.zeros(len(ended), dtype=bool)
        inside = between(runs.where(sure & ~ahead), self._start_s, self._end_s)
        for columns in self._counted.add(*(getattr(inside, name) for name in StepRuns.__slots__)):
            self._sums.counted_runs(StepRuns(*columns))
        self._undecided = runs.where(~sure & ~ahead)


def _two(pairs: Iterator[tuple[Ints, Ints]]) -> tuple[Iterator[Ints], Iterator[Ints]]:
    """Both sides of pairs; what one side is ahead of the other is held."""
    first, second = tee(pairs)
    return (one for one, _ in first), (other for _, other in second)
