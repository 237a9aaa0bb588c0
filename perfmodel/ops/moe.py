"""Mixture of experts: router, dispatch, experts, combine, shared experts. Counts per GPU.

Zero-computation experts are dropped before dispatch: only real experts cost bytes and FLOPs. The identity term is
added from local data inside the combine, as the released engine does, and costs nothing of its own.
"""

from dataclasses import dataclass

import numpy as np

from perfmodel.numeric import Num, minimum
from perfmodel.ops.build import ACTIVATION_BYTES, LOGIT_BYTES, elementwise, gemm, swiglu
from perfmodel.ops.collective import combine_ops, dispatch_ops
from perfmodel.ops.ffn import swiglu_ops
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.deployment import BYTES_PER_ELEMENT
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class MoeOps:
    """The ops of one mixture of experts, in order."""

    router: tuple[Op, ...]
    dispatch: tuple[Op, ...]
    """Empty where every GPU holds every token."""
    shared: tuple[Op, ...]
    experts: tuple[Op, ...]
    combine: tuple[Op, ...]
    holds_sms: bool
    """Whether the all-to-all holds streaming multiprocessors while it runs (DeepEP normal, plain collectives)."""


def moe_ops(moe: Moe, tokens: Num, scenario: Scenario) -> MoeOps:
    """Ops of one mixture of experts over ``tokens`` new tokens per GPU.

    Shared experts run where the token is when tokens are dispatched, and divided over the whole group otherwise.
    """
    deployment, hidden = scenario.deployment, scenario.model.hidden_size
    replicated = deployment.replicated
    own_tokens = tokens * (deployment.stage_gpus if replicated else 1)
    dispatched = deployment.dispatches
    shared_tokens = own_tokens if dispatched or replicated else tokens * deployment.stage_gpus
    shared_width = moe.shared_ffn_size / (1 if dispatched else deployment.stage_gpus)
    return MoeOps(
        router=_router_ops(moe, own_tokens, hidden),
        dispatch=dispatch_ops(moe, tokens, rank_load(scenario), scenario),
        shared=(
            swiglu_ops(
                "shared",
                OpClass.EXPERTS,
                tokens=shared_tokens,
                hidden=hidden,
                width=shared_width,
                dtype=deployment.precision.experts,
            )
            if moe.shared_ffn_size
            else ()
        ),
        experts=expert_ops(moe, tokens, rank_load(scenario), scenario),
        combine=combine_ops(moe, tokens, rank_load(scenario), scenario),
        holds_sms=deployment.backend != "deepep-low-latency",
    )


def rank_load(scenario: Scenario) -> Num:
    """Load of the simulated rank relative to the mean: the largest for a representative rank, or one per rank."""
    loads = scenario.routing.rank_loads
    if scenario.deployment.ranks == "all":
        return np.array(loads or (1.0,) * scenario.deployment.ep)  # type: ignore[return-value]
    return max(loads) if loads else 1.0


def expert_ops(moe: Moe, tokens: Num, load: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Grouped GEMMs of the routed experts on one rank.

    The rank's share of pairs (token, real expert) is tokens x (GPUs / ep) x mean real experts x load. An expert's
    weights are read once if any token chose it: with T tokens in the group, each sent to a given copy of an expert with
    probability p = load x mean / (N + redundant), that is the case with probability 1 - (1 - p)^T.
    """
    deployment, hidden = scenario.deployment, scenario.model.hidden_size
    mean = scenario.mean_real_experts
    group_tokens = tokens * deployment.stage_gpus
    pairs = group_tokens * mean * load / deployment.ep
    slots = (moe.num_experts + deployment.redundant_experts) / deployment.ep
    chosen = minimum(load * mean / (moe.num_experts + deployment.redundant_experts), 1.0)
    hit = slots * (1.0 - (1.0 - chosen) ** group_tokens)
    width = moe.ffn_size / deployment.moe_tp
    dtype = deployment.precision.experts
    return (
        _grouped("experts.gate_up", hit, pairs, 2 * width, hidden, dtype),
        swiglu("experts.act", OpClass.EXPERTS, tokens=pairs, width=width),
        _grouped("experts.down", hit, pairs, hidden, width, dtype),
    )


def _grouped(name: str, groups: Num, rows: Num, n: float, k: float, dtype: str) -> Op:
    """One GEMM per expert that has tokens, in one launch; ``rows`` in all."""
    element = BYTES_PER_ELEMENT[dtype]
    return Op(
        name,
        OpClass.EXPERTS,
        "grouped_gemm",
        Stream.COMPUTE,
        flops=2.0 * rows * n * k,
        hbm_bytes=element * (groups * n * k + rows * k) + ACTIVATION_BYTES * rows * n,
        dtype=dtype,
        shape={"groups": groups, "rows": rows, "n": n, "k": k},
    )


def _router_ops(moe: Moe, tokens: Num, hidden: int) -> tuple[Op, ...]:
    """Logits over real and zero-computation experts, then selection."""
    experts = moe.num_experts + moe.num_zero_experts
    return (
        gemm("router.logits", OpClass.ROUTER, m=tokens, n=experts, k=hidden, dtype="bf16"),
        elementwise("router.select", OpClass.ROUTER, hbm_bytes=2.0 * LOGIT_BYTES * tokens * experts),
    )
