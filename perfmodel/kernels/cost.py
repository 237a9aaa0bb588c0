"""How long one op takes alone, and what it uses meanwhile."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.kernels import achievable
from perfmodel.kernels.communication import collective_seconds, lookup_collective
from perfmodel.numeric import Num, maximum
from perfmodel.ops.build import MEMORY_BOUND
from perfmodel.ops.communication import Traffic
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.hardware import Cluster
from perfmodel.units import GB

REPORT_NETWORK_BYTES_PER_S = 40 * GB
"""What the report's Table 7 assumes of DeepEP on H800: dispatch and combine at 40 GB/s (facts: derived exactly)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of an op that runs alone: latency + the longest of its parts (roofline).

    Parts may be arrays. The parts are kept because ops that run together share what they use.
    """

    latency_s: Num = 0.0
    """Fixed cost: launch, tail, or a message's first byte."""
    compute_s: Num = 0.0
    """FLOPs over what the kernel achieves of the peak."""
    memory_s: Num = 0.0
    """HBM bytes over what the kernel achieves of the bandwidth."""
    link_s: Num = 0.0
    """Link bytes over achieved link bandwidth."""
    network_s: Num = 0.0
    """Network bytes over achieved network bandwidth."""
    held_sms: float = 0.0
    """Share of the streaming multiprocessors that a communication kernel holds while it runs."""
    log_std: float = 0.0
    """Spread: standard deviation of the log residual of the fit that the fractions come from."""
    source: str = ""
    """measured:..., fitted:..., roofline, derived:... or given."""
    flag: str = ""
    """Why the figure should be trusted less: outside the measured domain, derived, unmeasured. Empty: nothing."""

    @property
    def seconds(self) -> Num:
        """Time alone, s."""
        return self.latency_s + maximum(self.compute_s, self.memory_s, self.link_s, self.network_s)

    @property
    def bound(self) -> str:
        """What limits the op: compute, memory, network (either link) or latency. Arrays: of the first element."""
        parts = {
            "latency": self.latency_s,
            "compute": self.compute_s,
            "memory": self.memory_s,
            "network": maximum(self.link_s, self.network_s),
        }
        return max(parts, key=lambda name: float(np.ravel(parts[name])[0]))

    def scaled(self, factor: Num, *, source: str | None = None) -> "Timing":
        """The same op ``factor`` times as slow."""
        return replace(
            self,
            latency_s=self.latency_s * factor,
            compute_s=self.compute_s * factor,
            memory_s=self.memory_s * factor,
            link_s=self.link_s * factor,
            network_s=self.network_s * factor,
            source=self.source if source is None else source,
        )

    def selected(self, indices: Any) -> "Timing":
        """The same op for some of the scenarios that its arrays hold."""

        def own(part: Num) -> Num:
            return part[indices] if isinstance(part, np.ndarray) and part.ndim else part  # type: ignore[unreachable]

        return replace(
            self,
            latency_s=own(self.latency_s),
            compute_s=own(self.compute_s),
            memory_s=own(self.memory_s),
            link_s=own(self.link_s),
            network_s=own(self.network_s),
        )


def cost(op: Op, cluster: Cluster, costs: str = "roofline") -> Timing:
    """The time of ``op`` alone on one GPU of ``cluster``.

    ``costs`` is ``roofline`` (achievable fractions fitted on named timings) or ``report`` (as the report's Table 7
    counts: fractions of 1, no latency, 40 GB/s for dispatch and combine, no memory traffic).
    """
    if op.op_class == OpClass.HOST:
        return Timing(latency_s=op.shape["seconds"], source="given")
    if costs == "report":
        return _report_cost(op, cluster)
    if op.is_communication:
        return _communication_cost(op, cluster)
    kernel = "elementwise" if op.kernel in MEMORY_BOUND else op.kernel
    row = achievable.lookup(kernel, op.dtype, cluster.gpu.architecture)
    return Timing(
        latency_s=row.latency_s,
        compute_s=op.flops / (row.compute_fraction * cluster.gpu.peak_flops(op.dtype)),
        memory_s=op.hbm_bytes / (row.memory_fraction * cluster.gpu.hbm_bytes_per_s),
        log_std=row.log_std,
        source=row.source,
        flag=row.flag,
    )


SAME_RAIL = ("deepep-normal", "nccl", "nvls")
"""Backends whose network bytes go between equal-numbered GPUs of different domains."""


def _communication_cost(op: Op, cluster: Cluster) -> Timing:
    """Time of a collective alone; it also reads and writes device memory, which counts when others want it too."""
    row = lookup_collective(op.backend, op.kernel, cluster.gpu.architecture)
    time = collective_seconds(
        Traffic(op.link_bytes, op.network_bytes),
        row,
        cluster,
        ranks=op.shape["ranks"],
        same_rail=op.backend in SAME_RAIL,
    )
    return Timing(
        latency_s=time.alpha_s,
        memory_s=op.hbm_bytes / cluster.gpu.hbm_bytes_per_s,
        link_s=time.link_s,
        network_s=time.network_s,
        held_sms=row.sms_held / cluster.gpu.num_sms,
        log_std=row.log_std,
        source=row.source,
        flag=time.flag,
    )


def _report_cost(op: Op, cluster: Cluster) -> Timing:
    """Time as the report's Table 7 counts: FLOPs over peaks, bytes over bandwidths, no memory traffic."""
    return Timing(
        compute_s=op.flops / cluster.gpu.peak_flops(op.dtype),
        link_s=op.link_bytes / cluster.link_bytes_per_s,
        network_s=op.network_bytes / REPORT_NETWORK_BYTES_PER_S,
        source="derived: Table 7's assumptions",
    )
