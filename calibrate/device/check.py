"""Checks a calibration on what it has not seen: shapes drawn at random, and whole blocks and steps.

Everything is timed twice, in two passes minutes apart, each in an order of its own: the difference of the two is the
repeat floor. A measurement is the geometric mean of its two passes, which is known to about half of that.

A calibration claims something: of its curves, that nine of ten shapes err less than the 90th percentile of its own
leave-out errors; of steps, that eight of ten fall inside the interval. The check fails where fewer do than chance (1 %)
would have it.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from calibrate.device.builders import build
from calibrate.device.case import Case
from calibrate.device.curves import NORMAL_90, inside
from calibrate.device.design import design_cases, sample_points, with_work
from calibrate.device.environment import ForeignLoad, describe
from calibrate.device.journal import MUST_AGREE
from calibrate.device.needs import load_model, needed_ranges, training_ranges
from calibrate.device.steps import Models, StepCase, build_step, draw_steps, predict
from calibrate.device.timing import Bench
from calibrate.device.training_ranks import KINDS, RANKS, measure
from calibrate.device.training_ranks import predict as predict_over_ranks
from calibrate.device.training_steps import build_training_step, draw_training_steps
from calibrate.device.training_steps import predict as predict_training
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.curves import Curve
from perfmodel.kernels.sums import write_sums
from perfmodel.units import PERCENT
from reference_model.config import SIZES

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

SHAPES_PER_CLASS = 12
STEPS = 48
CASES_OF_RANKS, MICRO_BATCHES = 2, 4
"""Training steps over two ranks, and micro-batches of those that pass a pipeline."""
STEPS_OF = ("block", "step", "training step")
"""Kinds of rows that are no kernels."""
CHANCE = 0.01
"""A calibration that keeps its claims fails the check this often."""
RESULT, ROWS = "check.json", "check.parquet"
SEED = 20_000_003
"""Of the draws; shapes that a design holds are left out whatever the seed."""


C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was predicted and measured."""

    kind: str
    """Kernel class and number format, or one of :data:`STEPS_OF`."""
    label: str
    group: str
    """``kernels``, ``steps``, or ``ranks``: steps over several."""
    measured_s: float
    """Geometric mean of two passes, on the calibration's clock."""
    first_s: float
    second_s: float
    predicted_s: float
    low_s: float
    """Lower end of the 80 % interval."""
    high_s: float
    claim_pct: float
    """Error that the calibration says is exceeded once in ten; NaN for steps."""
    foreign_load: float
    outside: bool
    """Whether the prediction left the timed domain."""

    @property
    def error_pct(self) -> float:
        """Predicted over measured, minus 1, %."""
        return PERCENT * (self.predicted_s / self.measured_s - 1.0)

    @property
    def repeat_pct(self) -> float:
        """Difference between the two passes, %."""
        return PERCENT * abs(self.second_s / self.first_s - 1.0)

    @property
    def covered(self) -> bool:
        """Whether the measurement lies in the interval."""
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be measured and what is predicted for it."""

    kind: str
    label: str
    group: str
    build: Callable[[], Callable[[], object]]
    predicted_s: float
    low_s: float
    high_s: float
    claim_pct: float
    outside: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """Outcome of a check."""

    rows: tuple[Row, ...]
    summary: tuple[dict[str, Any], ...]
    """One line per kind, and per group."""
    failures: tuple[str, ...]
    """Claims that were not kept, in words."""


def check(
    folder: Path,
    *,
    bench: Bench,
    shapes_per_class: int = SHAPES_PER_CLASS,
    steps: int = STEPS,
    seed: int = SEED,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Checked:
    """Measure, compare, and write ``check.json`` and ``check.parquet`` into the calibration's folder.

    Raises:
        DataError: no calibration there, or one of another device, thread count or torch version.
    """
    calibration = load_calibration(
        str(folder.absolute())
    )  # a folder, whatever the catalogue has by that name
    _check_environment(calibration, bench)
    bench.reference_probe_s = calibration.document["clock"]["reference_probe_s"]
    jobs = [
        *_shape_jobs(calibration, bench, shapes_per_class, seed),
        *_step_jobs(calibration, folder, bench, steps, seed),
    ]
    rows = _measure(jobs, bench, seed, progress)
    if steps:
        rows += _rank_rows(calibration, folder, seed)
    result = judge(rows)
    write(folder, calibration, result)
    return result


def judge(rows: Sequence[Row]) -> Checked:
    """Summary lines and the claims that were not kept."""
    kinds = sorted({row.kind for row in rows}, key=lambda kind: (kind in STEPS_OF, kind))
    summary = [_summary(kind, [row for row in rows if row.kind == kind]) for kind in kinds]
    for group in ("kernels", "steps", "ranks"):
        own = [row for row in rows if row.group == group]
        if own:
            summary.append(_summary(f"all {group}", own))
    return Checked(tuple(rows), tuple(summary), tuple(_failures(rows)))


def write(folder: Path, calibration: Calibration, result: Checked) -> None:
    """``check.parquet`` with every row, ``check.json`` with the summary."""
    table = frame(result.rows)
    temporary = folder / f".{ROWS}.part"
    table.to_parquet(temporary, index=False)
    temporary.replace(folder / ROWS)
    document = {
        "calibration": calibration.id,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "summary": [_finite(line) for line in result.summary],
        "failures": list(result.failures),
    }
    atomic_write(folder / RESULT, json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_sums(folder)


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """All rows as a table, errors included."""
    import pandas as pd

    return pd.DataFrame(
        [
            {**asdict(row), "error_pct": row.error_pct, "repeat_pct": row.repeat_pct, "covered": row.covered}
            for row in rows
        ]
    )


def _check_environment(calibration: Calibration, bench: Bench) -> None:
    stored, here = calibration.document["environment"], describe(bench.device, bench.threads)
    for name in MUST_AGREE:
        if stored.get(name) != here.get(name):
            raise DataError(
                f"calibration {calibration.name}: made with {name} = {stored.get(name)}, this is {here.get(name)}: it "
                "can only be checked where it was made"
            )


def _rank_rows(calibration: Calibration, folder: Path, seed: int) -> list[Row]:
    """Training steps over two ranks, where transfers between ranks were timed; they are told and not judged, as they
    have no interval. On CPUs alone: the ranks that are measured are processes there.
    """
    if calibration.document["environment"]["device"] != "cpu":
        return []
    asked = calibration.document["requested"]
    sizes = [name for name in asked["models"] if name in SIZES and SIZES[name].num_layers % RANKS == 0]
    if not asked.get("training") or asked["ranks"] < RANKS or not sizes:
        return []
    rows, probe_s = [], calibration.document["clock"]["reference_probe_s"]
    limits = {"max_tokens": asked["max_tokens"], "max_context": asked["max_context"]}
    for case in draw_training_steps(sizes, asked["dtypes"][0], CASES_OF_RANKS, **limits, seed=seed):
        for kind in KINDS:
            with ForeignLoad() as load:
                first, second = (min(measure(kind, case, MICRO_BATCHES, probe_s)) for _ in range(2))
            found = predict_over_ranks(kind, case, calibration, str(folder.absolute()), MICRO_BATCHES)
            unknown = float("nan")
            rows.append(
                Row(
                    f"training step, {kind} over {RANKS} ranks",
                    case.label,
                    "ranks",
                    float(np.sqrt(first * second)),
                    first,
                    second,
                    found,
                    unknown,
                    unknown,
                    unknown,
                    load.share,
                    False,
                )
            )
    return rows


def _shape_jobs(calibration: Calibration, bench: Bench, count: int, seed: int) -> Iterator[_Job]:
    """``count`` shapes of each class that no design holds, from the same box, inside the curve's domain."""
    asked = calibration.document["requested"]
    models = [load_model(name) for name in asked["models"]]
    fitted = {case.key for case in design_cases(**asked)}
    for dtype in asked["dtypes"]:
        needed = training_ranges if asked.get("training") else needed_ranges
        ranges = needed(models, dtype, asked["max_tokens"], asked["max_context"], asked["ranks"])
        for (kernel, own_dtype), own in ranges.items():
            drawn = sample_points(kernel, own, own_dtype, 4 * count, seed)
            curve = calibration.find(kernel, own_dtype)
            if isinstance(curve, Curve):
                allowed = (c for c in drawn if c.key not in fitted and inside(curve, c.shape))
                for case in itertools.islice(allowed, count):
                    yield _shape_job(case, curve, bench)


def _shape_job(case: Case, curve: Curve, bench: Bench) -> _Job:
    variables = with_work(case.kernel, case.dtype, case.shape)
    seconds, width = float(curve.seconds(variables)), float(np.exp(NORMAL_90 * curve.log_std))
    return _Job(
        f"{case.kernel} {case.dtype}",
        case.label,
        "kernels",
        lambda: build(case, bench),
        seconds,
        seconds / width,
        seconds * width,
        curve.p90_error_pct,
        False,
    )


def _step_jobs(calibration: Calibration, folder: Path, bench: Bench, count: int, seed: int) -> Iterator[_Job]:
    """Blocks and steps of the sizes of the reference model that the calibration was made for."""
    asked = calibration.document["requested"]
    sizes = [name for name in asked["models"] if name in SIZES]
    if not sizes or not count:
        return
    models = Models(bench.device)
    if asked.get("training"):
        yield from _training_jobs(calibration, folder, models, sizes, count, seed)
        return
    for case in _drawn(draw_steps, asked, sizes, count, seed):
        yield _step_job(case, calibration, folder, models)


def _drawn(
    draw: Callable[..., Iterable[C]], asked: Mapping[str, Any], sizes: Sequence[str], count: int, seed: int
) -> Iterator[C]:
    """So many cases in each number format that was asked for, within its limits."""
    for dtype in asked["dtypes"]:
        limits = {key: asked[key] for key in ("max_tokens", "max_context")}
        yield from draw(sizes, dtype, count, seed=seed, **limits)


def _training_jobs(
    calibration: Calibration, folder: Path, models: Models, sizes: Sequence[str], count: int, seed: int
) -> Iterator[_Job]:
    """Whole training steps: forwards, the loss and backwards."""
    asked = calibration.document["requested"]
    for case in _drawn(draw_training_steps, asked, sizes, count, seed):
        found = predict_training(case, calibration, str(folder.absolute()))
        yield _Job(
            "training step",
            case.label,
            "steps",
            partial(build_training_step, case, models),
            found.seconds,
            found.low_s,
            found.high_s,
            float("nan"),
            found.outside,
        )


def _step_job(case: StepCase, calibration: Calibration, folder: Path, models: Models) -> _Job:
    found = predict(case, calibration, str(folder))
    return _Job(
        case.what,
        case.label,
        "steps",
        lambda: build_step(case, models),
        found.seconds,
        found.low_s,
        found.high_s,
        float("nan"),
        found.outside,
    )


def _measure(
    jobs: Sequence[_Job], bench: Bench, seed: int, progress: Callable[[str, int, int], None]
) -> list[Row]:
    """Two passes over all jobs, each in a random order of its own."""
    random = np.random.default_rng(seed)
    times: list[dict[int, float]] = [{}, {}]
    loads = dict.fromkeys(range(len(jobs)), 0.0)
    done = 0
    for own in times:
        for index in random.permutation(len(jobs)).tolist():
            progress(jobs[index].label, done, 2 * len(jobs))
            with ForeignLoad() as load:
                own[index] = bench.measure(jobs[index].build()).seconds
            loads[index] = max(loads[index], load.share)
            done += 1
    return [
        Row(
            job.kind,
            job.label,
            job.group,
            float(np.sqrt(times[0][i] * times[1][i])),
            times[0][i],
            times[1][i],
            job.predicted_s,
            job.low_s,
            job.high_s,
            job.claim_pct,
            loads[i],
            job.outside,
        )
        for i, job in enumerate(jobs)
    ]


def _summary(kind: str, rows: Sequence[Row]) -> dict[str, Any]:
    errors = np.array([abs(row.error_pct) for row in rows])
    claims = [row.claim_pct for row in rows]
    widths = [PERCENT * (row.high_s - row.low_s) / row.predicted_s for row in rows]
    return {
        "kind": kind,
        "n": len(rows),
        "median_abs_pct": float(np.median(errors)),
        "p90_abs_pct": float(np.quantile(errors, 0.9)),
        "bias_pct": float(np.median([row.error_pct for row in rows])),
        "repeat_median_pct": float(np.median([row.repeat_pct for row in rows])),
        "repeat_p90_pct": float(np.quantile([row.repeat_pct for row in rows], 0.9)),
        "claim_p90_pct": float(np.median(claims)),
        "coverage_pct": PERCENT * float(np.mean([row.covered for row in rows])),
        "mean_interval_width_pct": float(np.mean(widths)),
        "foreign_load": float(np.median([row.foreign_load for row in rows])),
    }


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    """Claims that are broken more often than chance allows."""
    from scipy.stats import binom  # deferred: slow to import

    kernels = [row for row in rows if row.group == "kernels"]
    worse = sum(abs(row.error_pct) > row.claim_pct for row in kernels)
    if kernels and worse > binom.ppf(1.0 - CHANCE, len(kernels), 0.1):
        yield (
            f"kernels: {worse} of {len(kernels)} held-out shapes err more than the calibration's own 90th percentile; "
            "a tenth was claimed"
        )
    steps = [row for row in rows if row.group == "steps"]
    covered = sum(row.covered for row in steps)
    if steps and covered < binom.ppf(CHANCE, len(steps), 0.8):
        yield (
            f"steps: {covered} of {len(steps)} blocks and steps lie in their interval; eight tenths were claimed"
        )


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """NaN as null, for JSON."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in line.items()
    }
