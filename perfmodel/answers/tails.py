"""How much a step's time varies from step to step, because tokens choose other experts each time.

In every layer all ranks wait for the busiest one. Its load is drawn for every layer of many steps; a step's time is the
mean over its layers of the time of a step whose every layer has that load, since equal layers add up.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfmodel.economics.rates import step_rates
from perfmodel.ops.routed import routed_pairs, scenario_balance, tokens_alike, unexplained_load
from perfmodel.ops.work import step_work
from perfmodel.overlap.schedules import num_micro_batches
from perfmodel.routing.activation import activation, layer_activations, moments
from perfmodel.routing.balance import drawn_busiest
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario
from perfmodel.special import quantiles
from perfmodel.step import predict_steps

STEPS = 256
"""Steps that are drawn, of every layer; ten times as many move the 99th percentile by less than 0.1 %."""
POINTS = 16
"""Loads at which the step's time is asked; between them it is interpolated."""
RATES = (
    "tpot_s",
    "output_tokens_per_s_per_gpu",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
    "usd_per_million_input_tokens",
)
"""What follows from a step's time and is given over steps too."""
PAIRS_STREAM = 5
"""Of the random numbers that draw the pairs of a step."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles over steps."""

    mean: float
    p50: float
    p99: float


def step_tails(scenario: Scenario) -> dict[str, dict[str, float]] | None:
    """A step's time, ``imbalance`` (busiest rank's load of a layer over the mean) and what follows from the time, over
    steps, as mean, p50, p99.

    None where routing states no popularity or every rank's load, or the step has a single rank of experts. Under
    two-batch overlap both micro-batches of a layer are given the same load. A percentile of a rate is that of the time.
    """
    moe, deployment = scenario.model.moe, scenario.deployment
    stated = scenario.routing.rank_loads is not None
    if moe is None or not scenario.routing.popularity or stated or deployment.ep == 1:
        return None
    tokens = float(step_work(deployment).tokens) / num_micro_batches(deployment.overlap)
    layers = sum(layer.count for layer in scenario.model.layers if layer.moe)
    pairs = max(1, round(routed_pairs(tokens, scenario) / tokens_alike(scenario)))
    loads = drawn_busiest(scenario_balance(moe, scenario), pairs, STEPS * layers, scenario.seed)
    loads = loads.reshape(STEPS, layers) * _pairs_drawn(moe, tokens, layers, scenario)
    loads = np.minimum(loads * unexplained_load(scenario), deployment.ep)
    points = np.linspace(loads.min(), loads.max(), POINTS)
    times = predict_steps(_with_loads(scenario, points)).step_time_s
    step_times = np.interp(loads, points, times).mean(axis=1)
    found = {"step_time_s": step_times}
    rates = asdict(step_rates(scenario, step_times))
    found |= {name: rates[name] for name in RATES if rates[name] is not None}
    return {name: asdict(_spread(values)) for name, values in {**found, "imbalance": loads}.items()}


def _with_loads(scenario: Scenario, loads: Any) -> Scenario:
    """The scenario with each of ``loads`` as the load of its busiest rank, all layers alike; where tokens are sent
    stays as it is.
    """
    routing = scenario.routing.model_copy(
        update={
            "rank_loads": (loads,),
            "layer_means": None,
            "layer_stds": None,
            "activation": (activation(_moe(scenario), scenario.routing, scenario.mean_real_experts),),
            "mean_real_experts": None,
            "std_real_experts": None,
            "workload": "",
        }
    )
    deployment = scenario.deployment.model_copy(update={"ranks": "representative"})
    return scenario.model_copy(update={"routing": routing, "deployment": deployment})


def _moe(scenario: Scenario) -> Moe:
    assert scenario.model.moe is not None
    return scenario.model.moe


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
    common, alone = rng.standard_normal((STEPS, 1)), rng.standard_normal((STEPS, layers))
    shared = scenario.routing.layer_correlation
    noise = (shared**0.5 * common + (1.0 - shared) ** 0.5 * alone) / np.sqrt(tokens_alone)
    return own[:, 0] + own[:, 1] * noise


def _spread(values: Any) -> Spread:
    return Spread(float(values.mean()), *quantiles(values, (0.5, 0.99)))
