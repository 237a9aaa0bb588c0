"""An op: what one kernel asks of a GPU, counted once and costed by anyone.

Counts are per GPU. Each may be a numpy array (one value per scenario, or per rank): see :mod:`perfmodel.numeric`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from perfmodel.numeric import Num


class Stream(StrEnum):
    """Where an op queues; ops on one stream run in a fixed order, ops on different streams may overlap."""

    COMPUTE = "compute"
    EXPERTS = "experts"
    """A second compute stream, used by schedules that run the experts beside the dense path."""
    LINK = "link"
    """Intra-node link or rack-scale domain (NVLink)."""
    NETWORK = "network"
    """Network between nodes or racks (RDMA)."""
    HOST = "host"


COMPUTE_STREAMS = (Stream.COMPUTE, Stream.EXPERTS)
COMMUNICATION_STREAMS = (Stream.LINK, Stream.NETWORK)


class OpClass(StrEnum):
    """What a result's breakdown is made of."""

    ATTENTION = "attention"
    """The sequence mixer: attention, or linear attention, a state-space layer or a convolution in its place."""
    INDEXER = "indexer"
    """A sparse attention's index branch: what selects the tokens that are attended to."""
    HYPER_CONNECTIONS = "hyper_connections"
    """Weights, sums and mixture of several residual streams."""
    DENSE_FFN = "dense_ffn"
    ROUTER = "router"
    EXPERTS = "experts"
    DISPATCH = "dispatch"
    COMBINE = "combine"
    TP_COMMUNICATION = "tp_communication"
    """All-gather, reduce-scatter and all-reduce of tensor parallelism."""
    PIPELINE = "pipeline_communication"
    NORM = "norm"
    EMBEDDING = "embedding"
    HEAD = "head"
    DRAFT = "draft"
    """The multi-token prediction layer and its head."""
    CONTEXT_PARALLEL = "cp_communication"
    """Keys, values and their gradients between the ranks of one sequence (training)."""
    DATA_PARALLEL = "dp_communication"
    """Gradients and updated weights between data-parallel ranks (training)."""
    OPTIMIZER = "optimizer"
    HOST = "host"
    WAITING = "waiting"
    """Time on the critical path in which a rank runs nothing: it waits for slower ranks."""


@dataclass(frozen=True, slots=True)
class Op:
    """The work of one kernel launch on one GPU."""

    name: str
    """Path-like and unique within a layer: ``attention0.q_b``."""
    op_class: OpClass
    kernel: str
    """Which curve costs it: gemm, grouped_gemm, bmm; a mixer's (perfmodel.ops.mixers lists them); a memory-bound one
    (perfmodel.ops.build.MEMORY_BOUND); dispatch, combine, all_to_all, all_gather, reduce_scatter,
    all_reduce, send_recv; host and launch."""
    stream: Stream
    flops: Num = 0.0
    """Floating-point operations; a multiply-add is two."""
    hbm_bytes: Num = 0.0
    """Bytes read from and written to device memory."""
    link_bytes: Num = 0.0
    """Bytes that the busier direction of this GPU's intra-node link carries."""
    network_bytes: Num = 0.0
    """Bytes that the busier direction of this GPU's share of the network carries."""
    dtype: str = "bf16"
    """Number format of the product (perfmodel.spec.formats); for memory-bound ops the type of the data."""
    backend: str = ""
    """Communication library for collectives: deepep-low-latency, deepep-normal, nccl, nvls, custom. For experts how
    their tokens lie: masked (a fixed slot per expert, DeepEP low-latency), contiguous (one expert after the other),
    fused (an engine's kernel that sorts for itself)."""
    shape: Mapping[str, Num] = field(default_factory=dict)
    """What a measured curve is looked up by: m, n, k, groups, requests, context, ranks, ..."""
    beside: Literal["", "starts", "joins"] = ""
    """starts: it runs beside what follows it in its chain, which waits for what came before alone; joins: it waits for
    what started so, too. The next one that starts joins as well, and so does the chain's end."""
    barrier: bool = False
    """Whether no rank can finish it before every rank of the group has started it."""
    cache_dtype: str = ""
    """Attention cores: number format of the KV cache, which their curves are looked up by."""
    inside: tuple[tuple[str, str, str], ...] = ()
    """Curves, as (kernel, dtype, backend), whose measured span may hold this op: an engine's fused experts, its whole
    attention module, an attention core that also normalises."""

    @property
    def curve_dtype(self) -> str:
        """Number format by which a curve is looked up."""
        return self.cache_dtype or self.dtype

    @property
    def is_communication(self) -> bool:
        """Whether it occupies a link rather than the compute units."""
        return self.stream in COMMUNICATION_STREAMS
