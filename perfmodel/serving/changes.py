"""What happens to a replica while it serves."""

from dataclasses import dataclass
from typing import Literal

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
