"""What pages ask of perfmodel, each result kept for all sessions."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.cache import kept
from perfmodel.answer import StepAnswer, answer_step
from perfmodel.errors import PerfModelError
from perfmodel.explore.curve import batch_curve
from perfmodel.explore.difference import Difference
from perfmodel.explore.difference import difference as explained
from perfmodel.output.html import step_html
from perfmodel.output.trace import write_trace
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


def report(scenarios: Sequence[Scenario], command: str) -> str:
    """The cost report of one scenario, or of several beside each other, as ``perfmodel report`` writes it."""
    from perfmodel.output.report_html import report_html
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
