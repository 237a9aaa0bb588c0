"""What results in other tools' shapes are made of: the requests of a run that are judged, with their times."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.requests import client_waits, latencies
from perfmodel.serving.records import Records
from perfmodel.serving.token_gaps import request_gaps
from perfmodel.serving.window import counted, counted_rows

Floats = NDArray[np.float64]

DECIMALS = 9
"""Of seconds in lists: a nanosecond, as a benchmark's clock has."""
GAP_BYTES = 13
"""Most that a gap below 100 s takes in a file, its comma included."""

STEP_GAPS = (
    "simulated, not measured. {}: between the ends of the steps that gave a request its tokens (with drafts several at "
    "once); steps that were advanced together share their mean"
)
SOME_EQUAL = "; of {} requests that lost their place, the mean gap, one time less than it has tokens"
NO_GAPS = "simulated, not measured. {}: left out, too many"


@dataclass(frozen=True)
class Judged:
    """The judged requests of a run, in the order of ``--requests``; warm-ups are left out, as by a benchmark."""

    answer: ServeAnswer
    records: Records
    queued_s: Floats
    """What each waited at the client for a slot."""

    @classmethod
    def of(cls, answer: ServeAnswer) -> "Judged":
        """Of a run whose records were kept."""
        served, workload = answer.served, answer.scenario.workload
        rows = counted_rows(served.records, workload)
        return cls(
            answer, counted(served.records, workload), client_waits(served.requests, served.records)[rows]
        )

    def __len__(self) -> int:
        return len(self.records.arrival_s)

    @cached_property
    def latencies(self) -> tuple[Floats, Floats, Floats]:
        """TTFT, TPOT (NaN of outputs of one token) and E2E, s, each (n,)."""
        return latencies(self.records)

    def gaps(self, name: str, room_bytes: int) -> tuple[list[list[float]] | None, str]:
        """Seconds between the outputs of each request and what they are, in words with the ``name`` that they have in
        the file; None where they would take more than ``room_bytes``.
        """
        records, more = self.records, self.records.output_tokens - 1
        if GAP_BYTES * int(more.sum()) > room_bytes:
            return None, NO_GAPS.format(name)
        found, unknown = request_gaps(records)
        means = ((records.end_s - records.first_token_s) / np.maximum(more, 1)).tolist()
        each = [
            rounded(np.full(count, mean) if own is None else own)
            for own, mean, count in zip(found, means, more.tolist(), strict=True)
        ]
        return each, STEP_GAPS.format(name) + (SOME_EQUAL.format(unknown) if unknown else "")

    @property
    def values(self) -> Mapping[str, Any]:
        """The keys of ``perfmodel serve --json``."""
        return self.answer.values


def rounded(seconds: Floats) -> list[float]:
    """To a nanosecond."""
    found: list[float] = np.round(seconds, DECIMALS).tolist()
    return found
