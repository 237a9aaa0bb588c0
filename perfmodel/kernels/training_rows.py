"""Kernels of training steps as they were timed by stage: forward, input gradient, weight gradient with accumulation
in FP32.

SimuMax's tables (``data/kernels/training_kernels.csv``, Apache-2.0) hold BF16 products, grouped products and
attention of B200 and of A100-PCIe, in the layouts that a training step runs them in: TN, NN and NT. A shape that was
timed takes its time; another one the rate of the nearest shapes, weighted by their distance in the logarithms of its
sizes, and half as far again in spread.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np

from perfmodel.kernels.achievable import read_rows
from perfmodel.kernels.communication import lookup_collective
from perfmodel.kernels.timing import Timing, spread_key
from perfmodel.ops.backward import CORES, Kernel
from perfmodel.ops.build import MEMORY_BOUND
from perfmodel.ops.op import Op
from perfmodel.spec.hardware import Gpu
from perfmodel.units import GIB, TERA, US

FILE, BANDWIDTHS = "training_kernels.csv", "training_bandwidth.csv"
COLLECTIVES, STEPS = "training_collectives.csv", "training_steps.csv"
SOURCE = "measured: https://github.com/MooreThreads/SimuMax v1.2, configs/system"
DEVICES = {"b200-sxm": "B200-SXM", "a100-sxm": "A100-PCIe"}
"""GPU of the catalogue -> device that was timed."""
FLAGS = {"a100-sxm": "training kernels timed on an A100-PCIe of 250 to 300 W"}
LAYOUTS = {"TN": "forward", "NN": "input", "NT": "weight"}
STAGES = {"fwd": "forward", "bwd_grad_act": "input", "bwd_grad_w": "weight"}
NEAREST = 3
EXACT_LOG_STD, NEAR_LOG_STD = 0.03, 0.1
"""Spread of a timed shape from run to run, and of one between timed ones."""
NEAR = math.log(1.02)
"""Sizes closer than this are the same."""

Point = tuple[tuple[float, ...], float]
"""(logarithms of sizes, rate in FLOP/s)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What is known of a shape."""

    flops_per_s: float
    exact: bool


def timed(kernel: Kernel, gpu: Gpu) -> Timing | None:
    """Time alone of an op of a training step on a GPU whose training kernels were timed; None elsewhere and for other
    kernels.
    """
    device = DEVICES.get(gpu.name)
    if device is None:
        return None
    if kernel.base.is_communication:
        return _collective(kernel, device, gpu)
    alone = _alone(kernel, device, gpu)
    if (
        alone is None or kernel.base.kernel in CORES
    ):  # attention over long sequences is timed as hot as it runs
        return alone
    return alone.scaled(in_step(device))


def _alone(kernel: Kernel, device: str, gpu: Gpu) -> Timing | None:
    if kernel.base.kernel in MEMORY_BOUND:
        return _moved(kernel, device, gpu)
    if kernel.base.dtype != "bf16":
        return None
    asked = _asked(kernel)
    if asked is None:
        return None
    key, sizes, flops = asked
    rate = _rate(device, key, tuple(math.log(max(size, 1.0)) for size in sizes))
    if rate is None:
        return None
    seconds = flops / rate.flops_per_s
    memory = min(kernel.op.hbm_bytes / gpu.hbm_bytes_per_s, seconds)
    return Timing(
        compute_s=seconds,
        memory_s=memory,
        log_std=EXACT_LOG_STD if rate.exact else NEAR_LOG_STD,
        source=SOURCE if rate.exact else f"{SOURCE}, between timed shapes",
        spread_key=spread_key(kernel.op, "training", kernel.way),
        calibrated=True,
        flag=FLAGS.get(gpu.name, ""),
    )


def _moved(kernel: Kernel, device: str, gpu: Gpu) -> Timing:
    """A memory-bound kernel at its class's share of the bandwidth; the share of its own device's, where that is
    wider.
    """
    rows = _bandwidths(device)
    fraction, latency = rows.get(kernel.base.kernel, rows["default"])
    return Timing(
        latency_s=latency,
        memory_s=kernel.base.hbm_bytes / (fraction * gpu.hbm_bytes_per_s),
        log_std=NEAR_LOG_STD,
        source=SOURCE,
        spread_key=spread_key(kernel.op, "training"),
        calibrated=True,
        flag=FLAGS.get(gpu.name, ""),
    )


@cache
def in_step(device: str) -> float:
    """How many times their time alone a device's kernels take inside a step: one constant per framework and device, on
    ``fit`` rows (``data/kernels/training_steps.csv``, :mod:`calibrate.tables.training_steps`); 1 where none was fitted.
    """
    return next((float(row["factor"]) for row in read_rows(STEPS) if row["device"] == device), 1.0)


def _collective(kernel: Kernel, device: str, gpu: Gpu) -> Timing | None:
    """NCCL inside one node as it was timed from a framework: bytes of a ring at a share of the link, a latency per hop
    and a fixed one (launches outside of graphs: a multiple of what a graph's replay takes). None between nodes, for
    other libraries, and for numbers of ranks that have no fixed time.
    """
    op = kernel.base
    ranks = int(op.shape.get("ranks", 0))
    row = _collectives(device).get((op.kernel, ranks)) or _collectives(device).get((op.kernel, 0))
    if op.backend != "nccl" or np.any(op.network_bytes) or row is None or ranks < 2:
        return None
    fraction, bytes_per_s, hop_s, fixed_s = row
    held = lookup_collective("nccl", op.kernel, gpu.architecture).sms_held / gpu.num_sms
    return Timing(
        latency_s=fixed_s + hop_s * (ranks - 1),
        memory_s=op.hbm_bytes / gpu.hbm_bytes_per_s,
        link_s=op.link_bytes / (fraction * bytes_per_s),
        held_sms=held,
        log_std=NEAR_LOG_STD,
        source=SOURCE,
        spread_key=spread_key(kernel.op, "training"),
        calibrated=True,
    )


@cache
def _collectives(device: str) -> dict[tuple[str, int], tuple[float, float, float, float]]:
    """(kernel, ranks; 0: any number) -> (share of the link, its bytes per s, s per hop, fixed s)."""
    return {
        (row["kernel"], int(row["ranks"] or 0)): (
            float(row["fraction"]),
            float(row["gib_per_s"]) * GIB,
            float(row["hop_us"]) * US,
            float(row["fixed_us"]) * US,
        )
        for row in read_rows(COLLECTIVES)
        if row["device"] == device
    }


@cache
def _bandwidths(device: str) -> dict[str, tuple[float, float]]:
    """Kernel class -> (share of the bandwidth, fixed time in s)."""
    return {
        row["kernel"]: (float(row["fraction"]), float(row["latency_us"]) * US)
        for row in read_rows(BANDWIDTHS)
        if row["device"] == device
    }


def _asked(kernel: Kernel) -> tuple[tuple[str, str], tuple[float, ...], float] | None:
    """((kernel class, way), sizes, FLOPs as the table counts them) of an op; attention's are those of the full mask."""
    base, shape = kernel.base, kernel.base.shape
    if base.kernel == "gemm":
        return ("gemm", kernel.way), (shape["m"], shape["k"], shape["n"]), base.flops
    if base.kernel == "grouped_gemm":
        return (
            ("grouped_gemm", kernel.way),
            (shape["groups"], shape["rows_per_group"], shape["n"], shape["k"]),
            base.flops,
        )
    if base.kernel in CORES:
        full = 2.0 * base.flops * (1.0 if kernel.way == "forward" else 2.5)
        return ("attention", kernel.way), attention_sizes(base), full
    return None


def attention_sizes(op: Op) -> tuple[float, float, float, float]:
    """(tokens that a causal mask over as many would have, heads, width of keys, of values) of attention's core."""
    shape = op.shape
    if op.kernel == "mla_prefill":
        wide, value = shape["nope"] + shape["rope"], shape["value"]
    else:
        wide = value = shape["head_dim"]
    per_request = op.flops / max(shape["requests"], 1e-9)
    return math.sqrt(per_request / (shape["heads"] * (wide + value))), shape["heads"], wide, value


def _rate(device: str, key: tuple[str, str], sizes: tuple[float, ...]) -> Rate | None:
    points = _table(device).get(key)
    return nearest(points, sizes) if points else None


def nearest(points: list[Point], sizes: tuple[float, ...]) -> Rate:
    """The rate at ``sizes`` (logarithms): that of rows of the same sizes, else a mean of the nearest in logarithms."""
    ranked = sorted((math.dist(sizes, at), rate) for at, rate in points)
    if ranked[0][0] < NEAR:
        same = [rate for distance, rate in ranked if distance < NEAR]
        return Rate(math.exp(sum(math.log(rate) for rate in same) / len(same)), exact=True)
    near = ranked[:NEAREST]
    weights = [1.0 / distance for distance, _ in near]
    mean = sum(weight * math.log(rate) for weight, (_, rate) in zip(weights, near, strict=True))
    return Rate(math.exp(mean / sum(weights)), exact=False)


@cache
def _table(device: str) -> dict[tuple[str, str], list[Point]]:
    """Rates by (kernel class, way); a weight gradient's are those that accumulate in FP32."""
    found: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for row in read_rows(FILE):
        if row["device"] != device:
            continue
        s = dict(part.split("=") for part in row["shape"].split(", "))
        rate = float(row["tflops"]) * TERA
        names: tuple[str, ...]
        if row["kernel"] == "matmul":
            if s["layout"] == "NT" and s["out_dtype"] != "fp32":
                continue
            key, names = ("gemm", LAYOUTS[s["layout"]]), ("m", "k", "n")
        elif row["kernel"] == "group_matmul":
            if s["dtype"] != "bf16":
                continue
            key, names = ("grouped_gemm", STAGES[s["stage"]]), ("ng", "M", "N", "K")
        else:
            key = ("attention", "forward" if row["kernel"] == "sdp_fwd" else "input")
            names = ("seq_len", "head_num", "qk_head_dim", "v_head_dim")
        found[key].append((tuple(math.log(float(s[name])) for name in names), rate))
    return dict(found)
