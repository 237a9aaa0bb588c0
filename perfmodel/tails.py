"""How much a step's time varies from step to step, because tokens choose other experts each time.

In every layer all ranks wait for the busiest one. Its load is drawn for every layer of many steps; a step's time is the
mean over its layers of the time of a step whose every layer has that load, since equal layers add up.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfmodel.ops.routed import routed_pairs, scenario_balance, tokens_alike, unexplained_load
from perfmodel.ops.work import step_work
from perfmodel.overlap.schedules import num_micro_batches
from perfmodel.routing.activation import activation, layer_activations, moments
from perfmodel.routing.balance import drawn_loads
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.model import Moe
from perfmodel.spec.routing import Routing
from perfmodel.spec.scenario import Scenario
from perfmodel.step import predict_steps

STEPS = 256
"""Steps that are drawn, of every layer; ten times as many move the 99th percentile by less than 0.1 %."""
POINTS = 16
"""Loads at which the step's time is asked; between them it is interpolated."""
PAIRS_STREAM = 5
"""Of the random numbers that draw the pairs of a step."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles over steps."""

    mean: float
    p50: float
    p99: float


def step_tails(scenario: Scenario) -> dict[str, dict[str, float]] | None:
    """``step_time_s`` and ``imbalance`` (busiest rank's load of a layer over the mean) over steps, as mean, p50, p99.

    None where routing states no popularity or every rank's load, or the step has a single rank of experts. Under
    two-batch overlap both micro-batches of a layer are given the same load.
    """
    moe, deployment = scenario.model.moe, scenario.deployment
    stated = scenario.routing.rank_loads is not None
    if moe is None or not scenario.routing.popularity or stated or deployment.ep == 1:
        return None
    tokens = float(step_work(deployment).tokens) / num_micro_batches(deployment.overlap)
    layers = sum(layer.count for layer in scenario.model.layers if layer.moe)
    pairs = round(routed_pairs(tokens, scenario) / tokens_alike(scenario))
    loads = drawn_loads(scenario_balance(moe, scenario), pairs, STEPS * layers, scenario.seed).max(axis=1)
    loads = loads.reshape(STEPS, layers) * _pairs_drawn(moe, tokens, layers, scenario)
    loads = np.clip(loads * unexplained_load(scenario), 1.0, deployment.ep)
    points = np.linspace(1.0, loads.max(), POINTS)
    unstated = ("popularity", "skew", "histogram", "placement", "drift", "request_correlation")
    plain = {name: Routing.model_fields[name].default for name in unstated}
    routing = scenario.routing.model_copy(update={**plain, "imbalance": 1.0})
    even = scenario.model_copy(update={"routing": routing})
    times = predict_steps(with_arrays(even, {"routing.imbalance": points})).step_time_s
    step_times = np.interp(loads, points, times).mean(axis=1)
    return {"step_time_s": asdict(_spread(step_times)), "imbalance": asdict(_spread(loads))}


def _pairs_drawn(moe: Moe, tokens: float, layers: int, scenario: Scenario) -> Any:
    """Pairs of each step and layer over their mean: few tokens wake now more, now fewer real experts, and layers have
    means of their own.
    """
    mean, std = moments(activation(moe, scenario.routing, scenario.mean_real_experts))
    if not std or not mean:
        return 1.0
    rows = layer_activations(moe, scenario.routing, scenario.mean_real_experts)
    own = np.array([moments(row) for row in rows]) / mean
    tokens_alone = tokens * scenario.deployment.stage_gpus / tokens_alike(scenario)
    rng = np.random.default_rng([scenario.seed, PAIRS_STREAM])
    noise = rng.standard_normal((STEPS, layers)) / np.sqrt(tokens_alone)
    return own[:, 0] + own[:, 1] * noise


def _spread(values: Any) -> Spread:
    return Spread(float(values.mean()), float(np.quantile(values, 0.5)), float(np.quantile(values, 0.99)))
