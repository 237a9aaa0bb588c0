"""What the overlap experiment found: one row per rate, and medians over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrate.overlap.measure import BlockRun, Measured
from calibrate.overlap.predict import Prediction, Predictor, compute_held

TARGET = 0.10
"""The median error that the simulator aims at."""
SPREAD = (0.25, 0.75)
"""Quantiles of the rounds that are shown as a measurement's spread."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the block at one rate: medians over rounds, s."""

    measured_s: float
    predicted_s: float
    free_s: float
    """Predicted if the exchange took nothing from compute."""
    naive_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1.0

    @property
    def naive_error(self) -> float:
        """The naive prediction over measured, less one."""
        return self.naive_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One rate."""

    rate: float
    """Bit/s; infinite on the loopback interface."""
    communication_s: float
    """Dispatch and combine alone, by the rate's curve."""
    compute_s: float
    """All compute kernels, by their curves and the probes beside the runs."""
    sequential: Form
    overlapped: Form
    speedup_quartiles: tuple[float, float]
    """Of sequential over overlapped, round by round."""
    bit_equal: bool
    """Whether both forms gave the same output, to the bit, on both ranks and in every round."""
    rounds: int
    repeat_floor: float
    """Larger |log ratio| of the two forms' medians over even and over odd rounds."""
    foreign_load: float
    compute_held: float
    """Share of compute that the exchange takes."""

    @property
    def ratio(self) -> float:
        """Communication over compute."""
        return self.communication_s / self.compute_s

    @property
    def speedups(self) -> Mapping[str, float]:
        """Sequential over overlapped: measured, predicted, predicted without contention, naive."""
        pairs = {
            name: (getattr(self.sequential, f"{name}_s"), getattr(self.overlapped, f"{name}_s"))
            for name in KINDS
        }
        return {name: sequential / overlapped for name, (sequential, overlapped) in pairs.items()}


KINDS = ("measured", "predicted", "free", "naive")


@dataclass(frozen=True, slots=True)
class Summary:
    """Over all rates; errors are medians of absolute values."""

    sequential_error: float
    overlapped_error: float
    naive_error: float
    """Of the overlapped form by max(compute, communication)."""
    speedup_error: float
    naive_speedup_error: float
    repeat_floor: float
    foreign_load: float
    bit_equal: bool

    @property
    def passed(self) -> bool:
        """Bit-equal, within the target, and better than the naive prediction."""
        good = max(self.sequential_error, self.overlapped_error) <= TARGET
        return self.bit_equal and good and self.overlapped_error < self.naive_error

    @property
    def verdict(self) -> str:
        """In words."""
        outputs = "bit-equal" if self.bit_equal else "NOT bit-equal"
        better = "better" if self.overlapped_error < self.naive_error else "NOT better"
        return (
            f"{'passed' if self.passed else 'FAILED'}: outputs {outputs}; median error {self.sequential_error:.1%} "
            f"sequential, {self.overlapped_error:.1%} overlapped (aim {TARGET:.0%}), {better} than the naive "
            f"{self.naive_error:.1%}; speed-up {self.speedup_error:.1%} (naive {self.naive_speedup_error:.1%}); repeat "
            f"floor {self.repeat_floor:.1%}, foreign load {self.foreign_load:.0%}"
        )


def row_of(found: Measured, rate: float, predictor: Predictor) -> Row:
    """Compares the runs at one rate with their predictions."""
    runs = {
        on: [run for run in found.blocks if run.rate == rate and run.overlapped == on] for on in (False, True)
    }
    predictions = {on: [predictor.predict(run) for run in own] for on, own in runs.items()}
    all_predictions = predictions[False] + predictions[True]
    seconds = {on: np.array([max(run.seconds) for run in own]) for on, own in runs.items()}
    low, high = np.quantile(seconds[False] / seconds[True], SPREAD)
    return Row(
        rate=rate,
        communication_s=_median(all_predictions, "communication_s"),
        compute_s=_median(all_predictions, "compute_s"),
        sequential=_form(seconds[False], predictions[False]),
        overlapped=_form(seconds[True], predictions[True]),
        speedup_quartiles=(float(low), float(high)),
        bit_equal=_bit_equal(runs[False], runs[True]),
        rounds=len(runs[True]),
        repeat_floor=max(_floor(own) for own in seconds.values()),
        foreign_load=float(np.median(found.foreign_load[rate])),
        compute_held=compute_held(found, rate),
    )


def summarise(rows: Sequence[Row]) -> Summary:
    """Medians over rates."""

    def median(values: Sequence[float]) -> float:
        return float(np.median(np.abs(values)))

    def speedup_errors(name: str) -> list[float]:
        return [row.speedups[name] / row.speedups["measured"] - 1.0 for row in rows]

    return Summary(
        sequential_error=median([row.sequential.error for row in rows]),
        overlapped_error=median([row.overlapped.error for row in rows]),
        naive_error=median([row.overlapped.naive_error for row in rows]),
        speedup_error=median(speedup_errors("predicted")),
        naive_speedup_error=median(speedup_errors("naive")),
        repeat_floor=median([row.repeat_floor for row in rows]),
        foreign_load=median([row.foreign_load for row in rows]),
        bit_equal=all(row.bit_equal for row in rows),
    )


def _form(seconds: Any, predictions: Sequence[Prediction]) -> Form:
    names = ("seconds", "free_s", "naive_s")
    return Form(float(np.median(seconds)), *(_median(predictions, name) for name in names))


def _median(predictions: Sequence[Prediction], name: str) -> float:
    return float(np.median([getattr(prediction, name) for prediction in predictions]))


def _bit_equal(sequential: Sequence[BlockRun], overlapped: Sequence[BlockRun]) -> bool:
    digests = [{run.round: run.digests for run in runs} for runs in (sequential, overlapped)]
    return digests[0] == digests[1] and bool(digests[0])


def _floor(seconds: Any) -> float:
    """|log ratio| of the medians of even and odd rounds; 0 for a single round."""
    if len(seconds) < 2:
        return 0.0
    return float(abs(np.log(np.median(seconds[::2]) / np.median(seconds[1::2]))))
