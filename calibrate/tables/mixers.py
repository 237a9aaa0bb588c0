"""Fractions for kernels of sequence mixers, from public tables that say more in a calibration of their own.

A GPU whose calibration holds those tables never asks here. Each figure is the median over the longest quarter of one
table's rows, with FLOPs and bytes as :mod:`perfmodel.ops.mixers` counts them, and the shortest row as latency; none is
a fit, and each row says so. What no table lists is derived from the nearest kernel that one does.
"""

from dataclasses import dataclass, replace

from calibrate.tables import measured
from perfmodel.kernels.achievable import Achievable
from perfmodel.ops.mixers.mamba1 import SCAN_FLOPS
from perfmodel.spec import catalogue

PACKAGE = "PyPI package aisimulate 0.13.0.dev202610270000000085"
"""Public kernel tables (Apache-2.0), read on 2026-11-29 (docs/log.md has what was read)."""


@dataclass(frozen=True, slots=True)
class Median:
    """What one table's longest rows achieve."""

    kernel: str
    dtype: str
    architecture: str
    compute_fraction: float
    memory_fraction: float
    latency_us: float
    rows: int
    table: str


MEDIANS = (
    Median("index_logits", "fp8", "hopper", 0.434, 0.71, 3.7, 1128, "h200 sglang 0.5.14 glm5_mqa_logits"),
    Median("index_logits", "fp8", "blackwell", 0.366, 0.69, 3.6, 1260, "b200 sglang 0.5.14 glm5_mqa_logits"),
    Median("index_topk", "any", "hopper", 1.0, 0.22, 3.8, 1636, "h200 sglang 0.5.14 glm5_topk"),
    Median("index_topk", "any", "blackwell", 1.0, 0.18, 3.6, 1900, "b200 sglang 0.5.14 glm5_topk"),
    Median("gdn_decode", "bf16", "hopper", 1.0, 0.84, 4.1, 457, "h200 vllm 0.25.0 gdn"),
    Median("gdn_decode", "bf16", "blackwell", 1.0, 0.778, 4.3, 457, "b200 vllm 0.25.0 gdn"),
    Median("gdn_prefill", "bf16", "hopper", 0.418, 0.823, 10.8, 4703, "h200 vllm 0.25.0 gdn"),
    Median("gdn_prefill", "bf16", "blackwell", 0.219, 0.608, 18.4, 4704, "b200 vllm 0.25.0 gdn"),
    Median("kda_decode", "bf16", "hopper", 1.0, 0.80, 1.4, 43, "h200 vllm 0.31.0 kda"),
    Median("kda_prefill", "bf16", "hopper", 0.099, 0.80, 24.5, 416, "h200 vllm 0.31.0 kda"),
    Median("mhc_pre", "any", "hopper", 1.0, 0.44, 8.9, 140, "h200 vllm 0.25.0 mhc, a row being two sites"),
    Median(
        "mhc_pre", "any", "blackwell", 1.0, 0.355, 9.4, 140, "b200 vllm 0.25.0 mhc, a row being two sites"
    ),
    Median("mhc_post", "any", "hopper", 1.0, 0.86, 3.0, 140, "h200 vllm 0.25.0 mhc, a row being two sites"),
    Median(
        "mhc_post", "any", "blackwell", 1.0, 0.81, 4.3, 140, "b200 vllm 0.25.0 mhc, a row being two sites"
    ),
)
"""Of memory-bound kernels the compute fraction is 1. The memory fraction of the index scores is that of the law fitted
to vLLM 0.24.0's modules with and without an index branch (132 bytes per key: 3.42 and 5.28 TB/s)."""
SPARSE_PREFILL = {"hopper": (0.577, 985), "blackwell": (0.253, 1116)}
"""Architecture -> share of the BF16 peak in the longest quarter of glm5_dsa_attn (sglang 0.5.14, H200 and B200; one
kernel on both), and rows of at least 512 new tokens."""
LIKE = {
    "msa_logits": "index_logits",
    "msa_topk": "index_topk",
    "msa_decode": "gqa_decode",
    "msa_prefill": "gqa_prefill",
    "csa_decode": "mla_sparse_decode",
    "csa_prefill": "mla_sparse_prefill",
    "hca_decode": "mla_sparse_decode",
    "hca_prefill": "mla_sparse_prefill",
    "lightning_decode": "gdn_decode",
    "lightning_prefill": "kda_prefill",
    "scan_decode": "gdn_decode",
    "ssm_decode": "gdn_decode",
    "ssm_prefill": "kda_prefill",
}
"""Kernel that has no row here -> the one whose figures stand for it."""
EXPONENTIALS_PER_CYCLE = 16
"""Of one SM, of compute capability 8.0, 9.0 and 10.0 (CUDA C++ Programming Guide, throughput of native arithmetic
instructions)."""
BF16_FLOPS_PER_CYCLE = {"hopper": 4096, "blackwell": 8192}
"""Of one SM, dense: 989 TFLOP/s over 132 SMs at 1.83 GHz, 2,250 over 148 at 1.85."""
GPUS = {"hopper": "h800-sxm", "blackwell": "b200-sxm"}
"""GPU for which FlashMLA's README states what its sparse decode core reaches."""
SPARSE_DECODE_FORMAT = {"h800-sxm": "fp8 kv, bf16 mma", "b200-sxm": "fp8 kv"}
"""Formats as measured_kernels.csv spells them there."""


def mixer_rows(known: dict[tuple[str, str, str], Achievable]) -> list[Achievable]:
    """Rows of mixers' kernels; ``known`` are the others, by (kernel, dtype, architecture)."""
    rows = dict(known)
    for median in MEDIANS:
        _add(rows, _of(median, rows["gemm", "bf16", median.architecture].log_std))
    for architecture in GPUS:
        _add(rows, _sparse_decode(rows["mla_decode", "bf16", architecture]))
        _add(rows, _sparse_prefill(rows["gemm", "bf16", architecture]))
    for architecture in BF16_FLOPS_PER_CYCLE:
        _add(
            rows, _scan_prefill(rows["gdn_prefill", "bf16", architecture], rows["gemm", "fp8", architecture])
        )
    scores = [row for row in rows.values() if row.kernel == "index_logits"]
    for row in scores:
        _add(rows, _like(row, "index_logits", "bf16", "no timings of BF16 index keys: FP8's fractions"))
    for kernel, other in LIKE.items():
        for row in [row for row in rows.values() if row.kernel == other and row.architecture != "ampere"]:
            _add(rows, _like(row, kernel, row.dtype, f"no timings of {kernel}: {other}'s"))
    return [row for key, row in rows.items() if key not in known]


def _add(rows: dict[tuple[str, str, str], Achievable], row: Achievable) -> None:
    rows[row.kernel, row.dtype, row.architecture] = row


def _of(median: Median, log_std: float) -> Achievable:
    return Achievable(
        median.kernel,
        median.dtype,
        median.architecture,
        median.compute_fraction,
        median.memory_fraction,
        median.latency_us,
        log_std,
        median.rows,
        f"measured: {PACKAGE}, {median.table}",
        "median of the table's longest quarter, latency of its shortest row; spread is the BF16 GEMM's",
        f"{median.kernel} on {median.architecture}: derived: one table's median, not a fit",
    )


def _sparse_decode(decode: Achievable) -> Achievable:
    gpu = GPUS[decode.architecture]
    flops, source = measured.quoted_tflops("mla decode sparse", gpu, SPARSE_DECODE_FORMAT[gpu])
    return replace(
        decode,
        kernel="mla_sparse_decode",
        compute_fraction=flops / catalogue.gpu(gpu).peak_flops("bf16"),
        num_rows=1,
        source=f"measured: {source}; memory_fraction and latency: {decode.source}",
        note="one quoted figure, the best over shapes; memory fraction, latency and spread are dense MLA decode's",
        flag=f"mla_sparse_decode on {decode.architecture}: derived: one quoted best-case figure, dense one's latency",
    )


def _sparse_prefill(gemm: Achievable) -> Achievable:
    fraction, rows = SPARSE_PREFILL[gemm.architecture]
    return replace(
        gemm,
        kernel="mla_sparse_prefill",
        compute_fraction=fraction,
        num_rows=rows,
        source=f"measured: {PACKAGE}, sglang 0.5.14 glm5_dsa_attn",
        note="median of the table's longest quarter; memory fraction, latency and spread are the BF16 GEMM's",
        flag=f"mla_sparse_prefill on {gemm.architecture}: derived: one table's median, not a fit",
    )


def _scan_prefill(gdn: Achievable, widest: Achievable) -> Achievable:
    """A scan takes one exponential per SCAN_FLOPS operations, and an SM makes few of them."""
    per_cycle = SCAN_FLOPS * EXPONENTIALS_PER_CYCLE
    return replace(
        gdn,
        kernel="scan_prefill",
        compute_fraction=per_cycle / BF16_FLOPS_PER_CYCLE[gdn.architecture],
        log_std=widest.log_std,
        num_rows=0,
        source="derived: 16 exponentials per SM and cycle (CUDA C++ Programming Guide); "
        f"memory_fraction and latency: {gdn.source}",
        note="no timings of Mamba-1 scans: bound by exponentials, one per element of the state and token; "
        "spread is the FP8 GEMM's",
        flag=f"scan_prefill on {gdn.architecture}: derived: no timings of Mamba-1 scans, bound by exponentials",
    )


def _like(row: Achievable, kernel: str, dtype: str, why: str) -> Achievable:
    return replace(
        row,
        kernel=kernel,
        dtype=dtype,
        num_rows=0,
        source=f"derived: {row.kernel} {row.dtype} {row.architecture} ({row.source})",
        note=why,
        flag=f"{kernel} {dtype} on {row.architecture}: derived: {why}",
    )
