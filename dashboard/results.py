"""What pages ask of perfmodel, each result kept for all sessions."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.cache import kept
from dashboard.pool import pooled
from dashboard.trusted import Basis, basis_of
from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.errors import PerfModelError
from perfmodel.explore import routing_effects
from perfmodel.explore.curve import batch_curve
from perfmodel.explore.difference import Difference
from perfmodel.explore.difference import difference as explained
from perfmodel.explore.routing_effects import Placed
from perfmodel.explore.zero_experts import vary_zero_experts
from perfmodel.output.step.page import step_html
from perfmodel.output.step.schedules import step_window
from perfmodel.output.step.trace import write_trace
from perfmodel.output.step.windows import Window
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.published_points import published_points


@dataclass(frozen=True)
class Failed:
    """Why a scenario has no answer."""

    text: str


@dataclass(frozen=True)
class Answered:
    """What a page shows of a step's answer; the simulated step stays where it was simulated."""

    scenario: Scenario
    values: Mapping[str, Any]
    """The keys of ``perfmodel step --json``, SI units; unknown is None."""


@pooled()
def answer(scenario: Scenario) -> Answered | Failed:
    """The step's answer, without how steps vary, or why there is none."""
    found = in_full(scenario)
    return found if isinstance(found, Failed) else Answered(scenario, found.values)


def in_full(scenario: Scenario) -> StepAnswer | Failed:
    """The same with the simulated step, worked out here and now: for what is made of it in the same process."""
    try:
        return answer_step(scenario, over_steps=False)
    except PerfModelError as error:
        return Failed(str(error))


@dataclass(frozen=True)
class Layer:
    """A step's answer and one layer of it, from the middle of the model, on its streams."""

    answer: Answered
    window: Window


@pooled()
def layer(scenario: Scenario) -> Layer | Failed:
    """One layer, or why there is none."""
    found = in_full(scenario)
    if isinstance(found, Failed):
        return found
    return Layer(Answered(scenario, found.values), step_window(found))


@pooled(16)
def basis(scenario: Scenario) -> Basis | Failed:
    """What gave the step's times."""
    found = in_full(scenario)
    return found if isinstance(found, Failed) else basis_of(found)


@pooled()
def curve(scenario: Scenario) -> pd.DataFrame:
    """The trade-off over batch sizes; whoever changes it, copies it first."""
    return batch_curve(scenario)


@kept(16)
def published(scenario: Scenario) -> pd.DataFrame:
    """Published points that belong to the scenario."""
    return published_points(scenario)


@pooled()
def difference(a: Scenario, b: Scenario) -> Difference | Failed:
    """What makes b differ from a, or why that can't be said."""
    try:
        return explained(a, b)
    except PerfModelError as error:
        return Failed(str(error))


@pooled()
def active_rows(scenario: Scenario) -> pd.DataFrame:
    """How many real experts a token wakes."""
    return routing_effects.active_rows(scenario)


@pooled()
def rank_loads(scenario: Scenario) -> pd.DataFrame:
    """How busy each rank is."""
    return routing_effects.rank_load_rows(scenario)


@pooled()
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


@pooled(512)
def skew_row(scenario: Scenario, placed: Placed, exponent: float) -> dict[str, Any]:
    """One of them."""
    return routing_effects.skew_row(scenario, placed, exponent)


@pooled(4, slow=True)
def report(scenarios: Sequence[Scenario], command: str) -> str:
    """The cost report of one scenario, or of several beside each other, as ``perfmodel report`` writes it."""
    from perfmodel.output.report.page import report_html
    from perfmodel.report.content import build_report

    return report_html(build_report(scenarios, command=command))


@pooled(4)
def html(scenario: Scenario) -> str:
    """The step's page, as ``perfmodel step --html`` writes it."""
    found = in_full(scenario)
    return step_html(found) if isinstance(found, StepAnswer) else ""


@pooled(4)
def trace(scenario: Scenario) -> bytes:
    """The step's Chrome trace, as ``perfmodel step --trace`` writes it."""
    found: Any = in_full(scenario)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json.gz"
        write_trace(found.step, path)
        return path.read_bytes()
