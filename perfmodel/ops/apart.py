"""A layer whose attention and FFN have GPUs of their own: its ops on either, and what is sent between them.

Counts of attention and of transfers are per attention GPU, those of FFNs and experts per GPU of theirs. The router is
with attention. A token goes once to each GPU that has an expert of its (with expert TP to all GPUs of that expert), in
the dispatch's format, and a partial sum comes back from each in the combine's; a dense FFN's token goes to one GPU and
back. The side with fewer GPUs has the busier adapters, and sets the time. Shared experts and dense FFNs have tokens
spread evenly. Projections to and from a latent that experts work in are attention's, as the router is: the latent is
what travels.
"""

from perfmodel.numeric import Num, maximum
from perfmodel.ops.collective import exchange
from perfmodel.ops.communication import low_latency_combine_bytes, low_latency_dispatch_bytes
from perfmodel.ops.ffn import dense_ffn_ops
from perfmodel.ops.layer import LayerOps, layer_ops
from perfmodel.ops.lora import slots_of, with_adapters
from perfmodel.ops.moe import MoeOps, latent_ops, moe_ops, router_ops
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.routed import rank_load
from perfmodel.ops.work import Work
from perfmodel.routing.activation import activation
from perfmodel.routing.destinations import destinations
from perfmodel.spec.model import Layer, Moe
from perfmodel.spec.scenario import Scenario


def apart_ops(
    layer: Layer, work: Work, scenario: Scenario, *, adapters: bool = True
) -> dict[str, tuple[Op, ...]]:
    """Ops of one layer for a micro-batch, by :data:`perfmodel.overlap.schedules.AFD_PARTS`; ``adapters``: with those of
    LoRA adapters, where there are any.
    """
    deployment, side, hidden = scenario.deployment, scenario.ffn_side, scenario.model.hidden_size
    tokens = work.tokens * deployment.attention_gpus / deployment.ffn_gpus

    def adapted(ops: LayerOps) -> LayerOps:
        if not (adapters and deployment.lora_adapters):
            return ops
        slots = slots_of(layer.moe, deployment) if layer.moe else 0.0
        return with_adapters(ops, work, deployment, slots)

    own = adapted(layer_ops(layer.model_copy(update={"moe": None, "dense_ffn_size": 1}), work, scenario))
    attention = tuple(op for one in own.attentions for op in (*one.pre, *one.core))
    if not (layer.moe or layer.dense_ffn_size):
        return {"attention": attention, "to the FFNs": (), "FFN": (), "back": ()}
    attention += tuple(op for norms in own.post_norms for op in norms)
    experts: MoeOps | None = None
    dense: tuple[tuple[Op, ...], ...] = ()
    if layer.moe:
        rows = work.tokens * (deployment.attention_tp if deployment.replicated else 1)
        attention += router_ops(layer.moe, rows, hidden, deployment.precision.router)
        attention += tuple(op for ops in latent_ops(layer.moe, rows, scenario) for op in ops)
        experts = moe_ops(layer.moe, tokens, side)
    if layer.dense_ffn_size:
        dense = (
            dense_ffn_ops(
                layer.dense_ffn_size,
                tokens,
                side.deployment,
                side.cluster,
                hidden=hidden,
                activation=layer.dense_activation,
            ),
        )
    other = adapted(LayerOps((), (), ffns=dense, moe=experts, join=()))
    ffn = (*other.moe.shared, *other.moe.experts) if other.moe else ()
    ffn += tuple(op for ops in other.ffns for op in ops)
    there, back = transfer_bytes(layer.moe, work.tokens, scenario)
    return {
        "attention": attention,
        "to the FFNs": (exchange("to_ffn", OpClass.DISPATCH, there, Stream.NETWORK, scenario),),
        "FFN": ffn,
        "back": (exchange("from_ffn", OpClass.COMBINE, back, Stream.LINK, scenario),),
    }


def on_ffns(op: Op) -> bool:
    """Whether an op of a step in which attention and FFNs have GPUs of their own runs on those of FFNs."""
    return op.stream == Stream.EXPERTS


def is_transfer(op: Op) -> bool:
    """Whether such an op is what goes from one to the other."""
    return op.op_class in (OpClass.DISPATCH, OpClass.COMBINE)


def transfer_bytes(moe: Moe | None, tokens: Num, scenario: Scenario) -> tuple[Num, Num]:
    """Bytes through the busiest adapter, to the FFNs and back, of a layer's ``tokens`` per attention GPU."""
    deployment, hidden, precision = (
        scenario.deployment,
        scenario.model.hidden_size,
        scenario.deployment.precision,
    )
    crowd: Num = deployment.attention_gpus / deployment.ffn_gpus
    if moe is None:
        nbytes = tokens * maximum(1.0, crowd) * hidden * precision.activation_bytes
        return nbytes, nbytes
    crowd = crowd * rank_load(moe, tokens * crowd, scenario.ffn_side)
    pmf = activation(moe, scenario.routing, scenario.mean_real_experts)
    copies = destinations(moe, deployment.ep, 1, pmf=pmf).ranks * deployment.moe_tp
    sent = tokens * copies * maximum(1.0, crowd)
    width = moe.routed_size(hidden)
    return (
        sent * low_latency_dispatch_bytes(width, precision.dispatch),
        sent * low_latency_combine_bytes(width, precision.combine),
    )
