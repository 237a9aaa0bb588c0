"""Watts of kernels: fits on the measured tables of B200, the only GPU whose tables have a column ``power``.

``python -m calibrate.tables.power WHEEL`` prints the section ``kernels`` of ``data/power.yaml``'s entry ``b200-sxm``:
per kernel class and number format, what a GPU draws in it,

    watts = floor + compute x (FLOP/s over the peak) + memory x (bytes/s over the bandwidth), at most the board's limit.

A row's power is a mean of readings a tenth of a second apart while the kernel repeats for about a second, so single
rows are off by tens of per cent (8,192 rows of a product 994 W, 32,768 rows of the same 676 W): only the fit over
thousands is used. 0 W means that nothing was read. Rows at the limit say nothing of what would be drawn without it:
left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrate.device.curves import fit_terms
from calibrate.public.source import Source
from perfmodel.kernels.curves import evaluate
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Gpu
from perfmodel.units import PERCENT

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

SYSTEM, GPU, ENGINE = "b200_sxm", "b200-sxm", "trtllm"
FORMATS = {"bfloat16": "bf16", "fp8": "fp8-tensor", "fp8_block": "fp8", "nvfp4": "fp4"}
NEAR_LIMIT = 0.99
"""Of the board's limit: rows above are at it."""
LONG_S = 1.0 / 3000.0
"""Kernels are repeated for a second, but at most 3,000 times: shorter ones are over before a reading a tenth of a
second later, and what is read is mostly what was before. Only these and longer ones are used."""
LEAST_ROWS = 100
TERMS = ("1", "compute", "memory")
Rows = tuple[str, "pd.Series[Any]", "pd.Series[Any]", "pd.Series[Any]", "pd.Series[Any]"]
"""(class, FLOPs, HBM bytes, seconds, watts)."""


def fits(source: Source) -> dict[str, dict[str, float]]:
    """Class (and number format) -> ``floor_w``, ``compute_w``, ``memory_w``, ``rows`` and ``median_pct`` of its
    residuals.
    """
    gpu = Gpu(name=GPU, **catalogue.entry("gpus", GPU))
    assert gpu.tdp_w is not None
    found = {}
    for name, flops, moved, seconds, watts in _classes(source):
        dtype = name.partition(" ")[2] or "bf16"
        variables: dict[str, Any] = {
            "compute": (flops / seconds / gpu.peak_flops(dtype)).to_numpy(dtype=float),
            "memory": (moved / seconds / gpu.hbm_bytes_per_s).to_numpy(dtype=float),
        }
        power = watts.to_numpy(dtype=float)
        kept = (power < NEAR_LIMIT * gpu.tdp_w) & (seconds.to_numpy(dtype=float) >= LONG_S)
        if kept.sum() < LEAST_ROWS:
            continue
        variables = {key: values[kept] for key, values in variables.items()}
        terms = fit_terms(TERMS, variables, power[kept])
        own = dict(terms)
        away = np.asarray(evaluate(terms, variables)) / power[kept] - 1.0
        found[name] = {
            "floor_w": round(own.get("1", 0.0)),
            "compute_w": round(own.get("compute", 0.0)),
            "memory_w": round(own.get("memory", 0.0)),
            "rows": int(kept.sum()),
            "median_pct": float(f"{PERCENT * np.median(np.abs(away)):.2g}"),
        }
    return found


def _classes(source: Source) -> Iterator[Rows]:
    frame = _rows(source, "gemm", "gemm")
    for name, part in frame.groupby("gemm_dtype"):
        if str(name) in FORMATS:
            size = BYTES_PER_ELEMENT[FORMATS[str(name)]]
            moved = size * (part["n"] * part["k"] + part["m"] * part["k"]) + 2.0 * part["m"] * part["n"]
            flops = 2.0 * part["m"] * part["n"] * part["k"]
            yield f"gemm {FORMATS[str(name)]}", flops, moved, part["seconds"], part["power"]
    frame = _rows(source, "moe", "moe")
    frame = frame[(frame["distribution"] == "balanced") & ~frame["kernel_source"].str.contains("nongated")]
    for name, part in frame.groupby("moe_dtype"):
        if str(name) in FORMATS:
            pairs = np.maximum(part["num_tokens"] * part["topk"] / part["moe_ep_size"], 1.0)
            weights = 3.0 * part["hidden_size"] * part["inter_size"] / part["moe_tp_size"]
            hit = np.minimum(part["num_experts"] / part["moe_ep_size"], pairs)
            moved = BYTES_PER_ELEMENT[FORMATS[str(name)]] * hit * weights
            kind = f"grouped_gemm {FORMATS[str(name)]}"
            yield kind, 2.0 * pairs * weights, moved, part["seconds"], part["power"]
    frame = _rows(source, "attention", "generation_attention")
    size = frame["kv_cache_dtype"].map(_size)
    seen = frame["batch_size"] * (frame["isl"] + frame["step"]) * frame["head_dim"]
    flops, moved = 4.0 * seen * frame["num_heads"], 2.0 * seen * frame["num_key_value_heads"] * size
    yield "gqa_decode", flops, moved, frame["seconds"], frame["power"]
    frame = _rows(source, "attention", "context_attention")
    frame = frame[frame["step"] == 0]
    tokens = frame["batch_size"] * frame["isl"] * frame["head_dim"]
    flops = 2.0 * tokens * frame["isl"] * frame["num_heads"]
    moved = 4.0 * tokens * (frame["num_heads"] + frame["num_key_value_heads"])
    yield "gqa_prefill", flops, moved, frame["seconds"], frame["power"]
    frame = _rows(source, "mla", "generation_mla")
    seen = frame["batch_size"] * (frame["isl"] + frame["step"])
    flops, moved = 2.0 * seen * frame["num_heads"] * 1088.0, 576.0 * seen * frame["kv_cache_dtype"].map(_size)
    yield "mla_decode", flops, moved, frame["seconds"], frame["power"]
    frame = _rows(source, "quantize", "scale_matrix")
    moved = 3.0 * frame["m"] * frame["k"]
    yield "memory_bound", 0.0 * moved, moved, frame["seconds"], frame["power"]


def _size(name: str) -> float:
    return BYTES_PER_ELEMENT[FORMATS[name]]


def _rows(source: Source, family: str, table: str) -> "pd.DataFrame":
    frame = source.powers(SYSTEM, family, ENGINE, table)
    if "window_size" in frame:
        frame = frame[frame["window_size"] == 0]
    return frame


def main() -> None:
    """Print the fits as YAML; the package is the first argument."""
    for name, own in fits(Source.find(Path(sys.argv[1]))).items():
        figures = ", ".join(f"{key}: {own[key]:g}" for key in ("floor_w", "compute_w", "memory_w"))
        print(f"    {name}: {{{figures}}}  # {own['rows']:,} rows, off by {own['median_pct']:g} % (median)")


if __name__ == "__main__":
    main()
