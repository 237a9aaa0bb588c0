"""Mixture of experts: router, dispatch, experts, combine, shared experts. Counts per GPU.

Zero-computation experts are dropped before dispatch: only real experts cost bytes and FLOPs. Their weighted identity is
added from the token's own row. Where DeepEP normal combines, the released engine adds it there (SGLang-FluentLLM,
https://github.com/meituan-longcat/SGLang-FluentLLM/tree/a9db4a83, prefill path), and an un-permutation of our own sums
it along; low-latency combine and engines' fused experts can't, and a kernel of its own follows (SGLang and vLLM:
zero_experts_compute_triton and an addition).

Where rows are put in the order of their experts depends on who holds them. DeepEP low-latency writes them in that order
and its combine sums, so nothing is added. Everywhere else the rank that computes the experts permutes its tokens into
one row per token and real expert, and back; a plain all-to-all packs its rows before it sends, puts them in order where
they arrive, and both again on the way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from perfmodel.numeric import Num, maximum, minimum
from perfmodel.ops.build import (
    LOGIT_BYTES,
    gemm,
    input_bytes,
    memory_bound,
    norm,
    output_bytes,
    relu2,
    rows_moved,
    swiglu,
)
from perfmodel.ops.collective import combine_ops, dispatch_ops
from perfmodel.ops.ffn import ffn_ops
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.routed import expert_slots, rank_load, routed_pairs, token_destinations
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class MoeOps:
    """The ops of one mixture of experts, in order."""

    router: tuple[Op, ...]
    """Logits, selection, and packing for a plain all-to-all."""
    dispatch: tuple[Op, ...]
    """Empty where every GPU holds every token."""
    shared: tuple[Op, ...]
    experts: tuple[Op, ...]
    combine: tuple[Op, ...]
    holds_sms: bool
    """Whether the all-to-all holds streaming multiprocessors while it runs (DeepEP normal, plain collectives)."""
    unpack: tuple[Op, ...] = ()
    """After the combine: a plain all-to-all's weighted sum per token; the weighted identity of zero experts."""
    shared_beside: bool = False
    """Whether shared experts run on a stream of their own beside router and routed experts (sequential schedule)."""


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
    pack, unpack = _packing_ops(moe, tokens, scenario)
    load = rank_load(moe, tokens, scenario)
    narrow, widen = latent_ops(moe, own_tokens, scenario)
    early = widen if replicated else ()  # a sum over GPUs of products is the product of the sum
    return MoeOps(
        router=(*router_ops(moe, own_tokens, hidden, deployment.precision.router), *narrow, *pack),
        dispatch=dispatch_ops(moe, tokens, load, scenario),
        shared=(
            ffn_ops(
                "shared",
                OpClass.EXPERTS,
                tokens=shared_tokens,
                hidden=hidden,
                width=shared_width,
                dtype=deployment.precision.shared_dtype,
                activations=deployment.precision.activations,
                activation=moe.activation,
            )
            if moe.shared_ffn_size
            else ()
        ),
        experts=(*expert_ops(moe, tokens, load, scenario), *early),
        combine=combine_ops(moe, tokens, load, scenario),
        holds_sms=deployment.backend != "deepep-low-latency",
        unpack=(*unpack, *(() if replicated else widen), *_identity_ops(moe, own_tokens, scenario)),
        shared_beside=deployment.shared_experts == "own-stream" and bool(moe.shared_ffn_size),
    )


def expert_ops(moe: Moe, tokens: Num, load: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Grouped GEMMs of the routed experts on one rank, with what puts rows in order around them.

    The rank's share of pairs (token, real expert) is tokens x (GPUs / ep) x mean real experts x load. An expert's
    weights are read once if any token chose it: with T tokens in the group, each sent to a given copy of an expert with
    probability p = load x mean / (ep x slots of the rank), that is the case with probability 1 - (1 - p)^T.
    """
    deployment, hidden = scenario.deployment, moe.routed_size(scenario.model.hidden_size)
    mean = scenario.mean_real_experts
    group_tokens = tokens * deployment.stage_gpus
    pairs = routed_pairs(tokens, scenario) * load / deployment.ep
    slots = expert_slots(moe, scenario)
    chosen = minimum(load * mean / (slots * deployment.ep), 1.0)
    hit = slots * (1.0 - (1.0 - chosen) ** group_tokens)
    width = moe.ffn_size / deployment.moe_tp
    dtype = deployment.precision.experts
    activations = deployment.precision.activations
    key = ("grouped_gemm", dtype, deployment.expert_layout)
    inside = (key,)
    common = {"hidden": hidden, "width": width, "skew": 0.0}
    gated = moe.activation == "swiglu"
    up, widening, between = ("gate_up", 2, swiglu) if gated else ("up", 1, relu2)
    gemms = (
        _grouped(
            f"experts.{up}", hit, pairs, widening * width, hidden, key, {**common, "share": widening / 3}
        ),
        between("experts.act", OpClass.EXPERTS, tokens=pairs, width=width, dtype=activations, inside=inside),
        _grouped("experts.down", hit, pairs, hidden, width, key, {**common, "share": 1 / 3}),
    )
    if deployment.backend == "deepep-low-latency" and deployment.stage_gpus > 1:
        return gemms
    arrived = _arrived_rows(moe, tokens, pairs, load, scenario)
    names = ("reorder", "reorder") if _packs(scenario) else ("permute", "unpermute")
    first, last = (
        rows_moved(
            f"experts.{kernel}" if kernel != "reorder" else f"experts.reorder_{direction}",
            OpClass.EXPERTS,
            kernel,
            read=read,
            written=written,
            width=hidden,
            dtype=activations,
            inside=inside,
        )
        for kernel, direction, read, written in zip(
            names, ("in", "out"), (arrived, pairs), (pairs, arrived), strict=True
        )
    )
    return (first, *gemms, last)


def latent_ops(moe: Moe, tokens: Num, scenario: Scenario) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """The projections to and from a latent that routed experts work in, on the token's own rank; none without one."""
    if moe.latent_size is None:
        return (), ()
    hidden, latent, precision = scenario.model.hidden_size, moe.latent_size, scenario.deployment.precision
    dtype = precision.linear
    down = gemm("latent.down", OpClass.EXPERTS, m=tokens, n=latent, k=hidden, dtype=dtype)
    up = gemm("latent.up", OpClass.EXPERTS, m=tokens, n=hidden, k=latent, dtype=dtype)
    if not moe.latent_norm:
        return (down,), (up,)
    normed = norm(
        "latent.norm", tokens=tokens, width=latent, dtype=precision.activations, op_class=OpClass.EXPERTS
    )
    return (down,), (normed, up)


def _packs(scenario: Scenario) -> bool:
    """Whether a plain all-to-all carries the rows, so that both ends put them in order."""
    return scenario.deployment.backend == "all-to-all" and scenario.deployment.stage_gpus > 1


def _arrived_rows(moe: Moe, tokens: Num, pairs: Num, load: Num, scenario: Scenario) -> Num:
    """Rows that the expert rank holds before it permutes: all tokens, one per distinct rank, or one per pair."""
    deployment = scenario.deployment
    group_tokens = tokens * deployment.stage_gpus
    if not deployment.dispatches or deployment.stage_gpus == 1:
        return group_tokens
    if _packs(scenario):
        return pairs
    return tokens * token_destinations(moe, scenario).ranks * load


def _packing_ops(moe: Moe, tokens: Num, scenario: Scenario) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """What a plain all-to-all has before its dispatch and after its combine, on the token's own rank."""
    if not _packs(scenario):
        return (), ()
    pairs = tokens * scenario.mean_real_experts
    width, dtype = (
        moe.routed_size(scenario.model.hidden_size),
        scenario.deployment.precision.activations,
    )
    pack = rows_moved(
        "dispatch.pack", OpClass.ROUTER, "permute", read=tokens, written=pairs, width=width, dtype=dtype
    )
    unpack = rows_moved(
        "combine.unpack", OpClass.COMBINE, "unpermute", read=pairs, written=tokens, width=width, dtype=dtype
    )
    return (pack,), (unpack,)


def _identity_ops(moe: Moe, tokens: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Weight x the token's row, added to what its real experts gave: two rows read, one written."""
    deployment, width = scenario.deployment, scenario.model.hidden_size
    low_latency = deployment.backend == "deepep-low-latency" and deployment.stage_gpus > 1
    alone = low_latency or (deployment.engine and deployment.backend != "deepep-normal")
    if not moe.num_zero_experts or not alone:
        return ()
    return (
        memory_bound(
            "combine.identity",
            OpClass.COMBINE,
            "add",
            hbm_bytes=3.0 * deployment.precision.activation_bytes * tokens * width,
            dtype=deployment.precision.activations,
            shape={"rows": tokens, "width": width},
        ),
    )


def _grouped(
    name: str,
    groups: Num,
    rows: Num,
    n: float,
    k: float,
    key: tuple[str, str, str],
    experts: Mapping[str, Num],
) -> Op:
    """One GEMM per expert that has tokens, in one launch; ``rows`` in all.

    ``key`` is (kernel, number format, layout); ``experts`` says what a curve of a whole expert computation asks for,
    and this GEMM's share of it (of a SwiGLU's FLOPs: two thirds for gate and up, a third for down, a third for the up
    projection of an expert that has no gate).
    """
    kernel, dtype, layout = key
    return Op(
        name,
        OpClass.EXPERTS,
        kernel,
        Stream.COMPUTE,
        flops=2.0 * rows * n * k,
        hbm_bytes=BYTES_PER_ELEMENT[dtype] * groups * n * k
        + input_bytes(dtype) * rows * k
        + output_bytes(dtype) * rows * n,
        dtype=dtype,
        backend=layout,
        shape={
            "groups": groups,
            "rows": rows,
            "rows_per_group": maximum(rows / maximum(groups, 1e-9), 1.0),
            "n": n,
            "k": k,
            **experts,
        },
    )


def router_ops(moe: Moe, tokens: Num, hidden: int, dtype: str) -> tuple[Op, ...]:
    """Logits over real and zero-computation experts, then selection."""
    experts = moe.num_experts + moe.num_zero_experts + moe.scores_shared
    return (
        gemm("router.logits", OpClass.ROUTER, m=tokens, n=experts, k=hidden, dtype=dtype),
        memory_bound(
            "router.select",
            OpClass.ROUTER,
            "select",
            hbm_bytes=2.0 * LOGIT_BYTES * tokens * experts,
            dtype="fp32",
            shape={"rows": tokens, "width": experts, "top_k": moe.top_k},
        ),
    )
