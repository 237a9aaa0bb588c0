"""What a simulation notes while it runs, handed over in turns: to be kept whole, or to be summed up and let go."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.serving.records import Floats, Load, Records, StepRuns
from perfmodel.serving.requests import Requests

Ints = NDArray[np.int64]

TIMES = ("arrival_s", "scheduled_s", "prefilled_s", "first_token_s", "end_s")
COUNTS = ("preemptions", "retries", "cached_tokens", "replica", "prefill_replica")


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
        self._turns: list[tuple[Floats, Ints, StepRuns]] = []

    def take(self, turn: Turn) -> None:
        """See :class:`Notes`."""
        for name, column in self._columns.items():
            column[turn.numbers] = turn.columns[name]
        self._turns.append((turn.gap_s, turn.gap_count, turn.runs))

    def records(self, span_s: float, prefilled_tokens: int) -> Records:
        """Of the whole run, see :class:`perfmodel.serving.records.Load`; to be asked once."""
        gap_s, gap_count, runs = zip(*self._turns, strict=True)
        self._turns = []
        return Records(
            **self._columns,
            input_tokens=self._requests.input_tokens,
            output_tokens=self._requests.output_tokens,
            gap_s=np.concatenate(gap_s),
            gap_count=np.concatenate(gap_count),
            load=Load(span_s=span_s, prefilled_tokens=prefilled_tokens, runs=joined(runs)),
        )


def joined(runs: "tuple[StepRuns, ...] | list[StepRuns]") -> StepRuns:
    """One table of some, one after the other."""
    if len(runs) == 1:
        return runs[0]
    return StepRuns(*(np.concatenate([getattr(one, name) for one in runs]) for name in StepRuns.__slots__))
