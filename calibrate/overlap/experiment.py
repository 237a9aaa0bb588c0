"""The overlap experiment: overlap is measured, not assumed (docs/overlap_experiment.md).

Two ranks in two network namespaces, joined by a link of limited rate, run the reference model's shortcut-connected
block in sequence and overlapped. perfmodel, calibrated on that link and device in between, predicts both.

::

    python -m calibrate.overlap --out FOLDER
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.overlap.measure import PASSES, Measured, Plan, describe_rate, measure, pilot_rates
from calibrate.overlap.namespaces import parse_rate
from calibrate.overlap.predict import Predictor, fit_kernels, write_calibration
from calibrate.overlap.ranks import RankPair
from calibrate.overlap.report import table, write
from calibrate.overlap.result import Row, Summary, row_of, summarise
from calibrate.overlap.workload import Workload, draw_workload
from perfmodel.errors import DataError, PerfModelError
from perfmodel.units import MEGA

RATIOS = (0.22, 0.35, 0.6, 1.0, 1.5, 2.4, 3.5)
"""Communication over compute that rates are chosen for, where none are given."""
TOKENS = 512
SECONDS_PER_RATE = 30.0
LOOPBACK_NOTE = "loopback form: no namespaces; the loopback interface can't be slowed, so there is one ratio"


@dataclass(frozen=True, slots=True)
class Result:
    """An experiment that was run."""

    found: Measured
    rows: tuple[Row, ...]
    summary: Summary
    notes: tuple[str, ...]


def run_experiment(
    out: Path,
    *,
    workload: Workload,
    plan: Plan,
    rates: Sequence[float] = (),
    ratios: Sequence[float] = RATIOS,
    loopback: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Measure, calibrate, predict, compare; writes everything to the folder ``out``, which is made.

    Args:
        out: result, table, page, raw samples, and a calibration for each rate.
        workload: the block and its routing.
        plan: how long and how finely to measure.
        rates: of the link, bit/s; none: chosen for ``ratios`` after a pilot run.
        ratios: communication over compute.
        loopback: no namespaces and no shaping.
        progress: told what is being done.

    Raises:
        NoNamespacesError: namespaces can't be had, and ``loopback`` was not asked for.
        DataError: a rank failed, or the folder can't be written.
    """
    make_folder(out)
    progress("starting two ranks")
    with RankPair(workload, loopback=loopback) as pair:
        chosen = (math.inf,) if loopback else tuple(rates) or pilot_rates(pair, ratios)
        found = measure(pair, chosen, plan, progress)
    progress("fitting and predicting")
    rows, warnings = compare(found, out)
    notes = (*([LOOPBACK_NOTE] if loopback else []), *warnings)
    result = Result(found, rows, summarise(rows), notes)
    write(out, found, rows, result.summary, notes)
    return result


def compare(found: Measured, out: Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """A calibration and a row for each rate, and what perfmodel warned of.

    Raises:
        DataError: too little was measured for a curve, or the folder can't be written.
    """
    curves = fit_kernels(found)
    rows, warnings = [], []
    for rate in found.rates:
        folder = out / ("loopback" if math.isinf(rate) else f"{rate / MEGA:g}mbit")
        write_calibration(found, rate, curves, folder)
        predictor = Predictor(found, folder)
        rows.append(row_of(found, rate, predictor))
        warnings += [f"{describe_rate(rate)}: {text}" for text in predictor.warnings]
    return tuple(rows), tuple(warnings)


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DataError: that can't be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: can't be made: {error.strerror}; choose another --out") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: table and verdict on stdout, progress on stderr. Exit codes: 0 passed, 1 not, 2 bad input."""
    options = _parser().parse_args(arguments)
    start = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        result = run_experiment(
            options.out,
            workload=draw_workload(options.tokens, options.seed),
            plan=Plan(options.seconds_per_rate, passes=options.passes, seed=options.seed),
            rates=[parse_rate(text) for text in options.rates.split(",") if text],
            loopback=options.loopback,
            progress=progress,
        )
    except PerfModelError as error:
        print(f"calibrate.overlap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("\n".join([table(result.rows), "", result.summary.verdict, *result.notes]))
    print(f"wrote {options.out}", file=sys.stderr)
    sys.exit(0 if result.summary.passed else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibrate.overlap", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; is made")
    parser.add_argument(
        "--rates",
        default="",
        help="of the link, Mbit/s, with commas: 12,25,50mbit; chosen by a pilot run if not given",
    )
    parser.add_argument(
        "--seconds-per-rate", type=float, default=SECONDS_PER_RATE, help="time at each rate, over all passes"
    )
    parser.add_argument("--passes", type=int, default=PASSES, help="how often all rates are visited")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each rank")
    parser.add_argument("--seed", type=int, default=0, help="of routing and of the order of kernels")
    parser.add_argument(
        "--loopback", action="store_true", help="no namespaces, no shaping: works without root"
    )
    return parser
