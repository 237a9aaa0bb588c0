"""Predictions of the overlap experiment: a calibration for each rate, perfmodel's timeline, and how far off it is.

Compute kernels have one set of curves for all rates, in seconds of the reference clock; a prediction multiplies them by
the probes beside the very run that it predicts. The exchange and what it takes from compute are calibrated per rate; a
wire does not wait for the CPU's clock, so nothing is multiplied there.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import perfmodel
from calibrate.device.curves import fit_curve
from calibrate.device.design import with_work, work_of
from calibrate.device.environment import gpu_spec
from calibrate.overlap.measure import BlockRun, Measured
from calibrate.overlap.workload import DTYPE, NUM_RANKS, block_segment, scenario
from perfmodel.files import atomic_write
from perfmodel.kernels.calibration_file import FILE_NAME, FORMAT, content_id
from perfmodel.kernels.curves import Curve, curve_document
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.timeline import simulate
from perfmodel.units import BITS_PER_BYTE, GB, MEGA

MIN_EXCHANGES = 6
"""Timed pairs of dispatch and combine that make a curve: it has one variable."""
MAX_HELD = 0.95


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one run of the block, s."""

    seconds: float
    """By perfmodel's timeline."""
    free_s: float
    """The same if an exchange took nothing from compute: what the order of the ops alone allows."""
    naive_s: float
    """The larger of all compute and all communication (overlapped), or their sum (sequential)."""
    compute_s: float
    communication_s: float


class Predictor:
    """perfmodel with the calibration of one rate."""

    def __init__(self, found: Measured, folder: Path) -> None:
        """``folder`` holds that rate's ``calibration.json``."""
        document = json.loads((folder / FILE_NAME).read_text())
        asked = {"cluster": document["cluster"], "calibration": str(folder)}
        self.reference_probe_s = found.reference_probe_s
        self.segments = {
            overlapped: block_segment(scenario(found.workload, overlapped=overlapped, **asked))
            for overlapped in (False, True)
        }
        self.warnings = sorted({timing.flag for timing in self.segments[True].timings if timing.flag})

    def predict(self, run: BlockRun) -> Prediction:
        """What the run should take on a machine as fast as the probes beside it say."""
        factor = float(np.mean(run.probe_s)) / self.reference_probe_s
        segment = _slowed(self.segments[run.overlapped], factor)
        compute_s, communication_s = _sums(segment)
        naive_s = max(compute_s, communication_s) if run.overlapped else compute_s + communication_s
        seconds, free_s = (simulate([segment], contention=on).step_time_s for on in (True, False))
        return Prediction(seconds, free_s, naive_s, compute_s, communication_s)


def _slowed(segment: Segment, factor: float) -> Segment:
    """The block with compute ``factor`` times as slow."""
    timings = tuple(
        timing if task.op.is_communication else timing.scaled(factor)
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    )
    return replace(segment, timings=timings)


def _sums(segment: Segment) -> tuple[float, float]:
    """Seconds of all compute and of all communication, each op alone."""
    sums = [0.0, 0.0]
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        sums[task.op.is_communication] += float(timing.seconds)
    return sums[0], sums[1]


def write_calibration(found: Measured, rate: float, curves: Sequence[Curve], folder: Path) -> None:
    """Write the calibration of one rate, bit/s, that perfmodel reads.

    Raises:
        DataError: too few exchanges were timed at that rate, or the file can't be written.
    """
    exchange = fit_exchange(found, rate)
    document = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "perfmodel": perfmodel.__version__,
        "source": f"calibrate.overlap on {found.environment['device_name']}, {found.environment['date'][:10]}",
        "environment": found.environment,
        "clock": {
            "reference_probe_s": found.reference_probe_s,
            "repeat_log_std": float(np.median([run.spread for run in found.kernels])),
        },
        "cluster": _cluster(found, rate, exchange),
        "contention": {"compute_held": compute_held(found, rate), "measured": 1},
        "wire": "network",
        "curves": [curve_document(curve) for curve in (*curves, exchange)],
    }
    document["id"] = content_id(document)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / FILE_NAME, json.dumps(document, indent=1, allow_nan=False) + "\n")


def fit_kernels(found: Measured) -> list[Curve]:
    """A curve for each kernel class, of the mean of both ranks.

    Raises:
        DataError: a class has too few timed shapes.
    """
    classes = dict.fromkeys((run.case.kernel, run.case.dtype) for run in found.kernels)
    curves = []
    for kernel, dtype in classes:
        runs = [run for run in found.kernels if (run.case.kernel, run.case.dtype) == (kernel, dtype)]
        names = runs[0].case.shape
        shape = {name: np.array([float(run.case.shape[name]) for run in runs]) for name in names}
        work = with_work(kernel, dtype, shape).items()
        variables = {name: np.broadcast_to(values, len(runs)).astype(float) for name, values in work}
        curves.append(fit_curve(kernel, dtype, variables, np.array([np.mean(run.seconds) for run in runs])))
    return curves


def fit_exchange(found: Measured, rate: float) -> Curve:
    """The curve of dispatch and combine at a rate.

    perfmodel has one class for both, so a row is the mean of a dispatch and the combine after it: their sum is what a
    block takes. (Fitted apart, the longer of the two, which exchanges counts first, would be taken for an outlier.)

    Raises:
        DataError: too few were timed.
    """
    runs = [run for run in found.exchanges if run.rate == rate]
    sizes = np.array([run.rows * found.workload.row_bytes for run in runs])
    seconds = np.array([(run.dispatch_s + run.combine_s) / 2 for run in runs])
    variables = {"bytes": sizes, "ranks": np.full(len(runs), float(NUM_RANKS))}
    return fit_curve("all_to_all", "any", variables, seconds, min_rows=MIN_EXCHANGES)


def compute_held(found: Measured, rate: float) -> float:
    """Share of compute that an exchange in flight takes at a rate: the median over rounds, 0 where none was counted."""
    shares = [1.0 - run.alone_s / run.together_s for run in found.contention if run.rate == rate]
    known = [share for share in shares if not math.isnan(share)]
    return min(max(float(np.median(known)), 0.0), MAX_HELD) if known else 0.0


def _cluster(found: Measured, rate: float, exchange: Curve) -> Mapping[str, Any]:
    """Two devices, each a domain of its own, so that an exchange goes over the network."""
    products = [run for run in found.kernels if run.case.kernel == "gemm"]
    peak = max(work_of("gemm", run.case.shape)[0] / float(np.mean(run.seconds)) for run in products)
    gpu = gpu_spec(found.environment, {DTYPE: peak}, found.environment["copy_bytes_per_s"])
    bytes_per_s = rate / BITS_PER_BYTE
    if math.isinf(rate):
        largest = exchange.domain["bytes"][1]
        bytes_per_s = largest / float(exchange.seconds({"bytes": largest}))
    return {
        "name": "loopback" if math.isinf(rate) else f"link-{rate / MEGA:g}-mbit-per-s",
        "gpu": gpu,
        "node": {"num_gpus": 1, "link_domain_gpus": 1, "link_gb_per_s": gpu["hbm_gb_per_s"]},
        "network": {"gb_per_s_per_gpu": bytes_per_s / GB},
        "source": f"calibrate.overlap: {NUM_RANKS} processes of one machine and the link between them",
        "date": found.environment["date"][:10],
    }
