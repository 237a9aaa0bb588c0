"""What happens to a replica while it serves."""

from dataclasses import dataclass
from typing import Literal

from perfmodel.errors import InfeasibleError
from perfmodel.serving.step_times import StepTimes


@dataclass(frozen=True, slots=True)
class Change:
    """At one instant, of one replica; what is None stays as it is."""

    at_s: float
    replica: int
    """Its number; replicas that compute prompts only follow those that decode."""
    times: StepTimes | None = None
    """What its steps take from the next one on."""
    link_bytes_per_s: float | None = None
    """What its first rank sends or receives caches at."""
    state: Literal["lost", "draining", "up"] | None = None
    """Lost: with all that it has, whose requests start again elsewhere. Draining: it takes no more. Up: it does."""


def stuck(left: int, *, down: bool) -> InfeasibleError:
    """What to raise when nothing moves any more and so many requests have not ended; ``down``: a replica still is.

    With all replicas up, prefill holds caches that wait for room in decode, while requests that decode lost wait for
    room in prefill, and each side is full.
    """
    if down:
        return InfeasibleError(f"{left} requests wait for a replica that never comes back")
    return InfeasibleError(
        f"{left} requests wait for ever: after a lost replica, prefill holds caches that wait for room in decode, and "
        "requests in decode wait for prefill (an engine ends that by a timeout); give either side more room "
        "(serving.max_running, serving.kv_tokens, prefill.serving.kv_tokens) or send less traffic"
    )
