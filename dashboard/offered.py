"""The traffic that the page on traffic offers a scenario: its own, faster or slower, another trace, or drawn."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from perfmodel.errors import SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.load import describe
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.spec.workload import DEFAULT_REQUESTS, Workload

LEAST_REQUESTS, MOST_REQUESTS, REQUESTS = 100, 50_000, 2_000
"""Bounds of a run, and how many it has at first."""
TTFT_MS, TPOT_MS = 2_000.0, 50.0
"""Objectives where a scenario states none: somebody waits at a screen, and reads along."""
OWN, DRAWN = "own", "drawn"
"""Kinds of traffic beside the catalogue's traces."""
LONGEST = 16
"""Drawn lengths are at most so many times their mean."""


@dataclass(frozen=True)
class Offered:
    """What the page's controls say."""

    traffic: str = OWN
    """:data:`OWN`, :data:`DRAWN`, or a trace of the catalogue."""
    num_requests: int = REQUESTS
    pace: float | None = None
    """What :func:`pace_of` says it is; None: nothing can be paced."""
    input_tokens: int = 1024
    output_tokens: int = 256
    """Means, of drawn traffic."""
    ttft_ms: float | None = TTFT_MS
    tpot_ms: float | None = TPOT_MS
    seed: int = 0


def at_first(scenario: Scenario) -> Offered:
    """The scenario's own traffic and objectives; where it states none, usual ones."""
    workload, slo = scenario.workload, scenario.slo
    most = min(workload.num_requests or (REQUESTS if workload.trace else DEFAULT_REQUESTS), MOST_REQUESTS)
    stated = slo != Slo()
    return Offered(
        num_requests=max(min(most, REQUESTS), LEAST_REQUESTS),
        pace=paced(scenario, OWN)[1],
        ttft_ms=slo.ttft_ms if stated else TTFT_MS,
        tpot_ms=slo.tpot_ms if stated else TPOT_MS,
        seed=scenario.seed,
    )


def traffics(scenario: Scenario) -> tuple[str, ...]:
    """What can be chosen."""
    return (OWN, *(name for name in catalogue.names("traces") if name != scenario.workload.trace), DRAWN)


def paced(scenario: Scenario, traffic: str) -> tuple[str, float | None]:
    """Key of the workload that sets how fast requests come, and its value; empty and None where there is none."""
    if traffic == DRAWN:
        return "request_rate", 10.0
    if traffic != OWN:
        return "time_scale", 1.0
    workload = scenario.workload
    if workload.max_concurrency is not None:
        return "max_concurrency", float(workload.max_concurrency)
    if workload.rate is None:
        return "time_scale", workload.time_scale
    if isinstance(workload.rate, float) and workload.rate != float("inf"):
        return "request_rate", workload.rate
    return "", None


def workload_changes(scenario: Scenario, offered: Offered) -> dict[str, Any]:
    """Keys of the workload that are set; they replace all others unless the traffic is the scenario's own."""
    found: dict[str, Any] = {"num_requests": offered.num_requests}
    key, _ = paced(scenario, offered.traffic)
    if key and offered.pace is not None:
        found[key] = int(offered.pace) if key == "max_concurrency" else offered.pace
    if offered.traffic == DRAWN:
        for name, mean in (("input_tokens", offered.input_tokens), ("output_tokens", offered.output_tokens)):
            found[name] = {"mean": mean, "max": LONGEST * mean}
    elif offered.traffic != OWN:
        found["trace"] = offered.traffic
    return found


def offer(scenario: Scenario, offered: Offered) -> Scenario:
    """The scenario under this traffic, with these objectives.

    Raises:
        SpecError: a workload that contradicts itself.
    """
    own = scenario.workload.model_dump() if offered.traffic == OWN else {}
    slo = {"ttft_ms": offered.ttft_ms, "tpot_ms": offered.tpot_ms, "e2e_ms": scenario.slo.e2e_ms}
    try:
        changed = {
            "workload": Workload.model_validate(own | workload_changes(scenario, offered)),
            "slo": Slo.model_validate(slo),
            "seed": offered.seed,
        }
    except ValidationError as error:
        raise SpecError(f"workload: {describe(error)}") from error
    return scenario.model_copy(update=changed)


def overrides(scenario: Scenario, offered: Offered) -> dict[str, str | None]:
    """The same as key paths and values of the command line."""
    workload = workload_changes(scenario, offered)
    if offered.traffic == OWN:
        found: dict[str, str | None] = {f"workload.{key}": f"{value:g}" for key, value in workload.items()}
    else:
        found = {"workload": json.dumps(workload)}
    for key in ("ttft_ms", "tpot_ms"):
        limit = getattr(offered, key)
        if limit is not None or getattr(scenario.slo, key) is not None:
            found[f"slo.{key}"] = "null" if limit is None else f"{limit:g}"
    return found | {"seed": str(offered.seed)}
