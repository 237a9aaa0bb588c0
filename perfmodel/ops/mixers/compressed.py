"""DeepSeek-V4's attention: queries over a sliding window and over compressed entries, of which an index branch selects.

One key per token and per entry is the value too and serves all heads, so every GPU of the group has it. Entries are
gated sums of ``compress_ratio`` tokens' projections; with an index branch they overlap and are twice as wide before
they are summed, as the modules of transformers 5.24 have it (deepseek_v4).
"""

from perfmodel.numeric import maximum
from perfmodel.ops.build import bmm, gemm, memory_bound
from perfmodel.ops.mixers import sparse
from perfmodel.ops.mixers.base import (
    ATTENTION,
    Built,
    Cache,
    Kept,
    MixerWeights,
    Place,
    entry_keys,
    entry_pairs,
    inside,
    module_key,
)
from perfmodel.ops.op import Op, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import CompressedAttention

SCALED_TOGETHER, PADDED_TO = 64, 8
"""Elements of an FP8 entry that share one scale of a byte, and bytes that scales are padded to: 448 + 128 + 7 + 1 bytes
of DeepSeek-V4's 512 elements (https://github.com/NVIDIA/TensorRT-LLM/issues/14327)."""

MODULES = {(4096, 64, 1024, 512, 64, 8, 1024): "flash", (7168, 128, 1536, 512, 64, 16, 1024): "pro"}
"""Hidden size, heads, query rank, head width and its rotary part, output groups and their rank of the measured modules:
DeepSeek-V4 Flash and Pro."""
MODULE_WINDOW, HCA_RATIO = 128, 128
CSA_INDEX, TOP_K = (4, 64, 128), {"flash": 512, "pro": 1024}
"""Tokens per entry, index heads and their width; entries that are selected."""


def build(csa: CompressedAttention, place: Place) -> Built:
    """Compressed queries and keys, rotation and write; compression; selection; core; output through groups."""
    tp, precision, rows = place.tp, place.precision, place.rows
    linear, element, width = precision.linear, precision.activation_bytes, csa.head_dim
    heads, groups = csa.num_heads // tp, max(csa.o_groups // tp, 1)
    fused = csa.q_lora_rank + width
    pre = [
        gemm(place.name("qkv_a"), ATTENTION, m=rows, n=fused, k=place.hidden, dtype=linear),
        memory_bound(
            place.name("latent_norm"),
            ATTENTION,
            "latent_norm",
            hbm_bytes=2.0 * element * rows * fused,
            dtype=precision.activations,
            shape={"rows": rows, "width": fused, "latent": width, "rope": max(csa.qk_rope_head_dim, 1)},
        ),
        gemm(place.name("q_b"), ATTENTION, m=rows, n=heads * width, k=csa.q_lora_rank, dtype=linear),
        memory_bound(
            place.name("rope_cache"),
            ATTENTION,
            "rope",
            hbm_bytes=rows * (2.0 * element * heads * width + element * width + cache_bytes(csa, precision)),
            dtype=precision.activations,
            shape={"rows": rows, "heads": heads, "rope": max(csa.qk_rope_head_dim, 1), "latent": width},
        ),
    ]
    core: list[Op] = []
    if csa.compress_ratio:
        outputs = 2 * _widening(csa) * width
        pre += [
            gemm(place.name("compress_kv"), ATTENTION, m=rows, n=outputs, k=place.hidden, dtype=linear),
            memory_bound(
                place.name("compress"),
                ATTENTION,
                "compress",
                hbm_bytes=rows * (element * outputs + cache_bytes(csa, precision) / csa.compress_ratio),
                dtype=precision.activations,
                shape={"rows": rows, "width": width, "ratio": csa.compress_ratio},
            ),
        ]
    if csa.indexer and place.indexes:
        selection = sparse.build(
            csa.indexer,
            place,
            query_width=csa.q_lora_rank,
            rope=csa.qk_rope_head_dim,
            ratio=csa.compress_ratio,
            key_outputs=2 * _widening(csa) * csa.indexer.head_dim,
        )
        pre += selection[0]
        core += selection[1]
    core += [_core(csa, group, place, heads) for group in place.work.groups]
    core += [
        bmm(
            place.name("o_a"),
            ATTENTION,
            groups=groups,
            m=rows,
            n=csa.o_lora_rank,
            k=heads * width // groups,
            dtype=precision.activations,
        ),
        gemm(
            place.name("o"),
            ATTENTION,
            m=rows,
            n=place.hidden,
            k=groups * csa.o_lora_rank,
            dtype=precision.output_dtype,
        ),
    ]
    key = module_key(place, _module(csa, place))
    return inside(pre, key), inside(core, key)


def _module(csa: CompressedAttention, place: Place) -> str:
    """The class of the measured span of a whole attention; empty where none was timed of these widths."""
    indexer = csa.indexer
    size = MODULES.get(
        (
            place.hidden,
            csa.num_heads,
            csa.q_lora_rank,
            csa.head_dim,
            csa.qk_rope_head_dim,
            csa.o_groups,
            csa.o_lora_rank,
        )
    )
    if size is None or csa.sliding_window != MODULE_WINDOW:
        return ""
    if indexer is None:
        return f"hca_{size}_module" if csa.compress_ratio == HCA_RATIO else ""
    same = (csa.compress_ratio, indexer.num_heads, indexer.head_dim, indexer.top_k) == (
        *CSA_INDEX,
        TOP_K[size],
    )
    return f"csa_{size}_module" if same and place.indexes else ""


def weights(csa: CompressedAttention, hidden: int) -> MixerWeights:
    """Without the index branch, which is counted apart."""
    width, queries = csa.head_dim, csa.num_heads * csa.head_dim
    ratio, wide = csa.compress_ratio, _widening(csa) * csa.head_dim
    compressor = 2 * hidden * wide if ratio else 0
    vectors = csa.q_lora_rank + width + (csa.num_heads if csa.sinks else 0)
    return MixerWeights(
        divided=csa.q_lora_rank * queries,
        output=csa.o_groups * csa.o_lora_rank * hidden,
        replicated=hidden * (csa.q_lora_rank + width) + compressor,
        unquantised=queries * csa.o_lora_rank,
        vectors=vectors + (ratio * wide + width if ratio else 0),
    )


def index_weights(csa: CompressedAttention, hidden: int) -> MixerWeights:
    """Queries from the compressed query, head weights, and a compressor of keys of its own."""
    indexer = csa.indexer
    if indexer is None:
        return MixerWeights()
    wide = _widening(csa) * indexer.head_dim
    return MixerWeights(
        replicated=csa.q_lora_rank * indexer.num_heads * indexer.head_dim + 2 * hidden * wide,
        small=hidden * indexer.num_heads,
        vectors=csa.compress_ratio * wide + indexer.head_dim,
    )


def kept(csa: CompressedAttention, precision: Precision, *, indexes: bool) -> Kept:
    """A window's tokens, entries and index keys, and the projections of tokens that are not yet an entry."""
    caches = [Cache(cache_bytes(csa, precision), csa.sliding_window)]
    ratio, waiting = csa.compress_ratio, 0
    if ratio:
        caches.append(Cache(cache_bytes(csa, precision) / ratio))
        waiting = _waiting(csa) * csa.head_dim
    if csa.indexer and indexes:
        caches.append(sparse.cache(csa.indexer, precision, ratio))
        waiting += _waiting(csa) * csa.indexer.head_dim
    return Kept(tuple(caches), fixed_bytes=BYTES_PER_ELEMENT[precision.state] * waiting)


def cache_bytes(csa: CompressedAttention, precision: Precision) -> float:
    """Bytes of one entry; in FP8 the rotary part is in the activations' type, and each SCALED_TOGETHER elements of the
    rest have a scale.
    """
    size, rope = BYTES_PER_ELEMENT[precision.kv_cache], csa.qk_rope_head_dim
    if precision.kv_cache != "fp8":
        return size * csa.head_dim
    plain = csa.head_dim - rope
    scales = -(-plain // SCALED_TOGETHER)
    return size * plain + precision.activation_bytes * rope + -(-scales // PADDED_TO) * PADDED_TO


def _widening(csa: CompressedAttention) -> int:
    """Width of what is summed, over an entry's: entries that overlap have a half for either neighbour."""
    return 2 if csa.indexer else 1


def _waiting(csa: CompressedAttention) -> int:
    """Values and gates of tokens that wait for their entry, in widths of a head: of the entry that is being filled, and
    of the one before where entries overlap.
    """
    return 2 * csa.compress_ratio * _widening(csa) ** 2


def _core(csa: CompressedAttention, group: Group, place: Place, heads: int) -> Op:
    """Scores and sums over the window and the entries; entries that a decoding query selected are its own to read."""
    tp, precision, decode = place.tp, place.precision, group.kind == "decode"
    requests, queries = group.requests * tp, group.tokens * tp
    most = csa.indexer.top_k if csa.indexer else None
    entries = entry_pairs(group, csa.compress_ratio, most) * tp if csa.compress_ratio else 0.0 * queries
    if csa.indexer and decode:
        read = entries
    else:
        read = requests * entry_keys(group, csa.compress_ratio) if csa.compress_ratio else 0.0 * requests
    pairs = group.attended_pairs(csa.sliding_window) * tp + entries
    read = read + requests * group.keys_per_request(csa.sliding_window)
    return Op(
        place.name("core" if decode else "prefill_core"),
        ATTENTION,
        f"{'csa' if csa.indexer else 'hca'}_{group.kind}",
        Stream.COMPUTE,
        flops=4.0 * pairs * heads * csa.head_dim,
        hbm_bytes=read * cache_bytes(csa, precision)
        + 2.0 * precision.activation_bytes * queries * heads * csa.head_dim,
        dtype=precision.attention,
        cache_dtype=precision.kv_cache,
        shape={
            "requests": requests,
            "new_tokens": group.new_tokens,
            "context": group.keys_per_request(),
            "selected": entries / maximum(queries, 1e-12),
            "window": csa.sliding_window,
            "heads": heads,
            "head_dim": csa.head_dim,
        },
    )
