"""What a simulation notes while it runs, handed over in turns: to be kept whole, or to be summed up and let go."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.serving.records import Floats, Load, Records, StepRuns
from perfmodel.serving.requests import Requests

Ints = NDArray[np.int64]

TIMES = ("arrival_s", "scheduled_s", "prefilled_s", "first_token_s", "end_s")
COUNTS = (
    "preemptions",
    "retries",
    "cached_tokens",
    "host_tokens",
    "storage_tokens",
    "replica",
    "prefill_replica",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What has been noted since the turn before; arrays are the taker's own."""

    now_s: float
    """When it is: what has not been told of yet ends later."""
    numbers: Ints
    """(k,): requests that have ended, in their order."""
    columns: dict[str, Any]
    """(k,): TIMES and COUNTS of each, as in :class:`Records`."""
    gap_s: Floats
    """(gaps,) as in :class:`Records`."""
    gap_count: Ints
    runs: StepRuns
    """Steps that have ended, in order."""


class Notes(Protocol):
    """Who takes them."""

    def take(self, turn: Turn) -> None:
        """One turn's."""


class Kept:
    """All of them, for :class:`Records`."""

    def __init__(self, requests: Requests) -> None:
        n = requests.num_requests
        self._requests = requests
        self._columns: dict[str, Any] = {name: np.empty(n) for name in TIMES}
        self._columns |= {name: np.empty(n, np.int64) for name in COUNTS}
        self._gap_s, self._gap_count = _Grown(np.float64), _Grown(np.int64)
        self._runs = {name: _Grown(np.float64) for name in StepRuns.__slots__}

    def take(self, turn: Turn) -> None:
        """See :class:`Notes`."""
        for name, column in self._columns.items():
            column[turn.numbers] = turn.columns[name]
        self._gap_s.add(turn.gap_s)
        self._gap_count.add(turn.gap_count)
        for name, column in self._runs.items():
            column.add(getattr(turn.runs, name))

    def records(self, span_s: float, prefilled_tokens: int) -> Records:
        """Of the whole run, see :class:`perfmodel.serving.records.Load`; to be asked once."""
        runs = StepRuns(*(column.whole() for column in self._runs.values()))
        return Records(
            **self._columns,
            input_tokens=self._requests.input_tokens,
            output_tokens=self._requests.output_tokens,
            gap_s=self._gap_s.whole(),
            gap_count=self._gap_count.whole(),
            load=Load(span_s=span_s, prefilled_tokens=prefilled_tokens, runs=runs),
        )


class _Grown:
    """A column that grows where it stands: pieces and their whole would take twice the memory."""

    def __init__(self, kind: type) -> None:
        self._rows = 0
        self._column: Any = np.empty(0, kind)

    def add(self, values: Any) -> None:
        end = self._rows + len(values)
        if end > len(self._column):
            self._column.resize(max(end, 2 * len(self._column)), refcheck=False)  # nobody else has it yet
        self._column[self._rows : end] = values
        self._rows = end

    def whole(self) -> Any:
        """All of it; nothing can be added any more."""
        self._column.resize(self._rows, refcheck=False)
        return self._column
