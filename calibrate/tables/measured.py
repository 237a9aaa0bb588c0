"""Published kernel timings as work and seconds, ready for a fit. Units are settled here and nowhere else."""

from collections.abc import Iterator
from dataclasses import dataclass

from perfmodel.kernels.achievable import read_rows
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Gpu
from perfmodel.units import GB, MS, TERA, US

GPU_NAMES = {
    "H800-SXM": "h800-sxm",
    "H100-SXM": "h100-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "B200": "b200-sxm",
    "gb200": "gb200-nvl72",
    "GB200": "gb200-nvl72",
}
"""Spelling in the measured tables -> catalogue name."""
DTYPES = {
    "bfloat16": "bf16",
    "fp8_block": "fp8",
    "fp8 block": "fp8",
    "nvfp4": "fp4",
    "kv bfloat16": "bf16",
    "kv fp8": "fp8",
}
AICONFIGURATOR = "PyPI package aiconfigurator-core 0.12.0"

ELEMENTWISE_MEMORY_FRACTION = 0.8
TOP_K_LATENCY_US = {"hopper": 3.9, "blackwell": 4.1}
"""Shortest row of glm5_topk_module for 1 to 64 rows of scores, median (H100 and H200 3.8 to 4.1; B200 and GB200 3.6 to
4.6): one launch that reads some thousand scores per row and chooses. Us."""
ELEMENTWISE_LATENCY_US = 3.0
"""aiconfigurator's figures for memory-bound kernels: mem_bw_empirical_scaling_factor 0.8 and
mem_empirical_constant_latency 3e-6 in every systems/*.yaml."""

MLA_HEADS, MLA_LATENT, MLA_ROPE = 64, 512, 64
"""Shape of the measured MLA decode rows."""
MOE_HIDDEN, MOE_FFN, MOE_EXPERTS, MOE_TOP_K = 6144, 2048, 256, 8
"""Shape of the measured expert-compute rows."""
MOE_SMALL_KERNELS = 4
"""Kernels besides the two GEMMs in the measured expert compute: sort by expert, expand and quantise, activate
and quantise, sum up. What a timed run of TensorRT-LLM's module launches is not in the table: an
assumption."""


@dataclass(frozen=True, slots=True)
class KernelSample:
    """One measured time and the work behind it."""

    gpu: Gpu
    dtype: str
    parts: tuple[tuple[float, float], ...]
    """(FLOPs, HBM bytes) of each kernel of the class that ran, one after the other."""
    fixed_s: float
    """Time of other kernels in the measured span, s."""
    seconds: float
    """Measured, s."""
    label: str
    """Shape, for error tables."""


def gemm_samples(gpus: set[str], dtype: str) -> list[KernelSample]:
    """Dense GEMMs: sglang's rows (ms) and DeepGEMM's (TFLOPS; time is flops / tflops)."""
    samples = []
    for row in _rows("dense gemm", gpus):
        if DTYPES[row["dtype"]] != dtype:
            continue
        m, n, k = (int(row[name]) for name in ("m_or_batch", "n", "k"))
        part = gemm_work(m, n, k, dtype)
        seconds = _seconds(row, part[0])
        if seconds is not None:
            samples.append(_sample(row, dtype, (part,), seconds, f"m{m} n{n} k{k}"))
    return samples


def grouped_gemm_samples() -> list[KernelSample]:
    """DeepGEMM's grouped GEMMs on H800, FP8; m is per group, every group is full."""
    samples = []
    for row in _rows("grouped gemm", {"h800-sxm"}):
        m, n, k, groups = (int(row[name]) for name in ("m_or_batch", "n", "k", "groups"))
        part = gemm_work(m, n, k, "fp8", groups)
        seconds = _seconds(row, part[0])
        if seconds is not None:
            samples.append(_sample(row, "fp8", (part,), seconds, f"{groups} x m{m} n{n} k{k}"))
    return samples


def expert_samples(gpus: set[str], dtype: str) -> list[KernelSample]:
    """TensorRT-LLM's whole expert compute on rank 0: gate-up GEMM, activation, down GEMM and data movement.

    ``m_or_batch`` is the *global* number of tokens T, ``groups`` the EP size. With balanced load rank 0 has
    T x 8 / EP rows over 256 / EP experts, of which 1 - (1 - 8/256)^T are hit and read. The rows were run with
    power-law routing after EPLB: the true load of rank 0 is not in the table.
    """
    samples = []
    for row in _rows("moe expert compute", gpus):
        if DTYPES[row["dtype"]] != dtype:
            continue
        tokens, ep = int(row["m_or_batch"]), int(row["groups"])
        gpu = _gpu(row)
        rows = tokens * MOE_TOP_K / ep
        hit = MOE_EXPERTS / ep * (1.0 - (1.0 - MOE_TOP_K / MOE_EXPERTS) ** tokens)
        parts = tuple(
            _expert_gemm(rows, hit, n, k, dtype)
            for n, k in ((2 * MOE_FFN, MOE_HIDDEN), (MOE_HIDDEN, MOE_FFN))
        )
        fixed = _small_kernels_s(rows, min(tokens, rows), dtype, gpu)
        samples.append(_sample(row, dtype, parts, float(row["value"]) * MS, f"T{tokens} EP{ep}", fixed))
    return samples


def mla_decode_samples(gpus: set[str], dtype: str) -> list[KernelSample]:
    """MLA decode cores, 64 heads, one query token per request; ``dtype`` is of cache and multiply.

    H100's rows are listed twice; the first of each shape counts. FP8 rows of FlashAttention-3 (H100, H200)
    are four to five times slower than BF16 ones: another code path, and not what a decode engine runs. Do not
    ask for them.
    """
    samples, seen = [], set()
    for row in _rows("mla decode (absorbed", gpus):
        if DTYPES[row["dtype"]] != dtype:
            continue
        batch, context = int(row["m_or_batch"]), int(row["other"].split(";")[0].removeprefix("kv_len="))
        key = (row["gpu"], batch, context)
        if key in seen:
            continue
        seen.add(key)
        width = 2 * MLA_LATENT + MLA_ROPE
        cache = BYTES_PER_ELEMENT[dtype] * (MLA_LATENT + MLA_ROPE)
        part = (
            2.0 * batch * context * MLA_HEADS * width,
            batch * context * cache + 2.0 * batch * MLA_HEADS * width,
        )
        samples.append(_sample(row, dtype, (part,), float(row["value"]) * MS, f"batch {batch} kv {context}"))
    return samples


def quoted_tflops(op: str, gpu: str, dtype: str) -> tuple[float, str]:
    """A library's own peak figure for ``op``, FLOP/s, and its source."""
    for row in read_rows("measured_kernels.csv"):
        if (row["op"], GPU_NAMES.get(row["gpu"]), row["dtype"], row["metric"]) == (op, gpu, dtype, "tflops"):
            return float(row["value"]) * TERA, row["source"]
    raise LookupError(f"measured_kernels.csv has no tflops row for {op}, {gpu}, {dtype}")


def gemm_work(m: float, n: float, k: float, dtype: str, groups: float = 1.0) -> tuple[float, float]:
    """FLOPs and HBM bytes of [m, k] x [k, n] per group, counted as in perfmodel.ops.build.gemm."""
    width = BYTES_PER_ELEMENT[dtype]
    return 2.0 * m * n * k * groups, groups * (width * n * k + width * m * k + 2.0 * m * n)


def _expert_gemm(rows: float, hit: float, n: int, k: int, dtype: str) -> tuple[float, float]:
    """FLOPs of all rows; bytes of the weights of experts that are hit, read once, and of the activations."""
    width = BYTES_PER_ELEMENT[dtype]
    return 2.0 * rows * n * k, hit * width * n * k + rows * (width * k + 2.0 * n)


def _small_kernels_s(rows: float, tokens: float, dtype: str, gpu: Gpu) -> float:
    """Time of the element-wise kernels around the expert GEMMs, s."""
    width = BYTES_PER_ELEMENT[dtype]
    moved = rows * MOE_HIDDEN * (2.0 + width)  # expand and quantise
    moved += rows * MOE_FFN * (4.0 + width)  # activate and quantise
    moved += (rows + tokens) * MOE_HIDDEN * 2.0  # sum the experts' outputs
    bandwidth = ELEMENTWISE_MEMORY_FRACTION * gpu.hbm_bytes_per_s
    return MOE_SMALL_KERNELS * ELEMENTWISE_LATENCY_US * US + moved / bandwidth


def _rows(op: str, gpus: set[str]) -> Iterator[dict[str, str]]:
    """Measured rows whose op starts with ``op``, on any of the GPUs."""
    for row in read_rows("measured_kernels.csv"):
        if row["op"].startswith(op) and GPU_NAMES.get(row["gpu"]) in gpus:
            yield row


def _seconds(row: dict[str, str], flops: float) -> float | None:
    """Measured time of a row, s; None for a row that repeats another one as a bandwidth."""
    if row["metric"] == "latency":
        return float(row["value"]) * MS
    return flops / (float(row["value"]) * TERA) if row["metric"] == "tflops" else None


def _gpu(row: dict[str, str]) -> Gpu:
    return catalogue.gpu(GPU_NAMES[row["gpu"]])


def _sample(
    row: dict[str, str],
    dtype: str,
    parts: tuple[tuple[float, float], ...],
    seconds: float,
    label: str,
    fixed_s: float = 0.0,
) -> KernelSample:
    return KernelSample(_gpu(row), dtype, parts, fixed_s, seconds, f"{row['kernel']} {row['gpu']} {label}")


def bandwidth_check() -> list[tuple[str, float, float]]:
    """(label, GB/s by our bytes and DeepGEMM's TFLOPS, GB/s that it prints): checks the byte count."""
    printed = {
        _shape(row): float(row["value"])
        for row in read_rows("measured_kernels.csv")
        if row["kernel"] == "DeepGEMM" and row["metric"] == "bandwidth"
    }
    checks = []
    for row in read_rows("measured_kernels.csv"):
        if row["kernel"] == "DeepGEMM" and row["metric"] == "tflops" and _shape(row) in printed:
            m, n, k, groups = (int(row[name]) for name in ("m_or_batch", "n", "k", "groups"))
            flops, moved = gemm_work(m, n, k, "fp8", groups)
            rate = moved / (flops / (float(row["value"]) * TERA)) / GB
            checks.append((f"{row['op']} {_shape(row)}", rate, printed[_shape(row)]))
    return checks


def _shape(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("op", "m_or_batch", "n", "k", "groups"))
