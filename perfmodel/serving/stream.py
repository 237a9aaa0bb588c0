"""A workload that is too long to be held, as portions of requests; and what of its lengths is known beforehand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from perfmodel.errors import DataError
from perfmodel.serving import draws
from perfmodel.serving.draws import Floats, constant, draw_arrivals, draw_seconds, stream
from perfmodel.serving.requests import NONE, Requests, requests_of, without_times
from perfmodel.serving.window import check_left
from perfmodel.spec.traces.read import long_trace_of
from perfmodel.spec.traces.stream import TraceStream
from perfmodel.spec.workload import MAX_PAUSE_S, Workload

PORTION = 1 << 16
"""Requests that are looked at together where nothing else says how many."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of all requests of a run, tokens."""

    num_requests: int
    prompt_tokens: int
    """Of all together."""
    shortest_prompt: int
    longest_prompt: int
    longest: int
    """Prompt and output."""

    @classmethod
    def of(cls, requests: Requests) -> "Lengths":
        """Of requests that are there."""
        inputs = requests.input_tokens
        return cls(
            len(inputs),
            int(inputs.sum()),
            int(inputs.min()),
            int(inputs.max()),
            int((inputs + requests.output_tokens).max()),
        )

    def __add__(self, other: "Lengths") -> "Lengths":
        """Of both."""
        return Lengths(
            self.num_requests + other.num_requests,
            self.prompt_tokens + other.prompt_tokens,
            min(self.shortest_prompt, other.shortest_prompt),
            max(self.longest_prompt, other.longest_prompt),
            max(self.longest, other.longest),
        )


@dataclass(frozen=True)
class RequestStream:
    """Requests of a long trace, in the order of arrival: all stand alone and share nothing."""

    trace: TraceStream
    workload: Workload
    seed: int
    notes: tuple[str, ...] = field(default=())
    """What the trace lacks and what of it is not read, in words."""

    @property
    def num_requests(self) -> int:
        """Of all portions."""
        return self.trace.num_requests

    @property
    def max_concurrency(self) -> int | None:
        """Requests in flight at most; None: no cap."""
        return self.workload.max_concurrency

    @cached_property
    def _drawn(self) -> tuple[Floats | None, Floats | None]:
        """Arrivals and think times that no file has; None: they are the file's, or there are none."""
        w, n = self.workload, self.num_requests
        arrivals = thinks = None
        if w.rate is not None:
            arrivals = draw_arrivals(w.rate, w.burstiness, stream(self.seed, draws.ARRIVALS), n)
        if w.think_time_s.value != 0.0:
            thinks = draw_seconds(w.think_time_s, stream(self.seed, draws.THINK_TIMES), n, MAX_PAUSE_S)
        return arrivals, thinks

    def portions(self, rows: int) -> Iterator[Requests]:
        """All requests, ``rows`` at a time."""
        (arrivals, thinks), first = self._drawn, 0
        for one in self.trace.stretches(rows):
            n = len(one.input_tokens)
            own = slice(first, first + n)
            first += n
            times = np.zeros(n) if one.arrival_s is None else one.arrival_s
            yield Requests(
                arrival_s=np.asarray(times / self.workload.time_scale) if arrivals is None else arrivals[own],
                input_tokens=one.input_tokens,
                output_tokens=one.output_tokens,
                parent=constant(n, NONE),
                prefix=constant(n, NONE),
                prefix_tokens=constant(n, 0),
                think_s=np.broadcast_to(np.float64(0.0), (n,)) if thinks is None else thinks[own],
                max_concurrency=self.max_concurrency,
            )


def portions_of(asked: Requests | RequestStream) -> Iterator[Requests]:
    """All requests, a portion at a time; those that are there as one."""
    return iter([asked]) if isinstance(asked, Requests) else asked.portions(PORTION)


def lengths_of(asked: Requests | RequestStream) -> Lengths:
    """Of all portions."""
    first, *more = (Lengths.of(portion) for portion in portions_of(asked))
    for one in more:
        first += one
    return first


def long_requests_of(workload: Workload, seed: int, *, hold: int) -> Requests | RequestStream:
    """As :func:`perfmodel.serving.requests.requests_of`; a stream where a trace has more than ``hold`` requests, and
    they stand alone and come in order.

    Raises:
        SpecError, DataError: as said there.
    """
    if not workload.trace:
        return requests_of(workload, seed)
    trace = long_trace_of(workload, hold=hold)
    if not isinstance(trace, TraceStream):
        return requests_of(workload, seed, trace=trace)
    check_left(workload, trace.num_requests)
    if workload.rate is None and not trace.timed:
        raise DataError(without_times(workload, trace.format))
    return RequestStream(trace, workload, seed, trace.notes)
