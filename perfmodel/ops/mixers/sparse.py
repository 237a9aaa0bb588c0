"""The index branch of a sparse attention: small queries and keys score all earlier tokens, and the best are selected.

Engines replicate it over tensor parallelism: every GPU scores for all of its group's requests with all index heads, so
that all select alike. Its cost grows with the context; what it selects does not, so beyond some context it is most of
the attention.
"""

from perfmodel.numeric import Num
from perfmodel.ops.build import LOGIT_BYTES, gemm, memory_bound
from perfmodel.ops.mixers.base import Built, Cache, MixerWeights, Place, entry_keys, entry_pairs
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Indexer

INDEXER = OpClass.INDEXER
SCALE_BYTES = 4.0
"""An FP8 index key has one FP32 scale: 132 bytes of 128 elements (DeepSeek-V3.2's release,
https://github.com/deepseek-ai/DeepSeek-V3.2-Exp)."""


def build(
    indexer: Indexer,
    place: Place,
    *,
    query_width: int,
    rope: int,
    ratio: int = 1,
    key_outputs: int | None = None,
) -> Built:
    """Projections, rotation and write of the index key; scores and selection per group.

    ``query_width``: what index queries are projected from; ``rope``: elements of a head that are rotated; ``ratio``:
    tokens per entry of the cache that is selected from (the pool of the indexer's own keys is counted beside it);
    ``key_outputs``: of the key's projection, None: the key, and a gate beside it where keys are pooled.
    """
    precision, rows, width = place.precision, place.rows, indexer.head_dim
    linear, element = precision.linear, precision.activation_bytes
    per_key = ratio * indexer.pool
    queries = indexer.num_heads * width
    pre = [
        *_query_norm(indexer, place, query_width),
        gemm(place.name("index_q"), INDEXER, m=rows, n=queries, k=query_width, dtype=linear),
        gemm(
            place.name("index_k"),
            INDEXER,
            m=rows,
            n=key_outputs or (2 * width if indexer.pool > 1 else width),
            k=place.hidden,
            dtype=linear,
        ),
        gemm(
            place.name("index_weights"),
            INDEXER,
            m=rows,
            n=indexer.num_heads,
            k=place.hidden,
            dtype=precision.activations,
        ),
        memory_bound(
            place.name("index_rope_cache"),
            INDEXER,
            "rope",
            hbm_bytes=rows
            * (
                element * (queries + width)
                + BYTES_PER_ELEMENT[precision.index_cache] * queries
                + key_bytes(width, precision) / per_key
            ),
            dtype=precision.activations,
            shape={
                "rows": rows,
                "heads": indexer.num_heads,
                "rope": max(min(rope, width), 1),
                "latent": max(width - rope, 1),
            },
        ),
    ]
    core: list[Op] = []
    for group in place.work.groups:
        core += select(
            group, place, heads=indexer.num_heads, width=width, per_key=per_key, top_k=indexer.top_k
        )
    return pre, core


def _query_norm(indexer: Indexer, place: Place, width: int) -> list[Op]:
    """The norm of what index queries are projected from, where there is one."""
    if not indexer.query_norm:
        return []
    return [
        memory_bound(
            place.name("index_q_norm"),
            INDEXER,
            "norm",
            hbm_bytes=2.0 * place.precision.activation_bytes * place.rows * width,
            dtype=place.precision.activations,
            shape={"rows": place.rows, "width": width},
        )
    ]


def select(
    group: Group,
    place: Place,
    *,
    heads: int,
    width: int,
    per_key: int,
    top_k: Num,
    scores: str = "index_logits",
    choice: str = "index_topk",
    per_choice: int = 1,
) -> list[Op]:
    """Scores of every key that a query may see, and the selection of ``top_k`` among them.

    FLOPs: 2 x pairs x heads x width. Bytes: each request's keys once, queries, one FP32 score per pair written and read
    (``per_choice``: of so many keys the largest alone is).
    """
    precision, tp = place.precision, place.tp
    requests, keys = group.requests * tp, entry_keys(group, per_key)
    pairs = entry_pairs(group, per_key) * tp
    queries = group.tokens * tp * heads * width
    index_dtype = precision.index_cache
    suffix = "" if group.kind == "decode" else "_prefill"
    common = {"requests": requests, "new_tokens": group.new_tokens}
    shape = {**common, "context": keys, "heads": heads, "head_dim": width}
    if per_choice > 1:
        shape["block"] = per_choice
    return [
        Op(
            place.name(f"{scores}{suffix}"),
            INDEXER,
            scores,
            Stream.COMPUTE,
            flops=2.0 * pairs * heads * width,
            hbm_bytes=requests * keys * key_bytes(width, precision)
            + BYTES_PER_ELEMENT[index_dtype] * queries
            + LOGIT_BYTES * pairs / per_choice,
            dtype=index_dtype,
            shape=shape,
        ),
        Op(
            place.name(f"{choice}{suffix}"),
            INDEXER,
            choice,
            Stream.COMPUTE,
            hbm_bytes=LOGIT_BYTES * (pairs / per_choice + group.tokens * tp * top_k),
            dtype="fp32",
            shape={**common, "context": keys / per_choice, "top_k": top_k},
        ),
    ]


def key_bytes(width: int, precision: Precision) -> float:
    """Bytes of one cached index key."""
    scale = SCALE_BYTES if precision.index_cache == "fp8" else 0.0
    return BYTES_PER_ELEMENT[precision.index_cache] * width + scale


def cache(indexer: Indexer, precision: Precision, ratio: int = 1) -> Cache:
    """Index keys, on every GPU of the group."""
    return Cache(key_bytes(indexer.head_dim, precision) / (ratio * indexer.pool))


def weights(indexer: Indexer, hidden: int, *, query_width: int) -> MixerWeights:
    """Query from the compressed query, key, key norm, head weights; of pooled keys a gate and a position bias, too.

    Formula, with heads h, width d: q_lora h d + hidden d + hidden h, and d for an RMS norm or 2 d for a LayerNorm.
    LongCat-2.0's checkpoint confirms it (see the catalogue's notes on that model), transformers' DeepSeek-V3.2 too.
    """
    width = indexer.head_dim
    norm = width if indexer.key_norm == "rms" else 2 * width
    pooled = indexer.pool > 1
    query = (2 * query_width if indexer.query_norm else 0) + (
        2 * indexer.num_heads if indexer.scaled_queries else 0
    )
    return MixerWeights(
        replicated=query_width * indexer.num_heads * width
        + hidden * width
        + (hidden * width if pooled else 0),
        small=hidden * indexer.num_heads,
        vectors=norm + (indexer.pool * width if pooled else 0) + query,
    )
