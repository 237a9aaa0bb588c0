"""A scenario whose layout ``plan`` chose for a day's busiest time."""

from collections.abc import Callable

from perfmodel.errors import SpecError
from perfmodel.explore.fleet import DAY, Traffic
from perfmodel.explore.plan.answer import nearest_miss, plan
from perfmodel.explore.plan.question import MOST_GPUS, Kind, Limits, Question
from perfmodel.explore.plan.question import Traffic as Asked
from perfmodel.load import build_scenario
from perfmodel.serving.requests import requests_of
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario
from perfmodel.units import MS

PLANNED = "-planned"
"""What a scenario's name then ends in."""
SIMULATED = 8
"""Candidates that are simulated at most."""


def planned(
    scenario: Scenario,
    gpus: int,
    traffic: Traffic,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scenario:
    """The cheapest layout on up to so many of the scenario's GPUs for the mean lengths of its traffic, at the requests
    per second of the day's busiest time and with its objectives; traffic, price and routing stay the scenario's.

    Raises:
        SpecError: a number of GPUs out of range, or a model that is not of the catalogue.
        InfeasibleError: nothing keeps the objectives on so many GPUs; it names the nearest miss.
    """
    if not 1 <= gpus <= MOST_GPUS:
        raise SpecError(f"--plan-gpus {gpus}: must be from 1 to {MOST_GPUS:,}")
    if scenario.model.name not in catalogue.names("models"):
        raise SpecError(
            f"--plan-gpus: {scenario.model.name} is no model of the catalogue: plan it with perfmodel "
            "plan CONFIG --out, "
            "and report that file"
        )
    requests = requests_of(scenario.workload, scenario.seed)
    isl, osl = float(requests.input_tokens.mean()), float(requests.output_tokens.mean())
    per_day = traffic.requests_per_day or (traffic.tokens_per_day or 0.0) / (isl + osl)
    slo, mtp = scenario.slo, scenario.deployment.mtp
    question = Question(
        model=scenario.model.name,
        kinds=(Kind(scenario.cluster.name, gpus, scenario.deployment.engine),),
        traffic=Asked(isl, osl, rate=per_day / DAY * traffic.peak_to_mean),
        limits=Limits(
            None if slo.ttft_ms is None else slo.ttft_ms * MS,
            None if slo.tpot_ms is None else slo.tpot_ms * MS,
            traffic.good_pct,
        ),
        overrides=(f"deployment.mtp.acceptance={mtp.acceptance}",) if mtp.draft_tokens else (),
        seed=scenario.seed,
    )
    found = plan(question, simulate=SIMULATED, progress=progress)
    if found.winner is None or found.document is None:
        raise nearest_miss(found)
    chosen = build_scenario(found.document)
    own = {"workload": scenario.workload, "slo": slo, "prices": scenario.prices, "routing": scenario.routing}
    return chosen.model_copy(update={**own, "name": f"{scenario.name}{PLANNED}"})
