"""Sequence mixers: attention, and what stands in its place. One class per kind, told apart by ``kind``.

What a kind keeps of a request is either a cache that grows with its tokens, or a state of fixed size, or both: which
and how much is in :mod:`perfmodel.ops.mixers`, one module per kind, with its ops and weights. Sizes are the whole
mixer's, before tensor parallelism, and named as in the papers. Biases and norms are stated where they are weights.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, Spec

OutputGate = Literal["none", "per-head", "per-element"]
"""A sigmoid gate on an attention's output before its last projection, from the layer's input: none, a value per head
(Ling 2.6, Laguna), or one per element (Qwen3-Next, Kimi-K3)."""


class Indexer(Spec):
    """The index branch of a sparse latent attention (DSA, arXiv 2512.02556; LSA, arXiv 2608.01662).

    For each query it scores all earlier tokens by small keys of its own and selects ``top_k`` tokens to attend to.
    Which attentions of a layer compute a selection and which use an earlier one's is the layer's ``num_indexers``.
    """

    num_heads: Count
    """Index heads."""
    head_dim: Count
    """Width of an index head, and of the cached index key, which all heads share."""
    top_k: Count
    """Tokens that a query attends to, ``sink_tokens`` and ``local_tokens`` among them."""
    sink_tokens: CountOrZero = 0
    """First tokens of a request that are always among them (LongCat's LSA: 16)."""
    local_tokens: CountOrZero = 0
    """Latest tokens that are always among them (LongCat's LSA: 1024)."""
    pool: Count = 1
    """Tokens per index key: keys of so many tokens are pooled and selected together (GLM-5.3-Flash: 4)."""
    key_norm: Literal["layer", "rms"] = "layer"
    """Norm of the index key: LayerNorm has a weight and a bias per element, RMS norm a weight."""
    query_norm: bool = False
    """Whether what its queries are projected from passes a LayerNorm of its own (Mistral-Large-4)."""
    scaled_queries: bool = False
    """Whether each head's queries are scaled by a learned line over the logarithm of the position."""

    @model_validator(mode="after")
    def _consistent(self) -> "Indexer":
        always = self.sink_tokens + self.local_tokens
        if always > self.top_k:
            msg = (
                f"sink_tokens = {self.sink_tokens} and local_tokens = {self.local_tokens} are {always} tokens together "
                f"and must be at most top_k = {self.top_k}, which they are part of"
            )
            raise ValueError(msg)
        return self


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
    qk_rope_head_dim: CountOrZero
    """Per-head query width, and shared key width, with rotary embedding; 0: none (GLM-5.3-Flash)."""
    v_head_dim: Count
    """Per-head value width."""
    sliding_window: Count | None = None
    """Tokens that a query sees, itself included; None: all before it."""
    output_gate: OutputGate = "none"
    """Gate on the output."""
    sinks: bool = False
    """Whether each head has one learned attention sink."""
    rope_norm: bool = False
    """Whether the rotary part of the key passes an RMS norm of its own."""
    scaled_queries: bool = False
    """Whether each head's queries are scaled by a learned line over the logarithm of the position (Mistral-Large-4)."""
    indexer: Indexer | None = None
    """What selects the tokens that a query attends to; None: it attends to all that it sees. Its queries are projected
    from the compressed query, or from the layer's input where there is none."""

    @model_validator(mode="after")
    def _one_choice(self) -> "Mla":
        if self.indexer and self.sliding_window:
            msg = "sliding_window and indexer: an attention selects its tokens by one of them; leave the other out"
            raise ValueError(msg)
        return self

    @property
    def qk_head_dim(self) -> int:
        """Width of a query head: the part without and the part with rotary embedding."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


class BlockIndexer(Spec):
    """The index branch of block-sparse grouped-query attention (MSA, MiniMax-M3).

    Each group of query heads scores all earlier tokens by one index head, takes the largest score of each block, and
    attends to the blocks selected.
    """

    num_heads: Count
    """Index heads; they share one key per token."""
    head_dim: Count
    """Width of an index head, and of the cached index key."""
    block_tokens: Count
    """Tokens of a block."""
    top_blocks: Count
    """Blocks that a query attends to, the local and first ones among them."""
    sink_blocks: CountOrZero = 0
    """First blocks that are always among them."""
    local_blocks: CountOrZero = 0
    """Latest blocks that are always among them."""

    @model_validator(mode="after")
    def _consistent(self) -> "BlockIndexer":
        if self.sink_blocks + self.local_blocks > self.top_blocks:
            msg = (
                f"sink_blocks = {self.sink_blocks} and local_blocks = {self.local_blocks} must be at most "
                f"top_blocks = {self.top_blocks} together, which they are part of"
            )
            raise ValueError(msg)
        return self


class RelativeBias(Spec):
    """A learned bias of attention scores by distance (Inkling): each head of a query mixes ``rank`` profiles."""

    rank: Count
    """Profiles, and values per query head that weigh them."""
    extent: Count
    """Distances, in tokens, that a profile covers; beyond there is no bias."""


class Gqa(Spec):
    """Grouped-query attention; multi-head attention where ``num_kv_heads`` = ``num_heads``."""

    kind: Literal["gqa"] = "gqa"
    num_heads: Count
    """Query heads."""
    num_kv_heads: Count
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: Count
    """Width of a query and key head."""
    v_head_dim: Count | None = None
    """Width of a value head; None: ``head_dim``."""
    q_lora_rank: Count | None = None
    """Width of a compressed query, normed before all heads are projected from it (Step-3's multi-matrix
    factorisation); None: the query is projected directly."""
    sliding_window: Count | None = None
    """Tokens that a query sees, itself included; None: all before it."""
    chunked: bool = False
    """Whether the window is a chunk (Llama 4): the context is cut every ``sliding_window`` tokens, and a query sees its
    own chunk alone."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have a bias."""
    output_bias: bool = False
    """Whether the output projection has a bias."""
    qk_norm: bool = False
    """Whether queries and keys pass an RMS norm."""
    qk_norm_all_heads: bool = False
    """Whether that norm has a weight for each element of all heads (MiniMax-M2), not head_dim weights that heads
    share."""
    output_gate: OutputGate = "none"
    """Gate on the output."""
    values_are_keys: bool = False
    """Whether values are the keys before their norm and rotation: no projection of their own (Gemma 4)."""
    sinks: bool = False
    """Whether each head has one learned attention sink (GPT-OSS)."""
    kv_conv: Count | None = None
    """Taps of causal convolutions along the keys and along the values (Inkling); None: there are none."""
    relative: RelativeBias | None = None
    """Bias of the scores by distance, in place of a rotary embedding; None: none."""
    indexer: BlockIndexer | None = None
    """What selects the blocks that a query attends to; None: it attends to all that it sees."""

    @model_validator(mode="after")
    def _consistent(self) -> "Gqa":
        if self.num_heads % self.num_kv_heads:
            msg = f"num_heads = {self.num_heads} must be a multiple of num_kv_heads = {self.num_kv_heads}"
            raise ValueError(msg)
        if self.chunked and not self.sliding_window:
            msg = "chunked = true needs sliding_window: the tokens of a chunk"
            raise ValueError(msg)
        if self.values_are_keys and self.value_head_dim != self.head_dim:
            msg = f"values_are_keys = true: v_head_dim = {self.v_head_dim} must be head_dim = {self.head_dim}"
            raise ValueError(msg)
        if self.qk_norm_all_heads and not self.qk_norm:
            msg = "qk_norm_all_heads = true needs qk_norm = true"
            raise ValueError(msg)
        if self.indexer and self.sliding_window:
            msg = "sliding_window and indexer: an attention selects its tokens by one of them; leave the other out"
            raise ValueError(msg)
        return self

    @property
    def value_head_dim(self) -> int:
        """Width of a value head."""
        return self.v_head_dim or self.head_dim


class CompressedAttention(Spec):
    """DeepSeek-V4's attention: one key-value head over a sliding window and over compressed tokens before it.

    With ``indexer`` it is CSA (each ``compress_ratio`` tokens become one entry, entries overlap, and the indexer
    selects entries); without it HCA (every entry is attended to); with ``compress_ratio`` 0 the window alone.
    """

    kind: Literal["compressed"] = "compressed"
    num_heads: Count
    """Query heads; all share one head of keys, which are the values too."""
    head_dim: Count
    """Width of a head, and of a cached entry."""
    qk_rope_head_dim: CountOrZero
    """Of them with rotary embedding."""
    q_lora_rank: Count
    """Width of the compressed query."""
    o_groups: Count
    """Groups of heads whose outputs are projected down apart."""
    o_lora_rank: Count
    """Width of each group's projected output."""
    sliding_window: Count
    """Latest tokens that are kept and attended to one by one."""
    compress_ratio: CountOrZero = 0
    """Tokens per compressed entry; 0: nothing beyond the window."""
    indexer: Indexer | None = None
    """What selects compressed entries, by index keys that are compressed likewise; ``top_k`` counts entries. None: all
    entries are attended to."""
    sinks: bool = True
    """Whether each head has one learned attention sink."""

    @model_validator(mode="after")
    def _consistent(self) -> "CompressedAttention":
        if self.num_heads % self.o_groups:
            msg = f"num_heads = {self.num_heads} must be a multiple of o_groups = {self.o_groups}"
            raise ValueError(msg)
        if self.qk_rope_head_dim > self.head_dim:
            msg = f"qk_rope_head_dim = {self.qk_rope_head_dim} is part of head_dim = {self.head_dim}: at most that"
            raise ValueError(msg)
        if self.indexer and not self.compress_ratio:
            msg = "indexer: it selects compressed entries, so compress_ratio must be above 0"
            raise ValueError(msg)
        return self


class GatedDeltaNet(Spec):
    """Gated DeltaNet (arXiv 2412.06464; Qwen3-Next, Qwen3.5): a matrix of state per value head."""

    kind: Literal["gated_delta_net"] = "gated_delta_net"
    num_key_heads: Count
    """Query and key heads."""
    num_value_heads: Count
    """Value heads, each with a state of key_head_dim x value_head_dim; a multiple of ``num_key_heads``."""
    key_head_dim: Count
    """Width of a query and key head."""
    value_head_dim: Count
    """Width of a value head."""
    conv_kernel: Count = 4
    """Taps of the causal convolution over queries, keys and values."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "GatedDeltaNet":
        if self.num_value_heads % self.num_key_heads:
            msg = f"num_value_heads = {self.num_value_heads} must be a multiple of num_key_heads = {self.num_key_heads}"
            raise ValueError(msg)
        return self


class Kda(Spec):
    """Kimi delta attention (arXiv 2510.26692): a gated delta rule whose decay is a value per channel of the key."""

    kind: Literal["kda"] = "kda"
    num_heads: Count
    """Heads, each with a state of head_dim x head_dim."""
    head_dim: Count
    """Width of a head."""
    conv_kernel: Count = 4
    """Taps of the causal convolution over queries, keys and values."""
    decay_rank: Count | None = None
    """Width between the two projections of the decay; None: one full projection."""
    gate_rank: Count | None = None
    """Width between the two projections of the output gate; None: one full projection."""


class Lightning(Spec):
    """Lightning attention (arXiv 2501.08313, MiniMax-M1; Ling 2.5): linear attention with a fixed decay per head."""

    kind: Literal["lightning"] = "lightning"
    num_heads: Count
    """Heads, each with a state of head_dim x head_dim."""
    head_dim: Count
    """Width of a head."""
    qk_norm: bool = False
    """Whether queries and keys pass an RMS norm of head_dim weights each."""


class Mamba1(Spec):
    """Mamba (arXiv 2312.00752, Jamba): a state of ``state_size`` and a time step per channel."""

    kind: Literal["mamba1"] = "mamba1"
    width: Count
    """Channels."""
    state_size: Count
    """Width of B and C, which all channels share, and of a channel's state."""
    step_rank: Count
    """Width between the two projections of the time steps."""
    conv_kernel: Count = 4
    """Taps of the causal convolution over x."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether the first and the last projection have biases."""
    norms: bool = False
    """Whether the narrow time step, B and C each pass an RMS norm (Jamba)."""


class Mamba2(Spec):
    """Mamba-2 (arXiv 2405.21060): a state of head_dim x state_size per head."""

    kind: Literal["mamba2"] = "mamba2"
    num_heads: Count
    """Heads."""
    head_dim: Count
    """Channels of a head."""
    num_groups: Count
    """Groups of heads that share B and C."""
    state_size: Count
    """Width of B and C."""
    conv_kernel: Count = 4
    """Taps of the causal convolution over x, B and C."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether the projections have biases."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "Mamba2":
        if self.num_heads % self.num_groups:
            msg = f"num_heads = {self.num_heads} must be a multiple of num_groups = {self.num_groups}"
            raise ValueError(msg)
        return self


class ShortConv(Spec):
    """A gated short convolution (LFM2): three projections of the input, two of them gates."""

    kind: Literal["short_conv"] = "short_conv"
    width: Count
    """Channels."""
    conv_kernel: Count = 3
    """Taps of the causal convolution."""
    bias: bool = False
    """Whether convolution and projections have biases."""


def divided_parts(mixer: "Mixer") -> tuple[tuple[str, int], ...]:
    """What attention's tensor parallelism must divide: (what, how many)."""
    if isinstance(mixer, GatedDeltaNet):
        return ("key heads", mixer.num_key_heads), ("value heads", mixer.num_value_heads)
    if isinstance(mixer, ShortConv | Mamba1):
        return (("channels", mixer.width),)
    return (("attention heads", mixer.num_heads),)


Mixer = Annotated[
    Mla | Gqa | CompressedAttention | GatedDeltaNet | Kda | Lightning | Mamba1 | Mamba2 | ShortConv,
    Field(discriminator="kind"),
]
"""Any of the kinds."""
StateMixer = GatedDeltaNet | Kda | Lightning | Mamba1 | Mamba2 | ShortConv
"""Kinds that keep a state of fixed size per request and nothing that grows."""
