"""Grouped-query attention families: Llama, Mistral, Mixtral, Qwen2 and 3, gpt-oss, GLM-4.5.

What is a bias, a norm or a default in each family follows its transformers 5.23 module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.hf_fields import MAX_LAYERS, MAX_TOKENS, Fields, Parts
from perfmodel.spec.hf_moe import grouped_moe, moe_mtp
from perfmodel.spec.mixers import Gqa
from perfmodel.spec.model import Layer, Moe


@dataclass(frozen=True, slots=True)
class GqaFamily:
    """How one family differs from Llama."""

    qkv_bias: bool = False
    """Default of the projections' bias."""
    bias_key: str | None = None
    """Key that sets the bias; None: fixed by the architecture."""
    output_bias: bool = False
    """Whether the output projection follows the others' bias."""
    qk_norm: bool = False
    """Whether queries and keys are normed, where the config does not say."""
    sinks: bool = False
    """Whether each head has an attention sink."""
    window: Literal["none", "all", "from_layer", "types"] = "none"
    """Which layers slide: none, all, from max_window_layers on, or those that layer_types names."""
    experts: Literal["none", "all", "sparse_step", "after_dense"] = "none"
    """Which layers have experts: none; all; by decoder_sparse_step; after first_k_dense_replace."""
    moe_size_key: str = "moe_intermediate_size"
    """Key of an expert's width."""
    expert_bias: bool = False
    """Whether experts and router have biases."""
    shared_gate: bool = False
    """Whether one shared expert with a gate stands beside the routed ones."""
    multi_head: bool = False
    """Whether a missing num_key_value_heads means one per query head."""


_QWEN3 = GqaFamily(bias_key="attention_bias", output_bias=True, qk_norm=True, window="from_layer")
_QWEN3_MOE = GqaFamily(
    bias_key="attention_bias", output_bias=True, qk_norm=True, window="all", experts="sparse_step"
)
GQA_FAMILIES: Final[Mapping[str, GqaFamily]] = {
    "llama": GqaFamily(bias_key="attention_bias", output_bias=True, multi_head=True),
    "mistral": GqaFamily(window="all"),
    "mixtral": GqaFamily(window="all", experts="all", moe_size_key="intermediate_size"),
    "qwen2": GqaFamily(qkv_bias=True, window="from_layer"),
    "qwen2_moe": GqaFamily(qkv_bias=True, bias_key="qkv_bias", experts="sparse_step", shared_gate=True),
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "gpt_oss": GqaFamily(
        qkv_bias=True,
        bias_key="attention_bias",
        output_bias=True,
        sinks=True,
        window="types",
        experts="all",
        moe_size_key="intermediate_size",
        expert_bias=True,
    ),
    "glm4_moe": GqaFamily(bias_key="attention_bias", experts="after_dense"),
}
"""Model type -> what is particular to it."""


def gqa(fields: Fields) -> Parts:
    """Grouped-query attention families: Llama, Mistral, Qwen, Mixtral, gpt-oss, GLM-4.5."""
    moe = grouped_moe(fields, correction_bias=True) if fields.model_type == "glm4_moe" else None
    layers = _layers(fields, moe)
    if moe is None:
        return Parts(layers)
    draft = Layer(count=1, attention=layers[0].attention, moe=moe)
    return Parts(layers, mtp=moe_mtp(fields, draft))


def _layers(fields: Fields, grouped: Moe | None) -> tuple[Layer, ...]:
    """The runs of equal layers: one per kind, in order of appearance, also where kinds alternate.

    Args:
        fields: the config.
        grouped: experts that the caller has read (GLM-4.5's); None: they are read here.

    Raises:
        SpecError: a key is missing, of another type, out of range or inconsistent.
        UnsupportedError: a layer type or a bias that is not modelled.
    """
    family = GQA_FAMILIES[fields.model_type]
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    if fields.flag("mlp_bias", default=False):
        raise UnsupportedError("mlp_bias = True is not modelled; allowed: false")
    windows = _windows(fields, family, num_layers)
    sparse = _sparse(fields, family, num_layers)
    attention = _attention(fields, family)
    moe = (grouped or _moe(fields, family)) if any(sparse) else None
    dense_size = fields.integer("intermediate_size", default=None)
    if not all(sparse):
        dense_size = fields.integer("intermediate_size")
    kinds = list(zip(windows, sparse, strict=True))
    return tuple(
        Layer(
            count=kinds.count((window, has_experts)),
            attention=attention.model_copy(update={"sliding_window": window}),
            dense_ffn_size=0 if has_experts else dense_size,
            moe=moe if has_experts else None,
        )
        for window, has_experts in dict.fromkeys(kinds)
    )


def _attention(fields: Fields, family: GqaFamily) -> Gqa:
    heads = fields.integer("num_attention_heads")
    kv_heads = (
        fields.integer("num_key_value_heads", default=heads)
        if family.multi_head
        else fields.integer("num_key_value_heads")
    )
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    bias = family.qkv_bias
    if family.bias_key:
        bias = fields.flag(family.bias_key, default=family.qkv_bias)
    return Gqa(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(fields, heads),
        qkv_bias=bias,
        output_bias=bias and family.output_bias,
        qk_norm=_qk_norm(fields, family),
        sinks=family.sinks,
    )


def _head_dim(fields: Fields, heads: int) -> int:
    """``head_dim``, or hidden_size / heads for the families whose default that is."""
    hidden = fields.integer("hidden_size")
    if fields.has("head_dim"):
        return int(fields.integer("head_dim"))
    if fields.model_type.startswith(("qwen3", "gpt_oss")) or hidden % heads:
        raise SpecError(
            f"model config ({fields.model_type}): head_dim is missing, and is not always "
            f"hidden_size / num_attention_heads = {hidden} / {heads}"
        )
    return int(hidden // heads)


def _qk_norm(fields: Fields, family: GqaFamily) -> bool:
    """Fixed by the architecture but in GLM-4.5; a Qwen3 config may repeat it but not deny it."""
    if fields.model_type == "glm4_moe":
        return fields.flag("use_qk_norm", default=False)
    if family.qk_norm and not fields.flag("use_qk_norm", default=True):
        raise UnsupportedError(f"use_qk_norm = False is not modelled for {fields.model_type}; allowed: true")
    return family.qk_norm


def _windows(fields: Fields, family: GqaFamily, num_layers: int) -> Sequence[int | None]:
    """The sliding window of each layer, None where it sees everything."""
    window = _window_in_use(fields, family)
    kinds = ("full_attention", "sliding_attention")
    types = fields.words("layer_types", kinds, length=num_layers)
    if types is not None:
        return [_window_of(kind, window) for kind in types]
    if family.window == "types":
        raise SpecError(f"model config ({fields.model_type}): layer_types is missing")
    if window is None:
        return [None] * num_layers
    if family.window == "none":
        raise UnsupportedError(
            f"use_sliding_window = True is not modelled for {fields.model_type} without layer_types"
        )
    first = 0
    if family.window == "from_layer":
        first = fields.integer("max_window_layers", low=0, high=MAX_LAYERS)
    return [window if index >= first else None for index in range(num_layers)]


def _window_in_use(fields: Fields, family: GqaFamily) -> int | None:
    """``sliding_window``; Qwen's counts with ``use_sliding_window`` alone.

    A Mistral config without the key would mean 4096 to transformers and no window to most engines:
    it is refused.
    """
    is_qwen = fields.model_type.startswith("qwen")
    if family.window == "none" and not is_qwen:
        return None  # and a config that states one is refused as unread
    if fields.model_type == "mistral" and "sliding_window" not in fields.config:
        raise SpecError(
            "model config (mistral): sliding_window is missing; state its tokens, or null for none"
        )
    used = fields.flag("use_sliding_window", default=not is_qwen)
    window: int | None = fields.integer("sliding_window", low=int(used), high=MAX_TOKENS, default=None)
    return window if used else None


def _window_of(kind: str, window: int | None) -> int | None:
    if kind == "full_attention":
        return None
    if window is None:
        raise SpecError("layer_types holds sliding_attention, but sliding_window is missing or not used")
    return window


def _sparse(fields: Fields, family: GqaFamily, num_layers: int) -> Sequence[bool]:
    """Which layers have experts."""
    if family.experts == "sparse_step":
        step = fields.integer("decoder_sparse_step", high=MAX_LAYERS, default=1)
        dense = set(fields.integers("mlp_only_layers", high=num_layers - 1))
        return [index not in dense and (index + 1) % step == 0 for index in range(num_layers)]
    if family.experts == "after_dense":
        dense_first = fields.integer(
            "first_k_dense_replace", low=0, high=num_layers, bound="num_hidden_layers", default=0
        )
        return [index >= dense_first for index in range(num_layers)]
    return [family.experts == "all"] * num_layers


def _moe(fields: Fields, family: GqaFamily) -> Moe:
    experts = fields.integer("n_routed_experts")
    shared = fields.integer("shared_expert_intermediate_size", low=0, default=0)
    if shared and not family.shared_gate:
        raise UnsupportedError(
            f"shared_expert_intermediate_size = {shared} is not modelled for {fields.model_type}; allowed: 0"
        )
    return Moe(
        num_experts=experts,
        top_k=fields.integer("num_experts_per_tok", high=experts, bound="number of experts"),
        ffn_size=fields.integer(family.moe_size_key),
        shared_ffn_size=shared,
        shared_gate=family.shared_gate and shared > 0,
        expert_bias=family.expert_bias,
        router_bias=family.expert_bias,
    )
