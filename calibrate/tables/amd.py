"""Achievable fractions of AMD's kernels, from aiter's tuning files (``data/kernels/measured_amd.csv``).

Products of matrices and fused experts were timed on gfx942 (cdna3: MI300X, MI325X, MI308X) and gfx950 (cdna4:
MI350X, MI355X); nothing else was, so every other class takes Hopper's fractions with the spread that fractions have
across architectures. The rows hold sizes of 4^i alone, so that a shape that was tuned in steps of 16 weighs no more
than others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from calibrate.public.aiter import SOURCE, chip
from calibrate.tables.measured import KernelSample, gemm_work
from calibrate.tables.roofline_fit import fit, memory_ceiling, predicted_seconds
from perfmodel.kernels.achievable import Achievable, read_rows
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.units import US

ROWS = "measured_amd.csv"
ARCHITECTURES = {"cdna3": "mi300x", "cdna4": "mi355x"}
ACROSS_LOG_STD = 0.5
"""Spread of a class that takes another architecture's fractions: A100's and L40S's held-out rows from H100's
curves, scaled by the peaks, are 25 and 55 % off (median; docs/gpus.md), 40 % between: ln(1.4) / 0.6745."""
FORMATS: dict[str, dict[str, tuple[str, ...]]] = {
    "cdna3": {"gemm": ("fp8",), "grouped_gemm": ("fp8", "bf16")},
    "cdna4": {
        "gemm": ("bf16", "fp8", "fp8-tensor", "int8", "mxfp4"),
        "grouped_gemm": ("bf16", "fp8", "fp8-tensor", "int4", "mxfp4"),
    },
}
"""Formats of which a GPU has rows of its own; two shapes in INT8 on cdna3 are left out, FP8 stands in."""
BF16_FROM = "mi308x"
"""cdna3's only BF16 products: the same chip with 80 of 304 compute units, small shapes that fill neither it nor its
memory. cdna4's fractions stand in, as far off as the two shares of the arithmetic peak are."""


def samples(kernel: str, gpu: str, dtype: str) -> list[KernelSample]:
    """The timed shapes of one class and format."""
    return [
        _sample(row)
        for row in read_rows(ROWS)
        if (row["kernel"], row["gpu"], row["dtype"]) == (kernel, gpu, dtype)
    ]


def _sample(row: dict[str, str]) -> KernelSample:
    gpu, dtype = chip(row["gpu"]), row["dtype"]
    m, n, k = (int(row[name]) for name in "mnk")
    parts: tuple[tuple[float, float], ...]
    label = f"m{m} n{n} k{k}"
    if row["kernel"] == "gemm":
        parts = (gemm_work(m, n, k, dtype),)
    else:
        experts, picked = int(row["experts"]), int(row["top_k"])
        rows, hit = float(m * picked), experts * (1.0 - (1.0 - picked / experts) ** m)
        parts = tuple(_experts_work(rows, hit, *shape, dtype) for shape in ((2 * n, k), (k, n)))
        label += f" {picked} of {experts}"
    return KernelSample(gpu, dtype, parts, 0.0, float(row["us"]) * US, f"{row['gpu']} {dtype} {label}")


def _experts_work(rows: float, hit: float, n: int, k: int, dtype: str) -> tuple[float, float]:
    """FLOPs of all rows; bytes of the experts that are hit, read once, and of the activations.

    As in ``calibrate.tables.measured``, but weights alone may be in the format (INT4): activations are BF16 then.
    """
    width = BYTES_PER_ELEMENT[dtype]
    moved = 2.0 if dtype == "int4" else width
    return 2.0 * rows * n * k, hit * width * n * k + rows * (moved * k + 2.0 * n)


Fitted = Callable[[str, str, str, Sequence[KernelSample], str, str], Achievable]
Derived = Callable[[Achievable, str, str, str, str], Achievable]


def rows(hopper: Sequence[Achievable], fitted: Fitted, derived: Derived) -> list[Achievable]:
    """Every row of cdna3 and cdna4; ``hopper`` are those that stand in."""
    found: list[Achievable] = []
    for architecture, gpu in ARCHITECTURES.items():
        own = {
            (kernel, dtype): fitted(
                kernel, dtype, architecture, samples(kernel, gpu, dtype), SOURCE, _note(kernel, gpu)
            )
            for kernel, dtypes in FORMATS[architecture].items()
            for dtype in dtypes
        }
        if architecture == "cdna3":
            large = fitted("gemm", "bf16", "cdna4", samples("gemm", "mi355x", "bf16"), SOURCE, "")
            own["gemm", "bf16"] = _bf16(large, fitted, derived)
        why = "no timings of batched GEMMs: dense GEMM's"
        own["bmm", "bf16"] = derived(own["gemm", "bf16"], architecture, "bf16", why, "bmm")
        found += own.values()
        missing = [row for row in hopper if row.kernel not in ("gemm", "grouped_gemm", "bmm")]
        found += [across(row, architecture, derived) for row in missing]
    return found


def _note(kernel: str, gpu: str) -> str:
    place = "gfx942 with 304 compute units" if gpu == "mi300x" else "gfx950"
    what = "the tuned shapes" if kernel == "gemm" else "both products of the experts on one rank"
    return f"aiter's fastest kernels on {place}, {what}, sizes 4^i; without quantising the activations"


def _bf16(large: Achievable, fitted: Fitted, derived: Derived) -> Achievable:
    """cdna3's BF16 products, by cdna4's fractions (:data:`BF16_FROM`)."""
    small = fitted("gemm", "bf16", "cdna3", samples("gemm", BF16_FROM, "bf16"), SOURCE, "")
    why = "timed on 80 of 304 compute units alone (MI308X): cdna4's fractions"
    apart = math.log(large.compute_fraction / small.compute_fraction)
    return replace(derived(large, "cdna3", "bf16", why, "gemm"), log_std=math.hypot(large.log_std, apart))


def across(row: Achievable, architecture: str, derived: Derived) -> Achievable:
    """Hopper's fractions on an architecture where nothing was timed."""
    found = derived(
        row, architecture, row.dtype, f"no timings on {architecture}: Hopper's fractions", row.kernel
    )
    return replace(found, log_std=math.hypot(row.log_std, ACROSS_LOG_STD))


def left_out_errors() -> list[tuple[str, str, str, int, float, float]]:
    """(kernel, format, GPU, rows, median and 90th percentile of |error| in %) where every fifth shape (n, k;
    experts too) is left out of the fit in turn.
    """
    ceiling, found = memory_ceiling(), []
    for architecture, gpu in ARCHITECTURES.items():
        for kernel, dtypes in FORMATS[architecture].items():
            for dtype in dtypes:
                own = samples(kernel, gpu, dtype)
                shapes = sorted({_shape(one) for one in own})
                if len(shapes) < 2:
                    continue
                errors: list[float] = []
                for fold in range(min(5, len(shapes))):
                    out = set(shapes[fold::5])
                    kept = [one for one in own if _shape(one) not in out]
                    held = [one for one in own if _shape(one) in out]
                    best = fit(kept, ceiling)
                    times = predicted_seconds(
                        held, best.compute_fraction, best.memory_fraction, best.latency_us
                    )
                    errors += [abs(t / one.seconds - 1.0) * 100.0 for t, one in zip(times, held, strict=True)]
                figures = (float(np.median(errors)), float(np.quantile(errors, 0.9)))
                found.append((kernel, dtype, gpu, len(errors), *figures))
    return found


def _shape(sample: KernelSample) -> str:
    """What a sample's label says beside its size."""
    return sample.label.split(" ", 3)[-1]
