"""What pages ask of perfmodel, each result kept for all sessions."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.cache import kept
from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.errors import PerfModelError
from perfmodel.explore import routing_effects
from perfmodel.explore.curve import batch_curve
from perfmodel.explore.difference import Difference
from perfmodel.explore.difference import difference as explained
from perfmodel.explore.routing_effects import Placed
from perfmodel.explore.zero_experts import vary_zero_experts
from perfmodel.output.step.page import step_html
from perfmodel.output.step.trace import write_trace
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.published_points import published_points


@dataclass(frozen=True)
class Failed:
    """Why a scenario has no answer."""

    text: str


@kept()
def answer(scenario: Scenario) -> StepAnswer | Failed:
    """The step's answer, without how steps vary, or why there is none."""
    try:
        return answer_step(scenario, over_steps=False)
    except PerfModelError as error:
        return Failed(str(error))


@kept()
def curve(scenario: Scenario) -> pd.DataFrame:
    """The trade-off over batch sizes; whoever changes it, copies it first."""
    return batch_curve(scenario)


@kept(16)
def published(scenario: Scenario) -> pd.DataFrame:
    """Published points that belong to the scenario."""
    return published_points(scenario)


@kept()
def difference(a: Scenario, b: Scenario) -> Difference | Failed:
    """What makes b differ from a, or why that can't be said."""
    try:
        return explained(a, b)
    except PerfModelError as error:
        return Failed(str(error))


@kept()
def active_rows(scenario: Scenario) -> pd.DataFrame:
    """How many real experts a token wakes."""
    return routing_effects.active_rows(scenario)


@kept()
def rank_loads(scenario: Scenario) -> pd.DataFrame:
    """How busy each rank is."""
    return routing_effects.rank_load_rows(scenario)


@kept()
def zero_experts(scenario: Scenario) -> pd.DataFrame | Failed:
    """The step with other numbers of zero-computation experts, or why that can't be said."""
    try:
        variants = vary_zero_experts(scenario)
    except PerfModelError as error:
        return Failed(str(error))
    return pd.DataFrame([asdict(variant) for variant in variants])


def skew_cases(scenario: Scenario) -> list[tuple[Placed, float]] | Failed:
    """Placements and exponents to try, or why there are none."""
    try:
        return routing_effects.skew_cases(scenario)
    except PerfModelError as error:
        return Failed(str(error))


@kept(512)
def skew_row(scenario: Scenario, placed: Placed, exponent: float) -> dict[str, Any]:
    """One of them."""
    return routing_effects.skew_row(scenario, placed, exponent)


def report(scenarios: Sequence[Scenario], command: str) -> str:
    """The cost report of one scenario, or of several beside each other, as ``perfmodel report`` writes it."""
    from perfmodel.output.report.page import report_html
    from perfmodel.report.content import build_report

    return report_html(build_report(scenarios, command=command))


def html(scenario: Scenario) -> str:
    """The step's page, as ``perfmodel step --html`` writes it."""
    found = answer(scenario)
    return step_html(found) if isinstance(found, StepAnswer) else ""


def trace(scenario: Scenario) -> bytes:
    """The step's Chrome trace, as ``perfmodel step --trace`` writes it."""
    found: Any = answer(scenario)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json.gz"
        write_trace(found.step, path)
        return path.read_bytes()
