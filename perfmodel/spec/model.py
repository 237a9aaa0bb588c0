"""A model as the simulator sees it: layers of sequence mixers, dense FFNs and a mixture of experts.

A Hugging Face ``config.json`` becomes a :class:`Model` in :mod:`perfmodel.spec.models.reader`. Names are those of
the papers and of the configs. A *layer* is what the model's authors call one: LongCat-Flash's layer (a
shortcut-connected block) holds two attentions, two dense FFNs and one mixture of experts.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, Positive, Spec
from perfmodel.spec.checkpoint import Formats
from perfmodel.spec.mixers import BlockIndexer, Indexer, Mixer

Activation = Literal["swiglu", "relu2"]
"""What stands between an FFN's projections: silu(gate) x up, of three matrices, or the square of ReLU, of two."""
MATRICES = {"swiglu": 3, "relu2": 2}
"""Activation -> matrices of an FFN."""


class Moe(Spec):
    """A mixture of experts, with optional zero-computation (identity) and shared experts."""

    num_experts: Count
    """Routed experts that compute (FFN experts)."""
    num_zero_experts: CountOrZero = 0
    """Routed experts that return their input: no dispatch, no GEMM, no combine."""
    top_k: Count
    """Experts that a token selects, zero-computation ones included."""
    ffn_size: Count
    """Intermediate width of one routed expert."""
    activation: Activation = "swiglu"
    """Activation of routed and shared experts."""
    latent_size: Count | None = None
    """Width in which routed experts work (Nemotron-3 Super's moe_latent_size, Kimi-K3's routed_expert_hidden_size): one
    projection before they are reached and one after they are summed; dispatch and combine carry this width. None: the
    hidden size."""
    latent_norm: bool = False
    """Whether the latent passes an RMS norm before it is projected back (Kimi-K3)."""
    shared_ffn_size: CountOrZero = 0
    """Intermediate width of the shared experts together; 0: none."""
    scores_shared: CountOrZero = 0
    """Rows of the router that weigh shared experts beside the selected ones (Inkling)."""
    shared_gate: bool = False
    """Whether the shared expert's output is scaled by a learned sigmoid gate (Qwen2-MoE)."""
    num_groups: Count = 1
    """Groups of experts for group-limited routing (DeepSeek's n_group); 1: unlimited."""
    top_groups: Count = 1
    """Groups that a token may use (DeepSeek's topk_group)."""
    expert_bias: bool = False
    """Whether the experts' matrices have biases (GPT-OSS)."""
    router_bias: bool = False
    """Whether the router's linear layer has a bias."""
    correction_bias: bool = False
    """Whether a per-expert bias shifts the selection; not counted as a parameter."""
    expected_real_experts: Positive | None = None
    """Mean of real experts per token that training aimed at (K_e); None: top_k x N / (N + Z)."""
    std_real_experts: Positive | None = None
    """Standard deviation of real experts over tokens at that mean, as published; None: not known."""
    real_experts_by_workload: dict[str, Positive] = Field(default_factory=dict)
    """Published means of real experts per token, by workload."""

    @model_validator(mode="after")
    def _consistent(self) -> "Moe":
        if self.top_k > self.num_experts + self.num_zero_experts:
            counted = "num_experts + num_zero_experts" if self.num_zero_experts else "num_experts"
            msg = (
                f"top_k = {self.top_k} exceeds the {self.num_experts + self.num_zero_experts} routed experts "
                f"({counted})"
            )
            raise ValueError(msg)
        if self.num_experts % self.num_groups:
            msg = f"num_experts = {self.num_experts} must be a multiple of num_groups = {self.num_groups}"
            raise ValueError(msg)
        if self.top_groups > self.num_groups:
            msg = f"top_groups = {self.top_groups} exceeds num_groups = {self.num_groups}"
            raise ValueError(msg)
        if self.expected_real_experts is not None and self.expected_real_experts > self.top_k:
            msg = f"expected_real_experts = {self.expected_real_experts} exceeds top_k = {self.top_k}"
            raise ValueError(msg)
        return self

    def routed_size(self, hidden: int) -> int:
        """Width of what routed experts take in and give: the latent's, or the hidden size."""
        return self.latent_size or hidden

    @property
    def mean_real_experts(self) -> float:
        """Mean number of experts per token that compute: K_e, or what uniform routing gives."""
        if self.expected_real_experts is not None:
            return self.expected_real_experts
        return self.top_k * self.num_experts / (self.num_experts + self.num_zero_experts)


class Layer(Spec):
    """A run of equal layers."""

    count: Count
    """How many layers of this kind."""
    attention: Mixer | None = None
    """The sequence mixer of this layer: attention, or what stands in its place; None: it has none (Nemotron-H)."""
    num_attentions: Literal[1, 2] = 1
    """Attentions per layer: 2 in a shortcut-connected block."""
    num_indexers: Annotated[int, Field(ge=0, le=2)] | None = None
    """Of them those that select tokens by an index branch of their own, the first ones; the others use the last
    selection before them (LongCat's LSA: 1 of 2; GLM-5.2: 0 in layers that share). None: each that has ``indexer``."""
    dense_ffn_size: CountOrZero = 0
    """Intermediate width of a dense FFN; 0: no dense FFN."""
    dense_activation: Activation = "swiglu"
    """Activation of the dense FFN."""
    moe: Moe | None = None
    """The mixture of experts, or None."""
    sandwich_norms: bool = False
    """Whether each part also has a norm behind it (Gemma), not only one before it."""
    output_convs: Count | None = None
    """Taps of a causal convolution along each part's output, before it is added (Inkling); None: there are none."""
    norm_vectors: Count | None = None
    """Vectors of hidden width that its norms and residual scales hold; None: one per norm (A.X-K1 has a third norm in
    layers with experts, Command one norm for both parts)."""

    @model_validator(mode="after")
    def _consistent(self) -> "Layer":
        if self.shortcut and not (self.dense_ffn_size and self.moe):
            msg = "a layer with two attentions needs a dense FFN and experts (shortcut-connected MoE)"
            raise ValueError(msg)
        if self.shortcut and self.attention is None:
            msg = "a layer with two attentions needs attention"
            raise ValueError(msg)
        if not self.shortcut and self.dense_ffn_size and self.moe:
            msg = "a layer with one attention has either a dense FFN or experts: leave one of them out"
            raise ValueError(msg)
        if not (self.attention or self.dense_ffn_size or self.moe):
            msg = "a layer needs attention, a dense FFN or experts"
            raise ValueError(msg)
        if self.num_indexers is not None:
            if getattr(self.attention, "indexer", None) is None:
                msg = f"num_indexers = {self.num_indexers} needs an attention with an indexer"
                raise ValueError(msg)
            if self.num_indexers > self.num_attentions:
                msg = f"num_indexers = {self.num_indexers} exceeds num_attentions = {self.num_attentions}"
                raise ValueError(msg)
        return self

    @property
    def shortcut(self) -> bool:
        """Whether the experts run beside the dense path (ScMoE) rather than in it."""
        return self.num_attentions == 2

    @property
    def num_mixers(self) -> int:
        """Sequence mixers in one layer."""
        return self.num_attentions if self.attention else 0

    @property
    def indexers(self) -> int:
        """Index branches in one layer."""
        if getattr(self.attention, "indexer", None) is None:
            return 0
        return self.num_attentions if self.num_indexers is None else self.num_indexers

    @property
    def num_dense_ffns(self) -> int:
        """Dense FFNs in one layer."""
        return self.num_attentions if self.dense_ffn_size else 0


class NgramEmbedding(Spec):
    """Hashed n-gram embedding tables added to the token embedding (arXiv 2601.21204)."""

    num_tables: Count
    """(N - 1) x K tables for N-grams with K hash splits."""
    rows_per_table: Count
    """Rows of one table."""
    table_width: Count
    """Width of one row; each table has a projection from it to the hidden size."""


class Mtp(Spec):
    """Multi-token prediction layers, used to draft tokens."""

    num_layers: Count
    """MTP layers in the model; a deployment may run one of them several times."""
    layer: Layer
    """Shape of one MTP layer (its count is 1)."""


class HyperConnections(Spec):
    """Hyper-connections (mHC, arXiv 2512.24880): the residual stream is several streams, mixed around every part.

    Before a part the streams are summed with weights that depend on them, after it its output is added to each with
    other weights, and the streams are mixed among each other.
    """

    num_streams: Annotated[int, Field(ge=2, le=64)]
    """Residual streams (hc_mult)."""
    mixes_streams: bool = True
    """Whether streams are mixed by a matrix made doubly stochastic (DeepSeek-V4); False: each keeps to itself (Hy4)."""
    sinkhorn_iterations: CountOrZero = 20
    """Normalisations that make that matrix so."""
    head: bool = True
    """Whether a gate of its own sums the streams before the final norm; False: their mean."""


class Model(Spec):
    """A decoder-only language model."""

    name: str
    """Catalogue name, or the stem of the config's path."""
    family: str = ""
    """``model_type`` of its config: engines' defaults differ by it."""
    hidden_size: Count
    """Width of the residual stream."""
    vocab_size: Count
    """Rows of the embedding and of the head."""
    tied_embeddings: bool = False
    """Whether head and embedding share their matrix."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    """Runs of equal layers, in order; an alternating pattern is given as one run per kind."""
    ngram_embedding: NgramEmbedding | None = None
    """N-gram embedding tables, or None."""
    mtp: Mtp | None = None
    """Multi-token prediction, or None."""
    embedding_norm: bool = False
    """Whether the token embedding passes an RMS norm (Inkling)."""
    norm_bias: bool = False
    """Whether norms of hidden width have a bias beside their weight (Phi-3.5-MoE)."""
    hyper_connections: HyperConnections | None = None
    """Several residual streams, or None."""
    formats: Formats = Formats()
    """Number formats of its checkpoint: the default of ``deployment.precision``."""
    max_context_tokens: Count = 131072
    """Longest context that the model was built for."""
    unmodelled: str | None = None
    """A part whose run time is not modelled: counts and memory are given, a step is refused."""

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.hyper_connections and self.has_shortcut:
            msg = "hyper_connections: not modelled for layers with two attentions; leave them out"
            raise ValueError(msg)
        if not any(layer.attention for layer in self.layers):
            msg = "layers: none of them has attention, or what stands in its place: state it in one at least"
            raise ValueError(msg)
        return self

    @property
    def num_layers(self) -> int:
        """Layers, each as the authors count them."""
        return sum(layer.count for layer in self.layers)

    @property
    def num_indexers(self) -> int:
        """Index branches in all layers, multi-token prediction left out."""
        return sum(layer.count * layer.indexers for layer in self.layers)

    @property
    def indexer(self) -> Indexer | BlockIndexer | None:
        """The index branch of the first layer that has one, or None."""
        found = (getattr(layer.attention, "indexer", None) for layer in self.layers)
        return next((one for one in found if one is not None), None)

    @property
    def moe(self) -> Moe | None:
        """The mixture of experts of the first layer that has one, or None for a dense model."""
        return next((layer.moe for layer in self.layers if layer.moe), None)

    @property
    def has_shortcut(self) -> bool:
        """Whether some layer is a shortcut-connected block."""
        return any(layer.shortcut for layer in self.layers)
