"""What is known of every request while it is served, by number."""

from array import array
from dataclasses import dataclass, field

import numpy as np

from perfmodel.serving.prefix_cache import Path, paths_of
from perfmodel.serving.requests import Requests


@dataclass(slots=True)
class Book:
    """Lists (n,) that the cluster's parts read and write."""

    prompt: list[int]
    """Tokens to prefill (after a preemption those generated too)."""
    steps: list[int]
    """Decode steps still to come after the next prefill."""
    growth: list[float]
    """Output tokens per decode step."""
    tokens: list[int]
    """Of prompt and output."""
    arrived_s: list[float]
    scheduled_s: list[float]
    prefilled_s: list[float]
    """When the prompt was computed."""
    first_token_s: list[float]
    end_s: list[float]
    preemptions: list[int]
    retries: list[int]
    """How often the replica that had it was lost."""
    cached: list[int]
    """Prompt tokens that were found in a prefix cache when the request was first taken in."""
    host: list[int]
    """Of them, those that a host's memory had."""
    storage: list[int]
    """Of them, those that a storage had."""
    replica: list[int]
    """Which replica decodes it (or has its only token); -1: none yet."""
    prefill_replica: list[int]
    """Which one computes its prompt, where that is another one."""
    paths: list[Path] | None = None
    """What prompts share; None: nothing."""
    queued_s: dict[int, float] = field(default_factory=dict)
    """When requests came to the rank that they wait on, where storage is read from then on."""
    last_output_s: dict[int, float] = field(default_factory=dict)
    """Requests that lost their blocks -> when their last output came."""
    gap_s: list[float] = field(default_factory=list)
    gap_count: list[int] = field(default_factory=list)
    runs: "array[float]" = field(default_factory=lambda: array("d"))
    """Rows of :class:`perfmodel.serving.records.StepRuns`, one after the other."""


def book_of(requests: Requests, decode_steps: np.ndarray, *, prefix_cache: bool) -> Book:
    """A book in which nothing has happened yet; ``decode_steps`` (n,) come after each first token."""
    n, steps = requests.num_requests, np.asarray(decode_steps)
    more = np.maximum(requests.output_tokens - 1, 0)
    never = (-1.0,) * n
    return Book(
        prompt=requests.input_tokens.tolist(),
        steps=steps.tolist(),
        growth=np.divide(more, steps, out=np.ones(n), where=steps > 0).tolist(),
        tokens=(requests.input_tokens + requests.output_tokens).tolist(),
        arrived_s=list(never),
        scheduled_s=list(never),
        prefilled_s=list(never),
        first_token_s=list(never),
        end_s=list(never),
        preemptions=[0] * n,
        retries=[0] * n,
        cached=[0] * n,
        host=[0] * n,
        storage=[0] * n,
        replica=[-1] * n,
        prefill_replica=[-1] * n,
        paths=paths_of(requests) if prefix_cache else None,
    )
