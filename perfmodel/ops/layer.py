"""A layer's ops, cut where schedules may cut: attentions, norms, dense FFNs and the mixture of experts."""

from dataclasses import dataclass

from perfmodel.ops.attention import AttentionOps, attention_ops
from perfmodel.ops.build import norm
from perfmodel.ops.ffn import dense_ffn_ops
from perfmodel.ops.moe import MoeOps, moe_ops
from perfmodel.ops.op import Op
from perfmodel.ops.work import Work
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class LayerOps:
    """The ops of one layer. Index 0 and 1 are the two halves of a shortcut-connected block."""

    attentions: tuple[AttentionOps, ...]
    """One per attention."""
    post_norms: tuple[Op, ...]
    """The norm after each attention, which feeds what follows it."""
    ffns: tuple[tuple[Op, ...], ...]
    """Dense FFNs, with their gather and scatter."""
    moe: MoeOps | None
    """The mixture of experts."""
    shortcut: bool
    """Whether the experts' output joins only at the end of the layer (ScMoE)."""


def layer_ops(layer: Layer, work: Work, scenario: Scenario) -> LayerOps:
    """Ops of one layer for the work of a step (or of one micro-batch of it)."""
    deployment, cluster, hidden = scenario.deployment, scenario.cluster, scenario.model.hidden_size
    own_tokens = work.tokens * (deployment.attention_tp if deployment.replicated else 1)
    halves = range(layer.num_attentions)
    return LayerOps(
        attentions=tuple(
            attention_ops(layer.attention, work, deployment, cluster, hidden=hidden, prefix=f"attention{i}")
            for i in halves
        ),
        post_norms=tuple(norm(f"post_norm{i}", tokens=own_tokens, width=hidden) for i in halves),
        ffns=tuple(
            dense_ffn_ops(
                layer.dense_ffn_size, work.tokens, deployment, cluster, hidden=hidden, prefix=f"ffn{i}"
            )
            for i in range(layer.num_dense_ffns)
        ),
        moe=moe_ops(layer.moe, work.tokens, scenario) if layer.moe else None,
        shortcut=layer.shortcut,
    )
