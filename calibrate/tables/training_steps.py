"""How much longer kernels take inside a training step than alone: ``data/kernels/training_steps.csv``.

    python -m calibrate.tables.training_steps

One constant per framework and device, as the suite allows: the factor on kernels that were timed one by one with which
the geometric mean of predicted over measured steps is 1, over rows of role ``fit``. Clocks under sustained load, gaps
between kernels and what a framework does not fuse are in it, which those rows cannot tell apart.

    B200    SimuMax's rows (Megatron-LM), on the kernels that SimuMax timed, attention's core left out
    H100    Megatron-Core's own tables in BF16, 4,096 to 131,072 tokens, on all kernels of BF16; without rows in which
    something else sets the pace: overlapped exchanges, weights divided (FSDP), a plain all-to-all of one layer a chunk
"""

import csv
import math
import statistics
from collections.abc import Callable

from perfmodel.kernels import training_rows
from perfmodel.kernels.achievable import FOLDER
from perfmodel.validation.training import simumax_rows, zoo_rows

FIELDS = ("device", "factor", "log_std", "num_rows", "source")
ROUNDS = 8


def errors(device: str = "B200-SXM") -> list[float]:
    """log(predicted / measured) of the time of every ``fit`` step of a device, with the factor as it is on file."""
    training_rows.in_step.cache_clear()
    return _ERRORS[device]()


def _simumax() -> list[float]:
    rows = [row for row in simumax_rows() if row.quantity == "step_time_s" and row.role == "fit"]
    return [math.log(row.predicted / row.measured) for row in rows if row.predicted is not None]


def _zoo() -> list[float]:
    rows = [row for record, row in zoo_rows() if row.role == "fit" and _plain(record)]
    return [-math.log(row.predicted / row.measured) for row in rows if row.predicted is not None]  # rates


def _plain(record: dict[str, str]) -> bool:
    """Whether kernels set the pace of a row: see above."""
    overlapped, divided = record["overlap"] != "none", bool(record["fsdp"])
    return (
        record["system"] == "H100-80G"
        and record["dispatcher"] != "all-to-all"
        and not (overlapped or divided)
    )


_ERRORS: dict[str, Callable[[], list[float]]] = {"B200-SXM": _simumax, "H100-SXM": _zoo}
SOURCES = {
    "B200-SXM": "fitted: training_simumax_b200.csv, rows of role fit (Megatron-LM on 8 B200)",
    "H100-SXM": "fitted: training_zoo.csv, rows of role fit that kernels set the pace of (Megatron-Core on 256 H100, "
    "BF16)",
}


def main() -> None:
    """Fit by turns: kernels are most of a step, so what is missing in the mean is missing in them."""
    factors = dict.fromkeys(_ERRORS, 1.0)
    for _ in range(ROUNDS):
        write(factors, {device: [0.0] for device in factors})
        factors = {
            device: factor * math.exp(-statistics.mean(errors(device))) for device, factor in factors.items()
        }
    write(factors, {device: errors(device) for device in factors})


def write(factors: dict[str, float], own: dict[str, list[float]]) -> None:
    """A row per device."""
    with (FOLDER / training_rows.STEPS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for device, factor in factors.items():
            spread = statistics.pstdev(own[device])
            writer.writerow((device, f"{factor:.4g}", f"{spread:.3g}", len(own[device]), SOURCES[device]))


if __name__ == "__main__":
    main()
