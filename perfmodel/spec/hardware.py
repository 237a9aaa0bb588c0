"""GPUs, nodes, networks and clusters. Field names carry the unit of the datasheet; properties are SI."""

from typing import ClassVar

from pydantic import Field, model_validator

from perfmodel.spec.base import Bytes, Count, Positive, Spec, Speed
from perfmodel.spec.formats import MULTIPLIES_AS
from perfmodel.units import GB, TERA


class Gpu(Spec):
    """One accelerator."""

    name: str
    """Catalogue name."""
    architecture: str
    """ampere, ada, hopper, blackwell, cdna3, cdna4 or cpu: selects the kernels' achievable fractions."""
    memory_bytes: Bytes
    """Device memory in bytes, as the device reports it."""
    hbm_gb_per_s: Speed
    """Peak memory bandwidth, GB/s (1e9)."""
    fp32_tflops: Speed | None = None
    """Peak dense FP32 throughput, TFLOP/s; None: not stated."""
    bf16_tflops: Speed | None = None
    """Peak dense BF16 tensor throughput, TFLOP/s; None: the device has none."""
    fp8_tflops: Speed | None = None
    """Peak dense FP8 tensor throughput; None: the device has none."""
    fp4_tflops: Speed | None = None
    """Peak dense FP4 tensor throughput; None: the device has none."""
    host_gb_per_s: Speed | None = None
    """Bandwidth to the host's memory in one direction, GB/s; None: not stated."""
    num_sms: Count
    """Streaming multiprocessors; of AMD's compute units."""
    tdp_w: Positive | None = None
    """Board power limit, W."""
    idle_w: Positive | None = None
    """Board power with a model loaded and nothing to do, W."""
    source: str = ""
    """Where the figures come from."""
    date: str = ""
    """When they were read there (ISO date)."""

    @property
    def kind(self) -> str:
        """What to call it: ``GPU`` or ``CPU``."""
        return "CPU" if self.architecture == "cpu" else "GPU"

    @model_validator(mode="after")
    def _some_peak(self) -> "Gpu":
        if self.bf16_tflops is None and self.fp32_tflops is None:
            msg = "bf16_tflops: missing; a device without BF16 must state fp32_tflops"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _idles_below_its_limit(self) -> "Gpu":
        if self.idle_w is not None and self.tdp_w is not None and self.idle_w > self.tdp_w:
            msg = f"idle_w = {self.idle_w:g} exceeds the board's limit, tdp_w = {self.tdp_w:g}"
            raise ValueError(msg)
        return self

    @property
    def hbm_bytes_per_s(self) -> float:
        """Peak memory bandwidth, bytes/s."""
        return self.hbm_gb_per_s * GB

    def peak_flops(self, dtype: str) -> float:
        """Peak dense throughput for a multiply in ``dtype``, FLOP/s.

        A type that the device lacks runs as the next wider one it has: the values are converted on load. FP32 on a
        device that states no FP32 peak is taken as BF16's (a bound that is never reached).
        """
        stated = {
            "fp4": self.fp4_tflops,
            "fp8": self.fp8_tflops,
            "bf16": self.bf16_tflops,
            "fp32": self.fp32_tflops,
        }
        if dtype == "mxfp4" and self.fp4_tflops is None:
            dtype = "bf16"  # its weights alone are in it: multiplied in BF16
        if dtype == "int8" and self.fp8_tflops is None and self.architecture == "ampere" and self.bf16_tflops:
            return 2.0 * self.bf16_tflops * TERA  # A100: 624 of 312 (NVIDIA's datasheet)
        dtype = MULTIPLIES_AS.get(dtype, dtype)
        order = list(stated)
        wider = [stated[name] for name in order[order.index(dtype if dtype in stated else "bf16") :]]
        peak = next((value for value in (*wider, self.bf16_tflops) if value is not None), None)
        assert peak is not None, "validated: bf16_tflops or fp32_tflops is given"
        return peak * TERA


class Node(Spec):
    """GPUs that share a host, and the link domain they belong to."""

    num_gpus: Count = 8
    """GPUs per node."""
    link_gb_per_s: Speed
    """Intra-node link (NVLink, xGMI to all others together) bandwidth per GPU in one direction, GB/s."""
    link_domain_gpus: Count = 8
    """GPUs that reach each other over the link: the node, or a rack (72 in an NVL72)."""

    @model_validator(mode="after")
    def _domain_holds_node(self) -> "Node":
        if self.link_domain_gpus % self.num_gpus:
            msg = (
                f"link_domain_gpus = {self.link_domain_gpus} must be a multiple of "
                f"num_gpus = {self.num_gpus} (a link domain is made of whole nodes)"
            )
            raise ValueError(msg)
        return self


class Network(Spec):
    """The network between link domains."""

    later: ClassVar[frozenset[str]] = frozenset({"caches_apart"})

    gb_per_s_per_gpu: Speed
    """Bandwidth per GPU in one direction, GB/s: a 400 Gbit/s NIC for each GPU is 50."""
    rail_optimized: bool = True
    """Whether equal-numbered GPUs of all nodes share a leaf switch, so that same-rail traffic skips the spine."""
    spine_oversubscription: Positive = Field(default=1.0, ge=1.0)
    """Leaf downlink over uplink bandwidth; 1: non-blocking."""
    all_reduce_us: Positive | None = Field(default=None, le=1e6, exclude_if=lambda value: value is None)
    """What a small all-reduce over two nodes takes, us, as ``all_reduce_perf`` (nccl-tests, rccl-tests) shows it
    for 8 KB; None: a sum of parts, of which tests on six clusters were 1.4 to 6.5 times."""
    caches_apart: bool = False
    """Whether KV caches on their way from prefill have adapters of their own. False: they share those of the steps' own
    traffic, and each takes longer for the other."""


class Cluster(Spec):
    """GPUs, how they are wired, and how many there are."""

    name: str = ""
    """Catalogue name."""
    gpu: Gpu
    """The accelerator."""
    node: Node
    """The node and its link."""
    network: Network
    """The network between link domains."""
    num_gpus: Count | None = None
    """GPUs that may be used; None: as many as the deployment asks for."""
    source: str = ""
    """Where the figures come from."""
    date: str = ""
    """When they were read there."""

    @property
    def link_bytes_per_s(self) -> float:
        """Link bandwidth per GPU in one direction, bytes/s."""
        return self.node.link_gb_per_s * GB

    def network_bytes_per_s(self, *, same_rail: bool = False) -> float:
        """Network bandwidth per GPU in one direction, bytes/s, after the spine's oversubscription.

        Traffic between equal-numbered GPUs stays below the spine of a rail-optimised network. Other traffic
        crosses it in the share (g - 1)/g of its bytes, g GPUs per node (destinations uniform over rails); on a
        network that is not rail-optimised everything crosses it.
        """
        net = self.network
        crossing = 1.0
        if net.rail_optimized:
            crossing = 0.0 if same_rail else 1.0 - 1.0 / self.node.num_gpus
        slow_down = 1.0 + crossing * (net.spine_oversubscription - 1.0)
        return net.gb_per_s_per_gpu * GB / slow_down
