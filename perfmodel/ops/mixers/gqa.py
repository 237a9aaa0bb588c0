"""Grouped-query attention: full, over a sliding window or chunks, or over selected blocks (MSA).

Keys and values are divided over tensor parallelism by heads; beyond one head per GPU they are copied. A norm over all
heads (MiniMax-M2, OLMoE) needs the squares of every GPU's heads: they are summed over the group between its two halves
(https://github.com/vllm-project/vllm/blob/v0.19.0/vllm/model_executor/layers/mamba/linear_attn.py#L82-L101). A norm per
head is not counted: engines' rotary kernels take it along, or it is one of the gaps that constants hold.
"""

from dataclasses import replace

from perfmodel.ops.build import gemm, memory_bound, norm
from perfmodel.ops.mixers import sparse, state
from perfmodel.ops.mixers.base import (
    ATTENTION,
    Built,
    Cache,
    Kept,
    MixerWeights,
    Place,
    context_gathered,
    gate_apply,
    gate_width,
    in_rounds,
    inside,
    module_key,
    outputs_merged,
    queries_gathered,
    seen_keys,
    seen_pairs,
    selected_keys,
    shard_of,
)
from perfmodel.ops.op import Op, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import BlockIndexer, Gqa, RelativeBias

MODULE_WIDTHS = (6144, 64, 4, 128, 128), (4, 128, 128, 16)
"""Hidden size, heads, KV heads and head widths, and index heads, their width, tokens of a block and blocks selected of
the measured module: MiniMax-M3's."""

SQUARES = "qk_squares"
"""Part that sums a GPU's own squares of queries and of keys; what it gives is summed over the group."""
SQUARES_BYTES = 8.0
"""Per token: one FP32 sum for queries and one for keys."""


def build(gqa: Gqa, place: Place) -> Built:
    """Projections in one product, rotary embedding and cache write; block selection; core per group; output."""
    tp, precision, rows = place.tp, place.precision, place.rows
    heads, kv_heads = gqa.num_heads // tp, max(gqa.num_kv_heads // tp, 1)
    values = 0 if gqa.values_are_keys else kv_heads * gqa.value_head_dim
    width = (heads + kv_heads) * gqa.head_dim + values
    gate = gate_width(gqa.output_gate, heads, gqa.value_head_dim)
    rank = gqa.q_lora_rank
    direct = width if rank is None else rank + width - heads * gqa.head_dim
    pre = [
        gemm(place.name("qkv"), ATTENTION, m=rows, n=direct + gate, k=place.hidden, dtype=precision.linear),
        memory_bound(
            place.name("rope_cache"),
            ATTENTION,
            "rope",
            hbm_bytes=rows * (2.0 * precision.activation_bytes * width + cache_bytes(gqa, precision, tp)),
            dtype=precision.activations,
            shape={
                "rows": rows,
                "heads": heads + kv_heads,
                "rope": gqa.head_dim,
                "latent": kv_heads * gqa.value_head_dim,
            },
        ),
    ]
    if rank is not None:
        up = gemm(
            place.name("q_b"), ATTENTION, m=rows, n=heads * gqa.head_dim, k=rank, dtype=precision.linear
        )
        pre[1:1] = [norm(place.name("q_norm"), tokens=rows, width=rank, dtype=precision.activations), up]
    core: list[Op] = []
    if gqa.qk_norm_all_heads:
        pre[-1:-1] = _norm_of_all_heads(place, (heads + kv_heads) * gqa.head_dim)
    if gqa.indexer and place.indexes:
        selection = _select(gqa.indexer, place, kv_heads)
        pre += selection[0]
        core += selection[1]
    if gqa.kv_conv:
        channels = kv_heads * (gqa.head_dim + gqa.value_head_dim)
        pre += state.conv_ops(place, channels=channels, taps=gqa.kv_conv)
    if gqa.relative:
        pre += _relative(gqa.relative, place, heads)
    for group in place.work.groups:
        core += _core_ops(gqa, group, place, heads, kv_heads)
    width = heads * gqa.value_head_dim
    if gate:
        core.append(gate_apply(place, width))
    core.append(
        gemm(place.name("o"), ATTENTION, m=rows, n=place.hidden, k=width, dtype=precision.output_dtype)
    )
    key = module_key(place, "msa_module" if _is_module(gqa, place) else "")
    return inside(pre, key), inside(core, key)


def _core_ops(gqa: Gqa, group: Group, place: Place, heads: int, kv_heads: int) -> list[Op]:
    """The core of one group, with what GPUs exchange that divide its cache by tokens: all of them have the same KV
    heads, so the queries of all their heads.
    """
    if place.shards == 1:
        block = [_core(gqa, group, place, heads, kv_heads)]
        if group.kind == "decode":
            return block
        return in_rounds(block, group, place, heads * gqa.value_head_dim)
    if group.kind == "prefill":
        width = 2.0 * kv_heads * gqa.head_dim
        return [*context_gathered(group, place, width), _core(gqa, group, place, heads, kv_heads)]
    all_heads = heads * place.shards
    return [
        *queries_gathered(group, place, all_heads * gqa.head_dim),
        _core(gqa, shard_of(group, place), place, all_heads, kv_heads),
        *outputs_merged(group, place, all_heads, gqa.value_head_dim),
    ]


def _is_module(gqa: Gqa, place: Place) -> bool:
    """Whether the attention is the one whose whole span was timed."""
    indexer = gqa.indexer
    if indexer is None or not place.indexes or gqa.output_gate != "none" or gqa.q_lora_rank is not None:
        return False
    widths = place.hidden, gqa.num_heads, gqa.num_kv_heads, gqa.head_dim, gqa.value_head_dim
    blocks = indexer.num_heads, indexer.head_dim, indexer.block_tokens, indexer.top_blocks
    return (widths, blocks) == MODULE_WIDTHS


def _norm_of_all_heads(place: Place, width: int) -> list[Op]:
    """RMS norm of ``width`` elements of queries and keys per token: reads and writes them. Where other GPUs have heads
    of the same token, a kernel before it reads them for their squares.
    """
    precision, rows = place.precision, place.rows
    moved = precision.activation_bytes * rows * width
    parts = ((SQUARES, 1.0), ("qk_norm", 2.0)) if place.tp > 1 else (("qk_norm", 2.0),)
    return [
        memory_bound(
            place.name(part),
            ATTENTION,
            "norm",
            hbm_bytes=times * moved,
            dtype=precision.activations,
            shape={"rows": rows, "width": width},
        )
        for part, times in parts
    ]


def weights(gqa: Gqa, hidden: int) -> MixerWeights:
    """Queries, keys, values and gate in one matrix; norms, biases and sinks as the model has them."""
    queries, keys = gqa.num_heads * gqa.head_dim, gqa.num_kv_heads * gqa.head_dim
    values = 0 if gqa.values_are_keys else gqa.num_kv_heads * gqa.value_head_dim
    gate = int(gate_width(gqa.output_gate, gqa.num_heads, gqa.value_head_dim))
    vectors = queries + keys + values if gqa.qkv_bias else 0
    vectors += hidden if gqa.output_bias else 0
    if gqa.qk_norm:
        vectors += queries + keys if gqa.qk_norm_all_heads else 2 * gqa.head_dim
    rank, relative = gqa.q_lora_rank, gqa.relative
    return MixerWeights(
        divided=hidden * (keys + values + gate + (gqa.num_heads * relative.rank if relative else 0))
        + (rank or hidden) * queries,
        replicated=hidden * rank if rank else 0,
        output=gqa.num_heads * gqa.value_head_dim * hidden,
        unquantised=(gqa.kv_conv or 0) * (keys + values),
        small=relative.rank * relative.extent if relative else 0,
        vectors=vectors + (gqa.num_heads if gqa.sinks else 0) + (rank or 0),
    )


def _relative(relative: RelativeBias, place: Place, heads: int) -> list[Op]:
    """Each query head's weights of the profiles, and its bias at every distance: what the core adds to its scores."""
    precision, rows = place.precision, place.rows
    weights = gemm(
        place.name("relative"),
        ATTENTION,
        m=rows,
        n=heads * relative.rank,
        k=place.hidden,
        dtype=precision.linear,
    )
    bias = gemm(
        place.name("relative_bias"),
        ATTENTION,
        m=rows * heads,
        n=relative.extent,
        k=relative.rank,
        dtype=precision.activations,
    )
    return [weights, bias]


def kept(gqa: Gqa, precision: Precision, tp: int, *, indexes: bool) -> Kept:
    """Keys and values of each token, or of a window's; index keys where it selects blocks itself; the tails of
    convolutions.
    """
    caches = [Cache(cache_bytes(gqa, precision, tp), gqa.sliding_window)]
    if gqa.indexer and indexes:
        caches.append(Cache(sparse.key_bytes(gqa.indexer.head_dim, precision)))
    if not gqa.kv_conv:
        return Kept(tuple(caches))
    channels = max(gqa.num_kv_heads // tp, 1) * (gqa.head_dim + gqa.value_head_dim)
    return replace(state.kept(precision, state=0, channels=channels, taps=gqa.kv_conv), caches=tuple(caches))


def cache_bytes(gqa: Gqa, precision: Precision, tp: int = 1) -> float:
    """Bytes per token of one cache on one of ``tp`` GPUs; heads are copied once tp exceeds them."""
    kv_heads = max(gqa.num_kv_heads // tp, 1)
    return kv_heads * (gqa.head_dim + gqa.value_head_dim) * BYTES_PER_ELEMENT[precision.kv_cache]


def index_weights(indexer: BlockIndexer, hidden: int) -> MixerWeights:
    """Queries, one key, and a norm for either."""
    width = indexer.head_dim
    return MixerWeights(
        divided=hidden * indexer.num_heads * width, replicated=hidden * width, vectors=2 * width
    )


def _select(indexer: BlockIndexer, place: Place, kv_heads: int) -> Built:
    """Index heads go with their KV heads; the index key is everywhere. The largest score of each block is kept."""
    precision, rows, width = place.precision, place.rows, indexer.head_dim
    heads = max(indexer.num_heads // place.tp, 1)
    pre = [
        gemm(
            place.name("index_qk"),
            sparse.INDEXER,
            m=rows,
            n=(heads + 1) * width,
            k=place.hidden,
            dtype=precision.linear,
        ),
        memory_bound(
            place.name("index_rope_cache"),
            sparse.INDEXER,
            "rope",
            hbm_bytes=rows
            * (2.0 * precision.activation_bytes * (heads + 1) * width + sparse.key_bytes(width, precision)),
            dtype=precision.activations,
            shape={"rows": rows, "heads": heads + 1, "rope": width, "latent": width},
        ),
    ]
    core: list[Op] = []
    for group in place.work.groups:
        core += sparse.select(
            group,
            place,
            heads=heads,
            width=width,
            per_key=1,
            top_k=indexer.top_blocks,
            scores="msa_logits",
            choice="msa_topk",
            per_choice=indexer.block_tokens,
        )
    return pre, core


def _core(gqa: Gqa, group: Group, place: Place, heads: int, kv_heads: int) -> Op:
    """Scores and values over the attended pairs; reads each request's keys and values once, selected blocks for each
    decoding query of their own.
    """
    tp, precision, decode, indexer = place.tp, place.precision, group.kind == "decode", gqa.indexer
    requests = group.requests * tp
    bias = gqa.relative.extent if gqa.relative else 0
    widths = gqa.head_dim + gqa.value_head_dim
    if indexer:
        most = indexer.top_blocks * indexer.block_tokens
        pairs, keys = group.attended_pairs(most) * tp, group.keys_per_request()
        read = pairs if decode else requests * (keys + group.others)
    else:
        pairs = seen_pairs(group, gqa.sliding_window, chunked=gqa.chunked) * tp
        keys = seen_keys(group, gqa.sliding_window, chunked=gqa.chunked)
        read = requests * (keys + group.others)
    shape = {
        "requests": requests,
        "new_tokens": group.new_tokens,
        "context": keys,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": gqa.head_dim,
    }
    if gqa.sliding_window:
        shape["window"] = gqa.sliding_window
    if gqa.value_head_dim != gqa.head_dim:
        shape["value"] = gqa.value_head_dim
    if indexer:
        shape["selected"] = selected_keys(group, indexer.top_blocks * indexer.block_tokens)
    return Op(
        place.name("core" if decode else "prefill_core"),
        ATTENTION,
        f"{'msa' if indexer else 'gqa'}_{group.kind}",
        Stream.COMPUTE,
        flops=2.0 * pairs * heads * widths,
        hbm_bytes=read * cache_bytes(gqa, precision, tp)
        + precision.activation_bytes * group.tokens * tp * heads * (widths + bias),
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape=shape,
    )
