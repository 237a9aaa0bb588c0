"""What a scenario says of who is busy and where tokens go: from its routing to loads and destinations of a step."""

from typing import Any

import numpy as np

from perfmodel.numeric import Num, maximum, minimum
from perfmodel.ops.work import step_work
from perfmodel.routing.activation import activation
from perfmodel.routing.balance import Balance, balance_of, busiest, drawn_loads, reached
from perfmodel.routing.destinations import Destinations, destinations
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario


def rank_load(moe: Moe, tokens: Num, scenario: Scenario) -> Num:
    """Load of the simulated rank relative to the mean: the largest for a representative rank, or one per rank.

    From the popularity of experts, where it is stated: the expected maximum, or one draw of every rank's load; what
    that leaves unexplained multiplies the busiest rank's load. Else the stated loads. Else balance, with the
    unexplained part on one rank. A rank that holds all experts has the mean.
    """
    stated, ep = scenario.routing.rank_loads, scenario.deployment.ep
    every = scenario.deployment.ranks == "all"
    if stated is not None:
        return np.array(stated) if every else max(stated)  # type: ignore[return-value]
    loads: Num = np.ones(ep) if every else 1.0  # type: ignore[assignment]
    if scenario.routing.popularity:
        pairs = routed_pairs(tokens, scenario) / tokens_alike(scenario)
        if every:
            balance = scenario_balance(moe, scenario)
            loads = drawn_loads(balance, max(1, round(pairs)), 1, scenario.seed)[0]
        else:
            loads = _busiest(moe, pairs, scenario)
    unexplained = unexplained_load(scenario)
    return _raised(loads, unexplained) if every else minimum(loads * unexplained, 1.0 * ep)


def _busiest(moe: Moe, pairs: Any, scenario: Scenario) -> Any:
    """:func:`perfmodel.routing.balance.busiest`; where the mean number of real experts is an array, with each mean's
    own shares, up to MOST_MEANS of them and interpolated between those if there are more.
    """
    means: Any = scenario.mean_real_experts
    if (
        not isinstance(means, np.ndarray) or scenario.routing.popularity == "uniform"
    ):  # whose shares are all alike
        return busiest(scenario_balance(moe, scenario), pairs)
    points = np.unique(means)
    if len(points) > MOST_MEANS:
        points = np.linspace(points[0], points[-1], MOST_MEANS)
    pairs = np.broadcast_to(np.asarray(pairs), means.shape)
    by_point: Any = np.array(
        [busiest(scenario_balance(moe, _with_mean(scenario, point)), pairs) for point in points]
    )
    if len(points) == 1:
        return by_point[0]
    at = np.clip(np.searchsorted(points, means, side="right") - 1, 0, len(points) - 2)
    share = (means - points[at]) / (points[at + 1] - points[at])
    column = np.arange(means.size).reshape(means.shape)
    low, high = by_point[at, column], by_point[at + 1, column]
    return low + share * (high - low)


def _with_mean(scenario: Scenario, mean: float) -> Scenario:
    routing = scenario.routing.model_copy(update={"mean_real_experts": float(mean)})
    return scenario.model_copy(update={"routing": routing})


MOST_MEANS = 16
"""Means whose shares are computed; each costs a placement per layer."""


def unexplained_load(scenario: Scenario) -> Num:
    """Load of the busiest rank over what popularity and placement explain: stated, else 1."""
    stated = scenario.routing.imbalance
    return 1.0 if stated is None else stated


def _raised(loads: Any, factor: Num) -> Any:
    """Loads of all ranks (ep,), mean 1, with the largest ``factor`` times as large and the rest smaller for it."""
    ep, most = len(loads), int(np.argmax(loads))
    if ep == 1 or loads[most] >= ep:
        return loads
    largest = min(loads[most] * factor, float(ep))
    raised = loads * (ep - largest) / (ep - loads[most])
    raised[most] = largest
    return raised


def scenario_balance(moe: Moe, scenario: Scenario) -> Balance:
    """Where pairs land in this scenario; of many mean numbers of real experts their mean stands for all."""
    deployment = scenario.deployment
    pmf = activation(moe, scenario.routing, scenario.mean_real_experts)
    return balance_of(
        moe,
        scenario.routing,
        [float(np.mean(probability)) for probability in pmf],
        ranks=deployment.ep,
        domain=max(1, scenario.cluster.node.link_domain_gpus // deployment.moe_tp),
        redundant=deployment.redundant_experts,
        layers=sum(layer.count for layer in scenario.model.layers if layer.moe),
        seed=scenario.seed,
    )


def tokens_alike(scenario: Scenario) -> Num:
    """By how much the variance of a rank's load exceeds that of independent tokens: the design effect of clusters,
    1 + (m - 1) rho, with m tokens per request in a step of pairwise correlation rho [Kish, Survey Sampling, 1965]. So
    many tokens count as one.
    """
    together = step_work(scenario.deployment).tokens_together
    return 1.0 + maximum(together - 1.0, 0.0) * scenario.routing.request_correlation


def expert_slots(moe: Moe, scenario: Scenario) -> Num:
    """Experts that the simulated rank holds, copies included: of unequal ranks the fullest stands for all, or each has
    its own.
    """
    deployment = scenario.deployment
    most, left = deployment.most_slots(moe.num_experts), moe.num_experts % deployment.ep
    if deployment.ranks == "all" and deployment.uneven_experts and left:
        return np.where(np.arange(deployment.ep) < left, most, most - 1.0)  # type: ignore[return-value]
    return most


def routed_pairs(tokens: Num, scenario: Scenario) -> Num:
    """Pairs (token, real expert) of one group of expert-parallel ranks, ``tokens`` new tokens per GPU."""
    return tokens * scenario.deployment.stage_gpus * scenario.mean_real_experts


def token_destinations(moe: Moe, scenario: Scenario) -> Destinations:
    """Ranks and nodes that a token is sent to: under the actual placement where routing states a popularity, else with
    experts that are liked alike and lie in order.
    """
    deployment, domain = scenario.deployment, scenario.cluster.node.link_domain_gpus
    ranks = deployment.stage_gpus
    pmf = activation(moe, scenario.routing, scenario.mean_real_experts)
    if scenario.routing.popularity and deployment.ep == ranks:
        return reached(scenario_balance(moe, scenario), pmf)
    return destinations(moe, ranks, domain, pmf=pmf)
