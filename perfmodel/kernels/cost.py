"""How long one op takes alone, and what it uses meanwhile."""

from collections.abc import Callable, Hashable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

import numpy as np

from perfmodel.kernels import achievable
from perfmodel.kernels.calibration import INSIDE, Calibration
from perfmodel.kernels.communication import (
    SAME_RAIL,
    collective_seconds,
    lookup_collective,
    spread,
    with_stated,
)
from perfmodel.kernels.timing import Timing, spread_key
from perfmodel.ops.build import FUSED_REDUCE, MEMORY_BOUND
from perfmodel.ops.communication import Traffic
from perfmodel.ops.op import Op
from perfmodel.spec.hardware import Cluster
from perfmodel.units import GB

REPORT_NETWORK_BYTES_PER_S = 40 * GB
"""What the report's Table 7 assumes of DeepEP on H800: dispatch and combine at 40 GB/s (facts: derived exactly)."""


ALIKE = {"lora_shrink": "grouped_gemm", "lora_expand": "grouped_gemm"}
"""Kernels that nobody timed -> the class whose fractions of peak and bandwidth stand in for theirs."""


MOST_KEPT = 4096
"""Times of ops that are kept for one cluster and calibration, 4 MB where parts are arrays of 16."""
MOST_CLUSTERS = 8
LONGEST_KEPT = 256
"""Scenarios of an op whose time is kept: a longer array is compared and held for as long as it is costed."""


def costing(
    cluster: Cluster, costs: str = "roofline", calibration: Calibration | None = None
) -> Callable[[Op], Timing]:
    """:func:`cost` on a cluster. Times are kept by what ops say: the ops of a step are the same twice where a busier
    rank is asked about, and most are those of the step before where one number of a scenario has changed.
    """

    def anew(op: Op) -> Timing:
        return cost(op, cluster, costs, calibration)

    try:
        kept = _kept_for(cluster, costs, calibration)
    except TypeError:  # a cluster whose numbers are arrays
        return anew

    def known(op: Op) -> Timing:
        if any(_is_long(value) for value in (op.flops, op.hbm_bytes, *op.shape.values())):
            return anew(op)
        key = _key(op)
        timing = kept.get(key)
        if timing is None:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            kept[key] = timing = anew(op)
        return timing

    return known


def _is_long(value: Any) -> bool:
    return not isinstance(value, (float, int)) and np.size(value) > LONGEST_KEPT


_kept: dict[tuple[Cluster, str, int], tuple[Calibration | None, dict[Hashable, Timing]]] = {}
"""With the calibration, whose identity is in the key."""


def _kept_for(cluster: Cluster, costs: str, calibration: Calibration | None) -> dict[Hashable, Timing]:
    key = cluster, costs, id(calibration)
    known = _kept.get(key)
    if known is None:
        if len(_kept) >= MOST_CLUSTERS:
            _kept.clear()
        known = _kept[key] = calibration, {}
    return known[1]


_names = [field.name for field in fields(Op)]
_fields, SHAPE = attrgetter(*_names), _names.index("shape")


def _key(op: Op) -> Hashable:
    """All that an op says."""
    said = [*_fields(op), *op.shape.items()]
    said[SHAPE] = None
    return tuple(_hashable(value) for value in said)


def _hashable(value: Any) -> Hashable:
    """A value of an op, or a pair of a name and a number; of an array its numbers."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[0], _hashable(value[1])
    found: Hashable = value
    return found


def cost(op: Op, cluster: Cluster, costs: str = "roofline", calibration: Calibration | None = None) -> Timing:
    """The time of ``op`` alone on one GPU of ``cluster``.

    A calibration costs every op that it covers. For the rest ``costs`` is ``roofline`` (achievable fractions fitted on
    named timings) or ``report`` (as the report's Table 7 counts: fractions of 1, no latency, 40 GB/s for dispatch and
    combine, no memory traffic; no calibration is asked then).
    """
    if costs == "report":
        return _report_cost(op, cluster)
    if op.inside == FUSED_REDUCE:
        return Timing(source=f"{INSIDE}: the all-reduce", calibrated=calibration is not None)
    fitted = calibration.cost(op, cluster) if calibration else None
    if fitted is not None:
        return fitted
    if op.is_communication:
        return _communication_cost(op, cluster)
    kernel = "elementwise" if op.kernel in MEMORY_BOUND - achievable.TIMED else op.kernel
    row = achievable.lookup(ALIKE.get(kernel, kernel), op.dtype, cluster.gpu.architecture)
    if kernel in ALIKE:
        flag = f"{kernel}: no timings; uses the fractions of {row.kernel}"
        row = replace(row, flag="; ".join(filter(None, (flag, row.flag))))
    return Timing(
        latency_s=row.latency_s,
        compute_s=op.flops / (row.compute_fraction * cluster.gpu.peak_flops(op.dtype)),
        memory_s=op.hbm_bytes / (row.memory_fraction * cluster.gpu.hbm_bytes_per_s),
        log_std=row.log_std,
        source=row.source,
        flag=row.flag,
        spread_key=_spread_key(op, row.architecture, cluster),
    )


def _communication_cost(op: Op, cluster: Cluster) -> Timing:
    """Time of a collective alone; it also reads and writes device memory, which counts when others want it too."""
    row = with_stated(lookup_collective(op.backend, op.kernel, cluster.gpu.architecture), cluster)
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
        log_std=spread(row, op.shape["ranks"], crosses=bool(np.any(np.asarray(op.network_bytes) > 0.0))),
        source=row.source,
        flag=time.flag,
        spread_key=_spread_key(op, row.architecture, cluster),
    )


def _spread_key(op: Op, architecture: str, cluster: Cluster) -> str:
    """How the op errs together with others; empty where a row of another architecture stands in: then nobody knows."""
    known = architecture == cluster.gpu.architecture
    return spread_key(op, "roofline", op.dtype, op.backend) if known else ""


def _report_cost(op: Op, cluster: Cluster) -> Timing:
    """Time as the report's Table 7 counts: FLOPs over peaks, bytes over bandwidths, no memory traffic."""
    return Timing(
        compute_s=op.flops / cluster.gpu.peak_flops(op.dtype),
        link_s=op.link_bytes / cluster.link_bytes_per_s,
        network_s=op.network_bytes / REPORT_NETWORK_BYTES_PER_S,
        source="derived: Table 7's assumptions",
    )
