"""Attention's core as PyTorch's ``scaled_dot_product_attention`` runs it on Hopper: FlashAttention-2 or cuDNN, where
the calibrations hold FlashAttention-3's and serving engines' kernels.

Rates are the authors' labelled figures on H100-SXM5 (rows of ``data/kernels/training_attention.csv`` with causal mask):
FlashAttention-3's paper has both forwards, FlashAttention-2's README forward and backward together; with F forward
FLOPs, 3.5 F together,

    2.5 / backward = 3.5 / both - 1 / forward

cuDNN's backward is known without mask alone: times what the mask costs FlashAttention-2's at the same length. Between
lengths rates go in the logarithm of the length, beyond the first and the last they stay; other widths of heads than 64
and 128 take the nearer one's; other boards the same share of their BF16 peak.
"""

import math
from functools import cache

import numpy as np

from perfmodel.kernels.achievable import read_rows
from perfmodel.kernels.timing import Timing, spread_key
from perfmodel.kernels.training_rows import attention_sizes
from perfmodel.ops.backward import CORE_FLOPS, CORES, Kernel
from perfmodel.spec.hardware import Gpu
from perfmodel.units import TERA

FILE, DEVICE = "training_attention.csv", "H100-SXM5"
PEAK = 989.0 * TERA
"""BF16 peak of the board that was timed, FLOP/s."""
NAMES = {"flash-attention-2": "FlashAttention-2", "cudnn": "cuDNN"}
"""Values of ``training.attention_kernels`` -> names in the table."""
LOG_STD, DERIVED_LOG_STD = 0.05, 0.12
"""Spread of a rate read off a figure, and of cuDNN's backward with mask."""
SOURCES = {
    "flash-attention-2": "measured: https://arxiv.org/abs/2407.08608, https://github.com/Dao-AILab/flash-attention",
    "cudnn": "measured: https://arxiv.org/abs/2407.08608",
}

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""(logarithms of lengths, rates in FLOP/s)."""


def own_attention(kernel: Kernel, gpu: Gpu, attention_kernels: str) -> Timing | None:
    """Time alone of attention's core; None for other ops, other GPUs than Hopper's, and ``calibrated``."""
    name = NAMES.get(attention_kernels)
    if name is None or gpu.architecture != "hopper" or kernel.base.kernel not in CORES:
        return None
    sequence, _, wide, value = attention_sizes(kernel.base)
    way = "forward" if kernel.way == "forward" else "backward"
    rate = rate_of(name, way, (wide + value) / 2.0, sequence) * gpu.peak_flops("bf16") / PEAK
    seconds = kernel.op.flops / rate
    derived = name == "cuDNN" and way == "backward"
    return Timing(
        compute_s=seconds,
        memory_s=min(kernel.op.hbm_bytes / gpu.hbm_bytes_per_s, seconds),
        log_std=DERIVED_LOG_STD if derived else LOG_STD,
        source=SOURCES[attention_kernels],
        spread_key=spread_key(kernel.op, attention_kernels, kernel.way),
        calibrated=True,
        flag="cuDNN's backward of attention: timed without mask, and what FlashAttention-2's loses by it"
        if derived
        else "",
    )


def rate_of(name: str, way: str, head_dim: float, sequence: float) -> float:
    """FLOP/s on H100-SXM5 with causal mask, FLOPs as they are needed (half of the square; backward 2.5 times).

    Args:
        name: as the table calls it.
        way: forward or backward.
        head_dim: width of a head, mean of keys and values.
        sequence: tokens.
    """
    table = curves(name, way)
    at, rates = table[min(table, key=lambda width: abs(math.log(width / head_dim)))]
    return float(np.interp(math.log(sequence), at, rates))


@cache
def curves(name: str, way: str) -> dict[int, Curve]:
    """Curves of a library by width of a head."""
    if way == "forward":
        return _read(name, "attention causal forward")
    if name == "cuDNN":
        own, like = _read(name, "attention backward"), _read("FlashAttention-2", "attention backward")
        masked = curves("FlashAttention-2", "backward")
        return {
            width: (
                at,
                tuple(r * m / o for r, m, o in zip(rates, masked[width][1], like[width][1], strict=True)),
            )
            for width, (at, rates) in own.items()
        }
    forward, both = curves(name, "forward"), _read(name, "attention causal both")
    return {
        width: (
            at,
            tuple(
                CORE_FLOPS / ((1.0 + CORE_FLOPS) / together - 1.0 / alone)
                for together, alone in zip(rates, forward[width][1], strict=True)
            ),
        )
        for width, (at, rates) in both.items()
    }


def _read(name: str, what: str) -> dict[int, Curve]:
    found: dict[int, list[tuple[float, float]]] = {}
    for row in read_rows(FILE):
        if (row["device"], row["kernel"], row["pass"]) == (DEVICE, name, what) and row["tflops"] != "OOM":
            point = (math.log(float(row["seq"])), float(row["tflops"]) * TERA)
            found.setdefault(int(row["head_dim"]), []).append(point)
    return {
        width: (tuple(at for at, _ in sorted(points)), tuple(rate for _, rate in sorted(points)))
        for width, points in found.items()
    }
