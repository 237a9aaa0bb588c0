"""Suite ``kernels``: single kernels against the shipped calibrations.

Held-out shapes of the public tables (role ``check``), and DeepGEMM's own figures on H800, which no curve was fitted on.
Rows of ``measured_kernels.csv`` that come from the same public tables are not repeated.
"""

from typing import Any

from perfmodel.kernels.achievable import read_rows
from perfmodel.units import TERA
from perfmodel.validation.collectives import TRANSFERS
from perfmodel.validation.measured import (
    calibration_names,
    find_curve,
    held_out_rows,
    identities,
    shipped,
    timing_row,
)
from perfmodel.validation.rows import Row
from perfmodel.validation.suites import Progress

NAME = "kernels"
CALIBRATION = {"H800-SXM": "h800-sxm", "H100-SXM": "h100-sxm"}
TABLES = "aiconfigurator"


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that are judged."""
    return identities(calibration_names())


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows."""
    held = held_out_rows(NAME, lambda kernel: kernel not in TRANSFERS, progress)
    return [*held, *_independent()]


def _independent() -> list[Row]:
    """Figures that other projects publish of their own kernels, in TFLOP/s of a shape."""
    found = []
    for number, record in enumerate(read_rows("measured_kernels.csv")):
        if TABLES in record["source"] or TABLES in record["other"] or record["metric"] == "bandwidth":
            continue
        m, n, k, groups = (float(record[name] or 0) for name in ("m_or_batch", "n", "k", "groups"))
        common: dict[str, Any] = {
            "id": f"{record['kernel']} {record['gpu']} {record['op']} {number}",
            "model": record["gpu"],
            "role": "check",
            "source": record["source"],
        }
        name = CALIBRATION.get(record["gpu"])
        common["system"] = name or ""
        dense = record["op"] == "dense gemm" and record["unit"] == "TFLOPS" and m and n and k
        flops = 2.0 * m * n * k * max(groups, 1.0)
        if dense and name is not None:
            common["id"] = f"{record['kernel']} {record['gpu']} m={m:g} n={n:g} k={k:g}"
            curve = find_curve(shipped(name).for_engine("sglang"), "gemm", "fp8")
            measured = flops / (float(record["value"]) * TERA)
            found.append(
                timing_row(NAME, curve, {"m": m, "n": n, "k": k}, measured=measured, kernel="gemm", **common)
            )
            continue
        reason = (
            "one product of a group; calibrations hold whole expert computations"
            if "grouped" in record["op"]
            else "a quoted best, a fused kernel, or a GPU without a calibration: no shape to predict"
        )
        found.append(
            Row(
                suite=NAME,
                quantity=f"{record['metric']} ({record['unit']})",
                unit=record["unit"],
                measured=float(record["value"]),
                predicted=None,
                reason=reason,
                **common,
            )
        )
    return found
