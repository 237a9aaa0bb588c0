"""A layer's ops, cut where schedules may cut: sequence mixers, norms, dense FFNs and the mixture of experts."""

from dataclasses import dataclass, replace

from perfmodel.numeric import Num
from perfmodel.ops import hyper
from perfmodel.ops.build import inside_reduce, memory_bound, norm
from perfmodel.ops.ffn import dense_ffn_ops
from perfmodel.ops.mixers.base import MixerOps, Place
from perfmodel.ops.mixers.mixer import mixer_ops
from perfmodel.ops.mixers.state import conv_ops
from perfmodel.ops.moe import MoeOps, moe_ops
from perfmodel.ops.op import Op, OpClass
from perfmodel.ops.work import Work
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class LayerOps:
    """The ops of one layer. Index 0 and 1 are the two halves of a shortcut-connected block."""

    attentions: tuple[MixerOps, ...]
    """One per sequence mixer; empty in a layer without."""
    post_norms: tuple[tuple[Op, ...], ...]
    """What stands before each FFN or the experts: the norm, after the sum of several residual streams if there are
    such. Empty where the layer is a mixer alone."""
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
    dtype, inside = deployment.precision.activations, inside_reduce(deployment)
    attentions = [
        mixer_ops(
            layer.attention,
            work,
            deployment,
            cluster,
            hidden=hidden,
            prefix=f"attention{i}",
            split=layer.shortcut,
            indexes=i < layer.indexers,
        )
        for i in range(layer.num_attentions)
        if layer.attention
    ]
    ops = LayerOps(
        attentions=tuple(attentions),
        post_norms=tuple(
            (norm(f"post_norm{i}", tokens=own_tokens, width=hidden, dtype=dtype, inside=inside),)
            for i in range(layer.num_attentions)
            if layer.moe or layer.dense_ffn_size
        ),
        ffns=tuple(
            dense_ffn_ops(
                layer.dense_ffn_size,
                work.tokens,
                deployment,
                cluster,
                hidden=hidden,
                prefix=f"ffn{i}",
                activation=layer.dense_activation,
            )
            for i in range(layer.num_dense_ffns)
        ),
        moe=moe_ops(layer.moe, work.tokens, scenario) if layer.moe else None,
        join=(_join(own_tokens, hidden, deployment),) if layer.shortcut else (),
    )
    if layer.output_convs:
        ops = _with_convolutions(ops, layer.output_convs, work, scenario)
    if layer.sandwich_norms:
        ops = _with_norms_behind(ops, own_tokens, hidden, deployment)
    return _with_streams(ops, own_tokens, scenario) if scenario.model.hyper_connections else ops


def _behind(ops: LayerOps, mixer: tuple[Op, ...], ffn: tuple[Op, ...]) -> LayerOps:
    """The layer with ops behind its mixers, and behind its FFNs or experts."""
    moe = ops.moe
    if moe is not None and not ops.ffns:
        moe = replace(moe, unpack=(*moe.unpack, *ffn))
    return replace(
        ops,
        attentions=tuple(replace(one, core=(*one.core, *mixer)) for one in ops.attentions),
        ffns=tuple((*one, *ffn) for one in ops.ffns),
        moe=moe,
    )


def _with_norms_behind(ops: LayerOps, tokens: Num, hidden: int, deployment: Deployment) -> LayerOps:
    """The layer with a norm behind each part, too."""
    dtype = deployment.precision.activations
    mixer, ffn = (
        norm(f"{name}.norm_behind", tokens=tokens, width=hidden, dtype=dtype) for name in ("attention", "ffn")
    )
    return _behind(ops, (mixer,), (ffn,))


def _with_convolutions(ops: LayerOps, taps: int, work: Work, scenario: Scenario) -> LayerOps:
    """The layer with a convolution behind each part, over the tokens that this GPU has of the residual stream."""
    deployment, hidden = scenario.deployment, scenario.model.hidden_size
    shared = deployment.attention_tp if deployment.replicated else 1
    mixer, ffn = (
        tuple(conv_ops(Place(work, shared, deployment.precision, hidden, name), channels=hidden, taps=taps))
        for name in ("attention.behind", "ffn.behind")
    )
    return _behind(ops, mixer, ffn)


def _with_streams(ops: LayerOps, tokens: Num, scenario: Scenario) -> LayerOps:
    """The layer with what its residual streams need before and behind each part."""
    streams, hidden, precision = (
        scenario.model.hyper_connections,
        scenario.model.hidden_size,
        scenario.deployment.precision,
    )
    assert streams is not None
    sizes = {"rows": tokens, "hidden": hidden, "precision": precision}
    first, second = (
        (hyper.before(streams, name, **sizes), hyper.behind(streams, name, **sizes))  # type: ignore[arg-type]
        for name in ("attention", "ffn")
    )
    ops = _behind(ops, (first[1],), (second[1],))
    attentions = tuple(replace(one, pre=(first[0], *one.pre)) for one in ops.attentions)
    return replace(
        ops, attentions=attentions, post_norms=tuple((second[0], *norms) for norms in ops.post_norms)
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
