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
        balance = scenario_balance(moe, scenario)
        pairs = routed_pairs(tokens, scenario) / tokens_alike(scenario)
        loads = drawn_loads(balance, round(pairs), 1, scenario.seed)[0] if every else busiest(balance, pairs)
    unexplained = unexplained_load(scenario)
    return _raised(loads, unexplained) if every else minimum(loads * unexplained, float(ep))


def unexplained_load(scenario: Scenario) -> Num:
    """Load of the busiest rank over what popularity and placement explain: stated, or the engine's fitted constant."""
    stated = scenario.routing.imbalance
    return scenario.deployment.constants.imbalance if stated is None else stated


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
        domain=scenario.cluster.node.link_domain_gpus,
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
