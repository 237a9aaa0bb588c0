"""What a serving simulation leaves: one row per request, and gaps between tokens as runs. Judged elsewhere."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

POOLED = ("gap_s", "gap_count", "load")
"""Columns without a row per request. Gaps between outputs keep neither request nor time."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Records:
    """Columns (n,) with a row per request, in the order of the requests; seconds from the start, tokens."""

    arrival_s: Floats
    """When it reached the cluster."""
    scheduled_s: Floats
    """When the first step that works on it began."""
    prefilled_s: Floats
    """When its prompt was computed (for the last time)."""
    first_token_s: Floats
    """When its first token was there."""
    end_s: Floats
    """When its last token was."""
    input_tokens: Ints
    output_tokens: Ints
    preemptions: Ints
    """How often it lost its KV blocks and was computed again, or copied to the host and back."""
    retries: Ints
    """How often the replica that had it was lost, so that it started again elsewhere."""
    cached_tokens: Ints
    """Prompt tokens that were found in a prefix cache."""
    replica: Ints
    """Which replica decoded it."""
    prefill_replica: Ints
    """Which one computed its prompt, the same where all do both."""
    gap_s: Floats
    """(runs,): gaps between two outputs of one request."""
    gap_count: Ints
    """(runs,): how many there were of each; ``gap_s`` is their mean where steps were advanced together."""
    load: "Load"
    """What the replicas did meanwhile."""
    host_tokens: Ints | None = None
    """Of ``cached_tokens``, those that came from a host's memory; None: nobody asked."""
    storage_tokens: Ints | None = None
    """Of them, those that came from a storage."""

    def where(self, rows: Any) -> "Records":
        """Some of the requests, by numbers, a slice or a mask; gaps and load, which are pooled, stay those of all."""
        columns = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in POOLED}
        own = {name: column[rows] for name, column in columns.items() if column is not None}
        return replace(self, **own)


@dataclass(frozen=True, slots=True)
class Load:
    """What all replicas did together."""

    span_s: float
    """From the start to the last end."""
    prefilled_tokens: int
    """Prompt tokens that were computed, those computed again after a preemption included."""
    runs: "StepRuns"
    """Every step, those that were advanced together as one."""


@dataclass(frozen=True, slots=True)
class StepRuns:
    """Columns (runs,) with a row per engine step, or run of steps that were advanced together, in the order of ends."""

    start_s: Floats
    replica: Floats
    seconds: Floats
    """Of the whole run."""
    steps: Floats
    waiting: Floats
    """Requests that waited at the replica when it began."""
    held: Floats
    """Requests that were being prefilled or decoded."""
    requests: Floats
    """Decoding requests of the rank with most of them (padded to a captured graph's size)."""
    tokens: Floats
    """In their caches together, at the middle of the run."""
    prompt: Floats
    """Prompt tokens of the rank with most of them; 0 in decode steps."""
    attended: Floats
    """Pairs of a prompt token and a token that it attends to, of the rank with most."""
    even: Floats
    """Tokens of the mean rank over those of the fullest."""

    @classmethod
    def of(cls, rows: Floats) -> "StepRuns":
        """From rows (runs x columns) in the order of the fields."""
        return cls(*np.asarray(rows, dtype=np.float64).reshape(-1, len(cls.__slots__)).T)

    def where(self, rows: Any) -> "StepRuns":
        """Some of the rows, by numbers or a mask."""
        return StepRuns(*(getattr(self, name)[rows] for name in self.__slots__))
