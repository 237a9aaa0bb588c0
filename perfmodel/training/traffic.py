"""What a step does once, whatever its micro-batches: gradients reduced, weights updated and gathered. Per GPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.numeric import Num, maximum, minimum
from perfmodel.ops import communication
from perfmodel.ops.build import memory_bound
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.training import Optimizer, Training
from perfmodel.training.parameters import Parameters

WEIGHT_BYTES = BYTES_PER_ELEMENT["bf16"]
MUON_ITERATIONS, MUON_PRODUCTS = 5, 3
"""Newton-Schulz iterations per update and products in each [Jordan 2024; arXiv 2502.16982]."""


@dataclass(frozen=True, slots=True)
class Group:
    """Data-parallel ranks that hold the same weights."""

    name: str
    parameters: Num
    ranks: Num
    """Those that divide the weights among themselves."""
    near: Num
    """How many of them share a link domain."""
    copies: Num = 1
    """Groups of them, with hybrid sharding: ``ranks`` apart from each other."""


def groups(parameters: Parameters, training: Training, cluster: Cluster) -> tuple[Group, ...]:
    """Dense weights and experts, each with its own data parallelism.

    Tensor-parallel ranks lie next to each other, then those of a sequence, then data-parallel ones; experts' ranks
    lie next to each other, so copies of an expert are ep x etp GPUs apart. DualPipe's second copy of a stage is on
    another pipeline rank, in another link domain.
    """
    domain = cluster.node.link_domain_gpus
    copies = training.dp_replicate
    near = minimum(maximum(1, domain // training.tp), training.dp * training.cp)
    found = [Group("dense", parameters.dense, training.shards, near, copies)]
    if np.any(parameters.experts):
        apart = training.ep * training.etp
        near = minimum(maximum(1, domain // apart), training.expert_dp)
        found.append(Group("experts", parameters.experts, training.expert_shards, near, copies))
    return tuple(found)


def gradient_ops(parameters: Parameters, training: Training, cluster: Cluster) -> tuple[Op, ...]:
    """Reduce-scatter of all gradients, with hybrid sharding and an all-reduce of each part among the groups; without
    any division of state an all-reduce.
    """
    size = BYTES_PER_ELEMENT[training.optimizer.gradients]
    kernel = "all_reduce" if training.zero == 0 else "reduce_scatter"
    found = groups(parameters, training, cluster)
    apart = [
        Group(f"{one.name}.copies", one.parameters / one.ranks, one.copies, maximum(1, one.near // one.ranks))
        for one in found
        if one.copies > 1
    ]
    return (*_collectives(found, kernel, size), *_collectives(apart, "all_reduce", size))


def weight_ops(parameters: Parameters, training: Training, cluster: Cluster) -> tuple[Op, ...]:
    """All-gather of all weights in BF16; nothing where nothing is divided."""
    if training.zero == 0:
        return ()
    return _collectives(groups(parameters, training, cluster), "all_gather", WEIGHT_BYTES)


def _collectives(of: Sequence[Group], kernel: str, size: float) -> tuple[Op, ...]:
    traffic_of = {
        "all_reduce": communication.all_reduce,
        "reduce_scatter": communication.reduce_scatter,
        "all_gather": communication.all_gather,
    }[kernel]
    ops = []
    for group in of:
        if group.ranks == 1:
            continue
        traffic = traffic_of(size * group.parameters, group.ranks, group.near)
        moved = traffic.link_bytes + traffic.network_bytes
        ops.append(
            Op(
                f"{group.name}.{kernel}",
                OpClass.DATA_PARALLEL,
                kernel,
                Stream.NETWORK if np.any(traffic.network_bytes) else Stream.LINK,
                hbm_bytes=2.0 * moved,
                link_bytes=traffic.link_bytes,
                network_bytes=traffic.network_bytes,
                backend="nccl",
                shape={"ranks": group.ranks, "bytes": moved},
            )
        )
    return tuple(ops)


def state_bytes_per_parameter(optimizer: Optimizer) -> float:
    """Bytes of optimizer state per weight: master copy and moments."""
    master = 4.0 if optimizer.master == "fp32" else 0.0
    moments = 2 if optimizer.kind == "adamw" else 1
    return master + moments * BYTES_PER_ELEMENT[optimizer.moments]


def updated(parameters: Parameters, training: Training) -> float:
    """Weights that one GPU updates."""
    if training.zero == 0:
        return parameters.total
    return parameters.dense / training.shards + parameters.experts / training.expert_shards


def update_bytes(optimizer: Optimizer) -> float:
    """Bytes that an update moves per weight: gradient read, state read and written, weight written."""
    moved = BYTES_PER_ELEMENT[optimizer.gradients] + 2.0 * state_bytes_per_parameter(optimizer)
    return moved + WEIGHT_BYTES * (2.0 if optimizer.master == "none" else 1.0)


def optimizer_ops(parameters: Parameters, training: Training) -> tuple[Op, ...]:
    """The update of what the GPU holds; the norm reads all its gradients once more, first.

    Muon's iterations are products of whole matrices, 2 x 5 x 3 x width FLOPs per weight of a matrix: left to
    :func:`muon_flops`.
    """
    own, optimizer = updated(parameters, training), training.optimizer
    here = own * (1.0 - training.offload.optimizer_fraction)
    moved = update_bytes(optimizer) * here
    shape = {"rows": own, "width": 1.0}
    kept = {"rows": here, "width": 1.0}
    ops = [
        memory_bound("optimizer.update", OpClass.OPTIMIZER, "add", hbm_bytes=moved, dtype="fp32", shape=kept)
    ]
    if optimizer.clip:
        read = BYTES_PER_ELEMENT[optimizer.gradients] * own
        ops.insert(
            0,
            memory_bound(
                "optimizer.norm", OpClass.OPTIMIZER, "add", hbm_bytes=read, dtype="fp32", shape=shape
            ),
        )
    return tuple(ops)


def muon_flops(parameters: Parameters, training: Training, width: float) -> float:
    """FLOPs of Muon's iterations on one GPU's share, for matrices whose smaller side is ``width``."""
    return 2.0 * MUON_ITERATIONS * MUON_PRODUCTS * width * updated(parameters, training)
