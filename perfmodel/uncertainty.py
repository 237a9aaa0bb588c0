"""How sure: the spread of kernel times and of an engine's constants, carried through the schedule into an interval.

Every curve of a calibration, and every fitted fraction of a peak, has a spread: the standard deviation of
log(predicted / measured), on shapes that were left out of the fit where it was fitted. Ops of one curve on one shape
err together (the same kernel in every layer), on different shapes independently, as left-out shapes do. All share the
device's own noise between two runs and what an engine's constants leave unexplained. Where nothing is known of a
router, how unevenly experts are used is drawn, too (:func:`perfmodel.step.drawable`). 64 quasi-random draws of those
factors go through the vectorised twin, overlap and contention included; their 10th and 90th percentiles are the
interval. ``calibrate check`` and ``perfmodel validate`` report how often measurements fall inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num, some
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.twin import step_times
from perfmodel.sobol import most_dimensions, sobol
from perfmodel.special import normal_quantile, quantiles

DRAWS = 64
"""Quasi-random draws (a power of two, as Sobol's sequence wants)."""
QUANTILES = (0.1, 0.9)
"""Of an 80 % interval."""

Array = NDArray[np.float64]


def step_interval(
    segments: Sequence[Segment], *, common_log_std: float, contention: bool
) -> tuple[float, float] | None:
    """80 % interval of the step time, s; None where an op's time has no known spread, or differs between ranks."""
    drawn = drawn_step_times([segments], common_log_std=common_log_std, contention=[contention])
    return None if drawn is None else interval(drawn[0])


def interval(values: Array) -> tuple[float, float]:
    """The 80 % interval of drawn values."""
    low, high = quantiles(values, QUANTILES)
    return low, high


def drawn_step_times(
    steps: Sequence[Sequence[Segment]], *, common_log_std: float, contention: Sequence[bool]
) -> list[Array] | None:
    """Times of several steps under the same 64 draws, s: what the steps share (a kernel on a shape, the engine) errs
    alike in all of them. None where an op's time has no known spread, or is an array already. ``contention``: of each
    step, whether its ops slow each other.
    """
    keys: dict[str, float] = {}
    for segments in steps:
        if not _add_spread_keys(segments, keys):
            return None
    if not keys:
        return None
    factors = _factors(keys, common_log_std)
    return [
        step_times(_scaled(segments, factors), contention=own).step_time_s
        for segments, own in zip(steps, contention, strict=True)
    ]


def drawn_curve(
    segments: Sequence[Segment], like: Sequence[Segment], *, common_log_std: float, contention: bool
) -> tuple[Array, Array] | None:
    """Step times of the scenarios that the timings' arrays hold, s: as they are (scenarios,) and under the same 64
    draws (draws, scenarios), all in one run of the twin.

    ``like`` is the step of one of them, whose shapes say which ops err together: a kernel is one curve at every point,
    and at that scenario the draws are :func:`step_interval`'s. None where an op's time has no known spread.
    """
    keys: dict[str, float] = {}
    if not _add_spread_keys(like, keys) or not keys:
        return None
    drawn_factors = _factors(keys, common_log_std).items()
    factors = {key: np.append(0.0 if key == UNEVEN else 1.0, own) for key, own in drawn_factors}
    points = max(np.size(timing.seconds) for segment in segments for timing in segment.timings)
    made: dict[tuple[int, int], Timing] = {}  # what is alike stays one timing

    def at_points(timing: Timing, own: Timing) -> Timing:
        kind = id(timing), id(own)
        if kind not in made:
            made[kind] = _at_points(timing, _factor(own, factors), points)
        return made[kind]

    drawn = [
        replace(segment, timings=tuple(map(at_points, segment.timings, one.timings)))
        for segment, one in zip(segments, like, strict=True)
    ]
    times = step_times(drawn, contention=contention).step_time_s.reshape(1 + DRAWS, points)
    return times[0], times[1:]


def _at_points(timing: Timing, factors: Array, points: int) -> Timing:
    """The timing of every point under every draw, draw after draw."""

    def own(part: Num) -> Num:
        drawn: Any = np.multiply.outer(factors, np.broadcast_to(np.asarray(part, dtype=float), (points,)))
        flat: Num = drawn.ravel()
        return flat

    return replace(
        timing,
        latency_s=own(timing.latency_s),
        compute_s=own(timing.compute_s),
        memory_s=own(timing.memory_s),
        link_s=own(timing.link_s),
        network_s=own(timing.network_s),
    )


def _scaled(segments: Sequence[Segment], factors: Mapping[str, Array]) -> list[Segment]:
    """The segments with every timing under every draw; given times and gaps in a graph (an engine's constants) err with
    the engine, but for the gap of an op that has a spread of its own.
    """
    made: dict[int, Timing] = {}  # what is alike stays one timing

    def scaled(timing: Timing) -> Timing:
        if id(timing) not in made:
            made[id(timing)] = timing.scaled(_factor(timing, factors))
        return made[id(timing)]

    return [replace(segment, timings=tuple(map(scaled, segment.timings))) for segment in segments]


def _factor(timing: Timing, factors: Mapping[str, Array]) -> Any:
    """How many times as long an op takes in each draw: its kernel's and the engine's error, and, where it depends on
    that, what uneven use of experts does to it.
    """
    own = factors[timing.spread_key or COMMON]
    return own * np.exp(factors[UNEVEN] * timing.uneven_log) if some(timing.uneven_log) else own


def _add_spread_keys(segments: Sequence[Segment], keys: dict[str, float]) -> bool:
    """Adds key -> spread of all ops; False if some op that takes time has none, or the ranks differ."""
    for segment in segments:
        for timing in segment.timings:
            if any(_is_array(part) for part in (timing.seconds, timing.compute_s, timing.network_s)):
                return False
            if timing.spread_key:
                keys[timing.spread_key] = timing.log_std
            elif timing.seconds > timing.gap_s and timing.source != "given":
                return False
            if some(timing.uneven_log):
                keys[UNEVEN] = 1.0
    return True


def _is_array(value: Any) -> bool:
    return not isinstance(value, (float, int)) and bool(np.ndim(value))


COMMON = ""
"""Key of the factor that everything shares."""
UNEVEN = "uneven use of experts"
"""Key of how far experts are used unevenly, in standard deviations: half-normal, for even use is the least."""


def _factors(spreads: Mapping[str, float], common: float) -> dict[str, Array]:
    """A factor per draw for each key: log-normal around 1, times the one that all share."""
    normal = _deviates(len(spreads) + 1)
    shared = common * normal[:, -1]
    factors = {key: np.exp(std * normal[:, i] + shared) for i, (key, std) in enumerate(spreads.items())}
    if UNEVEN in spreads:
        factors[UNEVEN] = np.abs(normal[:, list(spreads).index(UNEVEN)])
    return {COMMON: np.exp(shared), **factors}


@lru_cache(maxsize=64)
def _deviates(dimensions: int) -> Array:
    """Standard normal deviates of the draws (draws, dimensions), the same for all steps of so many factors."""
    found = normal_quantile(np.clip(_points(dimensions), 1e-6, 1.0 - 1e-6))
    found.setflags(write=False)
    return found


def _points(dimensions: int) -> Array:
    """The draws' points in the unit cube (draws, dimensions)."""
    if dimensions <= most_dimensions():
        return sobol(dimensions, DRAWS, seed=0)
    from scipy.stats import qmc  # a second of imports, for a model of hundreds of different layers

    points: Array = qmc.Sobol(dimensions, scramble=True, rng=0).random(DRAWS)
    return points
