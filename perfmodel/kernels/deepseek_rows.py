"""FP8 products as DeepSeek-V3's own training kernels of 2024 ran them, by their authors' figures.

The names in the published trace of a training step are those of an implementation on CUTLASS, which DeepGEMM replaced
in 2025. Its first README (H800) prints rates with the speedup over that implementation, its pull request 95 rates of
weight gradients with "about 20 %" (``data/kernels/training_deepseek.csv``); rate over speedup is what ran. Speedups are
rounded to a tenth, which is the spread. Sizes between those in the tables take the rate of the nearest, as in
:mod:`perfmodel.kernels.training_rows`; input gradients are products of their own shapes, among the forwards.
"""

import math
from functools import cache

from perfmodel.kernels.achievable import read_rows
from perfmodel.kernels.timing import Timing, spread_key
from perfmodel.kernels.training_rows import Point, Rate, nearest
from perfmodel.ops.backward import Kernel
from perfmodel.spec.hardware import Gpu
from perfmodel.units import TERA

FILE, SOURCE = (
    "training_deepseek.csv",
    "measured: https://github.com/deepseek-ai/DeepGEMM, README of 2025-02-25 and PR 95",
)
LOG_STD, NEAR_LOG_STD = 0.05, 0.12
"""Spread of a rate whose speedup is rounded to a tenth, and of one between sizes."""


ROUTER_KERNELS = {"forward": 37, "input": 26}
"""Kernels that the trace has between the router's logits and the dispatch (sigmoid, bias, choice of groups and of
experts, counts, balance loss, weights), and back: one or two FP32 scores per expert read and written by each."""


def router_kernels(kernel: Kernel) -> int:
    """How many kernels like it an op is: the choice of experts is PyTorch's one by one, nothing fused."""
    return ROUTER_KERNELS.get(kernel.way, 1) if kernel.base.kernel == "select" else 1


def own_product(kernel: Kernel, gpu: Gpu) -> Timing | None:
    """Time alone of an FP8 product of a training step by DeepSeek's own kernels; None for everything else, and on
    other GPUs than Hopper's.
    """
    base = kernel.base
    if gpu.architecture != "hopper" or base.dtype != "fp8" or base.kernel not in ("gemm", "grouped_gemm"):
        return None
    rate = _rate(kernel)
    seconds = base.flops / rate.flops_per_s
    return Timing(
        compute_s=seconds,
        memory_s=min(kernel.op.hbm_bytes / gpu.hbm_bytes_per_s, seconds),
        log_std=LOG_STD if rate.exact else NEAR_LOG_STD,
        source=f"{SOURCE}, over the speedups that they state",
        spread_key=spread_key(kernel.op, "deepseek-2024", kernel.way),
        calibrated=True,
    )


def _rate(kernel: Kernel) -> Rate:
    shape, way = kernel.base.shape, "weight" if kernel.way == "weight" else "forward"
    if kernel.base.kernel == "gemm":
        return _among("gemm", way, (float(shape["m"]), float(shape["n"]), float(shape["k"])))
    rows, n, k = float(shape["rows_per_group"]), float(shape["n"]), float(shape["k"])
    sizes = {"forward": (rows, n, k), "input": (rows, k, n), "weight": (n, k, rows)}[kernel.way]
    return _among("grouped_gemm", way, sizes)


def _among(kernel: str, way: str, sizes: tuple[float, float, float]) -> Rate:
    """A weight gradient [m, n] is as fast as one [n, m]."""
    if way == "weight":
        sizes = (*sorted(sizes[:2]), sizes[2])  # type: ignore[assignment]
    return nearest(_table()[kernel, way], tuple(math.log(max(size, 1.0)) for size in sizes))


@cache
def _table() -> dict[tuple[str, str], list[Point]]:
    found: dict[tuple[str, str], list[Point]] = {}
    for row in read_rows(FILE):
        sizes = [float(row[name]) for name in ("m", "n", "k")]
        if row["way"] == "weight":
            sizes[:2] = sorted(sizes[:2])
        rate = float(row["tflops"]) / float(row["speedup"]) * TERA
        point = (tuple(math.log(size) for size in sizes), rate)
        found.setdefault((row["kernel"], row["way"]), []).append(point)
    return found
