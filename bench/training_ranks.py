"""Training steps of the reference model over two pipeline ranks and over two expert-parallel ranks, beside perfmodel's,
calibrated on the same machine: ``python -m bench.training_ranks [FOLDER] [MINUTES]``.

Kernels and steps are timed on each process's own CPU time, so that it says something on a machine that others use,
too; what travels is in neither then. On a quiet machine ``calibrate profile --training --ranks 2`` and ``calibrate
check`` do the same by the clock, transfers included.
"""

import sys
import time
from pathlib import Path

import numpy as np

from bench.yardstick import yardstick_s
from calibrate.device.assemble import fit_folder
from calibrate.device.case import COMMUNICATION
from calibrate.device.design import design_cases
from calibrate.device.profile import profile
from calibrate.device.timing import Bench
from calibrate.device.training_ranks import KINDS, RANKS, measure_busy, predict_busy
from calibrate.device.training_steps import draw_training_steps
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.units import MS, PERCENT

ASKED = {"max_tokens": 256, "max_context": 256, "ranks": RANKS, "seed": 0, "training": True}
CASES, MICRO_BATCHES = 4, 4


def calibrated(folder: Path, minutes: float) -> None:
    """A calibration of training kernels on CPU time."""
    models, dtypes = ["small"], ["fp32"]
    cases = [one for one in design_cases(models, dtypes=dtypes, **ASKED) if one.kernel not in COMMUNICATION]
    bench = Bench("cpu", 1, 0, clock=time.process_time_ns)
    requested = {"models": models, "dtypes": dtypes, **ASKED}
    profile(cases, folder, minutes=minutes, bench=bench, requested=requested, progress=False)
    fit_folder(folder)


def main() -> None:
    """Print each case and kind: measured, predicted, how far off."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/training_ranks")
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    print(f"yardstick {yardstick_s():.2f} s")
    calibrated(folder, minutes)
    path = str(folder.absolute())
    calibration = load_calibration(path)
    probe_s = calibration.document["clock"]["reference_probe_s"]
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for case in draw_training_steps(["small"], "fp32", CASES, max_tokens=256, max_context=256, seed=7):
        for kind in KINDS:
            measured = min(measure_busy(kind, case, MICRO_BATCHES, probe_s) for _ in range(2))
            predicted = predict_busy(kind, case, calibration, path, MICRO_BATCHES)
            errors[kind].append(PERCENT * (predicted / measured - 1.0))
            print(
                f"{kind:9} {case.label:45} {measured / MS:8.1f} ms measured {predicted / MS:8.1f} predicted "
                f"{errors[kind][-1]:+6.1f} %"
            )
    for kind, own in errors.items():
        print(
            f"{kind:9} median |error| {float(np.median(np.abs(own))):.1f} %, bias {float(np.mean(own)):+.1f} %"
        )
    print(f"yardstick {yardstick_s():.2f} s")


if __name__ == "__main__":
    main()
