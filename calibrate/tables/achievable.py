"""The achievable fractions of each kernel class (fits: roofline_fit.py); run as a module it rewrites the tables."""

import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from calibrate.tables import amd, communication, in_situ, measured
from calibrate.tables.log_fit import root_mean_square, significant
from calibrate.tables.measured import AICONFIGURATOR, KernelSample
from calibrate.tables.mixers import mixer_rows
from calibrate.tables.roofline_fit import BLACKWELL, HOPPER, fit, memory_ceiling
from perfmodel.kernels.achievable import FOLDER, Achievable
from perfmodel.spec import catalogue

DEEPGEMM = "https://github.com/deepseek-ai/DeepGEMM/blob/55ab91f/README.md"


def fitted_rows() -> list[Achievable]:
    """Every row of achievable.csv, in order."""
    ceiling = memory_ceiling()
    rows = [*_hopper_rows(ceiling), *_blackwell_rows(ceiling)]
    by_key = {(row.kernel, row.dtype, row.architecture): row for row in rows}
    ampere = [
        _derived(row, "ampere", row.dtype, "no timings on Ampere: Hopper's fractions")
        for (_, dtype, architecture), row in by_key.items()
        if architecture == "hopper" and dtype in ("bf16", "any")
    ]
    mixers = mixer_rows({(row.kernel, row.dtype, row.architecture): row for row in rows})
    hopper = [row for row in rows + mixers if row.architecture == "hopper"]
    ada = [amd.across(row, "ada", _derived) for row in hopper]

    def fitted(
        kernel: str, dtype: str, place: str, timed: Sequence[KernelSample], source: str, note: str
    ) -> Achievable:
        return _fitted(kernel, dtype, place, timed, ceiling, source, note)

    own = amd.rows(hopper, fitted, _derived)
    return rows + ampere + mixers + ada + own


def _hopper_rows(ceiling: float) -> list[Achievable]:
    gemm = {dtype: measured.gemm_samples(HOPPER, dtype) for dtype in ("bf16", "fp8")}
    mla = measured.mla_decode_samples({"h100-sxm", "h200-sxm"}, "bf16")
    flash_mla, flash_mla_source = measured.quoted_tflops("mla decode dense", "h800-sxm", "bf16")
    flash_fraction = flash_mla / catalogue.gpu("h800-sxm").peak_flops("bf16")
    bf16 = _fitted(
        "gemm", "bf16", "hopper", gemm["bf16"], ceiling, AICONFIGURATOR, "sglang torch linear, H100 and H200"
    )
    fp8 = _fitted(
        "gemm",
        "fp8",
        "hopper",
        gemm["fp8"],
        ceiling,
        f"{AICONFIGURATOR}; {DEEPGEMM}",
        "DeepGEMM with 128 x 128 blocks: sglang's rows on H100 and H200, DeepGEMM's own on H800; "
        "sglang's hold untuned shapes up to 3.6 x the rest",
    )
    grouped = _fitted(
        "grouped_gemm",
        "fp8",
        "hopper",
        measured.grouped_gemm_samples(),
        ceiling,
        DEEPGEMM,
        "DeepGEMM on H800, 1 to 8 groups of 256 to 8192 rows, all groups full",
    )
    decode = _fitted(
        "mla_decode",
        "bf16",
        "hopper",
        mla,
        ceiling,
        f"{AICONFIGURATOR}; compute_fraction: {flash_mla_source}",
        "FlashAttention-3, 64 heads, one query token, H100 and H200: all bound by memory; compute fraction "
        "is FlashMLA's 660 TFLOPS on H800; latency at its bound: split-KV and its combine are two launches",
        compute_fraction=flash_fraction,
    )
    return [
        bf16,
        fp8,
        grouped,
        _derived(bf16, "hopper", "bf16", "no timings of BF16 grouped GEMMs: dense GEMM's", "grouped_gemm"),
        _derived(bf16, "hopper", "bf16", "no timings of batched GEMMs: dense GEMM's", "bmm"),
        decode,
        _derived(
            decode,
            "hopper",
            "fp8",
            "FlashAttention-3's FP8-cache rows are 4 to 5 x slower than BF16 and not used: BF16's fractions "
            "of the FP8 peak and of the smaller bytes",
        ),
        _derived(decode, "hopper", "bf16", "no timings of GQA decode: MLA decode's", "gqa_decode"),
        _derived(decode, "hopper", "fp8", "no timings of GQA decode: MLA decode's", "gqa_decode"),
        *_prefill_rows("hopper", "attention fwd", "h100-sxm", {"bf16": "fp16", "fp8": "fp8"}, bf16),
        _elementwise("hopper", bf16),
        _select("hopper", bf16),
    ]


def _blackwell_rows(ceiling: float) -> list[Achievable]:
    gemm = {dtype: measured.gemm_samples(BLACKWELL, dtype) for dtype in ("bf16", "fp8")}
    mla = {dtype: measured.mla_decode_samples(BLACKWELL, dtype) for dtype in ("bf16", "fp8")}
    flash_mla, flash_mla_source = measured.quoted_tflops("mla decode dense", "h800-sxm", "bf16")
    flash_fraction = flash_mla / catalogue.gpu("h800-sxm").peak_flops("bf16")
    bf16 = _fitted(
        "gemm", "bf16", "blackwell", gemm["bf16"], ceiling, AICONFIGURATOR, "sglang torch linear, B200"
    )
    fp8 = _fitted(
        "gemm", "fp8", "blackwell", gemm["fp8"], ceiling, AICONFIGURATOR, "DeepGEMM in sglang, B200"
    )
    experts = _fitted(
        "grouped_gemm",
        "fp4",
        "blackwell",
        measured.expert_samples(BLACKWELL, "fp4"),
        ceiling,
        AICONFIGURATOR,
        "TensorRT-LLM's CUTLASS experts, B200, NVFP4, hidden 6144, EP 4 to 64; rank 0's load after EPLB is "
        "not in the table and taken as balanced, so compute_fraction contains its imbalance",
    )
    decode = [
        _fitted(
            "mla_decode",
            dtype,
            "blackwell",
            samples,
            ceiling,
            f"{AICONFIGURATOR}; compute_fraction: {flash_mla_source}",
            "TensorRT-LLM MLA in sglang, 64 heads, one query token, B200: all bound by memory; compute "
            "fraction is FlashMLA's on H800",
            compute_fraction=flash_fraction,
        )
        for dtype, samples in mla.items()
    ]
    return [
        bf16,
        fp8,
        _derived(fp8, "blackwell", "fp4", "no timings of dense FP4 GEMMs: FP8's fractions of the FP4 peak"),
        experts,
        _derived(fp8, "blackwell", "fp8", "no timings of FP8 grouped GEMMs: dense GEMM's", "grouped_gemm"),
        _derived(bf16, "blackwell", "bf16", "no timings of BF16 grouped GEMMs: dense GEMM's", "grouped_gemm"),
        _derived(bf16, "blackwell", "bf16", "no timings of batched GEMMs: dense GEMM's", "bmm"),
        *decode,
        *(
            _derived(row, "blackwell", row.dtype, "no timings of GQA decode: MLA decode's", "gqa_decode")
            for row in decode
        ),
        *_prefill_rows("blackwell", "mha prefill dense fwd", "b200-sxm", {"bf16": "bf16"}, bf16),
        _elementwise("blackwell", bf16),
        _select("blackwell", bf16),
    ]


def _fitted(
    kernel: str,
    dtype: str,
    architecture: str,
    samples: Sequence[KernelSample],
    ceiling: float,
    source: str,
    note: str,
    compute_fraction: float | None = None,
) -> Achievable:
    """The row of a fit."""
    found = fit(samples, ceiling, compute_fraction)
    if found.memory_fraction > 0.999 * ceiling:
        note += "; memory_fraction at its bound, the highest share that any timed kernel reached"
    return Achievable(
        kernel,
        dtype,
        architecture,
        found.compute_fraction,
        found.memory_fraction,
        found.latency_us,
        root_mean_square(found.residuals),
        len(samples),
        f"fitted: {source}",
        note,
    )


def _derived(
    row: Achievable, architecture: str, dtype: str, why: str, kernel: str | None = None
) -> Achievable:
    """A row that has no timings, with another row's figures."""
    kernel = kernel or row.kernel
    return replace(
        row,
        kernel=kernel,
        dtype=dtype,
        architecture=architecture,
        num_rows=0,
        source=f"derived: {row.kernel} {row.dtype} {row.architecture} ({row.source})",
        note=why,
        flag=f"{kernel} {dtype} on {architecture}: {why}",
    )


def _prefill_rows(
    architecture: str, op: str, gpu: str, dtypes: dict[str, str], gemm: Achievable
) -> list[Achievable]:
    """Prefill attention from one quoted figure per dtype; what it can't tell is the dense GEMM's."""
    rows: list[Achievable] = []
    for dtype, spelled in dtypes.items():
        flops, source = measured.quoted_tflops(op, gpu, spelled)
        rows += [
            replace(
                gemm,
                kernel=kernel,
                dtype=dtype,
                compute_fraction=flops / catalogue.gpu(gpu).peak_flops(dtype),
                num_rows=1,
                source=f"measured: {source}",
                note="one quoted figure, the best over shapes; memory fraction, latency and spread are the "
                "BF16 GEMM's",
                flag=f"{kernel} {dtype} on {architecture}: one quoted best-case figure ({op})",
            )
            for kernel in ("mla_prefill", "gqa_prefill")
        ]
    if "fp8" not in dtypes:
        why = "no timings of FP8 prefill: BF16's fraction of the FP8 peak"
        rows += [_derived(row, architecture, "fp8", why) for row in list(rows)]
    return rows


def _elementwise(architecture: str, gemm: Achievable) -> Achievable:
    """Memory-bound kernels, by aiconfigurator's convention."""
    return Achievable(
        "elementwise",
        "any",
        architecture,
        1.0,
        measured.ELEMENTWISE_MEMORY_FRACTION,
        measured.ELEMENTWISE_LATENCY_US,
        gemm.log_std,
        0,
        f"derived: {AICONFIGURATOR}, systems/*.yaml: mem_bw_empirical_scaling_factor 0.8, "
        "mem_empirical_constant_latency 3e-6",
        "a convention of that package, not timings; no FLOPs are counted; spread is the BF16 GEMM's",
        "elementwise: 0.8 of HBM + 3 us by convention, not timed",
    )


def _select(architecture: str, gemm: Achievable) -> Achievable:
    """Top-k of a router: the one table of a top-k kernel stands in for it."""
    return replace(
        _elementwise(architecture, gemm),
        kernel="select",
        latency_us=measured.TOP_K_LATENCY_US[architecture],
        source=f"derived: {AICONFIGURATOR}, glm5_topk_module of sglang 0.5.14: its shortest rows",
        note="a fused top-2,048 over little more than 2,048 scores, up to 128 rows, in a graph, stands for a router's",
        flag="select: a sparse attention's top-k was timed, no router's",
    )


FIELDS = (
    "kernel",
    "dtype",
    "architecture",
    "compute_fraction",
    "memory_fraction",
    "latency_us",
    "log_std",
    "num_rows",
    "source",
    "note",
    "flag",
)


def records(rows: Sequence[object], fields: Sequence[str]) -> list[dict[str, str]]:
    """Rows as text, floats with four significant digits."""
    return [
        {
            name: significant(value) if isinstance(value := getattr(row, name), float) else str(value)
            for name in fields
        }
        for row in rows
    ]


def write_csv(path: Path, rows: Sequence[object], fields: Sequence[str]) -> None:
    """Write rows to a temporary name, then rename."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records(rows, fields))
    os.replace(temporary, path)


def main() -> int:
    """Refit everything and rewrite achievable.csv, communication.csv and in_situ.csv."""
    kernels, collectives = fitted_rows(), communication.fitted_rows()
    write_csv(FOLDER / "achievable.csv", kernels, FIELDS)
    write_csv(FOLDER / "communication.csv", collectives, communication.FIELDS)
    write_csv(FOLDER / "in_situ.csv", in_situ.rows(), in_situ.FIELDS)
    for row in kernels:
        figures = (
            f"fc {row.compute_fraction:.3f} fm {row.memory_fraction:.3f} latency {row.latency_us:.1f} us"
        )
        print(
            f"{row.kernel:13} {row.dtype:5} {row.architecture:10} {figures} "
            f"spread {row.log_std:.3f} rows {row.num_rows}"
        )
    print(communication.report(collectives))
    return 0


if __name__ == "__main__":
    sys.exit(main())
