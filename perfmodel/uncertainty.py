"""How sure: the spread of kernel times, carried through the schedule into an interval of the step time.

Every curve of a calibration has a spread, the standard deviation of log(predicted / measured) on shapes that were left
out of its fit. Ops of one curve on one shape err together (the same kernel in every layer), on different shapes
independently, as left-out shapes do; and all share the device's own noise between two runs. 64 quasi-random draws of
those factors go through the vectorised twin, overlap and contention included; their 10th and 90th percentiles are the
interval. ``calibrate check`` reports how often measured steps fall inside.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel.kernels.calibration import Calibration
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.twin import step_times

DRAWS = 64
"""Quasi-random draws (a power of two, as Sobol's sequence wants)."""
QUANTILES = (0.1, 0.9)
"""Of an 80 % interval."""


def step_interval(
    segments: Sequence[Segment], calibration: Calibration, *, contention: bool
) -> tuple[float, float] | None:
    """80 % interval of the step time, s; None where an op's time does not come from a curve with a spread."""
    keys = _spread_keys(segments)
    if keys is None:
        return None
    factors = _factors(keys, calibration.repeat_log_std)
    drawn = [
        replace(
            segment,
            timings=tuple(
                timing.scaled(factors[timing.spread_key]) if timing.spread_key else timing
                for timing in segment.timings
            ),
        )
        for segment in segments
    ]
    low, high = np.quantile(step_times(drawn, contention=contention).step_time_s, QUANTILES)
    return float(low), float(high)


def _spread_keys(segments: Sequence[Segment]) -> dict[str, float] | None:
    """Key -> its spread, over all ops; None if some op that takes time has no curve or the ranks differ."""
    keys: dict[str, float] = {}
    for segment in segments:
        for timing in segment.timings:
            if any(np.ndim(part) for part in (timing.seconds, timing.compute_s, timing.network_s)):
                return None
            if timing.spread_key:
                keys[timing.spread_key] = timing.log_std
            elif timing.seconds > 0.0 and timing.source != "given":
                return None
    return keys or None


def _factors(spreads: dict[str, float], common: float) -> dict[str, Any]:
    """A factor per draw for each key: log-normal around 1, times the one that all share."""
    from scipy.special import ndtri
    from scipy.stats import qmc  # deferred: slow to import

    points = qmc.Sobol(len(spreads) + 1, scramble=True, rng=0).random(DRAWS)
    normal = ndtri(np.clip(points, 1e-6, 1.0 - 1e-6))
    shared = common * normal[:, -1]
    return {key: np.exp(std * normal[:, i] + shared) for i, (key, std) in enumerate(spreads.items())}
