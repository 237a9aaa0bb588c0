"""Latent-attention families with experts: DeepSeek-V2, DeepSeek-V3 and Kimi-K2.

What is a norm or a default in each family follows its transformers 5.23 module.
"""

from typing import Final

from perfmodel.errors import UnsupportedError
from perfmodel.spec.hf_fields import MAX_LAYERS, Fields, Parts
from perfmodel.spec.hf_moe import grouped_moe, moe_mtp
from perfmodel.spec.mixers import Mla
from perfmodel.spec.model import Layer, Moe

MLA_FAMILIES: Final = ("deepseek_v2", "deepseek_v3", "kimi_k2")
"""Model types with latent attention in one-attention layers."""


def latent_attention(fields: Fields) -> Mla:
    """Multi-head latent attention; ``q_lora_rank`` null projects the query directly."""
    if fields.flag("attention_bias", default=False):
        raise UnsupportedError("attention_bias = True is not modelled for latent attention; allowed: false")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    if kv_heads != heads:
        raise fields.wrong("num_key_value_heads", kv_heads, f"num_attention_heads = {heads}")
    nope = fields.integer("qk_nope_head_dim")
    rope = fields.integer("qk_rope_head_dim")
    total = fields.integer("qk_head_dim", default=nope + rope)
    if total != nope + rope:
        raise fields.wrong("qk_head_dim", total, f"qk_nope_head_dim + qk_rope_head_dim = {nope + rope}")
    fields.integer("head_dim", default=rope)  # a rotary width in these configs: not an architecture
    return Mla(
        num_heads=heads,
        q_lora_rank=fields.integer("q_lora_rank", default=None),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=fields.integer("v_head_dim"),
    )


def mla_with_experts(fields: Fields) -> Parts:
    """DeepSeek-V2, DeepSeek-V3 and Kimi-K2: latent attention, dense layers first, then experts."""
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    dense_first = fields.integer(
        "first_k_dense_replace", low=0, high=num_layers, bound="num_hidden_layers", default=0
    )
    every = fields.integer("moe_layer_freq", high=MAX_LAYERS, default=1)
    num_moe = sum(1 for index in range(dense_first, num_layers) if index % every == 0)
    num_dense = num_layers - num_moe
    attention = latent_attention(fields)
    dense_size = fields.integer("intermediate_size", default=None)
    layers = []
    if num_dense:
        dense_size = fields.integer("intermediate_size")
        layers.append(Layer(count=num_dense, attention=attention, dense_ffn_size=dense_size))
    moe = _deepseek_moe(fields)
    if num_moe:
        layers.append(Layer(count=num_moe, attention=attention, moe=moe))
    return Parts(layers, mtp=moe_mtp(fields, Layer(count=1, attention=attention, moe=moe)))


def _deepseek_moe(fields: Fields) -> Moe:
    newer = fields.model_type != "deepseek_v2"
    methods = ("noaux_tc", "group_limited_greedy", "greedy")
    method = fields.word("topk_method", methods, default="noaux_tc" if newer else "greedy")
    return grouped_moe(fields, correction_bias=method == "noaux_tc", grouped=method != "greedy")
