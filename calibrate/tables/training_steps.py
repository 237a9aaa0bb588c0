"""How much longer kernels take inside a training step than alone: ``data/kernels/training_steps.csv``.

    python -m calibrate.tables.training_steps

One constant per framework and device, as the suite allows: the factor on the kernels that SimuMax timed on B200 one by
one with which the geometric mean of predicted over measured steps is 1, over its rows of role ``fit``. Clocks under
sustained load and gaps between kernels are in it, which those rows cannot tell apart.
"""

import csv
import math
import statistics

from perfmodel.kernels import training_rows
from perfmodel.kernels.achievable import FOLDER
from perfmodel.validation.training import simumax_rows

DEVICE, FIELDS = "B200-SXM", ("device", "factor", "log_std", "num_rows", "source")
SOURCE = "fitted: training_simumax_b200.csv, rows of role fit (Megatron-LM on 8 B200)"
ROUNDS = 6


def errors() -> list[float]:
    """log(predicted / measured) of every ``fit`` step, with the factor as it is on file."""
    training_rows.in_step.cache_clear()
    rows = [row for row in simumax_rows() if row.quantity == "step_time_s" and row.role == "fit"]
    return [math.log(row.predicted / row.measured) for row in rows if row.predicted is not None]


def main() -> None:
    """Fit by turns: kernels are most of a step, so what is missing in the mean is missing in them."""
    factor = 1.0
    for _ in range(ROUNDS):
        write(factor, [0.0])
        factor *= math.exp(-statistics.mean(errors()))
    write(factor, errors())


def write(factor: float, own: list[float]) -> None:
    """One row."""
    with (FOLDER / training_rows.STEPS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerow((DEVICE, f"{factor:.4g}", f"{statistics.pstdev(own):.3g}", len(own), SOURCE))


if __name__ == "__main__":
    main()
