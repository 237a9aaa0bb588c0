"""What routing does to a step: who is busy, and what skew, placement and copies of hot experts change."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perfmodel.economics.rates import step_rates
from perfmodel.errors import SpecError
from perfmodel.ops.parameters import active
from perfmodel.ops.routed import routed_pairs, scenario_balance, tokens_alike, unexplained_load
from perfmodel.ops.work import step_work
from perfmodel.overlap.schedules import num_micro_batches
from perfmodel.routing.activation import activation
from perfmodel.routing.balance import drawn_loads
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario
from perfmodel.step import predict_steps

if TYPE_CHECKING:
    import pandas as pd

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the power law; 0 is uniform."""
DRAWS = 128
"""Layers of one step and more, whose loads are drawn."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One way to place experts on ranks."""

    name: str
    placement: str
    copies_per_rank: int
    """Redundant experts that every rank holds."""


MOST_COPIES = 2
"""Times the experts: more copies than that are no layout that anyone runs."""

PLACEMENTS = (
    Placed("in order", "contiguous", 0),
    Placed("EPLB", "eplb", 0),
    Placed("EPLB, one copy per rank", "eplb", 1),
)


def active_rows(scenario: Scenario) -> "pd.DataFrame":
    """Per number of real experts: ``real_experts``, ``probability``, ``active_parameters`` if every layer had so many.

    Raises:
        SpecError: the model has no experts.
    """
    import pandas as pd

    pmf = activation(_moe(scenario), scenario.routing, scenario.mean_real_experts)
    return pd.DataFrame(
        {
            "real_experts": range(len(pmf)),
            "probability": [float(probability) for probability in pmf],
            "active_parameters": [float(active(scenario.model, k)) for k in range(len(pmf))],
        }
    )


def rank_load_rows(scenario: Scenario) -> "pd.DataFrame":
    """Load of each expert-parallel rank over the mean, busiest first, over DRAWS drawn layers.

    Columns ``place`` (1 is the busiest), ``mean``, ``low``, ``high`` (10th and 90th percentile over the draws). Stated
    loads come as they are; where routing states nothing every rank has the mean. What is unexplained (the engine's
    constant) raises the busiest rank alone.

    Raises:
        SpecError: the model has no experts.
    """
    import pandas as pd

    moe, d = _moe(scenario), scenario.deployment
    if scenario.routing.rank_loads is not None:
        drawn = np.sort(np.array([scenario.routing.rank_loads]))[:, ::-1]
    elif scenario.routing.popularity and d.ep > 1:
        tokens = float(step_work(d).tokens) / num_micro_batches(d.overlap)
        pairs = max(1, round(float(routed_pairs(tokens, scenario) / tokens_alike(scenario))))
        drawn = np.sort(drawn_loads(scenario_balance(moe, scenario), pairs, DRAWS, scenario.seed))[:, ::-1]
    else:
        drawn = np.ones((1, d.ep))
    drawn = np.array(drawn, dtype=float)
    drawn[:, 0] = np.minimum(drawn[:, 0] * float(unexplained_load(scenario)), d.ep)
    return pd.DataFrame(
        {
            "place": np.arange(1, d.ep + 1),
            "mean": drawn.mean(axis=0),
            "low": np.quantile(drawn, 0.1, axis=0),
            "high": np.quantile(drawn, 0.9, axis=0),
        }
    )


def skew_cases(scenario: Scenario) -> list[tuple[Placed, float]]:
    """Placements and exponents to try; without skew one way to place is like another, but for copies.

    Raises:
        SpecError: the model has no experts, or they are on one rank.
    """
    moe, d = _moe(scenario), scenario.deployment
    if d.ep == 1:
        raise SpecError("all experts are on one rank (deployment.ep = 1): nobody waits for another")
    copies = d.redundant_experts + d.ep
    possible = [
        placed
        for placed in PLACEMENTS
        if not placed.copies_per_rank or copies <= MOST_COPIES * moe.num_experts
    ]
    return [(placed, exponent) for placed in possible for exponent in EXPONENTS]


def skew_row(scenario: Scenario, placed: Placed, exponent: float) -> dict[str, Any]:
    """The step under one exponent of a power law (0: uniform) and one placement, by the twin.

    Keys ``placement``, ``exponent``, ``step_time_s``, ``usd_per_million_tokens`` (output, or prompt tokens in prefill).
    """
    one = _placed(scenario, placed, exponent)
    seconds = float(predict_steps(one).step_time_s[0])
    rates = step_rates(one, seconds)
    output = rates.usd_per_million_output_tokens
    return {
        "placement": placed.name,
        "exponent": exponent,
        "step_time_s": seconds,
        "usd_per_million_tokens": output if output is not None else rates.usd_per_million_input_tokens,
    }


def _placed(scenario: Scenario, placed: Placed, exponent: float) -> Scenario:
    """The scenario with a power law and a placement; copies already there are kept."""
    deployment = scenario.deployment.model_copy(
        update={
            "redundant_experts": scenario.deployment.redundant_experts
            + placed.copies_per_rank * scenario.deployment.ep
        }
    )
    routing = scenario.routing.model_copy(
        update={
            "popularity": "power-law" if exponent else "uniform",
            "skew": exponent or None,
            "histogram": None,
            "placement": placed.placement,
            "rank_loads": None,
        }
    )
    return scenario.model_copy(update={"deployment": deployment, "routing": routing})


def _moe(scenario: Scenario) -> Moe:
    moe = scenario.model.moe
    if moe is None:
        raise SpecError(f"model {scenario.model.name} has no experts: every token uses all its weights")
    return moe
