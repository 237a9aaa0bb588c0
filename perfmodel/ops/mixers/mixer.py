"""Any sequence mixer: its ops with norm and collectives, its weights, and what it keeps of a request."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from perfmodel.numeric import Num
from perfmodel.ops.build import inside_reduce, norm
from perfmodel.ops.collective import all_gather, all_reduce, reduce_scatter, ring_pass
from perfmodel.ops.mixers import (
    compressed,
    gated_delta_net,
    gqa,
    kda,
    lightning,
    mamba1,
    mamba2,
    mla,
    short_conv,
    sparse,
)
from perfmodel.ops.mixers.base import ATTENTION, Built, Kept, MixerOps, MixerWeights, Place
from perfmodel.ops.op import Op
from perfmodel.ops.work import Group, Work, context_ranks, rounds
from perfmodel.spec.deployment import Deployment, Precision
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.mixers import (
    BlockIndexer,
    CompressedAttention,
    GatedDeltaNet,
    Gqa,
    Kda,
    Lightning,
    Mamba1,
    Mamba2,
    Mixer,
    Mla,
    ShortConv,
    StateMixer,
)

_BUILD: dict[type, Callable[[Any, Place], Built]] = {
    Mla: mla.build,
    Gqa: gqa.build,
    CompressedAttention: compressed.build,
    GatedDeltaNet: gated_delta_net.build,
    Kda: kda.build,
    Lightning: lightning.build,
    Mamba1: mamba1.build,
    Mamba2: mamba2.build,
    ShortConv: short_conv.build,
}
_WEIGHTS: dict[type, Callable[[Any, int], MixerWeights]] = {
    Mla: mla.weights,
    Gqa: gqa.weights,
    CompressedAttention: compressed.weights,
    GatedDeltaNet: gated_delta_net.weights,
    Kda: kda.weights,
    Lightning: lightning.weights,
    Mamba1: mamba1.weights,
    Mamba2: mamba2.weights,
    ShortConv: short_conv.weights,
}
_STATE: dict[type, Callable[[Any, Precision, int], Kept]] = {
    GatedDeltaNet: gated_delta_net.kept,
    Kda: kda.kept,
    Lightning: lightning.kept,
    Mamba1: mamba1.kept,
    Mamba2: mamba2.kept,
    ShortConv: short_conv.kept,
}


def mixer_ops(
    mixer: Mixer,
    work: Work,
    deployment: Deployment,
    cluster: Cluster,
    *,
    hidden: int,
    prefix: str = "attention",
    split: bool = False,
    indexes: bool = True,
) -> MixerOps:
    """Ops of one mixer over all groups of a step.

    With attention TP of t, the t GPUs of a group hold each other's requests: m = t x (tokens per GPU) rows meet
    1/t of the heads. ``split``: a schedule puts something between the two parts, so no measured span of the whole
    attention may stand for them. Where data parallelism scatters tokens, they are gathered before and reduce-scattered
    after; on a replicated layout an all-reduce follows. ``indexes``: whether it has an index branch of its own, if any.
    """
    tp = deployment.attention_tp
    own_tokens = work.tokens * (tp if deployment.replicated else 1)
    dtype, inside = deployment.precision.activations, inside_reduce(deployment)
    pre = [norm(f"{prefix}.norm", tokens=own_tokens, width=hidden, dtype=dtype, inside=inside)]
    if tp > 1 and not deployment.replicated:
        pre.append(all_gather(f"{prefix}.gather", work.tokens * tp, hidden, deployment, cluster, tp))
    shards = 1 if isinstance(mixer, StateMixer) else deployment.decode_context_parallel
    place = Place(
        work,
        tp,
        deployment.precision,
        hidden,
        prefix,
        indexes,
        shards=shards,
        exchange=partial(_exchanged, deployment, cluster, prefix),
        rounds=rounds(deployment),
        passed=partial(_passed, mixer, deployment, cluster, indexes),
        all_reduce=partial(_summed, deployment, cluster),
    )
    project, core = _BUILD[type(mixer)](mixer, place)
    ranks = context_ranks(deployment)
    if ranks > 1 and place.rounds == 1:
        project = [*project, _keys_gathered(mixer, place, ranks, deployment, cluster, indexes=indexes)]
    if tp > 1:
        project = _with_sums(project, place, deployment, cluster)
        collective = all_reduce if deployment.replicated else reduce_scatter
        core.append(collective(f"{prefix}.reduce", work.tokens * tp, hidden, deployment, cluster, tp))
    ops = MixerOps(tuple(pre) + tuple(project), tuple(core))
    return _without_module(ops) if split else ops


def projections(mixer: Mixer, precision: Precision, tp: int, hidden: int) -> list[Op]:
    """A mixer's products of weights and tokens on one GPU of ``tp``, index branch left out, for one token."""
    place = Place(Work((Group("decode", 1.0, 1.0, 1.0),)), tp, precision, hidden, "mixer")
    parts = _BUILD[type(mixer)](mixer, place)
    return [op for part in parts for op in part if op.kernel == "gemm" and op.op_class is ATTENTION]


def _summed(deployment: Deployment, cluster: Cluster, name: str, rows: Num, width: int) -> Op:
    return all_reduce(name, rows, width, deployment, cluster, deployment.attention_tp)


def _exchanged(
    deployment: Deployment, cluster: Cluster, prefix: str, kernel: str, part: str, rows: Num, width: Num
) -> Op:
    """A collective of the GPUs that divide a cache by tokens."""
    collective = {"all_gather": all_gather, "reduce_scatter": reduce_scatter}[kernel]
    return collective(
        f"{prefix}.{part}", rows, width, deployment, cluster, deployment.decode_context_parallel
    )


def _keys_gathered(
    mixer: Mixer, place: Place, ranks: int, deployment: Deployment, cluster: Cluster, *, indexes: bool
) -> Op:
    """Keys and values of all ranks' new tokens go to every rank that divides the prompt, before they are quantised."""
    width = keys_width(mixer, place.precision, place.tp, indexes=indexes)
    return all_gather(place.name("kv_gather"), place.rows * ranks, width, deployment, cluster, ranks)


def _passed(
    mixer: Mixer, deployment: Deployment, cluster: Cluster, indexes: bool, name: str, rows: Num
) -> Op:
    """Keys and values of ``rows`` tokens go on to the next rank of a ring."""
    width = keys_width(mixer, deployment.precision, deployment.attention_tp, indexes=indexes)
    return ring_pass(name, rows, width, deployment, cluster, context_ranks(deployment))


def keys_width(mixer: Mixer, precision: Precision, tp: int, *, indexes: bool) -> float:
    """Values of keys, values and index keys per token on one GPU, as they are before they are quantised."""
    plain = precision.model_copy(update={"kv_cache": precision.activations})
    kept = mixer_kept(mixer, plain, tp, indexes=indexes)
    return sum(cache.bytes_per_token for cache in kept.caches) / precision.activation_bytes


def mixer_weights(mixer: Mixer, hidden: int) -> MixerWeights:
    """Weights of one mixer without its index branch."""
    return _WEIGHTS[type(mixer)](mixer, hidden)


def index_weights(mixer: Mixer | None, hidden: int) -> MixerWeights:
    """Weights of one index branch of a mixer; none where it has none."""
    if isinstance(mixer, CompressedAttention):
        return compressed.index_weights(mixer, hidden)
    indexer = getattr(mixer, "indexer", None)
    if isinstance(indexer, BlockIndexer):
        return gqa.index_weights(indexer, hidden)
    if indexer is None or not isinstance(mixer, Mla):
        return MixerWeights()
    return sparse.weights(indexer, hidden, query_width=mixer.q_lora_rank or hidden)


def mixer_kept(mixer: Mixer, precision: Precision, tp: int, *, indexes: bool) -> Kept:
    """What one mixer keeps of a request on one GPU; ``indexes``: with index keys of its own, if it has any."""
    if isinstance(mixer, Mla):
        return mla.kept(mixer, precision, tp, indexes=indexes)
    if isinstance(mixer, Gqa):
        return gqa.kept(mixer, precision, tp, indexes=indexes)
    if isinstance(mixer, CompressedAttention):
        return compressed.kept(mixer, precision, indexes=indexes)
    return _STATE[type(mixer)](mixer, precision, tp)


def _with_sums(project: list[Op], place: Place, deployment: Deployment, cluster: Cluster) -> list[Op]:
    """The ops, with squares of all heads summed over the group before what follows them needs the sums."""
    found: list[Op] = []
    for op in project:
        found.append(op)
        if op.name == place.name(gqa.SQUARES):
            columns = gqa.SQUARES_BYTES / deployment.precision.activation_bytes
            name = place.name("qk_reduce")
            found.append(all_reduce(name, place.rows, columns, deployment, cluster, place.tp))
    return found


def _without_module(ops: MixerOps) -> MixerOps:
    """The ops, costed one by one."""

    def alone(op: Op) -> Op:
        return replace(op, inside=tuple(key for key in op.inside if "module" not in key[0]))

    return MixerOps(tuple(alone(op) for op in ops.pre), tuple(alone(op) for op in ops.core))
