"""What a kernel achieves of the device: fractions of peak and bandwidth, and a fixed cost.

The time of an op alone is latency + max(flops / (compute_fraction x peak), bytes / (memory_fraction x
bandwidth)). Fractions and latency belong to a kernel class, a number format and an architecture; they were
fitted on measured kernel timings by ``python -m calibrate.tables.achievable`` and are read from
``data/kernels/achievable.csv``, where every row names its source. What no row covers is answered by the
nearest row, and says so in ``flag``.
"""

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.units import US

FOLDER = Path(__file__).resolve().parent.parent / "data" / "kernels"
"""Measured timings and what was fitted on them."""

STAND_IN = {
    "mxfp4": "fp4",
    "mxfp8": "fp8",
    "int8": "fp8-tensor",
    "fp4": "fp8",
    "fp8-tensor": "fp8",
    "fp8": "bf16",
    "int4": "bf16",
    "fp32": "bf16",
}
"""The number format whose kernel stands in for a missing one: the next wider, and for FP32 the next narrower."""
TIMED = frozenset({"select", "mhc_pre", "mhc_post"})
"""Memory-bound kernels that have a row of their own; ``elementwise`` answers for the others."""
REFERENCE_ARCHITECTURE = "hopper"
"""The architecture with the most rows; stands in for one that has none."""


@dataclass(frozen=True, slots=True)
class Achievable:
    """One kernel class on one architecture."""

    kernel: str
    """gemm, grouped_gemm, bmm, select, elementwise, or a mixer's (perfmodel.ops.mixers)."""
    dtype: str
    """Type of the multiply, or ``any`` for memory-bound kernels."""
    architecture: str
    """ampere, hopper or blackwell."""
    compute_fraction: float
    """Of the dtype's dense peak."""
    memory_fraction: float
    """Of peak HBM bandwidth."""
    latency_us: float
    """Fixed cost of a launch, us."""
    log_std: float
    """Spread: root mean square of log(predicted / measured) over the rows of the fit."""
    num_rows: int
    """Measured rows behind it; 0: derived."""
    source: str
    """fitted:..., measured:... or derived:..."""
    note: str
    """What the rows are, and their limits."""
    flag: str = ""
    """Why to trust it less: derived, or standing in for a row that does not exist. Empty: measured."""

    @property
    def latency_s(self) -> float:
        """Fixed cost of a launch, s."""
        return self.latency_us * US


@cache
def lookup(kernel: str, dtype: str, architecture: str) -> Achievable:
    """The row for a kernel class; the nearest row, flagged, where there is none.

    A missing format is answered by its stand-in on the same architecture, a missing architecture by
    Hopper.

    Raises:
        DataError: no row of any format for this kernel class.
    """
    rows = table()
    known = {row.kernel for row in rows.values()}
    if kernel not in known:
        raise DataError(f"kernel {kernel!r} has no achievable fractions; known: {', '.join(sorted(known))}")
    for place in (architecture, REFERENCE_ARCHITECTURE):
        stand_in: str | None = dtype
        while stand_in is not None:
            row = rows.get((kernel, stand_in, place)) or rows.get((kernel, "any", place))
            if row is not None:
                return _flagged(row, dtype, architecture)
            stand_in = STAND_IN.get(stand_in)
    raise DataError(
        f"kernel {kernel!r} has no achievable fractions for {dtype!r}, nor for a format that could stand in"
    )


def _flagged(row: Achievable, dtype: str, architecture: str) -> Achievable:
    """The row, with a flag if it stands in for another format or architecture."""
    wanted = [architecture] * (row.architecture != architecture)
    wanted += [dtype] * (row.dtype not in (dtype, "any"))
    if not wanted:
        return row
    flag = (
        f"{row.kernel} {dtype} on {architecture}: no timings; uses {row.architecture}'s {row.dtype} fractions"
    )
    return replace(row, flag=f"{flag}; {row.flag}" if row.flag else flag)


@cache
def table() -> dict[tuple[str, str, str], Achievable]:
    """All rows, by (kernel, dtype, architecture)."""
    rows = {}
    for record in read_rows("achievable.csv"):
        row = Achievable(
            kernel=record["kernel"],
            dtype=record["dtype"],
            architecture=record["architecture"],
            compute_fraction=float(record["compute_fraction"]),
            memory_fraction=float(record["memory_fraction"]),
            latency_us=float(record["latency_us"]),
            log_std=float(record["log_std"]),
            num_rows=int(record["num_rows"]),
            source=record["source"],
            note=record["note"],
            flag=record["flag"],
        )
        rows[row.kernel, row.dtype, row.architecture] = row
    return rows


def read_rows(name: str) -> list[dict[str, str]]:
    """The records of a CSV file of kernel data.

    Raises:
        DataError: the file can't be read.
    """
    path = FOLDER / name
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
