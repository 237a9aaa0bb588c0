"""What a serving simulation leaves: one row per request, and gaps between tokens as runs. Judged elsewhere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Records:
    """Columns (n,) with a row per request, in the order of the requests; seconds from the start, tokens."""

    arrival_s: Floats
    """When it reached the cluster."""
    scheduled_s: Floats
    """When the first step that works on it began."""
    first_token_s: Floats
    """When its first token was there."""
    end_s: Floats
    """When its last token was."""
    input_tokens: Ints
    output_tokens: Ints
    preemptions: Ints
    """How often it lost its KV blocks and was computed again."""
    cached_tokens: Ints
    """Prompt tokens that were found in a prefix cache."""
    replica: Ints
    """Which replica served it."""
    gap_s: Floats
    """(runs,): gaps between two outputs of one request."""
    gap_count: Ints
    """(runs,): how many there were of each; ``gap_s`` is their mean where steps were advanced together."""
    load: "Load"
    """What the replicas did meanwhile."""


@dataclass(frozen=True, slots=True)
class Load:
    """What all replicas did together."""

    span_s: float
    """From the start to the last end."""
    busy_s: float
    """Seconds in which a replica ran steps, summed over replicas."""
    prompt_s: float
    """Of them, in steps that carried prompts."""
    steps: int
    prefilled_tokens: int
    """Prompt tokens that were computed, those computed again after a preemption included."""
    series: Floats
    """(points, 4): time s, replica, requests that wait, requests that are prefilled or decode; one row whenever a
    replica began a step or a run of steps."""
