"""How many weights a model has, how many a token uses, and what it keeps in the KV cache.

Counts are those of transformers' modules, norms and biases included, and are exact. A
selection bias of a router (``e_score_correction_bias``) is a buffer there and is not counted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfmodel.errors import SpecError
from perfmodel.ops.hyper import head_parameters, site_parameters
from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import Kept, MixerWeights
from perfmodel.ops.mixers.mixer import index_weights, mixer_kept, mixer_weights
from perfmodel.routing.activation import moments
from perfmodel.spec.deployment import Precision
from perfmodel.spec.model import MATRICES, Activation, Layer, Model, Moe

CACHE_TYPES = ("bf16", "fp8")
"""Number formats of caches that counts are given for."""


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Weights of a model by component."""

    embedding: int
    """Token embedding."""
    ngram_embedding: int
    """N-gram embedding tables and their projections to the hidden size."""
    attention: int
    """Sequence mixers, with their low-rank and per-head norms, biases, sinks, convolutions and decays; convolutions
    behind a layer's parts."""
    dense_ffn: int
    """Dense FFNs."""
    router: int
    """Routers; zero-computation experts have a row too. And the projections to and from a latent of the experts'."""
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
    hyper_connections: int = 0
    """What weighs and mixes several residual streams."""

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
            + self.hyper_connections
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
            run.count * (layer_weights(run, hidden).total + output_conv_parameters(run, hidden))
            for run in model.layers
        ),
        dense_ffn=sum(
            run.count * run.num_dense_ffns * ffn_parameters(hidden, run.dense_ffn_size, run.dense_activation)
            for run in model.layers
        ),
        router=sum(count * router_parameters(moe, hidden) for count, moe in moes),
        experts=sum(count * moe.num_experts * expert_parameters(moe, hidden) for count, moe in moes),
        shared_experts=sum(count * shared_parameters(moe, hidden) for count, moe in moes),
        norms=(2 if model.norm_bias else 1)
        * (
            hidden * (2 if model.embedding_norm else 1)
            + sum(run.count * _norms(run, hidden) for run in model.layers)
        ),
        head=0 if model.tied_embeddings else table,
        mtp=mtp_parameters(model),
        indexer=sum(run.count * layer_index_weights(run, hidden).total for run in model.layers),
        hyper_connections=hyper_parameters(model),
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
    used += counts.norms + counts.hyper_connections + table
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

    :func:`active` without norms, biases, sinks and decays, and with the n-gram projections. Attention
    scores and recurrences are not in it.
    """
    vectors = parameter_counts(model).norms + _hyper_vectors(model)
    for run in model.layers:
        per_layer = layer_weights(run, model.hidden_size).vectors
        if run.moe:
            per_layer += _routed_experts(run.moe) * run.moe.router_bias
            per_layer += _latent_norm(run.moe)
        vectors += run.count * per_layer
    used = active(model, real_experts) - vectors + ngram_parameters(model)[1]
    biases = sum(
        run.count * _expert_biases(run.moe, run.moe.routed_size(model.hidden_size))
        for run in model.layers
        if run.moe
    )
    return used - real_experts * biases


def kv_bytes_per_token(model: Model, dtype: str = "bf16") -> int:
    """Bytes of KV cache that one token adds over all layers, multi-token prediction left out.

    Latent attention caches kv_lora_rank + qk_rope_head_dim elements per token and attention; an FP8
    cache stores the latent in one byte and keeps the rotary part in BF16 (SnapMLA, arXiv
    2602.10718; FlashMLA's FP8 cache does the same, plus scales that are left out here but where a sparse
    core reads them: 656 bytes per token).
    Grouped-query attention caches num_kv_heads x (key + value width), compressed attention an entry per token of its
    window and per compress_ratio tokens. Layers with a sliding window are
    counted too: they stop growing only at ``sliding_window`` tokens. An index branch's keys are in
    :func:`index_bytes_per_token`.

    Raises:
        SpecError: ``dtype`` is not bf16 or fp8.
    """
    precision = Precision(kv_cache=_cache_dtype(dtype))
    return round(_grown(model, precision, windows=True, indexes=False))


def growing_bytes_per_token(model: Model, dtype: str = "bf16") -> int:
    """:func:`kv_bytes_per_token` beyond every window."""
    precision = Precision(kv_cache=_cache_dtype(dtype))
    return round(_grown(model, precision, windows=False, indexes=False))


def index_bytes_per_token(model: Model, dtype: str = "fp8") -> int:
    """Bytes of index keys that one token adds to the cache: FP8 with a scale (132 bytes of 128 elements) or BF16.

    Raises:
        SpecError: ``dtype`` is not bf16 or fp8.
    """
    precision = Precision(index_cache=_cache_dtype(dtype))
    both = (_grown(model, precision, windows=False, indexes=indexes) for indexes in (True, False))
    return round(next(both) - next(both))


def fixed_bytes_per_request(model: Model, dtype: str = "bf16", state: str = "fp32") -> int:
    """Bytes that a request keeps whatever its length, once it is longer than every window: states, and what windows
    hold; without drafts.

    Raises:
        SpecError: ``dtype`` is not bf16 or fp8, or ``state`` not fp32 or bf16.
    """
    if state not in ("fp32", "bf16"):
        raise SpecError(f"state type {state!r} must be one of fp32, bf16")
    precision = Precision(kv_cache=_cache_dtype(dtype), state=state)
    total = 0.0
    for run in model.layers:
        for kept, times in kept_of(run, model.hidden_size, precision, 1):
            windows = sum(one.bytes_per_token * one.most_tokens for one in kept.caches if one.most_tokens)
            total += run.count * times * (kept.state_bytes + kept.fixed_bytes + windows)
    return round(total)


def _grown(model: Model, precision: Precision, *, windows: bool, indexes: bool) -> float:
    """Bytes that a token adds; with those that stop at a ``windows`` size, and with index keys."""
    total = 0.0
    for run in model.layers:
        for kept, times in kept_of(run, model.hidden_size, precision, 1, indexes=indexes):
            total += (
                run.count
                * times
                * sum(one.bytes_per_token for one in kept.caches if windows or one.most_tokens is None)
            )
    return total


def kept_of(
    layer: Layer, hidden: int, precision: Precision, tp: int, *, indexes: bool = True
) -> Iterator[tuple[Kept, int]]:
    """What one layer keeps of a request on one GPU of ``tp``: (what, how many times). ``indexes``: with index keys."""
    for own, times in ((True, layer.indexers), (False, layer.num_mixers - layer.indexers)):
        if layer.attention and times:
            yield mixer_kept(layer.attention, precision, tp, indexes=own and indexes), times
    if layer.output_convs:
        yield state.kept(precision, state=0, channels=hidden, taps=layer.output_convs), _parts(layer)


def layer_weights(layer: Layer, hidden: int) -> MixerWeights:
    """Weights of all sequence mixers of one layer, without index branches."""
    if layer.attention is None:
        return MixerWeights()
    return mixer_weights(layer.attention, hidden).times(layer.num_mixers)


def layer_index_weights(layer: Layer, hidden: int) -> MixerWeights:
    """Weights of all index branches of one layer."""
    return index_weights(layer.attention, hidden).times(layer.indexers)


def output_conv_parameters(layer: Layer, hidden: int) -> int:
    """Taps of the convolutions behind the parts of one layer."""
    return _parts(layer) * hidden * (layer.output_convs or 0)


def ffn_parameters(hidden: int, size: int, activation: Activation = "swiglu") -> int:
    """Weights of one FFN: up and down, and a gate where it has one."""
    return MATRICES[activation] * hidden * size


def expert_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one routed expert, biases included."""
    width = moe.routed_size(hidden)
    return ffn_parameters(width, moe.ffn_size, moe.activation) + _expert_biases(moe, width)


def router_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one router: a row, and perhaps a bias, per routed expert; and of the projections to and from a latent
    that experts work in, with its norm.
    """
    latent = 2 * hidden * moe.latent_size + _latent_norm(moe) if moe.latent_size else 0
    rows = _routed_experts(moe)
    return rows * (hidden + moe.router_bias) + moe.scores_shared * hidden + latent


def shared_parameters(moe: Moe, hidden: int) -> int:
    """Weights of one layer's shared experts and of their gate."""
    gate = hidden if moe.shared_gate else 0
    return ffn_parameters(hidden, moe.shared_ffn_size, moe.activation) + gate


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
    weights = layer_weights(layer, hidden).total
    weights += layer.num_dense_ffns * ffn_parameters(hidden, layer.dense_ffn_size, layer.dense_activation)
    if layer.moe:
        weights += layer.moe.num_experts * expert_parameters(layer.moe, hidden)
        weights += router_parameters(layer.moe, hidden) + shared_parameters(layer.moe, hidden)
    weights += _norms(layer, hidden) + 2 * hidden * hidden + 3 * hidden
    return model.mtp.num_layers * weights


def hyper_parameters(model: Model) -> int:
    """Weights around every part of every layer, and of the gate before the final norm."""
    streams, hidden = model.hyper_connections, model.hidden_size
    if streams is None:
        return 0
    sites = sum(run.count * _parts(run) for run in model.layers)
    return sites * site_parameters(streams, hidden) + head_parameters(streams, hidden)


def _hyper_vectors(model: Model) -> int:
    """Biases and scales among them."""
    streams = model.hyper_connections
    if streams is None:
        return 0
    sites = sum(run.count * _parts(run) for run in model.layers)
    head = head_parameters(streams, 0)
    return sites * site_parameters(streams, 0) + head


def _routed_experts(moe: Moe) -> int:
    """Rows of a router."""
    return moe.num_experts + moe.num_zero_experts


def _expert_biases(moe: Moe, hidden: int) -> int:
    """Biases of one expert's matrices; ``hidden`` is the width of its output."""
    return (MATRICES[moe.activation] - 1) * moe.ffn_size + hidden if moe.expert_bias else 0


def _parts(layer: Layer) -> int:
    """Parts of a layer that stand on the residual stream: mixers, and dense FFNs or experts behind each."""
    return layer.num_mixers + (layer.num_attentions if layer.dense_ffn_size or layer.moe else 0)


def _norms(layer: Layer, hidden: int) -> int:
    """One norm before each mixer and one before each FFN position; as many behind them where norms are sandwiched; or
    as many vectors as the layer states.
    """
    if layer.norm_vectors is not None:
        return layer.norm_vectors * hidden
    return _parts(layer) * hidden * (2 if layer.sandwich_norms else 1)


def _latent_norm(moe: Moe) -> int:
    return (moe.latent_size or 0) if moe.latent_norm else 0


def _cache_dtype(dtype: str) -> str:
    if dtype not in CACHE_TYPES:
        raise SpecError(f"KV cache type {dtype!r} must be one of {', '.join(CACHE_TYPES)}")
    return dtype
