"""A layer's ops, cut where schedules may cut: attentions, norms, dense FFNs and the mixture of experts."""

from dataclasses import dataclass

from perfmodel.numeric import Num
from perfmodel.ops.attention import AttentionOps, attention_ops
from perfmodel.ops.build import inside_reduce, memory_bound, norm
from perfmodel.ops.ffn import dense_ffn_ops
from perfmodel.ops.moe import MoeOps, moe_ops
from perfmodel.ops.op import Op, OpClass
from perfmodel.ops.work import Work
from perfmodel.spec.deployment import Deployment
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
    join: tuple[Op, ...]
    """Where the experts' output joins only at the end of the layer (ScMoE): the addition to the dense path."""

    @property
    def shortcut(self) -> bool:
        """Whether the experts run beside the dense path."""
        return bool(self.join)


def layer_ops(layer: Layer, work: Work, scenario: Scenario) -> LayerOps:
    """Ops of one layer for the work of a step (or of one micro-batch of it)."""
    deployment, cluster, hidden = scenario.deployment, scenario.cluster, scenario.model.hidden_size
    own_tokens = work.tokens * (deployment.attention_tp if deployment.replicated else 1)
    halves, dtype = range(layer.num_attentions), deployment.precision.activations
    attentions = [
        attention_ops(
            layer.attention,
            work,
            deployment,
            cluster,
            hidden=hidden,
            prefix=f"attention{i}",
            split=layer.shortcut,
        )
        for i in halves
    ]
    return LayerOps(
        attentions=tuple(attentions),
        post_norms=tuple(
            norm(
                f"post_norm{i}",
                tokens=own_tokens,
                width=hidden,
                dtype=dtype,
                inside=inside_reduce(deployment),
            )
            for i in halves
        ),
        ffns=tuple(
            dense_ffn_ops(
                layer.dense_ffn_size, work.tokens, deployment, cluster, hidden=hidden, prefix=f"ffn{i}"
            )
            for i in range(layer.num_dense_ffns)
        ),
        moe=moe_ops(layer.moe, work.tokens, scenario) if layer.moe else None,
        join=(_join(own_tokens, hidden, deployment),) if layer.shortcut else (),
    )


def _join(tokens: Num, hidden: int, deployment: Deployment) -> Op:
    """Adds the experts' output to the dense path's: two streams read, one written."""
    moved = 3.0 * deployment.precision.activation_bytes * tokens * hidden
    return memory_bound(
        "join",
        OpClass.NORM,
        "add",
        hbm_bytes=moved,
        dtype=deployment.precision.activations,
        shape={"rows": tokens, "width": hidden},
    )
