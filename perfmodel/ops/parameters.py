"""How many weights a model has, how many a token uses, and what it keeps in the KV cache.

Counts are those of the transformers 5.23 modules, norms and biases included, and are exact. A
selection bias of a router (``e_score_correction_bias``) is a buffer there and is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.errors import SpecError
from perfmodel.routing.activation import moments
from perfmodel.spec.model import Attention, Gqa, Layer, Mla, Model, Moe

CACHE_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}
"""Bytes of one cached element by KV cache type."""


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Weights of a model by component."""

    embedding: int
    """Token embedding."""
    ngram_embedding: int
    """N-gram embedding tables and their projections to the hidden size."""
    attention: int
    """Attentions, with their low-rank and per-head norms, biases and sinks."""
    dense_ffn: int
    """Dense FFNs."""
    router: int
    """Routers; zero-computation experts have a row too."""
    experts: int
    """Routed experts; zero-computation experts have no weights."""
    shared_experts: int
    """Shared experts, with their gate where they have one."""
    norms: int
    """Norms before attentions and FFNs, and the final one."""
    head: int
    """Output head; 0 where it shares the embedding's matrix."""
    mtp: int
    """Multi-token prediction layers, without the embedding and head that they share."""
    indexer: int
    """Index branches of a sparse attention, those of multi-token prediction layers left out."""

    @property
    def total(self) -> int:
        """All weights but multi-token prediction and index branches, as model cards count."""
        return (
            self.embedding
            + self.ngram_embedding
            + self.attention
            + self.dense_ffn
            + self.router
            + self.experts
            + self.shared_experts
            + self.norms
            + self.head
        )


def parameter_counts(model: Model) -> ParameterCounts:
    """Weights of ``model`` by component."""
    hidden = model.hidden_size
    table = model.vocab_size * hidden
    moes = [(layer.count, layer.moe) for layer in model.layers if layer.moe]
    return ParameterCounts(
        embedding=table,
        ngram_embedding=sum(ngram_parameters(model)),
        attention=sum(
            run.count * run.num_attentions * attention_parameters(run.attention, hidden)
            for run in model.layers
        ),
        dense_ffn=sum(
            run.count * run.num_dense_ffns * ffn_parameters(hidden, run.dense_ffn_size)
            for run in model.layers
        ),
        router=sum(count * router_parameters(moe, hidden) for count, moe in moes),
        experts=sum(count * moe.num_experts * expert_parameters(moe, hidden) for count, moe in moes),
        shared_experts=sum(count * shared_parameters(moe, hidden) for count, moe in moes),
        norms=hidden + sum(run.count * _norms(run, hidden) for run in model.layers),
        head=0 if model.tied_embeddings else table,
        mtp=mtp_parameters(model),
        indexer=indexer_parameters(model),
    )


def active(model: Model, real_experts: float, *, with_embedding: bool = False) -> int | float:
    """Weights that one token uses when ``real_experts`` experts of each layer compute for it.

    Formula: attention + dense FFN + router + shared experts + norms + head + layers x real_experts
    x expert. The head counts even where it shares the embedding's matrix. This is how LongCat's
    report counts (arXiv 2509.01322: 18.6 B at 0 and 31.3 B at 12); other cards add the embedding.

    Args:
        model: the model.
        real_experts: routed experts that compute, from 0 to top_k; may be a mean, then the result
            is a float.
        with_embedding: adds the token embedding and the projections of an n-gram embedding, but not
            its tables, of which a token reads a few rows.

    Raises:
        SpecError: ``real_experts`` is outside 0 to the smallest top_k, or not 0 for a dense model.
    """
    counts = parameter_counts(model)
    moes = [(layer.count, layer.moe) for layer in model.layers if layer.moe]
    most = min((moe.top_k for _, moe in moes), default=0)
    if not 0 <= real_experts <= most:
        raise SpecError(f"real_experts = {real_experts} must be from 0 to {most} for {model.name}")
    table = model.vocab_size * model.hidden_size
    used = counts.attention + counts.dense_ffn + counts.router + counts.shared_experts
    used += counts.norms + table
    if with_embedding:
        used += ngram_parameters(model)[1] + (0 if model.tied_embeddings else table)
    per_expert = sum(count * expert_parameters(moe, model.hidden_size) for count, moe in moes)
    experts = real_experts * per_expert
    return used + (int(experts) if experts == int(experts) else experts)


def active_by_real_experts(model: Model, *, with_embedding: bool = False) -> dict[str, int | float]:
    """:func:`active` by number of real experts, as text.

    A model with zero-computation experts has three entries: none, the mean, and top_k. Any other
    has its top_k alone, and a dense model "0".
    """
    moe = model.moe
    if moe is None:
        cases: list[float] = [0]
    elif moe.num_zero_experts:
        cases = [0, moe.mean_real_experts, moe.top_k]
    else:
        cases = [moe.top_k]
    return {f"{case:g}": active(model, case, with_embedding=with_embedding) for case in cases}


@dataclass(frozen=True, slots=True)
class ActiveParameters:
    """Weights that one token uses, over tokens: counts as in :func:`active`."""

    mean: float
    std: float
    least: float
    """No real expert in any layer."""
    most: float
    """top_k real experts in every layer."""


def active_parameters(
    model: Model, pmfs: Sequence[Sequence[float]], layer_correlation: float
) -> ActiveParameters:
    """Distribution of a token's active parameters, with ``pmfs`` of each layer's real experts (one: all alike).

    With correlation c between any two layers the sum of real experts has variance sum of s_l^2 plus c times the sum of
    s_l s_m over pairs l != m, which is (1 - c) sum of s_l^2 + c (sum of s_l)^2: independent layers average out, equal
    ones (c = 1) don't.
    """
    layers = sum(layer.count for layer in model.layers if layer.moe)
    every = list(pmfs) if len(pmfs) > 1 else list(pmfs) * layers
    means, stds = zip(*(moments(pmf) for pmf in every), strict=True)
    possible = [[k for k, probability in enumerate(pmf) if probability > 0.0] for pmf in every]
    moe = model.moe
    per_expert = expert_parameters(moe, model.hidden_size) if moe else 0
    squares = sum(std**2 for std in stds)
    variance = (1.0 - layer_correlation) * squares + layer_correlation * sum(stds) ** 2
    return ActiveParameters(
        mean=active(model, sum(means) / layers),
        std=per_expert * math.sqrt(variance),
        least=active(model, sum(own[0] for own in possible) / layers),
        most=active(model, sum(own[-1] for own in possible) / layers),
    )


def matmul_parameters(model: Model, real_experts: float) -> int | float:
    """Weights of matrices that one token is multiplied with; 2 FLOP each per token.

    :func:`active` without norms, biases and sinks, and with the n-gram projections. Attention
    scores are not in it.
    """
    vectors = model.hidden_size
    for run in model.layers:
        per_layer = _norms(run, model.hidden_size)
        per_layer += run.num_attentions * _attention_vectors(run.attention, model.hidden_size)
        if run.moe:
            per_layer += _routed_experts(run.moe) * run.moe.router_bias
        vectors += run.count * per_layer
    used = active(model, real_experts) - vectors + ngram_parameters(model)[1]
    biases = sum(run.count * _expert_biases(run.moe, model.hidden_size) for run in model.layers if run.moe)
    return used - real_experts * biases


def kv_bytes_per_token(model: Model, dtype: str = "bf16") -> int:
    """Bytes of KV cache that one token adds over all layers, multi-token prediction left out.

    Latent attention caches kv_lora_rank + qk_rope_head_dim elements per token and attention; an FP8
    cache stores the latent in one byte and keeps the rotary part in BF16 (SnapMLA, arXiv
    2602.10718; FlashMLA's FP8 cache does the same, plus scales that are left out here).
    Grouped-query attention caches 2 x num_kv_heads x head_dim. Layers with a sliding window are
    counted too: they stop growing only at ``sliding_window`` tokens. An index branch's keys are in
    :func:`index_bytes_per_token`.

    Raises:
        SpecError: ``dtype`` is not bf16 or fp8.
    """
    size = _cache_bytes(dtype)
    return sum(run.count * run.num_attentions * _kv_bytes(run.attention, size) for run in model.layers)


def index_bytes_per_token(model: Model, dtype: str = "bf16") -> int:
    """Bytes of index keys that one token adds to the cache: head_dim elements per indexer.

    Raises:
        SpecError: ``dtype`` is not bf16 or fp8.
    """
    size = _cache_bytes(dtype)
    return model.indexer.num_indexers * model.indexer.head_dim * size if model.indexer else 0


def attention_parameters(attention: Attention, hidden: int) -> int:
    """Weights of one attention, its norms, biases and sinks included."""
    return _attention_matrices(attention, hidden) + _attention_vectors(attention, hidden)


def ffn_parameters(hidden: int, size: int) -> int:
    """Weights of one SwiGLU FFN: gate, up and down."""
    return 3 * hidden * size


def expert_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one routed expert, biases included."""
    return ffn_parameters(hidden, moe.ffn_size) + _expert_biases(moe, hidden)


def router_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one router: a row, and perhaps a bias, per routed expert."""
    return _routed_experts(moe) * (hidden + moe.router_bias)


def shared_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one layer's shared experts and of their gate."""
    gate = hidden if moe.shared_gate else 0
    return ffn_parameters(hidden, moe.shared_ffn_size) + gate


def ngram_parameters(model: Model) -> tuple[int, int]:
    """Weights of the n-gram embedding's tables, and of their projections to the hidden size."""
    ngram = model.ngram_embedding
    if ngram is None:
        return 0, 0
    width = ngram.num_tables * ngram.table_width
    return width * ngram.rows_per_table, width * model.hidden_size


def mtp_parameters(model: Model) -> int:
    """Weights of the multi-token prediction layers.

    Each is a layer, a projection of the hidden state and the embedding (2 hidden -> hidden), a norm
    for either input and a final norm [DeepSeek-V3, arXiv 2412.19437, 2.2]. Embedding and head are
    shared with the model, and copies of them that a checkpoint may hold are not counted.
    """
    if model.mtp is None:
        return 0
    hidden = model.hidden_size
    layer = model.mtp.layer
    weights = layer.num_attentions * attention_parameters(layer.attention, hidden)
    weights += layer.num_dense_ffns * ffn_parameters(hidden, layer.dense_ffn_size)
    if layer.moe:
        weights += layer.moe.num_experts * expert_parameters(layer.moe, hidden)
        weights += router_parameters(layer.moe, hidden) + shared_parameters(layer.moe, hidden)
    weights += _norms(layer, hidden) + 2 * hidden * hidden + 3 * hidden
    return model.mtp.num_layers * weights


def indexer_parameters(model: Model) -> int:
    """Weights of the index branches: query from the compressed query, key, key norm, head weights.

    Formula per indexer, with heads h, width d: q_lora h d + hidden d + d + hidden h. LongCat-2.0's
    checkpoint confirms it (see the catalogue's notes on that model).
    """
    indexer = model.indexer
    if indexer is None:
        return 0
    attention = model.layers[0].attention
    rank = attention.q_lora_rank if isinstance(attention, Mla) else None
    query = (rank or model.hidden_size) * indexer.num_heads * indexer.head_dim
    key = model.hidden_size * indexer.head_dim + indexer.head_dim
    return indexer.num_indexers * (query + key + model.hidden_size * indexer.num_heads)


def _attention_matrices(attention: Attention, hidden: int) -> int:
    if isinstance(attention, Gqa):
        queries = attention.num_heads * attention.head_dim
        keys = attention.num_kv_heads * attention.head_dim
        return hidden * (queries + 2 * keys) + queries * hidden
    rank, heads = attention.q_lora_rank, attention.num_heads
    queries = heads * attention.qk_head_dim
    query = hidden * queries if rank is None else hidden * rank + rank * queries
    latent = hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim)
    expand = attention.kv_lora_rank * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    return query + latent + expand + heads * attention.v_head_dim * hidden


def _attention_vectors(attention: Attention, hidden: int) -> int:
    """Norm weights, biases and sinks of one attention."""
    if isinstance(attention, Mla):
        return (attention.q_lora_rank or 0) + attention.kv_lora_rank
    outputs = (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_dim
    vectors = outputs if attention.qkv_bias else 0
    vectors += hidden if attention.output_bias else 0
    vectors += 2 * attention.head_dim if attention.qk_norm else 0
    return vectors + (attention.num_heads if attention.sinks else 0)


def _routed_experts(moe: Moe) -> int:
    """Rows of a router."""
    return moe.num_experts + moe.num_zero_experts


def _expert_biases(moe: Moe, hidden: int) -> int:
    """Biases of one expert's gate, up and down matrices."""
    return 2 * moe.ffn_size + hidden if moe.expert_bias else 0


def _norms(layer: Layer, hidden: int) -> int:
    """One norm before each attention and one before each FFN position."""
    return 2 * layer.num_attentions * hidden


def _cache_bytes(dtype: str) -> int:
    if dtype not in CACHE_BYTES:
        raise SpecError(f"KV cache type {dtype!r} must be one of {', '.join(CACHE_BYTES)}")
    return CACHE_BYTES[dtype]


def _kv_bytes(attention: Attention, size: int) -> int:
    """Bytes that one attention caches per token."""
    if isinstance(attention, Gqa):
        return 2 * attention.num_kv_heads * attention.head_dim * size
    return attention.kv_lora_rank * size + attention.qk_rope_head_dim * max(size, CACHE_BYTES["bf16"])
