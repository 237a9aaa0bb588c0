"""One step of a scenario, predicted for a published row: its time, its draws, and what follows from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.ops.limits import check_layout
from perfmodel.overlap.twin import step_times
from perfmodel.spec.scenario import Scenario
from perfmodel.step import common_log_std, drawable, has_contention, step_segments
from perfmodel.uncertainty import drawn_step_times

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """A step's time with its spread."""

    scenario: Scenario
    seconds: float
    """Median, s."""
    draws: Array | None
    """64 quasi-random draws, s; None where an op's spread is not known."""
    timings: dict[str, float]
    """Op name -> time alone in one layer (the last one that has it), s."""


def predict_step(scenario: Scenario) -> StepPrediction:
    """Time of one step by the vectorised twin; memory is not checked, because the row was run.

    Raises:
        InfeasibleError: a layout that the engine would not load: the row says something else than what ran.
    """
    check_layout(scenario)
    segments = step_segments(scenario)
    contention = has_contention(scenario)
    seconds = float(step_times(segments, contention=contention).step_time_s[0])
    found = drawn_step_times(
        [drawable(scenario, segments)], common_log_std=common_log_std(scenario), contention=[contention]
    )
    alone = {
        task.op.name: float(np.mean(timing.seconds))
        for segment in segments
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    }
    return StepPrediction(scenario, seconds, None if found is None else found[0], alone)


def bounds(values: Any) -> tuple[float, float]:
    """The 80 % interval of drawn values."""
    low, high = np.quantile(np.asarray(values), (0.1, 0.9))
    return float(low), float(high)
