"""What HybridEP does around its transfers, all of it on the exchange's stream.

Megatron-Core calls it as ``dispatch_with_permute`` and ``combine_with_unpermute`` (megatron/core/transformer/moe/
fused_a2a.py): the rows' order by experts is put and undone by the exchange, where no other micro-batch's compute stands
before it, and not beside it either. Its stages (deepseek-ai/DeepEP, branch hybrid-ep, docs/Hybrid-EP_Implementation.md,
section 5):

    dispatch, forwards         every rank's map of tokens and experts is gathered and read, rows are copied to where
    the network takes them (groups of several link domains alone), transfer, permutation
    combine, forwards          un-permutation, transfer
    combine, backwards         the copy, transfer, permutation of gradients: the maps are kept
    dispatch, backwards        un-permutation of gradients, transfer

The timings that transfers rest on (README_Hybrid-EP.md) are those of the transfers' kernels alone.
"""

from collections.abc import Sequence
from dataclasses import replace

from perfmodel.ops import communication
from perfmodel.ops.backward import Kernel
from perfmodel.ops.build import memory_bound, rows_moved
from perfmodel.ops.moe import MoeOps
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training

MAP_BYTES = 1.0
"""Of a token and an expert: a boolean."""
PLACE_BYTES = 4.0
"""Where a rank's token goes, of a token and a rank: INT32."""


def permutes_itself(moe: MoeOps, training: Training) -> bool:
    """Whether the exchange puts rows into the order of their experts."""
    return training.all_to_all == "hybrid-ep" and any(op.backend == "hybrid-ep" for op in moe.dispatch)


def permutations(moe: MoeOps) -> tuple[Op, tuple[Op, ...], Op]:
    """(permutation, what experts compute, un-permutation) of the routed experts."""
    first, *between, last = moe.experts
    assert (first.kernel, last.kernel) == ("permute", "unpermute"), "rows of a token-deduplicating exchange"
    return first, tuple(between), last


def on_its_stream(kernels: Sequence[Kernel], exchange: Op) -> tuple[Kernel, ...]:
    """Compute kernels that run between an exchange's transfers: as fast as they are, and a part of it."""
    return tuple(
        replace(kernel, op=replace(kernel.op, op_class=exchange.op_class, stream=exchange.stream))
        for kernel in kernels
    )


def maps(exchange: Op, scenario: Scenario) -> tuple[Kernel, ...]:
    """Every rank gets the map of all tokens of the group, and reads off it which rows go where."""
    tokens, experts, ranks = (exchange.shape[name] for name in ("tokens", "experts", "ranks"))
    size = MAP_BYTES * tokens * experts * ranks
    traffic = communication.all_gather(size, ranks, scenario.cluster.node.link_domain_gpus)
    moved = traffic.link_bytes + traffic.network_bytes
    gather = Op(
        "dispatch.maps",
        OpClass.DISPATCH,
        "all_gather",
        exchange.stream,
        hbm_bytes=2.0 * moved,
        link_bytes=traffic.link_bytes,
        network_bytes=traffic.network_bytes,
        backend="nccl",
        shape={"ranks": ranks, "bytes": moved},
        barrier=True,
    )
    read = memory_bound(
        "dispatch.places",
        OpClass.DISPATCH,
        "reorder",
        hbm_bytes=size + PLACE_BYTES * tokens * ranks,
        dtype="bf16",
        shape={"rows": tokens * ranks, "width": experts},
    )
    return (Kernel.plain(gather), *on_its_stream((Kernel.plain(read),), exchange))


def copied(exchange: Op, width: float, scenario: Scenario) -> tuple[Kernel, ...]:
    """A rank's rows into the memory that the network's adapters read; within one link domain they are sent as they
    lie.
    """
    if exchange.shape["ranks"] <= scenario.cluster.node.link_domain_gpus:
        return ()
    tokens = exchange.shape["tokens"]
    op = rows_moved(
        "dispatch.registered",
        OpClass.DISPATCH,
        "reorder",
        read=tokens,
        written=tokens,
        width=width,
        dtype="fp8" if exchange.dtype == "fp8" else "bf16",
    )
    return on_its_stream((Kernel.plain(op),), exchange)
