"""Attention: projections, the core, and what tensor parallelism adds. Counts per GPU.

Every attention is cut in two, as LongCat's overlap needs it: ``pre`` (norm, projections, rotary embedding, cache
write) and ``core`` (the core itself and the output projection).
"""

from dataclasses import dataclass, replace

import numpy as np

from perfmodel.numeric import maximum
from perfmodel.ops.build import Inside, bmm, gemm, inside_reduce, memory_bound, norm
from perfmodel.ops.collective import all_gather, all_reduce, reduce_scatter
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.work import Group, Work
from perfmodel.spec.deployment import Deployment, Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.model import Gqa, Mla

ATTENTION = OpClass.ATTENTION
MODULE = "mla_module_decode"
"""An engine's whole attention as it was measured, from the first projection to the last."""
MODULE_WIDTHS = (7168, 1536, 512, 128, 64)
"""Hidden size, query rank, latent, and head widths of the measured modules: DeepSeek-V3's (and Kimi-K2's)."""


@dataclass(frozen=True, slots=True)
class AttentionOps:
    """One attention's ops, in order."""

    pre: tuple[Op, ...]
    """Norm, projections, rotary embedding and cache write (the report's Attn0)."""
    core: tuple[Op, ...]
    """Attention core and output projection (the report's Attn1)."""


def attention_ops(
    attention: Mla | Gqa,
    work: Work,
    deployment: Deployment,
    cluster: Cluster,
    *,
    hidden: int,
    prefix: str = "attention",
    split: bool = False,
) -> AttentionOps:
    """Ops of one attention over all groups of a step.

    With attention TP of t, the t GPUs of a group hold each other's requests: m = t x (tokens per GPU) rows meet
    1/t of the heads. ``split``: a schedule puts something between the two parts, so no measured span of the whole
    attention may stand for them. Where data parallelism scatters tokens, they are gathered before and reduce-scattered
    after; on a replicated layout an all-reduce follows.
    """
    tp = deployment.attention_tp
    own_tokens = work.tokens * (tp if deployment.replicated else 1)
    dtype, inside = deployment.precision.activations, inside_reduce(deployment)
    pre = [norm(f"{prefix}.norm", tokens=own_tokens, width=hidden, dtype=dtype, inside=inside)]
    if tp > 1 and not deployment.replicated:
        pre.append(all_gather(f"{prefix}.gather", work.tokens * tp, hidden, deployment, cluster, tp))
    build = _mla if isinstance(attention, Mla) else _gqa
    project, core = build(attention, work, tp, deployment.precision, hidden, prefix)  # type: ignore[arg-type]
    if tp > 1:
        collective = all_reduce if deployment.replicated else reduce_scatter
        core.append(collective(f"{prefix}.reduce", work.tokens * tp, hidden, deployment, cluster, tp))
    ops = AttentionOps(tuple(pre) + tuple(project), tuple(core))
    return _without_module(ops) if split else ops


def _without_module(ops: AttentionOps) -> AttentionOps:
    """The ops, costed one by one."""

    def alone(op: Op) -> Op:
        return replace(op, inside=tuple(key for key in op.inside if key[0] != MODULE))

    return AttentionOps(tuple(alone(op) for op in ops.pre), tuple(alone(op) for op in ops.core))


def _mla(
    mla: Mla, work: Work, tp: int, precision: Precision, hidden: int, prefix: str
) -> tuple[list[Op], list[Op]]:
    """Multi-head latent attention: weight-absorbed for decode groups, expanded for prefill groups."""
    heads = mla.num_heads // tp
    rows = work.tokens * tp
    linear, dtype, element = precision.linear, precision.activations, precision.activation_bytes
    core_key = ("mla_decode", precision.kv_cache, "")
    decodes = any(group.kind == "decode" for group in work.groups)
    module = _module_key(mla, hidden, work, precision)
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    query_in, fused = (mla.q_lora_rank, mla.q_lora_rank + latent) if mla.q_lora_rank else (hidden, latent)
    pre = [
        gemm(f"{prefix}.qkv_a", ATTENTION, m=rows, n=fused, k=hidden, dtype=linear),
        memory_bound(
            f"{prefix}.latent_norm",
            ATTENTION,
            "latent_norm",
            hbm_bytes=2.0 * element * rows * fused,
            dtype=dtype,
            shape={
                "rows": rows,
                "width": fused,
                "latent": mla.kv_lora_rank,
                "rope": mla.qk_rope_head_dim,
            },
        ),
        gemm(f"{prefix}.q_b", ATTENTION, m=rows, n=heads * mla.qk_head_dim, k=query_in, dtype=linear),
        memory_bound(
            f"{prefix}.rope_cache",
            ATTENTION,
            "rope",
            hbm_bytes=rows
            * (
                2.0 * element * heads * mla.qk_rope_head_dim
                + element * latent
                + mla_cache_bytes(mla, precision)
            ),
            dtype=dtype,
            shape={
                "rows": rows,
                "heads": heads,
                "rope": mla.qk_rope_head_dim,
                "latent": mla.kv_lora_rank,
            },
        ),
    ]
    core: list[Op] = []
    for group in work.groups:
        if group.kind == "decode":
            pre.append(
                bmm(
                    f"{prefix}.absorb_q",
                    ATTENTION,
                    groups=heads,
                    m=group.tokens * tp,
                    n=mla.kv_lora_rank,
                    k=mla.qk_nope_head_dim,
                    dtype=dtype,
                )
            )
            core.append(_mla_decode(mla, group, tp, heads, precision, prefix))
            core.append(
                bmm(
                    f"{prefix}.absorb_v",
                    ATTENTION,
                    groups=heads,
                    m=group.tokens * tp,
                    n=mla.v_head_dim,
                    k=mla.kv_lora_rank,
                    dtype=dtype,
                )
            )
        else:
            keys = group.requests * tp * group.keys_per_request()
            width = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
            pre.append(gemm(f"{prefix}.kv_b", ATTENTION, m=keys, n=width, k=mla.kv_lora_rank, dtype=linear))
            core.append(_mla_prefill(mla, group, tp, heads, precision, prefix))
    width = heads * mla.v_head_dim
    core.append(gemm(f"{prefix}.o", ATTENTION, m=rows, n=hidden, k=width, dtype=precision.output_dtype))
    small = (*module, core_key) if decodes else module
    return [_inside(op, module, small) for op in pre], [_inside(op, module, small) for op in core]


def _inside(op: Op, module: Inside, small: Inside) -> Op:
    """An attention's op with the curves that may hold it: a whole module, or (norms and RoPE) its core."""
    return replace(op, inside=small if op.kernel in ("latent_norm", "rope") else module)


def _module_key(mla: Mla, hidden: int, work: Work, precision: Precision) -> Inside:
    """The measured attention module that may stand for all kernels of a step: of plain decode alone, whose projections
    serve no other tokens, of the widths and with one number format as it was timed.
    """
    group = work.groups[0]
    plain = len(work.groups) == 1 and group.kind == "decode" and np.all(np.asarray(group.new_tokens) == 1.0)
    widths = (hidden, mla.q_lora_rank, mla.kv_lora_rank, mla.qk_nope_head_dim, mla.qk_rope_head_dim)
    same = widths == MODULE_WIDTHS and precision.output_dtype == precision.linear
    return ((MODULE, precision.linear, precision.kv_cache),) if plain and same else ()


def mla_cache_bytes(mla: Mla, precision: Precision) -> float:
    """Bytes per token of one MLA cache: latent in the cache's type, RoPE part in the activations'."""
    return (
        BYTES_PER_ELEMENT[precision.kv_cache] * mla.kv_lora_rank
        + precision.activation_bytes * mla.qk_rope_head_dim
    )


def gqa_cache_bytes(gqa: Gqa, precision: Precision, tp: int = 1) -> float:
    """Bytes per token of one GQA cache on one of ``tp`` GPUs; heads are replicated once tp exceeds them."""
    return 2.0 * max(gqa.num_kv_heads // tp, 1) * gqa.head_dim * BYTES_PER_ELEMENT[precision.kv_cache]


def _mla_decode(mla: Mla, group: Group, tp: int, heads: int, precision: Precision, prefix: str) -> Op:
    """Absorbed core: every head attends to the same latent; scores over latent + RoPE, values over the latent."""
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    pairs = group.attended_pairs() * tp
    requests = group.requests * tp
    return Op(
        f"{prefix}.core",
        ATTENTION,
        "mla_decode",
        Stream.COMPUTE,
        flops=2.0 * pairs * heads * (latent + mla.kv_lora_rank),
        hbm_bytes=requests * group.keys_per_request() * mla_cache_bytes(mla, precision)
        + precision.activation_bytes * group.tokens * tp * heads * (latent + mla.kv_lora_rank),
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape={
            "requests": requests,
            "new_tokens": group.new_tokens,
            "context": group.keys_per_request(),
            "heads": heads,
            "latent": mla.kv_lora_rank,
            "rope": mla.qk_rope_head_dim,
        },
    )


def _mla_prefill(mla: Mla, group: Group, tp: int, heads: int, precision: Precision, prefix: str) -> Op:
    """Expanded core: multi-head attention with query and key width nope + rope and its own value width."""
    pairs = group.attended_pairs() * tp
    keys = group.requests * tp * group.keys_per_request()
    per_query = mla.qk_head_dim + mla.v_head_dim
    return Op(
        f"{prefix}.prefill_core",
        ATTENTION,
        "mla_prefill",
        Stream.COMPUTE,
        flops=2.0 * pairs * heads * per_query,
        hbm_bytes=precision.activation_bytes * heads * per_query * (group.tokens * tp + keys),
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape={
            "requests": group.requests * tp,
            "new_tokens": group.new_tokens,
            "context": group.keys_per_request(),
            "heads": heads,
            "nope": mla.qk_nope_head_dim,
            "rope": mla.qk_rope_head_dim,
            "value": mla.v_head_dim,
        },
    )


def _gqa(
    gqa: Gqa, work: Work, tp: int, precision: Precision, hidden: int, prefix: str
) -> tuple[list[Op], list[Op]]:
    """Grouped-query attention, with or without a sliding window."""
    heads = gqa.num_heads // tp
    kv_heads = max(gqa.num_kv_heads // tp, 1)
    rows = work.tokens * tp
    width = (heads + 2 * kv_heads) * gqa.head_dim
    pre = [
        gemm(f"{prefix}.qkv", ATTENTION, m=rows, n=width, k=hidden, dtype=precision.linear),
        memory_bound(
            f"{prefix}.rope_cache",
            ATTENTION,
            "rope",
            hbm_bytes=rows * (2.0 * precision.activation_bytes * width + gqa_cache_bytes(gqa, precision, tp)),
            dtype=precision.activations,
            shape={
                "rows": rows,
                "heads": heads + kv_heads,
                "rope": gqa.head_dim,
                "latent": kv_heads * gqa.head_dim,
            },
        ),
    ]
    core = [_gqa_core(gqa, group, tp, heads, kv_heads, precision, prefix) for group in work.groups]
    core.append(
        gemm(f"{prefix}.o", ATTENTION, m=rows, n=hidden, k=heads * gqa.head_dim, dtype=precision.output_dtype)
    )
    return pre, core


def _gqa_core(
    gqa: Gqa, group: Group, tp: int, heads: int, kv_heads: int, precision: Precision, prefix: str
) -> Op:
    """Scores and values over the attended pairs; reads each request's keys and values once."""
    decode = group.kind == "decode"
    requests = group.requests * tp
    keys = maximum(group.keys_per_request(gqa.sliding_window), group.new_tokens)
    return Op(
        f"{prefix}.core" if decode else f"{prefix}.prefill_core",
        ATTENTION,
        "gqa_decode" if decode else "gqa_prefill",
        Stream.COMPUTE,
        flops=4.0 * group.attended_pairs(gqa.sliding_window) * tp * heads * gqa.head_dim,
        hbm_bytes=requests * keys * gqa_cache_bytes(gqa, precision, tp)
        + 2.0 * precision.activation_bytes * group.tokens * tp * heads * gqa.head_dim,
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape={
            "requests": requests,
            "new_tokens": group.new_tokens,
            "context": keys,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": gqa.head_dim,
        },
    )
