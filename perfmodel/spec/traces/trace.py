"""One trace of traffic as a plain table, and which part of it is read."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HASH_BLOCK_TOKENS = 512
"""Tokens that a hash id stands for where nothing else is said: Mooncake's blocks."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Columns of one trace, a row per request, in the order of arrival."""

    name: str
    """Catalogue name or path."""
    format: str
    """A dialect (:mod:`perfmodel.spec.traces.dialects`), columns (a user's own), vllm, sglang or guidellm."""
    arrival_s: Floats | None
    """Seconds (n,), since the start of the window that was read; of a request with a parent, since that one's end.
    None: the file has no times."""
    input_tokens: Ints
    """Tokens of each prompt (n,), at least 1."""
    output_tokens: Ints
    """Tokens of each output (n,), at least 1."""
    hash_ids: Ints | None = None
    """Ids of prompt blocks of ``hash_block_tokens`` tokens, of all requests one after the other. Equal ids at equal
    places are equal prefixes."""
    hash_offsets: Ints | None = None
    """(n + 1,): request i has ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``."""
    hash_block_tokens: int = HASH_BLOCK_TOKENS
    parent: Ints | None = None
    """The session's request before (n,), always the row above; -1: a session's first. None: all stand alone."""
    times_s: Floats | None = None
    """With parents: when each request (n,) came in the file itself, as ``arrival_s`` otherwise; None: not known."""
    max_concurrency: int | None = None
    """Sessions in flight at most, as the run had it: benchmark results only."""
    request_rate: float | None = None
    """Requests per second that the run was asked for (inf: all at once): benchmark results without times only."""
    ttft_s: Floats | None = None
    """Measured time to first token (n,), seconds: benchmark results only."""
    e2e_s: Floats | None = None
    """Measured time from sending to the last token (n,), seconds: benchmark results only."""
    num_dropped: int = 0
    """Requests without output that were left out."""
    notes: tuple[str, ...] = ()
    """What the file lacks and what of it is not read, in words."""

    @property
    def num_requests(self) -> int:
        """Rows."""
        return len(self.input_tokens)

    @property
    def span_s(self) -> float | None:
        """Seconds between the first and the last request in the file; None without times."""
        times = self.known_times_s
        return None if times is None else float(np.ptp(times))

    @property
    def known_times_s(self) -> Floats | None:
        """When requests came in the file, in order: all, or where turns have only delays the sessions' first ones."""
        if self.times_s is not None:
            return np.sort(self.times_s)
        if self.arrival_s is None or self.parent is None:
            return self.arrival_s
        return self.arrival_s[self.parent < 0]

    @property
    def id(self) -> str:
        """Identifies the columns that a simulation uses, for provenance."""
        digest = hashlib.sha256()
        for column in (
            self.arrival_s,
            self.input_tokens,
            self.output_tokens,
            self.hash_ids,
            self.hash_offsets,
            self.parent,
        ):
            digest.update(b"" if column is None else column.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a trace is read; times on the trace's own clock, which starts at its first row."""

    start_s: float = 0.0
    duration_s: float | None = None
    num_requests: int | None = None

    @property
    def end_s(self) -> float:
        """Where it ends, not included."""
        return np.inf if self.duration_s is None else self.start_s + self.duration_s


def summary(trace: Trace) -> dict[str, Any]:
    """Counts, rate and lengths of a trace: what ``perfmodel show traces`` prints.

    ``interarrival_cv`` is the coefficient of variation of the gaps: 1 for a Poisson process, and 1 / cv**2 is
    the burstiness of a gamma process that varies as much.
    """
    times = trace.known_times_s
    span, gaps = trace.span_s, None if times is None else np.diff(times)
    varies = gaps is not None and len(gaps) > 1 and float(gaps.mean()) > 0
    return {
        "requests": trace.num_requests,
        "dropped": trace.num_dropped,
        **({} if trace.parent is None else {"sessions": int((trace.parent < 0).sum())}),
        "span_s": span,
        "requests_per_s": len(times) / span if span and times is not None else None,
        "interarrival_cv": float(gaps.std() / gaps.mean()) if varies and gaps is not None else None,
        "longest_gap_s": float(gaps.max()) if gaps is not None and len(gaps) else None,
        "input_tokens": _lengths(trace.input_tokens),
        "output_tokens": _lengths(trace.output_tokens),
    }


def _lengths(tokens: Ints) -> dict[str, float]:
    p50, p99 = np.percentile(tokens, [50, 99])
    return {
        "mean": float(tokens.mean()),
        "p50": float(p50),
        "p99": float(p99),
        "max": int(tokens.max()),
        "total": int(tokens.sum()),
    }
