"""From what tokens cost at full batches to what they cost in a traffic: who pays for the difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.spec.scenario import Scenario
from perfmodel.units import PERCENT


@dataclass(frozen=True, slots=True)
class Bridge:
    """USD per million output tokens; the parts add up to ``served``."""

    full: float
    """At full decode batches alone, ``deployment.batch_per_gpu`` requests per GPU."""
    prompts: float
    """Prompts (those not cached) in full prefill steps."""
    small: float
    """Steps that are not full: what they take beyond the same work in full ones."""
    idle: float
    """Time in which a replica runs no step."""
    served: float

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is added to ``full``, one after the other."""
        parts = (("prompts", self.prompts), ("steps that are not full", self.small), ("idle GPUs", self.idle))
        return [{"component": name, "delta": value} for name, value in parts]


def bridge(values: Mapping[str, Any], full_output_per_gpu: float, scenario: Scenario) -> Bridge | None:
    """The GPUs' time of a run, cut by what it went into, at the price of its output tokens.

    The time of full steps is ``capacity_used_pct``'s: output tokens over a full decode step's rate, prompt tokens over
    a full prefill step's. What else a replica is busy with are steps that are not full; the remainder is idle.

    Args:
        values: of ``perfmodel serve --json``.
        full_output_per_gpu: output tokens/s and GPU of the scenario's decode step.
        scenario: what was served.

    Returns: None where the capacity used is not known.
    """
    used = values["capacity_used_pct"]
    if used is None or not full_output_per_gpu:
        return None
    served, gpus = values["usd_per_million_output_tokens"], values["num_gpus"]
    own = scenario.serving.replicas * scenario.deployment.num_gpus / gpus
    decoding = values["output_tokens_per_s"] / (own * gpus * full_output_per_gpu)
    other_used = values["prefill_capacity_used_pct"]
    busy = own * values["busy_pct"] / PERCENT
    if other_used is None:
        reads = own * (used / PERCENT - decoding)
    else:
        reads = (1.0 - own) * other_used / PERCENT
        busy += (1.0 - own) * values["prefill_busy_pct"] / PERCENT
    full = own * decoding
    return Bridge(
        served * full, served * reads, served * (busy - full - reads), served * (1.0 - busy), served
    )
