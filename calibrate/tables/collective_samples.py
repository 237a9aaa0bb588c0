"""Published timings of collectives as samples: what one took, and its bytes on the wire (perfmodel.ops.communication).

A bandwidth that a library quotes is turned back into a time with that library's own byte count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from calibrate.tables.measured import GPU_NAMES
from perfmodel.kernels.achievable import read_rows
from perfmodel.ops import communication as wire
from perfmodel.ops.communication import Traffic
from perfmodel.routing.destinations import Destinations, expected_distinct
from perfmodel.spec import catalogue
from perfmodel.spec.hardware import Cluster, Network, Node
from perfmodel.units import GB, US

CLUSTER_OF = {
    "h800-sxm": "h800-ib",
    "h100-sxm": "h100-ib",
    "h200-sxm": "h200-ib",
    "b200-sxm": "b200-ib",
    "gb200-nvl72": "gb200-nvl72",
}
LEGACY = "https://github.com/deepseek-ai/DeepEP/blob/main/docs/legacy.md"
BLOG18 = "TensorRT-LLM tech_blog/blog18_Optimizing_MoE_Communication_with_One_Sided_AlltoAll_Over_NVLink.md"
NCCL_OPS = {
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_reduce": "all_reduce",
    "alltoall": "all_to_all",
}
NCCL_TRAFFIC: dict[str, Callable[[float, float, float], Traffic]] = {
    "all_gather": wire.all_gather,
    "reduce_scatter": wire.reduce_scatter,
    "all_reduce": wire.all_reduce,
    "alltoall": wire.all_to_all,
}
DEEPEP_NORMAL_SMS = 24
"""What DeepEP's own tests give the normal kernels (tests/legacy/test_internode.py); sglang's rows have 20 and
24."""
HYBRID_EP = "https://github.com/deepseek-ai/DeepEP/blob/hybrid-ep/docs/README_Hybrid-EP.md"
HYBRID_EP_SMS, HYBRID_EP_LEAST = 32, 16
"""SMs that Megatron-Bridge's recipes give HybridEP (``moe_hybridep_num_sms``), and from how many on its rows no longer
depend on them."""
UNTUNED_RANKS = 64
"""DeepEP normal on 8 nodes of H100 in aiconfigurator: three times slower than DeepSeek's own figure,
combine's notify alone 8 ms. Read as untuned and left out."""


@dataclass(frozen=True, slots=True)
class CollectiveSample:
    """One measured collective and its bytes on the wire."""

    backend: str
    kernel: str
    cluster: Cluster
    traffic: Traffic
    ranks: int
    seconds: float
    label: str


OF_TESTS: dict[str, Callable[[], Cluster]] = {
    "MI300X": lambda: catalogue_cluster("mi300x"),
    "MI355X": lambda: catalogue_cluster("mi355x"),
    "H100-SXM": lambda: catalogue_cluster("h100-ib"),
    "H20-SXM": lambda: catalogue_cluster("h20-roce"),
    "H100-A3MEGA": lambda: catalogue_cluster("h100-ib").model_copy(
        update={"network": Network(gb_per_s_per_gpu=A3MEGA_GB_PER_S)}
    ),
}
"""GPU in ``measured_all_reduce.csv`` -> the cluster on which it was timed."""
A3MEGA_GB_PER_S = 25.0
"""Eight 200 Gbit/s NICs for eight GPUs (https://cloud.google.com/compute/docs/gpus/gpu-network-bandwidth)."""


def low_latency_samples() -> list[CollectiveSample]:
    """DeepEP low-latency: DeepSeek's on H800, sglang's through aiconfigurator on H100, H200, B200 and GB200.

    aiconfigurator lists H100's multi-node rows a second time under H200; those (hidden 7168) are left out.
    """
    samples = []
    for row in rows_of("DeepEP V1 low-latency"):
        if row["gpu"] == "h200_sxm" and row["hidden"] == "7168":
            continue
        cluster = cluster_of(row["gpu"])
        tokens, hidden, ranks, top_k = _shape(row)
        message = (
            wire.low_latency_dispatch_bytes(hidden, row["dtype"])
            if row["op"] == "dispatch"
            else wire.low_latency_combine_bytes(hidden, row["dtype"])
        )
        traffic = wire.deepep_low_latency(tokens, top_k, message, ranks, cluster.node.link_domain_gpus)
        samples.append(_sample("deepep-low-latency", row, cluster, traffic, float(row["latency_us"]) * US))
    return samples


def normal_samples() -> list[CollectiveSample]:
    """DeepEP normal: DeepSeek's on H800 (bandwidths), sglang's on H100 (latency), B200 with 24 SMs.

    H200's rows repeat H100's; EP64 on H100 is left out (untuned).
    """
    samples = []
    for row in rows_of("DeepEP V1 normal"):
        ranks = int(row["ep_or_ranks"])
        if row["gpu"] == "h200_sxm" or (row["gpu"] == "h100_sxm" and ranks == UNTUNED_RANKS):
            continue
        if row["gpu"] == "B200" and row["sms"] != str(DEEPEP_NORMAL_SMS):
            continue
        cluster = cluster_of(row["gpu"])
        tokens, hidden, _, _ = _shape(row)
        reached = _reached(row, cluster.node.num_gpus)
        message = wire.payload_bytes(hidden, row["dtype"])
        traffic = wire.deepep_normal(tokens, message, reached, ranks, cluster.node.num_gpus)
        samples.append(
            _sample("deepep-normal", row, cluster, traffic, _normal_seconds(row, reached, message))
        )
    return samples


def hybrid_samples() -> list[CollectiveSample]:
    """HybridEP, kernels alone: H100 over 2 to 8 nodes, GB200 inside a rack. Its bandwidths count what DeepEP's do, all
    distinct ranks (NVLink) or nodes (InfiniBand), the token's own among them.
    """
    samples = []
    for row in rows_of("HybridEP"):
        if int(row["sms"]) < HYBRID_EP_LEAST or "kernel-only" not in row["bw_kind"]:
            continue
        cluster = cluster_of(row["gpu"])
        tokens, hidden, ranks, _ = _shape(row)
        domain = cluster.node.link_domain_gpus
        reached, message = _reached(row, domain), wire.payload_bytes(hidden, row["dtype"])
        traffic = wire.deepep_normal(tokens, message, reached, ranks, domain)
        copies = reached.nodes if row["bw_kind"].startswith("IB") else reached.ranks
        seconds = tokens * copies * message / (float(row["bandwidth_GBps"]) * GB)
        samples.append(_sample("hybrid-ep", row, cluster, traffic, seconds))
    return samples


def nccl_samples() -> list[CollectiveSample]:
    """NCCL 2.29.2 inside one node; sizes are bytes of the whole buffer (the quoted busbw agrees)."""
    samples = []
    for row in rows_of("NCCL"):
        name, size, _ = row["op"].split()
        cluster, ranks = cluster_of(row["gpu"]), int(row["ep_or_ranks"])
        traffic = NCCL_TRAFFIC[name](float(size), ranks, cluster.node.link_domain_gpus)
        samples.append(
            CollectiveSample(
                "nccl",
                NCCL_OPS[name],
                cluster,
                traffic,
                ranks,
                float(row["latency_us"]) * US,
                f"{row['gpu']} {ranks} ranks {size} B",
            )
        )
    return samples


def all_reduce_samples(gpu: str) -> list[CollectiveSample]:
    """All-reduces of NCCL and RCCL over one node and several, by their owners' tests (``measured_all_reduce.csv``),
    on one GPU.
    """
    samples = []
    for row in read_rows("measured_all_reduce.csv"):
        cluster = OF_TESTS[row["gpu"]]()
        if cluster.gpu.name != gpu:
            continue
        size, ranks = float(row["op"].split()[1]), int(row["ep_or_ranks"])
        traffic = wire.all_reduce(size, ranks, cluster.node.link_domain_gpus)
        label = f"{row['gpu']} {ranks} ranks {size:g} B"
        samples.append(
            CollectiveSample(
                "nccl", "all_reduce", cluster, traffic, ranks, float(row["latency_us"]) * US, label
            )
        )
    return samples


def one_sided_samples() -> list[CollectiveSample]:
    """TensorRT-LLM's one-sided all-to-all over NVL72, EP8 to EP64; one of the rows is listed twice."""
    samples, seen = [], set()
    scale_bytes = {"mxfp8": 1.0 + 1.0 / 32.0, "nvfp4": 0.5 + 1.0 / 16.0}
    for row in rows_of("TRT-LLM NVLinkOneSided"):
        key = tuple(row.values())
        if key in seen:
            continue
        seen.add(key)
        cluster = cluster_of(row["gpu"])
        tokens, hidden, _, _ = _shape(row)
        message = hidden * scale_bytes.get(row["dtype"], 2.0)
        traffic = wire.one_sided_all_to_all(tokens, message, _reached(row, cluster.node.link_domain_gpus))
        samples.append(_sample("trtllm-one-sided", row, cluster, traffic, float(row["latency_us"]) * US))
    return samples


def cluster_of(gpu: str) -> Cluster:
    """The catalogue cluster on which a measured table's GPU sits."""
    return catalogue_cluster(CLUSTER_OF[GPU_NAMES[gpu]])


def catalogue_cluster(name: str) -> Cluster:
    """A cluster of the catalogue."""
    entry = catalogue.entry("clusters", name)
    return Cluster(
        name=name,
        gpu=catalogue.gpu(entry["gpu"]),
        node=Node(**entry["node"]),
        network=Network(**entry["network"]),
    )


def rows_of(library: str) -> list[dict[str, str]]:
    """Rows of measured_collectives.csv whose library begins so, on GPUs of the catalogue."""
    return [
        row
        for row in read_rows("measured_collectives.csv")
        if row["library"].startswith(library) and row["gpu"] in GPU_NAMES
    ]


def _shape(row: dict[str, str]) -> tuple[int, int, int, int]:
    names = ("tokens_per_rank", "hidden", "ep_or_ranks", "topk")
    tokens, hidden, ranks, top_k = (int(row[name]) for name in names)
    return tokens, hidden, ranks, top_k


def _reached(row: dict[str, str], domain: int) -> Destinations:
    """Distinct destinations in the row's benchmark: top-k of all experts, or from four nodes."""
    ranks, experts, top_k = int(row["ep_or_ranks"]), int(row["experts"]), int(row["topk"])
    nodes = max(1, ranks // domain)
    if nodes > 4 and "top-4" in row["bw_kind"]:
        distinct_ranks, distinct_nodes = benchmark_destinations(experts, ranks, nodes, top_k)
    else:
        distinct_ranks, distinct_nodes = (expected_distinct(experts, p, top_k) for p in (ranks, nodes))
    return Destinations(
        distinct_ranks, distinct_ranks * (1 - 1 / ranks), distinct_nodes, distinct_nodes * (1 - 1 / nodes)
    )


@cache
def benchmark_destinations(experts: int, ranks: int, nodes: int, top_k: int) -> tuple[float, float]:
    """Distinct ranks and nodes per token in DeepEP's benchmark of normal kernels, by drawing 20,000 tokens.

    Random scores; the four nodes with the best expert, then the best experts on them
    (tests/legacy/test_internode.py). Standard error below 0.1 %.
    """
    rng = np.random.default_rng(0)
    scores = rng.random((20_000, nodes, experts // nodes))
    fourth = np.sort(scores.max(axis=2), axis=1)[:, -4]
    open_scores = np.where(scores.max(axis=2)[..., None] >= fourth[:, None, None], scores, -1.0)
    chosen = np.argsort(open_scores.reshape(len(scores), experts), axis=1)[:, -top_k:]
    counts = []
    for places in (ranks, nodes):
        place = np.sort(chosen // (experts // places), axis=1)
        counts.append(float(np.mean(1 + np.count_nonzero(np.diff(place, axis=1), axis=1))))
    return counts[0], counts[1]


def _normal_seconds(row: dict[str, str], reached: Destinations, message: float) -> float:
    """Measured time, s; a quoted bandwidth counts all distinct ranks (NVLink) or nodes (RDMA)."""
    if row["latency_us"]:
        return float(row["latency_us"]) * US
    copies = reached.nodes if row["bw_kind"].startswith("RDMA") else reached.ranks
    return int(row["tokens_per_rank"]) * copies * message / (float(row["bandwidth_GBps"]) * GB)


def _sample(
    backend: str, row: dict[str, str], cluster: Cluster, traffic: Traffic, seconds: float
) -> CollectiveSample:
    label = (
        f"{row['gpu']} EP{row['ep_or_ranks']} {row['tokens_per_rank']} tokens h{row['hidden']} {row['dtype']}"
    )
    label += f" {row['sms']} SMs" if row["sms"] else ""
    return CollectiveSample(backend, row["op"], cluster, traffic, int(row["ep_or_ranks"]), seconds, label)


def samples() -> list[CollectiveSample]:
    """Every measured collective that some row is fitted on."""
    return [*low_latency_samples(), *normal_samples(), *nccl_samples(), *one_sided_samples()]
