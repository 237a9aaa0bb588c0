"""A layer of a training step in parts, cut where schedules may cut: each with its forward, its input and its weight
gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfmodel.numeric import Num, maximum
from perfmodel.ops import communication
from perfmodel.ops.backward import CORES, Kernel, gradients
from perfmodel.ops.build import gemm, memory_bound
from perfmodel.ops.communication import Traffic
from perfmodel.ops.ends import embedding_ops, head_ops
from perfmodel.ops.layer import layer_ops
from perfmodel.ops.moe import MoeOps
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Gqa, Mla
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training import alternate, hybrid_ep, unfused
from perfmodel.training.layout import every_token, micro_batch_work
from perfmodel.training.narrow import (
    BF16,
    casts,
    quantised_to_send,
    residual_factor,
    row_bytes,
    sorted_by_expert,
    weights_of_choice,
    with_kept,
)
from perfmodel.training.supported import attention_of

REPLAYED = {
    "norms": ("norm", "latent_norm"),
    "activations": ("activation",),
    "attention_core": CORES,
}
"""What is recomputed -> kernel classes that run again."""
UP_PROJECTIONS = (".q_b", ".kv_b", ".latent_norm", ".rope_cache")
"""Ops that run again with ``mla_up_projection``."""
HEAD_NORM = "qk_norm"
LATE_PROBABILITIES = 1.5
"""What an un-permutation's backward moves over its forward where it weighs rows: it reads them once more, for the
gradient of the weights."""
LOSS_BYTES = 12.0
"""Bytes that the loss moves per logit: BF16 to FP32, the largest and the sum of exponentials found in one pass, the
gradient's scale."""


@dataclass(frozen=True, slots=True)
class Part:
    """Ops that follow each other."""

    name: str
    forward: tuple[Kernel, ...]
    input: tuple[Kernel, ...]
    """Input gradient, what is recomputed for it in front."""
    weight: tuple[Kernel, ...]
    ring: tuple[Kernel, Kernel] | None = None
    """Exchange of keys and values beside attention's core: forwards, and of their gradients."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One chunk of tokens through the experts."""

    dispatch: Part
    experts: Part
    combine: Part


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One layer."""

    attentions: tuple[Part, ...]
    """Each with the norm after it, the first one with the router where there are experts."""
    ffns: tuple[Part, ...]
    """Dense FFNs; empty in a layer of experts alone."""
    exchanges: tuple[Exchange, ...]
    """Chunks of tokens; empty in a dense layer."""
    join: Part | None
    """Where experts run beside a dense path: the addition at the end."""

    def in_sequence(self) -> tuple[Part, ...]:
        """All parts in program order."""
        found: list[Part] = []
        for i, attention in enumerate(self.attentions):
            found.append(attention)
            if i == 0:
                for one in self.exchanges:
                    found += (one.dispatch, one.experts, one.combine)
            found += self.ffns[i : i + 1]
        return (*found, self.join) if self.join else tuple(found)


def layer_parts(layer: Layer, scenario: Scenario, training: Training) -> LayerParts:
    """Parts of one layer for one GPU's share of a micro-batch; ``scenario`` as
    :func:`perfmodel.training.layout.inner` makes it.
    """
    work = micro_batch_work(training)
    chunks = 2 if training.moe_overlap == "two-chunks" and layer.moe else 1
    whole = layer_ops(layer, work, scenario)
    attentions = []
    for i, (attention, norms) in enumerate(zip(whole.attentions, whole.post_norms, strict=True)):
        router = whole.moe.router if whole.moe and i == 0 else ()
        ops = _laid_out(_own_keys((*attention.pre, *attention.core), layer, training), layer, training)
        ops = _head_norms(ops, layer)
        ring, ops = _context_parallel(ops, layer, scenario, training, f"attention{i}")
        attentions.append(_part(f"attention {i}", (*ops, *norms, *router), training, ring))
    exchanges: list[Exchange] = []
    if layer.moe:
        moe = whole.moe if chunks == 1 else layer_ops(layer, work.scaled(1 / chunks), scenario).moe
        assert moe is not None
        rows = quantised_to_send(
            work.tokens / chunks, layer.moe.routed_size(scenario.model.hidden_size), training
        )
        names = [f" {chunk}" if chunks > 1 else "" for chunk in range(chunks)]
        exchanges = [_exchange(moe, training, name, rows, scenario) for name in names]
    return LayerParts(
        tuple(attentions),
        tuple(_part(f"FFN {i}", ops, training) for i, ops in enumerate(whole.ffns)),
        tuple(exchanges),
        _part("join", whole.join, training) if whole.join else None,
    )


def embedding_part(scenario: Scenario, training: Training) -> Part:
    """The embedding, in front of the first layer; its tokens need no gradient."""
    rows = {"vocabulary": scenario.model.vocab_size}  # the gradient is as large as the table
    ops = [
        replace(op, shape={**op.shape, **rows}) if op.name == "embedding.gather" else op
        for op in embedding_ops(micro_batch_work(training), scenario)
    ]
    return replace(_part("embedding", ops, training), input=())


def head_part(scenario: Scenario, training: Training, prefix: str = "head") -> Part:
    """Final norm, logits of every token, and the loss."""
    work = every_token(micro_batch_work(training))
    ops = [op for op in head_ops(work, scenario, prefix) if op.kernel != "sample"]
    rows, shard = work.tokens * training.tp, scenario.model.vocab_size / training.tp
    ops.append(
        memory_bound(
            f"{prefix}.loss",
            OpClass.HEAD,
            "sample",
            hbm_bytes=LOSS_BYTES * rows * shard,
            dtype=scenario.deployment.precision.activations,
            shape={"rows": rows, "width": shard},
        )
    )
    return _part(prefix, tuple(ops), training)


def mtp_join_part(scenario: Scenario, training: Training) -> Part:
    """What the multi-token prediction layer has in front: the next token's embedding, two norms, the projection to
    hidden.
    """
    work, hidden = micro_batch_work(training), scenario.model.hidden_size
    precision = scenario.deployment.precision
    rows = work.tokens
    shape = {"rows": 2.0 * rows, "width": hidden}
    moved = 4.0 * precision.activation_bytes * 2.0 * rows * hidden
    ops = (
        *embedding_ops(work, scenario),
        memory_bound("mtp.norm", OpClass.NORM, "norm", hbm_bytes=moved, dtype="bf16", shape=shape),
        gemm("mtp.project", OpClass.DRAFT, m=rows, n=hidden, k=2 * hidden, dtype=precision.linear),
    )
    return _part("MTP", ops, training)


def _part(
    name: str, ops: Sequence[Op], training: Training, ring: tuple[Kernel, Kernel] | None = None
) -> Part:
    dtype = training.optimizer.gradients
    forward: list[Kernel] = []
    input_: list[Kernel] = []
    weight: list[Kernel] = []
    kept = with_kept(tuple(ops), training)
    table = unfused.table_of(ops, training)
    for op, _ in kept:
        forward += (*casts(op, training).forward, *unfused.forwards(op, table))
    for _, op in reversed(kept):
        own, cast = gradients(op, dtype), casts(op, training)
        input_ += (*cast.input, *unfused.backwards(op, _backward(op, own.input, training), table))
        weight += (*cast.weight, *own.weight)
    for (
        op
    ) in ops:  # sequence parallelism kept the scattered input: it is gathered again for the weights' gradient
        if op.kernel == "all_gather" and op.op_class == OpClass.TP_COMMUNICATION:
            weight.insert(0, Kernel.plain(replace(op, name=f"{op.name}.again")))
    again = tuple(
        kernel
        for op, _ in kept
        if _replayed(op, training)
        for kernel in unfused.forwards(replace(op, inside=()), table)
    )
    again = (*again, *alternate.again(ops, training))
    return Part(name, tuple(forward), (*again, *input_), tuple(weight), ring)


def _backward(op: Op, own: tuple[Kernel, ...], training: Training) -> tuple[Kernel, ...]:
    """Input gradients of an op where they depend on the layout: rows of gradients as they travel, and where the
    router's weights come in.
    """
    if op.kernel == "unpermute":
        late = 1.0 if training.early_probabilities else LATE_PROBABILITIES
        narrow = row_bytes(training) / BF16 if op.name == "experts.unpermute" else 1.0
        return tuple(_scaled(kernel, late * narrow) for kernel in own)
    if op.name == "experts.act":
        return (*own, *weights_of_choice(op, training))
    if op.kernel == "norm":
        return tuple(_scaled(kernel, residual_factor(training)) for kernel in own)
    return own


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    op = replace(kernel.op, hbm_bytes=factor * kernel.op.hbm_bytes)
    return replace(kernel, op=op, base=op)


def _replayed(op: Op, training: Training) -> bool:
    """Whether an op runs again in its own part's backward; whole layers run again as a whole."""
    if isinstance(training.recompute, str) or op.name.endswith(f".{HEAD_NORM}"):
        return False  # what it reads is kept, whatever norms do
    if "mla_up_projection" in training.recompute and op.name.endswith(UP_PROJECTIONS):
        return True
    return any(op.kernel in REPLAYED.get(part, ()) for part in training.recompute)


def _exchange(
    moe: MoeOps, training: Training, suffix: str, rows: tuple[Kernel, ...], scenario: Scenario
) -> Exchange:
    """Dispatch, experts and combine; what comes back as gradient takes the way of the other, with the other's
    payload, quantised (``rows``) as that is.
    """
    if hybrid_ep.permutes_itself(moe, training):
        return _permuting_exchange(moe, training, suffix, rows, scenario)
    dispatch = _part(f"dispatch{suffix}", moe.dispatch, training)
    combine = _part(f"combine{suffix}", (*moe.combine, *moe.unpack), training)
    experts = _part(f"experts{suffix}", (*moe.shared, *moe.experts), training)
    chosen = next(float(op.shape["top_k"]) for op in moe.router if op.kernel == "select")
    order = sorted_by_expert(moe.experts, chosen, training)
    again = (*rows, *dispatch.forward, *experts.forward[:-1]) if _replays_experts(training) else ()
    return Exchange(
        replace(dispatch, forward=(*rows, *dispatch.forward), input=_mirrored(moe.combine)),
        replace(experts, forward=(*order, *experts.forward), input=(*again, *experts.input)),
        replace(combine, input=(*_unpacked(moe, training), *rows, *_mirrored(moe.dispatch))),
    )


def _permuting_exchange(
    moe: MoeOps, training: Training, suffix: str, rows: tuple[Kernel, ...], scenario: Scenario
) -> Exchange:
    """The same where rows are put in order and back by the exchange (:mod:`perfmodel.training.hybrid_ep`)."""
    first, computed, last = hybrid_ep.permutations(moe)
    there, back = moe.dispatch[0], moe.combine[0]
    into, out = _part("rows in", (first,), training), _part("rows out", (last,), training)
    experts = _part(f"experts{suffix}", (*moe.shared, *computed), training)
    dispatch = _part(f"dispatch{suffix}", moe.dispatch, training)
    combine = _part(f"combine{suffix}", (*moe.combine, *moe.unpack), training)
    registered = hybrid_ep.copied(there, first.shape["width"], scenario)
    sent = (*rows, *hybrid_ep.maps(there, scenario), *registered, *dispatch.forward)
    sent = (*sent, *hybrid_ep.on_its_stream(into.forward, there))
    gradients_sent = (*registered, *_mirrored(moe.dispatch), *hybrid_ep.on_its_stream(out.input, there))
    returned = (*hybrid_ep.on_its_stream(into.input, back), *_mirrored(moe.combine))
    again = (*sent, *experts.forward) if _replays_experts(training) else ()
    return Exchange(
        replace(dispatch, forward=sent, input=returned),
        replace(experts, input=(*again, *experts.input)),
        replace(
            combine,
            forward=(*hybrid_ep.on_its_stream(out.forward, back), *combine.forward),
            input=(*_unpacked(moe, training), *rows, *gradients_sent),
        ),
    )


def _mirrored(transfers: Sequence[Op]) -> tuple[Kernel, ...]:
    """Transfers of gradients, which take the way of the others."""
    return tuple(Kernel.plain(replace(op, name=f"{op.name}.backward")) for op in transfers)


def _unpacked(moe: MoeOps, training: Training) -> tuple[Kernel, ...]:
    """Gradients of what follows the combine."""
    return tuple(
        kernel for op in reversed(moe.unpack) for kernel in _backward(op, gradients(op).input, training)
    )


def _replays_experts(training: Training) -> bool:
    return training.recompute != "full" and training.recomputes("experts")


def _head_norms(ops: tuple[Op, ...], layer: Layer) -> tuple[Op, ...]:
    """Norms of each query and key head, kernels of their own in training: read and written, back read twice and
    written. In inference engines' rotary kernels take them along.
    """
    attention = attention_of(layer)
    if not isinstance(attention, Gqa) or not attention.qk_norm or attention.qk_norm_all_heads:
        return ops
    at = next(i for i, op in enumerate(ops) if op.kernel == "rope")
    rotated = ops[at].shape
    rows, width = rotated["rows"], rotated["heads"] * attention.head_dim
    norm = memory_bound(
        ops[at].name.replace("rope_cache", HEAD_NORM),
        OpClass.ATTENTION,
        "latent_norm",
        hbm_bytes=2.0 * BF16 * rows * width,
        dtype="bf16",
        shape={"rows": rows, "width": width},
    )
    return (*ops[:at], norm, *ops[at:])


def _laid_out(ops: tuple[Op, ...], layer: Layer, training: Training) -> tuple[Op, ...]:
    """Latent attention in training keeps no cache; its rotation is where queries, keys and values are laid out for the
    core. Per token and head, in BF16: the rotary part of queries read and written, the up-projection's keys read and
    written beside the rotary key that all heads share, values read and written. Backwards the same ways back.
    """
    attention = attention_of(layer)
    if not isinstance(attention, Mla):
        return ops
    rope, nope, value = attention.qk_rope_head_dim, attention.qk_nope_head_dim, attention.v_head_dim
    per_head = 2.0 * rope + nope + (nope + rope) + 2.0 * value

    def laid(op: Op) -> Op:
        if not op.name.endswith(".rope_cache"):
            return op
        return replace(op, hbm_bytes=BF16 * op.shape["rows"] * op.shape["heads"] * per_head, inside=())

    return tuple(laid(op) for op in ops)


def _own_keys(ops: tuple[Op, ...], layer: Layer, training: Training) -> tuple[Op, ...]:
    """With context parallelism a rank expands the keys and values of its own tokens, or (latents exchanged) of all."""
    if not isinstance(attention_of(layer), Mla):
        return ops
    tokens = training.micro_batch_sequences * training.sequence_tokens
    keys = tokens if training.cp_mla == "latents" else tokens / training.cp

    def own(op: Op) -> Op:
        if not op.name.endswith(".kv_b"):
            return op
        return gemm(op.name, op.op_class, m=keys, n=op.shape["n"], k=op.shape["k"], dtype=op.dtype)

    return tuple(own(op) for op in ops)


def _context_parallel(
    ops: tuple[Op, ...], layer: Layer, scenario: Scenario, training: Training, prefix: str
) -> tuple[tuple[Kernel, Kernel] | None, tuple[Op, ...]]:
    """Exchange between the ranks of one sequence: beside the core (ring), in front of it, or around it (Ulysses)."""
    if training.cp == 1:
        return None, ops
    attention = attention_of(layer)
    heads = attention.num_heads / training.tp
    if isinstance(attention, Mla):
        keys = heads * (attention.qk_head_dim + attention.v_head_dim)
        if training.cp_mla == "latents":
            keys = attention.kv_lora_rank + attention.qk_rope_head_dim
        queries, values = heads * attention.qk_head_dim, heads * attention.v_head_dim
    else:
        groups = maximum(attention.num_kv_heads / training.tp, 1.0)
        keys = groups * (attention.head_dim + attention.value_head_dim)
        queries, values = heads * attention.head_dim, heads * attention.value_head_dim
    tokens = training.micro_batch_sequences * training.sequence_tokens / training.cp
    core = next(i for i, op in enumerate(ops) if op.kernel in CORES)
    if training.cp_exchange == "ulysses":
        before = _all_to_all(f"{prefix}.to_heads", tokens * (queries + keys), scenario, training)
        after = _all_to_all(f"{prefix}.to_tokens", tokens * values, scenario, training)
        return None, (*ops[:core], before, ops[core], after, *ops[core + 1 :])
    gather = _gather(f"{prefix}.keys", tokens * keys, scenario, training)
    if training.cp_exchange == "all-gather":
        return None, (*ops[:core], gather, *ops[core:])
    back = _gather(f"{prefix}.keys.backward", 2.0 * tokens * keys, scenario, training)
    return (Kernel.plain(gather), Kernel.plain(back)), ops


def _gather(name: str, elements: float, scenario: Scenario, training: Training) -> Op:
    """Every rank gets what the others hold, ``elements`` each."""
    size = BYTES_PER_ELEMENT["bf16"] * elements * training.cp
    return _cp_op(
        name, "all_gather", communication.all_gather(size, training.cp, _near(scenario, training)), training
    )


def _all_to_all(name: str, elements: float, scenario: Scenario, training: Training) -> Op:
    size = BYTES_PER_ELEMENT["bf16"] * elements
    return _cp_op(
        name, "all_to_all", communication.all_to_all(size, training.cp, _near(scenario, training)), training
    )


def _near(scenario: Scenario, training: Training) -> Num:
    """Ranks of a context-parallel group inside one link domain: tensor-parallel ones lie between."""
    return maximum(1, scenario.cluster.node.link_domain_gpus // training.tp)


def _cp_op(name: str, kernel: str, traffic: Traffic, training: Training) -> Op:
    moved = traffic.link_bytes + traffic.network_bytes
    return Op(
        name,
        OpClass.CONTEXT_PARALLEL,
        kernel,
        Stream.NETWORK if traffic.network_bytes else Stream.LINK,
        hbm_bytes=2.0 * moved,
        link_bytes=traffic.link_bytes,
        network_bytes=traffic.network_bytes,
        backend="nccl",
        shape={"ranks": training.cp, "bytes": moved},
    )
