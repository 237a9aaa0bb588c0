"""What samples of one call say together: median, spread, and which of them do not count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OUTLIER = 3.5
"""Samples further than this many robust standard deviations from the median, in logarithms, are dropped."""
MIN_DEVIATION = 0.005
"""The robust standard deviation is taken as at least half a percent when outliers are judged: samples that
agree by luck must not condemn the others."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What timing one call gave."""

    seconds: float
    """Median of the samples after normalisation by the probe: s per call."""
    raw_seconds: float
    """Median of the same samples as the clock showed them: s per call."""
    spread: float
    """Robust standard deviation of the logarithm of the samples: 1.4826 x median absolute deviation."""
    samples: int
    """Samples kept, outliers dropped."""
    repeats: int
    """Calls in each sample."""
    probe_s: float
    """Median probe time beside the samples, s."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a call."""

    seconds: float
    """By the clock, s per call."""
    probe_s: float
    """Mean of the probes before and after, s."""
    undisturbed: bool = True
    """Whether no other process was given the core meanwhile."""


def summarise(samples: Sequence[Sample], reference_s: float | None, repeats: int) -> Measurement:
    """Median, spread and outlier rule over samples.

    Samples are normalised to ``reference_s``, or not at all if it is None. One whose logarithm lies further than
    :data:`OUTLIER` robust standard deviations from the median is dropped.
    """
    raw = np.array([sample.seconds for sample in samples])
    probes = np.array([sample.probe_s for sample in samples])
    normalised = raw if reference_s is None else raw * reference_s / probes
    logs = np.log(normalised)
    limit = OUTLIER * max(_deviation(logs), MIN_DEVIATION)
    kept = np.abs(logs - np.median(logs)) <= limit
    return Measurement(
        seconds=float(np.median(normalised[kept])),
        raw_seconds=float(np.median(raw[kept])),
        spread=_deviation(logs[kept]),
        samples=int(kept.sum()),
        repeats=repeats,
        probe_s=float(np.median(probes)),
    )


def prefer_undisturbed(samples: Sequence[Sample], wanted: int) -> Sequence[Sample]:
    """The samples that had their core to themselves, if at least half of those wanted did; otherwise all."""
    good = [sample for sample in samples if sample.undisturbed]
    return good if len(good) >= max(2, wanted / 2) else samples


def _deviation(values: Array) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
