"""Experts with a capacity: what a training step computes, sends and keeps of the pairs that its routers choose.

Dropped pairs are neither sent, nor computed, nor kept: the step is one with fewer real experts per token. Padded to
their capacity, all experts compute, receive and keep as many rows, full or not.
"""

from functools import lru_cache

from perfmodel.ops.routed import scenario_balance
from perfmodel.routing.capacity import Kept, kept_pairs
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training


def kept_of(moe: Moe, scenario: Scenario, training: Training) -> Kept:
    """What the capacity leaves; ``scenario``: one GPU's share, as it would be without one."""
    assert training.capacity is not None, "asked of runs with one"
    routing = scenario.routing
    if training.balanced:
        routing = routing.model_copy(update={"popularity": "uniform"})
    balance = scenario_balance(moe, scenario.model_copy(update={"routing": routing}))
    chunks = 2 if training.moe_overlap == "two-chunks" else 1
    tokens = max(1, round(training.tokens_per_gpu / chunks))
    return _kept(balance, tokens, scenario.mean_real_experts, training.capacity.factor)


_kept = lru_cache(maxsize=256)(kept_pairs)
"""Layouts of one search ask for few different ones."""


def rows_per_token(moe: Moe, kept: Kept, scenario: Scenario, training: Training) -> float:
    """Rows that experts compute for each token: of the pairs that are kept, or of all the room that there is."""
    assert training.capacity is not None, "asked of runs with one"
    mean = scenario.mean_real_experts
    if not training.capacity.pad:
        return mean * (1.0 - kept.dropped)
    chunks = 2 if training.moe_overlap == "two-chunks" else 1
    return moe.num_experts * kept.room * chunks / training.tokens_per_gpu


def with_capacity(scenario: Scenario, training: Training) -> Scenario:
    """One GPU's share with its experts' capacity, where they have one."""
    moe = scenario.model.moe
    if training.capacity is None or moe is None:
        return scenario
    kept = kept_of(moe, scenario, training)
    changed: dict[str, object] = {
        "mean_real_experts": rows_per_token(moe, kept, scenario, training),
        "workload": "",
        **dict.fromkeys(("std_real_experts", "layer_means", "layer_stds", "activation")),
    }
    if training.capacity.pad:
        changed["rank_loads"] = (1.0,)
    elif not training.balanced:
        changed["rank_loads"] = (kept.busiest,)
    return scenario.model_copy(update={"routing": scenario.routing.model_copy(update=changed)})
