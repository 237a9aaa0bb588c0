"""How a kernel class is fitted: latency + max(flops / (fc x peak), bytes / (fm x HBM)).

Only kernel timings are fitted, never the time of a step or of a server.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.tables import measured
from calibrate.tables.log_fit import Array, fit_log
from calibrate.tables.measured import KernelSample
from perfmodel.units import US

HOPPER = {"h800-sxm", "h100-sxm", "h200-sxm"}
BLACKWELL = {"b200-sxm"}
LATENCY_BOUNDS_US = (0.5, 20.0)
"""A launch costs at least half a microsecond; a kernel class of two launches (split and combine) at most
20."""
STARTS = ((0.5, 0.7, 3.0), (0.7, 0.8, 8.0), (0.3, 0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found."""

    compute_fraction: float
    memory_fraction: float
    latency_us: float
    residuals: Array
    """log(predicted / measured), one per sample."""


def fit(samples: Sequence[KernelSample], ceiling: float, compute_fraction: float | None = None) -> Fit:
    """Fit a class; a given ``compute_fraction`` is kept (rows that are all bound by memory can't tell it).

    ``ceiling`` bounds the memory fraction: the highest that any timed kernel reached.
    """
    seconds, work = np.array([sample.seconds for sample in samples]), _Work.of(samples)

    def predict(parameters: Array) -> Array:
        fc = float(parameters[0]) if compute_fraction is None else compute_fraction
        return work.predicted_seconds(fc, float(parameters[1]), float(parameters[2]))

    bounds = ((0.02, 1.0), (0.02, ceiling), LATENCY_BOUNDS_US)
    best, residuals = fit_log(predict, seconds, STARTS, bounds)
    fc = float(best[0]) if compute_fraction is None else compute_fraction
    return Fit(fc, float(best[1]), float(best[2]), residuals)


def predicted_seconds(
    samples: Sequence[KernelSample], compute_fraction: float, memory_fraction: float, latency_us: float
) -> Array:
    """The cost model over samples: other kernels' time + sum of latency + max(compute, memory)."""
    return _Work.of(samples).predicted_seconds(compute_fraction, memory_fraction, latency_us)


@dataclass(frozen=True, slots=True)
class _Work:
    """Samples as arrays, as a fit asks for their times thousands of times. ``flops`` and ``bytes`` [kernels, samples]
    are 0 where a sample has fewer kernels than another, ``there`` is 1 where it has one.
    """

    peak_flops: Array
    hbm_bytes_per_s: Array
    fixed_s: Array
    flops: Array
    bytes: Array
    there: Array

    @classmethod
    def of(cls, samples: Sequence[KernelSample]) -> "_Work":
        peaks = {(one.gpu.name, one.dtype): one.gpu.peak_flops(one.dtype) for one in samples}
        flops, moved, there = np.zeros((3, max((len(one.parts) for one in samples), default=0), len(samples)))
        for column, one in enumerate(samples):
            for row, part in enumerate(one.parts):
                flops[row, column], moved[row, column] = part
                there[row, column] = 1.0
        return cls(
            np.array([peaks[one.gpu.name, one.dtype] for one in samples]),
            np.array([one.gpu.hbm_bytes_per_s for one in samples]),
            np.array([one.fixed_s for one in samples]),
            flops,
            moved,
            there,
        )

    def predicted_seconds(self, compute_fraction: float, memory_fraction: float, latency_us: float) -> Array:
        """See :func:`predicted_seconds`."""
        compute_s = self.flops / (compute_fraction * self.peak_flops)
        memory_s = self.bytes / (memory_fraction * self.hbm_bytes_per_s)
        kernels = self.there * latency_us * US + np.maximum(compute_s, memory_s)
        total: Array = self.fixed_s + kernels.sum(axis=0)
        return total


def memory_ceiling() -> float:
    """Highest share of peak HBM bandwidth among all single kernels timed (their whole time, launch included).

    A bound for the fits: short kernels can't tell a slow memory from a long launch, and without it one of
    them (FP8 GEMMs on Hopper) would claim all of the bandwidth.
    """
    everywhere = HOPPER | BLACKWELL
    samples = [
        *measured.gemm_samples(everywhere, "bf16"),
        *measured.gemm_samples(everywhere, "fp8"),
        *measured.mla_decode_samples(everywhere, "bf16"),
        *measured.mla_decode_samples(BLACKWELL, "fp8"),
    ]
    return max(s.parts[0][1] / s.seconds / s.gpu.hbm_bytes_per_s for s in samples)
