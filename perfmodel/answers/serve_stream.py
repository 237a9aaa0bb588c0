"""The answer to ``perfmodel serve`` for more requests than are kept: the same keys, gathered while the run goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.answers.serve import (
    ServeAnswer,
    answer_of,
    decode_step_of,
    healthy_figures,
    refuse_beyond_positions,
    trace_id,
)
from perfmodel.answers.step import provenance
from perfmodel.economics.facts import Gathered, Write
from perfmodel.economics.quantiles import RELATIVE_ERROR
from perfmodel.errors import SpecError
from perfmodel.serving.cluster import Progress
from perfmodel.serving.requests import Requests, requests_of
from perfmodel.serving.serve import can_stream, stream
from perfmodel.serving.stream import RequestStream, lengths_of, long_requests_of, portions_of
from perfmodel.spec.scenario import Scenario

HELD_REQUESTS = 1_000_000
"""Requests whose records are kept, for exact percentiles and whatever else needs all of them: half a gigabyte."""
SKETCHED: dict[str, Any] = {"percentiles": "sketch", "percentiles_relative_error": RELATIVE_ERROR}
"""How percentiles are found of more, for provenance."""


@dataclass(frozen=True, slots=True)
class Long:
    """Requests of a run whose records are not kept."""

    asked: Requests | RequestStream


def traffic_of(scenario: Scenario, *, hold: int | None = None) -> Requests | Long:
    """A scenario's requests; :class:`Long` where there are more than ``hold`` (HELD_REQUESTS) and :func:`answer_stream`
    can serve them.

    Raises:
        SpecError, DataError: as :func:`perfmodel.serving.requests.requests_of`.
    """
    if not can_stream(scenario):
        return requests_of(scenario.workload, scenario.seed)
    hold = HELD_REQUESTS if hold is None else hold
    asked = long_requests_of(scenario.workload, scenario.seed, hold=hold)
    return asked if isinstance(asked, Requests) and asked.num_requests <= hold else Long(asked)


def check_parts(traffic: Long, wanted: Sequence[str]) -> None:
    """Refuses options (by name) that need all records of a run that does not keep them.

    Raises:
        SpecError: there is one.
    """
    if wanted:
        raise SpecError(
            f"{wanted[0]}: needs all records of a run, which are kept of up to {HELD_REQUESTS:,} requests, not of "
            f"{traffic.asked.num_requests:,}: leave it out, or serve a part with workload.num_requests"
        )


def provenance_of(scenario: Scenario, traffic: Long) -> dict[str, Any]:
    """``provenance`` of the answer, which is known before the run has begun."""
    origin = {"trace": trace_id(scenario, traffic.asked), "core": "compiled"}
    return {**provenance(decode_step_of(scenario)), **origin, **SKETCHED}


def answer_stream(
    scenario: Scenario,
    traffic: Long,
    *,
    write: Write | None = None,
    progress: Progress | None = None,
) -> ServeAnswer:
    """:func:`perfmodel.answers.serve.answer_serve` of a scenario that :func:`traffic_of` says is served so. Percentiles
    are those of a sketch (:mod:`perfmodel.economics.quantiles`); ``write`` is given every request, in order, as soon
    as all before it have ended.

    Raises:
        SpecError, InfeasibleError, UnsupportedError: as said there.
    """
    asked = traffic.asked
    if lengths_of(asked).longest > scenario.model.max_context_tokens:
        refuse_beyond_positions(scenario, portions_of(asked))
    gathered = Gathered(scenario, write=write)
    run = stream(scenario, asked, gathered, progress=progress)
    without_faults = None
    if scenario.faults:
        healthy = scenario.model_copy(update={"faults": ()})
        other = Gathered(healthy)
        stream(healthy, asked, other, progress=progress, fleet=run.fleet)
        without_faults = healthy_figures(other.facts().metrics)
    step = decode_step_of(scenario)
    return answer_of(run, gathered.facts(), step, without_faults, {}, [], SKETCHED)
