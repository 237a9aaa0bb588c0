"""Multi-head latent attention: weight-absorbed for decode groups, expanded for prefill groups; with an index branch
absorbed in both, over the tokens that were selected (:mod:`perfmodel.ops.mixers.sparse`).

The cache holds one latent and one rotary key per token, whatever the number of heads: every GPU of the group has it.
"""

from dataclasses import replace

from perfmodel.numeric import where
from perfmodel.ops.build import Inside, bmm, gemm, memory_bound
from perfmodel.ops.mixers import sparse
from perfmodel.ops.mixers.base import (
    ATTENTION,
    Built,
    Cache,
    Kept,
    MixerWeights,
    Place,
    context_gathered,
    gate_ops,
    gate_width,
    in_rounds,
    outputs_merged,
    queries_gathered,
    selected_keys,
    shard_of,
    stands_alone,
)
from perfmodel.ops.op import Op, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Mla

MODULE_WIDTHS = (7168, 1536, 512, 128, 64)
"""Hidden size, query rank, latent, and head widths of the measured modules: DeepSeek-V3's (and Kimi-K2's)."""
SPARSE_MODULES = {
    (7168, 1536, 512, 128, 64, 64, 128): "dsa",
    (6144, 2048, 512, 192, 64, 32, 128): "dsa_glm",
}
"""The same with index heads and their width, of modules with an index branch that public tables have (DeepSeek-V3.2;
GLM-5 to 5.3) -> what their kernel classes begin with."""
SCALED_TOGETHER = 128
"""Elements of an FP8 latent with one FP32 scale, as FlashMLA's sparse core reads it: 512 + 16 + 128 bytes per token
(https://github.com/deepseek-ai/FlashMLA)."""


def build(mla: Mla, place: Place) -> Built:
    """Projections, rotary embedding and cache write; index branch; core per group; output projection."""
    tp, precision = place.tp, place.precision
    heads = mla.num_heads // tp
    rows = place.rows
    linear, dtype, element = precision.linear, precision.activations, precision.activation_bytes
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    query_in, fused = (
        (mla.q_lora_rank, mla.q_lora_rank + latent) if mla.q_lora_rank else (place.hidden, latent)
    )
    pre = [
        gemm(place.name("qkv_a"), ATTENTION, m=rows, n=fused, k=place.hidden, dtype=linear),
        memory_bound(
            place.name("latent_norm"),
            ATTENTION,
            "latent_norm",
            hbm_bytes=2.0 * element * rows * fused,
            dtype=dtype,
            shape={"rows": rows, "width": fused, "latent": mla.kv_lora_rank, "rope": _rope(mla)},
        ),
        gemm(place.name("q_b"), ATTENTION, m=rows, n=heads * mla.qk_head_dim, k=query_in, dtype=linear),
        memory_bound(
            place.name("rope_cache"),
            ATTENTION,
            "rope",
            hbm_bytes=rows
            * (2.0 * element * heads * mla.qk_rope_head_dim + element * latent + cache_bytes(mla, precision)),
            dtype=dtype,
            shape={"rows": rows, "heads": heads, "rope": _rope(mla), "latent": mla.kv_lora_rank},
        ),
    ]
    core: list[Op] = []
    if mla.indexer and place.indexes:
        selection = sparse.build(
            mla.indexer, place, query_width=mla.q_lora_rank or place.hidden, rope=mla.qk_rope_head_dim
        )
        pre += selection[0]
        core += selection[1]
    for group in place.work.groups:
        if group.kind == "decode" or mla.indexer:
            absorbed = {"groups": heads, "m": group.tokens * tp, "dtype": dtype}
            all_heads = heads * place.shards  # of the GPUs that divide the cache by tokens
            nope, value = mla.qk_nope_head_dim, mla.v_head_dim
            pre.append(bmm(place.name("absorb_q"), ATTENTION, n=mla.kv_lora_rank, k=nope, **absorbed))  # type: ignore[arg-type]
            pre += queries_gathered(group, place, all_heads * latent)
            core.append(_absorbed(mla, shard_of(group, place), place, all_heads))
            core += outputs_merged(group, place, all_heads, mla.kv_lora_rank)
            core.append(bmm(place.name("absorb_v"), ATTENTION, n=value, k=mla.kv_lora_rank, **absorbed))  # type: ignore[arg-type]
        else:
            pre += context_gathered(group, place, latent)
            keys = group.requests * tp * group.read_keys(mla.sliding_window)
            width = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
            up = gemm(place.name("kv_b"), ATTENTION, m=keys, n=width, k=mla.kv_lora_rank, dtype=linear)
            if place.rounds == 1:
                pre.append(up)
                core.append(_expanded(mla, group, place, heads))
            else:
                block = (up, _expanded(mla, group, place, heads))
                core += in_rounds(block, group, place, heads * mla.v_head_dim)
    width = heads * mla.v_head_dim
    project, apply = gate_ops(place, gate_width(mla.output_gate, heads, mla.v_head_dim), width)
    pre += project
    core += apply
    core.append(
        gemm(place.name("o"), ATTENTION, m=rows, n=place.hidden, k=width, dtype=precision.output_dtype)
    )
    module = _module_key(mla, place)
    decodes = any(group.kind == "decode" for group in place.work.groups) and not mla.indexer
    small = (*module, ("mla_decode", precision.kv_cache, "")) if decodes else module
    return [_inside(op, module, small) for op in pre], [_inside(op, module, small) for op in core]


def weights(mla: Mla, hidden: int) -> MixerWeights:
    """The absorbed product needs the up-projection of keys and values in the activations' type (``unquantised``)."""
    rank, heads = mla.q_lora_rank, mla.num_heads
    queries = heads * mla.qk_head_dim
    gate = hidden * gate_width(mla.output_gate, heads, mla.v_head_dim)
    vectors = (rank or 0) + mla.kv_lora_rank + (heads if mla.sinks else 0)
    vectors += 2 * heads if mla.scaled_queries else 0
    return MixerWeights(
        divided=queries * (rank or hidden) + int(gate),
        output=heads * mla.v_head_dim * hidden,
        replicated=hidden * ((rank or 0) + mla.kv_lora_rank + mla.qk_rope_head_dim),
        unquantised=mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim),
        vectors=vectors + (mla.qk_rope_head_dim if mla.rope_norm else 0),
    )


def kept(mla: Mla, precision: Precision, tp: int, *, indexes: bool) -> Kept:
    """One latent per token, of a window's tokens where there is one; index keys where it has its own index branch."""
    caches = [Cache(cache_bytes(mla, precision), mla.sliding_window)]
    if mla.indexer and indexes:
        caches.append(sparse.cache(mla.indexer, precision))
    return Kept(tuple(caches))


def cache_bytes(mla: Mla, precision: Precision) -> float:
    """Bytes per token of one MLA cache: latent in the cache's type, RoPE part in the activations'. An FP8 latent that a
    sparse core reads has a scale for each SCALED_TOGETHER elements.
    """
    scales = 0.0
    if mla.indexer and precision.kv_cache == "fp8":
        scales = 4.0 * -(-mla.kv_lora_rank // SCALED_TOGETHER)
    return (
        BYTES_PER_ELEMENT[precision.kv_cache] * mla.kv_lora_rank
        + precision.activation_bytes * mla.qk_rope_head_dim
        + scales
    )


def _rope(mla: Mla) -> int:
    """Rotary width as shapes have it: tables are interpolated in logs, so an attention without one counts as 1."""
    return max(mla.qk_rope_head_dim, 1)


def _absorbed(mla: Mla, group: Group, place: Place, heads: int) -> Op:
    """Absorbed core: every head attends to the same latent; scores over latent + RoPE, values over the latent.

    Over selected tokens each query reads its own, in decode; a prompt's queries share most of theirs, which the cache
    levels hold. Engines expand keys and values for a prompt that selection leaves whole (at most top_k tokens): its
    multiplications are counted so.
    """
    tp, precision, decode = place.tp, place.precision, group.kind == "decode"
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    requests = group.requests * tp
    window = mla.indexer.top_k if mla.indexer else mla.sliding_window
    pairs = group.attended_pairs(window) * tp
    keys = group.keys_per_request(mla.sliding_window)
    per_pair = 2.0 * heads * (latent + mla.kv_lora_rank)
    if mla.indexer is None:
        flops, read = 2.0 * pairs * heads * (latent + mla.kv_lora_rank), requests * keys
    elif decode:
        flops, read = per_pair * pairs, pairs
    else:
        whole = 2.0 * heads * (mla.qk_head_dim + mla.v_head_dim)
        total = group.cached_tokens + group.new_tokens
        flops = pairs * where(total <= mla.indexer.top_k, min(whole, per_pair), per_pair)
        read = requests * (keys + group.others)
    shape = {
        "requests": requests,
        "new_tokens": group.new_tokens,
        "context": keys,
        "heads": heads,
        "latent": mla.kv_lora_rank,
        "rope": _rope(mla),
    }
    if mla.indexer:
        shape["selected"] = selected_keys(group, mla.indexer.top_k)
    if mla.sliding_window:
        shape["window"] = mla.sliding_window
    kind = "mla_sparse" if mla.indexer else "mla"
    return Op(
        place.name("core" if decode else "prefill_core"),
        ATTENTION,
        f"{kind}_{group.kind}",
        Stream.COMPUTE,
        flops=flops,
        hbm_bytes=read * cache_bytes(mla, precision)
        + precision.activation_bytes * group.tokens * tp * heads * (latent + mla.kv_lora_rank),
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape=shape,
    )


def _expanded(mla: Mla, group: Group, place: Place, heads: int) -> Op:
    """Expanded core: multi-head attention with query and key width nope + rope and its own value width."""
    pairs = group.attended_pairs(mla.sliding_window) * place.tp
    keys = group.requests * place.tp * group.read_keys(mla.sliding_window)
    per_query = mla.qk_head_dim + mla.v_head_dim
    shape = {
        "requests": group.requests * place.tp,
        "new_tokens": group.new_tokens,
        "context": group.keys_per_request(mla.sliding_window),
        "heads": heads,
        "nope": mla.qk_nope_head_dim,
        "rope": _rope(mla),
        "value": mla.v_head_dim,
    }
    if mla.sliding_window:
        shape["window"] = mla.sliding_window
    return Op(
        place.name("prefill_core"),
        ATTENTION,
        "mla_prefill",
        Stream.COMPUTE,
        flops=2.0 * pairs * heads * per_query,
        hbm_bytes=place.precision.activation_bytes * heads * per_query * (group.tokens * place.tp + keys),
        dtype=place.precision.attention,
        cache_dtype=place.precision.kv_cache,
        shape=shape,
    )


def _inside(op: Op, module: Inside, small: Inside) -> Op:
    """An attention's op with the curves that may hold it: a whole module, or (norms and RoPE) its core."""
    return replace(op, inside=small if op.kernel in ("latent_norm", "rope") else module)


def _module_key(mla: Mla, place: Place) -> Inside:
    """The measured attention module that may stand for all kernels of a step: of one kind of group alone, in decode
    without drafts, whose projections serve no other tokens, of the widths and with one number format as it was timed.
    """
    group, precision = place.work.groups[0], place.precision
    if not stands_alone(place):
        return ()
    widths = (place.hidden, mla.q_lora_rank, mla.kv_lora_rank, mla.qk_nope_head_dim, mla.qk_rope_head_dim)
    if mla.indexer is None:
        same = widths == MODULE_WIDTHS and group.kind == "decode" and mla.sliding_window is None
        return (("mla_module_decode", precision.linear, precision.kv_cache),) if same else ()
    family = SPARSE_MODULES.get((*widths, mla.indexer.num_heads, mla.indexer.head_dim))  # type: ignore[arg-type]
    if family is None:
        return ()
    part = "module" if place.indexes else "skip_module"
    return ((f"{family}_{part}_{group.kind}", precision.linear, precision.kv_cache),)
