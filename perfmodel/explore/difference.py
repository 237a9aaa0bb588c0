"""Why one scenario's token costs more, or takes longer, than another's: the difference, cut into parts that add up.

A step's seconds are cut twice. First by who is busy: the same step with every expert-parallel rank at the mean load
takes ``balanced`` seconds, and what the step takes beyond that is **imbalance**. Then the balanced step's instants by
what they are spent on (:func:`perfmodel.overlap.analysis.occupied_s`): **compute**, **exposed communication** (nothing
computes meanwhile), **host** and **waiting**.

Money is price x seconds per token, and both may differ. A product's change is split evenly, x1 y1 - x0 y0 = mean(y)
(x1 - x0) + mean(x) (y1 - y0): a part's share is the mean price times its change in seconds, and **price** is the mean
of the seconds times the change in price. So parts add up exactly, and a against b is minus b against a. It is the
Shapley value of a product of two factors [Shapley, A value for n-person games, 1953].
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.economics.rates import step_rates
from perfmodel.errors import SpecError
from perfmodel.overlap.analysis import occupied_s, slowest_rank
from perfmodel.spec.scenario import Scenario
from perfmodel.step import Step, simulate_step
from perfmodel.units import HOUR, MEGA

COMPONENTS = ("compute", "exposed communication", "imbalance", "host", "waiting")
"""What seconds are spent on, in the order in which they are told; ``price`` follows them."""
PRICE = "price"


@dataclass(frozen=True, slots=True)
class Parts:
    """One step's seconds by component, and what they become per token."""

    seconds: Mapping[str, float]
    """Component -> seconds of the step; sums to the step time."""
    tokens_per_step_per_gpu: float
    """Output tokens that a GPU produces in a step; prompt tokens in prefill."""
    tokens_per_step: float | None
    """Output tokens per request and step; None in prefill."""
    usd_per_gpu_hour: float

    def gpu_hours_per_million(self, component: str) -> float:
        """GPU hours that a million tokens spend on a component."""
        return self.seconds[component] / self.tokens_per_step_per_gpu * MEGA / HOUR

    def tpot_s(self, component: str) -> float | None:
        """Seconds of a component in the time per output token; None in prefill."""
        return None if self.tokens_per_step is None else self.seconds[component] / self.tokens_per_step


@dataclass(frozen=True, slots=True)
class Difference:
    """Scenario b against scenario a. USD per million output tokens (prompt tokens in prefill), s per output token."""

    name_a: str
    name_b: str
    phase: str
    usd_a: float
    usd_b: float
    tpot_a_s: float | None
    tpot_b_s: float | None
    rows: tuple[dict[str, Any], ...]
    """One per component and one for price: ``component``, ``usd_a``, ``usd_b``, ``delta_usd``, ``tpot_a_s``,
    ``tpot_b_s``, ``delta_tpot_s``. Each column adds up to the figure of its name; with two prices ``delta_usd`` is at
    their mean, so it is not ``usd_b - usd_a`` row by row."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {**asdict(self), "rows": [dict(row) for row in self.rows]}


def difference(a: StepAnswer | Scenario, b: StepAnswer | Scenario) -> Difference:
    """The change from ``a`` to ``b`` by component.

    Raises:
        SpecError: the two are of different phases: a prompt's token and an output's are not the same good.
        InfeasibleError: a scenario does not fit in memory.
        UnsupportedError: a model has a part whose run time is not modelled.
    """
    one, other = (found if isinstance(found, StepAnswer) else answer_step(found) for found in (a, b))
    phases = [answer.scenario.deployment.phase for answer in (one, other)]
    if phases[0] != phases[1]:
        raise SpecError(
            f"{one.scenario.name} has deployment.phase = {phases[0]}, {other.scenario.name} has {phases[1]}: their "
            "tokens are not the same good; compare steps of one phase"
        )
    parts_a, parts_b = step_parts(one.step), step_parts(other.step)
    rows = (*(_row(name, parts_a, parts_b) for name in COMPONENTS), _price_row(parts_a, parts_b))
    return Difference(
        name_a=one.scenario.name,
        name_b=other.scenario.name,
        phase=phases[0],
        usd_a=_usd(parts_a),
        usd_b=_usd(parts_b),
        tpot_a_s=one.values["tpot_s"],
        tpot_b_s=other.values["tpot_s"],
        rows=rows,
    )


def step_parts(step: Step) -> Parts:
    """A step's seconds by component.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    scenario = step.scenario
    even = simulate_step(balanced(scenario))
    occupied = occupied_s(even.timeline, slowest_rank(even.timeline))
    rates = step_rates(scenario, step.step_time_s)
    per_s = rates.output_tokens_per_s_per_gpu or rates.input_tokens_per_s_per_gpu or 0.0
    return Parts(
        seconds={
            "compute": occupied["compute"],
            "exposed communication": occupied["communication"],
            "imbalance": step.step_time_s - even.step_time_s,
            "host": occupied["host"],
            "waiting": occupied["waiting"],
        },
        tokens_per_step_per_gpu=float(per_s * step.step_time_s),
        tokens_per_step=None if rates.tokens_per_step is None else float(rates.tokens_per_step),
        usd_per_gpu_hour=float(scenario.replica_usd_per_gpu_hour),
    )


def balanced(scenario: Scenario) -> Scenario:
    """The scenario with the mean load on every expert-parallel rank; where tokens are sent stays as it is."""
    if scenario.model.moe is None:
        return scenario
    even = {"rank_loads": (1.0,) * scenario.deployment.ep}
    return scenario.model_copy(update={"routing": scenario.routing.model_copy(update=even)})


def _usd(parts: Parts) -> float:
    hours = sum(parts.gpu_hours_per_million(name) for name in parts.seconds)
    return parts.usd_per_gpu_hour * hours


def _row(component: str, a: Parts, b: Parts) -> dict[str, Any]:
    hours_a, hours_b = a.gpu_hours_per_million(component), b.gpu_hours_per_million(component)
    tpot_a, tpot_b = a.tpot_s(component), b.tpot_s(component)
    price = (a.usd_per_gpu_hour + b.usd_per_gpu_hour) / 2.0
    return {
        "component": component,
        "usd_a": a.usd_per_gpu_hour * hours_a,
        "usd_b": b.usd_per_gpu_hour * hours_b,
        "delta_usd": price * (hours_b - hours_a),
        "tpot_a_s": tpot_a,
        "tpot_b_s": tpot_b,
        "delta_tpot_s": None if tpot_a is None or tpot_b is None else tpot_b - tpot_a,
    }


def _price_row(a: Parts, b: Parts) -> dict[str, Any]:
    hours = [sum(parts.gpu_hours_per_million(name) for name in COMPONENTS) for parts in (a, b)]
    seconds = None if a.tokens_per_step is None else 0.0
    return {
        "component": PRICE,
        "usd_a": 0.0,
        "usd_b": 0.0,
        "delta_usd": sum(hours) / 2.0 * (b.usd_per_gpu_hour - a.usd_per_gpu_hour),
        "tpot_a_s": seconds,
        "tpot_b_s": seconds,
        "delta_tpot_s": seconds,
    }
