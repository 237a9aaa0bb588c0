"""What pages ask of perfmodel, each result kept for all sessions."""

import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboard.cache import kept
from dashboard.pool import begin, pooled
from dashboard.trusted import Basis, basis_of
from perfmodel.answers.step import StepAnswer, answer_step, at_price
from perfmodel.economics.rates import usd_per_million
from perfmodel.errors import PerfModelError
from perfmodel.explore import routing_effects
from perfmodel.explore.curve import RATES, batch_curve
from perfmodel.explore.difference import Difference
from perfmodel.explore.difference import difference as explained
from perfmodel.explore.routing_effects import Placed
from perfmodel.explore.zero_experts import vary_zero_experts
from perfmodel.ops.limits import Limits, batch_of, limits, longest_context, with_batch
from perfmodel.output.step.page import step_html
from perfmodel.output.step.schedules import step_window
from perfmodel.output.step.trace import write_trace
from perfmodel.output.step.windows import Window
from perfmodel.spec.prices import Prices
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.published_points import published_points

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Failed:
    """Why a scenario has no answer."""

    text: str


@dataclass(frozen=True)
class Answered:
    """What a page shows of a step's answer; the simulated step stays where it was simulated."""

    scenario: Scenario
    values: Mapping[str, Any]
    """The keys of ``perfmodel step --json`` but for its rows of ops, SI units; unknown is None."""


@kept()
def answer(scenario: Scenario) -> Answered | Failed:
    """The step's answer, without how steps vary, or why there is none; prices are put on it here."""
    found = _answered(_unpriced(scenario))
    return found if isinstance(found, Failed) else Answered(scenario, at_price(found.values, scenario))


def _tables(scenario: Scenario, *_: Any) -> Hashable:
    """What the loads of ranks rest on, whose tables take longer than all the rest; None: loads are even."""
    routing, d = scenario.routing, scenario.deployment
    if scenario.model.moe is None or routing.popularity in ("", "uniform"):
        return None
    return scenario.model.name, routing.model_dump_json(), d.ep, d.redundant_experts, scenario.seed


@pooled(256, near=_tables)
def _answered(scenario: Scenario) -> Answered | Failed:
    found = in_full(scenario, ops=False)
    return found if isinstance(found, Failed) else Answered(scenario, found.values)


@kept(256)
def _unpriced(scenario: Scenario) -> Scenario:
    """The scenario without what a step's time does not depend on: its price, and a seed from which nothing is drawn."""
    draws = scenario.model.moe is not None and bool(scenario.routing.popularity)
    return scenario.model_copy(update={"prices": AT_ONE, "seed": scenario.seed if draws else 0})


AT_ONE = Prices(usd_per_gpu_hour=1.0)
"""A price to be replaced."""


def in_full(scenario: Scenario, *, ops: bool = True) -> StepAnswer | Failed:
    """The same with the simulated step, worked out here and now: for what is made of it in the same process."""
    try:
        return answer_step(scenario, over_steps=False, ops=ops)
    except PerfModelError as error:
        return Failed(str(error))


@dataclass(frozen=True)
class Layer:
    """A step's answer and one layer of it, from the middle of the model, on its streams."""

    answer: Answered
    window: Window


@pooled(near=_tables)
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


@kept()
def curve(scenario: Scenario) -> Mapping[str, Floats]:
    """The trade-off over batch sizes, by column, the scenario's own as the tiles have it."""
    columns, found = _curve(_of_any_batch(scenario)), answer(scenario)
    if isinstance(found, Answered):
        columns = _with_row(columns, _own_row(columns, scenario, found.values))
    price = scenario.prices.usd_per_gpu_hour
    ends = {"": "", "_low": "_high", "_high": "_low"}  # tokens are cheapest where there are most of them
    money: dict[str, Any] = {
        f"usd_per_million_{kind}_tokens{end}": usd_per_million(
            price,
            columns[f"{kind}_tokens_per_s_per_gpu{other}"],  # type: ignore[arg-type]
        )
        for kind in ("output", "input")
        for end, other in ends.items()
        if f"usd_per_million_{kind}_tokens{end}" in columns
    }
    return {**columns, **money}


@pooled(near=_tables)
def _curve(scenario: Scenario) -> Mapping[str, Floats]:
    """Columns of the curve; frames take longer to send and to change."""
    return {str(name): column.to_numpy() for name, column in batch_curve(scenario).items()}


@kept(256)
def _of_any_batch(scenario: Scenario) -> Scenario:
    """The scenario at the largest batch that fits: its curve does not depend on the batch that is asked."""
    return _unpriced(with_batch(scenario, limits_of(scenario).fits))


@kept()
def limits_of(scenario: Scenario) -> Limits:
    """What fits, at whatever price and batch."""
    return _limits(with_batch(_unpriced(scenario), 1.0))


@kept(256)
def _limits(scenario: Scenario) -> Limits:
    return limits(scenario)


@kept()
def longest_of(scenario: Scenario) -> int:
    """The longest context that fits with the batch, at whatever price."""
    return _longest(_unpriced(scenario))


@kept(256)
def _longest(scenario: Scenario) -> int:
    return longest_context(scenario)


def _own_row(columns: Iterable[str], scenario: Scenario, values: Mapping[str, Any]) -> dict[str, float]:
    """The answer as a row of the curve."""
    row = {"batch_per_gpu": float(batch_of(scenario))}
    bounds = values.get("intervals", {})
    for name in set(columns) & set(RATES):
        row[name] = values[name]
        low_high = bounds.get(name, [values[name]] * 2)
        row |= {f"{name}_{end}": bound for end, bound in zip(("low", "high"), low_high, strict=True)}
    return row


def _with_row(columns: Mapping[str, Floats], row: Mapping[str, float]) -> dict[str, Floats]:
    """The curve with a row of its own for that batch."""
    batches, own = columns["batch_per_gpu"], row["batch_per_gpu"]
    before, after = batches < own, batches > own
    return {
        name: np.concatenate([column[before], [row[name]], column[after]]) for name, column in columns.items()
    }


def start(scenario: Scenario) -> None:
    """Begin what the first page asks, both at once where that saves time."""
    begin(_answered, _unpriced(scenario))
    if _tables(scenario) is not None:
        return  # the other process would fill the same tables
    with suppress(PerfModelError):  # nothing fits, and the answer will say so
        begin(_curve, _of_any_batch(scenario))


def _shown_beside(scenario: Scenario) -> tuple[Hashable, ...]:
    """All that published points depend on."""
    return (
        scenario.model.name,
        scenario.cluster.gpu.name,
        scenario.deployment.phase,
        scenario.prices.usd_per_gpu_hour,
    )


@kept(key=_shown_beside)
def published(scenario: Scenario) -> pd.DataFrame:
    """Published points that belong to the scenario."""
    return published_points(scenario)


@pooled(near=lambda _, b: _tables(b))
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


@pooled(near=_tables)
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
