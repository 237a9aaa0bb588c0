"""How long a gradient takes: as the product of its own shape, or as its forward, times what public timings say of the
kind.

Rows of ``data/kernels/gradients.csv`` were made by :mod:`calibrate.tables.gradients`.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

from perfmodel.kernels.achievable import REFERENCE_ARCHITECTURE, read_rows
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.cost import cost
from perfmodel.kernels.deepseek_rows import own_product, router_kernels
from perfmodel.kernels.sdpa_rows import own_attention
from perfmodel.kernels.timing import Timing
from perfmodel.kernels.training_rows import in_step, timed
from perfmodel.ops.backward import NARROW, Kernel
from perfmodel.spec.hardware import Cluster


@dataclass(frozen=True, slots=True)
class GradientRow:
    """One kind of gradient on one architecture."""

    factor: float
    """Its time over the forward's (of a product: over that of the same shape in the forward's layout)."""
    log_std: float
    source: str
    flag: str


def kernel_cost(
    kernel: Kernel,
    cluster: Cluster,
    costs: str = "roofline",
    calibration: Calibration | None = None,
    own_fp8_kernels: bool = False,
    attention_kernels: str = "calibrated",
) -> Timing:
    """Time alone of one op of a training step: as timed by stage, on the user's own device or by others, else as the
    product or forward that it is like.

    Grouped products are never those of an inference engine's fused experts, which calibrations hold: training runs
    permutation, products and activation as kernels of their own. Nor is a collective between link domains what a
    calibration timed inside one: data parallelism moves gigabytes, and came out faster than the wire.
    """
    own = timed(kernel, cluster.gpu)
    if own is None and own_fp8_kernels:
        own = own_product(kernel, cluster.gpu)
    if own is not None:
        return own
    trains = calibration is not None and calibration.times_training
    timing = own_attention(kernel, cluster.gpu, attention_kernels) or _derived(
        kernel, cluster, costs, calibration, own_fp8_kernels
    )
    if costs != "roofline" or trains or own_fp8_kernels:
        return timing
    return _in_a_step(timing, kernel, cluster)


def _in_a_step(timing: Timing, kernel: Kernel, cluster: Cluster) -> Timing:
    """What a kernel that was timed alone takes inside a step, where one constant says so: of BF16 and of what moves
    bytes, as the rows are that it was fitted on; products of narrow formats and transfers are as they were timed.
    """
    base = kernel.base
    narrow = base.dtype in NARROW and base.kernel in PRODUCTS
    factor = 1.0 if narrow or base.is_communication else in_step(STEP_DEVICES.get(cluster.gpu.name, ""))
    return timing if factor == 1.0 else timing.scaled(factor)


PRODUCTS = ("gemm", "grouped_gemm", "bmm")
STEP_DEVICES = {"h100-sxm": "H100-SXM"}
"""GPU of the catalogue without timings of training's kernels -> its row of ``training_steps.csv``."""


def _derived(
    kernel: Kernel, cluster: Cluster, costs: str, calibration: Calibration | None, own_fp8_kernels: bool
) -> Timing:
    """Time alone of a kernel that nobody timed in training, or the user's own device did."""
    base = replace(kernel.base, inside=())
    trains = calibration is not None and calibration.times_training
    if calibration is not None and trains and calibration.find(kernel.timed_as, base.dtype):
        found = calibration.cost(replace(base, kernel=kernel.timed_as, backend=""), cluster)
        if (
            found is not None
        ):  # autograd's engine goes from kernel to kernel by itself: nothing lies between two
            between = 0.0 if kernel.way == "forward" else calibration.launch_s
            return replace(found, latency_s=found.latency_s - between)
    other = (base.kernel == "grouped_gemm" and not trains) or (
        base.is_communication and calibration is not None and not calibration.times_wire_of(base)
    )
    timing = cost(base, cluster, costs, None if other else calibration)
    if own_fp8_kernels and router_kernels(kernel) > 1:
        timing = timing.scaled(router_kernels(kernel))
    if "blocks" in base.shape:
        timing = of_blocks(timing, float(base.shape["blocks"]), cluster)
    row = lookup(kernel.base.kernel, kernel.way, cluster.gpu.architecture, kernel.base.dtype)
    if row is None:
        return timing
    return replace(
        timing.scaled(row.factor, source=f"{timing.source}; gradient: {row.source}"),
        log_std=math.hypot(timing.log_std, row.log_std),
        spread_key=f"{timing.spread_key} {kernel.way}" if timing.spread_key else "",
        flag="; ".join(filter(None, (timing.flag, row.flag))),
    )


def of_blocks(timing: Timing, blocks: float, cluster: Cluster) -> Timing:
    """A memory-bound kernel of fewer thread blocks than the GPU has SMs: it gets their share of the bandwidth and
    leaves the rest to others.
    """
    share = min(1.0, blocks / cluster.gpu.num_sms)
    return replace(timing, latency_s=timing.latency_s + timing.memory_s * (1.0 / share - 1.0))


@cache
def lookup(kernel: str, way: str, architecture: str, dtype: str = "") -> GradientRow | None:
    """The row of a gradient, of the number format where it has its own; Hopper's, flagged, where an architecture has
    none. None: what its own op takes.
    """
    rows = table()
    for place in (architecture, REFERENCE_ARCHITECTURE):
        row = rows.get((kernel, way, place, dtype.partition("-")[0])) or rows.get((kernel, way, place, ""))
        if row is None:
            continue
        if place == architecture:
            return row
        flag = f"{kernel} {way} gradient on {architecture}: no timings; {place}'s factor"
        return replace(row, flag="; ".join(filter(None, (flag, row.flag))))
    return None


@cache
def table() -> dict[tuple[str, str, str, str], GradientRow]:
    """All rows, by (kernel, way, architecture, number format: empty for those that have none of their own)."""
    return {
        (record["kernel"], record["way"], record["architecture"], record["dtype"]): GradientRow(
            float(record["factor"]), float(record["log_std"]), record["source"], record["flag"]
        )
        for record in read_rows("gradients.csv")
    }
