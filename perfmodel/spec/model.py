"""A model as the simulator sees it: layers of attentions, dense FFNs and a mixture of experts.

A Hugging Face ``config.json`` becomes a :class:`Model` in :mod:`perfmodel.spec.hf_config`. Names are those of
the papers and of the configs. A *layer* is what the model's authors call one: LongCat-Flash's layer (a
shortcut-connected block) holds two attentions, two dense FFNs and one mixture of experts.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, Positive, Spec


class Mla(Spec):
    """Multi-head latent attention: one compressed KV vector per token, shared by all heads."""

    kind: Literal["mla"] = "mla"
    num_heads: Count
    """Query heads."""
    q_lora_rank: Count | None = None
    """Width of the compressed query; None: the query is projected directly."""
    kv_lora_rank: Count
    """Width of the compressed key and value, which is what the cache holds."""
    qk_nope_head_dim: Count
    """Per-head query and key width without rotary embedding."""
    qk_rope_head_dim: Count
    """Per-head query width, and shared key width, with rotary embedding."""
    v_head_dim: Count
    """Per-head value width."""

    @property
    def qk_head_dim(self) -> int:
        """Width of a query head: the part without and the part with rotary embedding."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


class Gqa(Spec):
    """Grouped-query attention; multi-head attention where ``num_kv_heads`` = ``num_heads``."""

    kind: Literal["gqa"] = "gqa"
    num_heads: Count
    """Query heads."""
    num_kv_heads: Count
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: Count
    """Width of a head."""
    sliding_window: Count | None = None
    """Tokens that a query sees, itself included; None: all before it."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have a bias."""
    output_bias: bool = False
    """Whether the output projection has a bias."""
    qk_norm: bool = False
    """Whether queries and keys pass an RMS norm of head_dim weights each."""
    sinks: bool = False
    """Whether each head has one learned attention sink (GPT-OSS)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "Gqa":
        if self.num_heads % self.num_kv_heads:
            msg = f"num_heads = {self.num_heads} must be a multiple of num_kv_heads = {self.num_kv_heads}"
            raise ValueError(msg)
        return self


Attention = Annotated[Mla | Gqa, Field(discriminator="kind")]


class Moe(Spec):
    """A mixture of experts, with optional zero-computation (identity) and shared experts."""

    num_experts: Count
    """Routed experts that compute (FFN experts)."""
    num_zero_experts: CountOrZero = 0
    """Routed experts that return their input: no dispatch, no GEMM, no combine."""
    top_k: Count
    """Experts that a token selects, zero-computation ones included."""
    ffn_size: Count
    """Intermediate width of one routed expert (SwiGLU: three matrices)."""
    shared_ffn_size: CountOrZero = 0
    """Intermediate width of the shared experts together; 0: none."""
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
            msg = (
                f"top_k = {self.top_k} exceeds the {self.num_experts + self.num_zero_experts} routed experts"
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
    attention: Attention
    """The attention used in this layer."""
    num_attentions: Literal[1, 2] = 1
    """Attentions per layer: 2 in a shortcut-connected block."""
    dense_ffn_size: CountOrZero = 0
    """Intermediate width of a dense FFN (SwiGLU); 0: no dense FFN."""
    moe: Moe | None = None
    """The mixture of experts, or None."""

    @model_validator(mode="after")
    def _consistent(self) -> "Layer":
        if self.shortcut and not (self.dense_ffn_size and self.moe):
            msg = "a layer with two attentions needs a dense FFN and experts (shortcut-connected MoE)"
            raise ValueError(msg)
        if not self.shortcut and bool(self.dense_ffn_size) == bool(self.moe):
            msg = "a layer with one attention needs either a dense FFN or experts"
            raise ValueError(msg)
        return self

    @property
    def shortcut(self) -> bool:
        """Whether the experts run beside the dense path (ScMoE) rather than in it."""
        return self.num_attentions == 2

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


class Indexer(Spec):
    """The index branch of a sparse attention: described for memory, not modelled in time."""

    num_heads: Count
    """Index heads."""
    head_dim: Count
    """Width of an index head, and of the cached index key."""
    num_indexers: Count
    """Indexers in the whole model."""


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
    indexer: Indexer | None = None
    """Sparse attention's index branch, or None."""
    max_context_tokens: Count = 131072
    """Longest context that the model was built for."""
    unmodelled: str | None = None
    """A part whose run time is not modelled: counts and memory are given, a step is refused."""

    @property
    def num_layers(self) -> int:
        """Layers, each as the authors count them."""
        return sum(layer.count for layer in self.layers)

    @property
    def moe(self) -> Moe | None:
        """The mixture of experts of the first layer that has one, or None for a dense model."""
        return next((layer.moe for layer in self.layers if layer.moe), None)

    @property
    def has_shortcut(self) -> bool:
        """Whether some layer is a shortcut-connected block."""
        return any(layer.shortcut for layer in self.layers)
