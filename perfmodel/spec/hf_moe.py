"""Experts and draft layers as DeepSeek's configs state them, which Kimi-K2 and GLM-4.5 follow."""

from perfmodel.spec.hf_fields import MAX_MTP_LAYERS, Fields
from perfmodel.spec.model import Layer, Moe, Mtp


def grouped_moe(fields: Fields, *, correction_bias: bool, grouped: bool = True) -> Moe:
    """Experts with shared experts and group-limited routing (DeepSeek, Kimi-K2, GLM-4.5)."""
    size = fields.integer("moe_intermediate_size")
    experts = fields.integer("n_routed_experts")
    groups = fields.integer("n_group", high=experts, bound="n_routed_experts", default=1)
    if experts % groups:
        raise fields.wrong("n_group", groups, f"a divisor of n_routed_experts = {experts}")
    top_groups = fields.integer("topk_group", high=groups, bound="n_group", default=groups)
    return Moe(
        num_experts=experts,
        top_k=fields.integer("num_experts_per_tok", high=experts, bound="n_routed_experts"),
        ffn_size=size,
        shared_ffn_size=size * fields.integer("n_shared_experts", low=0, high=100, default=0),
        num_groups=groups if grouped else 1,
        top_groups=top_groups if grouped else 1,
        correction_bias=correction_bias,
    )


def moe_mtp(fields: Fields, layer: Layer) -> Mtp | None:
    """Multi-token prediction with a full layer of the model, ``num_nextn_predict_layers`` times."""
    count = fields.integer("num_nextn_predict_layers", low=0, high=MAX_MTP_LAYERS, default=0)
    return Mtp(num_layers=count, layer=layer) if count else None
