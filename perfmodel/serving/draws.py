"""Draws from a workload's distributions and arrival processes. Each source of randomness has a stream of its own."""

import math

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError
from perfmodel.spec.distributions import Distribution
from perfmodel.spec.workload import OrInfinite, Ramp

# Streams of one seed; routing and step times use 1 to 13.
ARRIVALS = 31
INPUTS = 32
OUTPUTS = 33
PREFIXES = 34
TURNS = 35
TURN_TOKENS = 36
TOOL_PAUSES = 37
THINK_TIMES = 38
ADAPTERS = 39

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def stream(seed: int, source: int) -> np.random.Generator:
    """Random numbers of one source: what another source draws does not change them.

    Raises:
        SpecError: a negative seed.
    """
    if seed < 0:
        raise SpecError(f"seed = {seed}: must be a whole number, 0 or above")
    return np.random.default_rng([seed, source])


def draw_counts(d: Distribution, rng: np.random.Generator, n: int, most: float) -> Ints:
    """``n`` whole numbers (tokens, turns) from 1 to ``most``: an array (n,); nothing is drawn for a fixed number.

    The mean alone makes a geometric distribution, the discrete exponential one; lognormal draws are rounded.
    """
    match d.kind:
        case "fixed":
            return constant(n, int(d.value or 0))
        case "uniform":
            return rng.integers(int(d.min or 0), int(d.max or 0), size=n, endpoint=True)
        case "empirical":
            return np.asarray(d.values, dtype=np.int64)[rng.integers(0, len(d.values or ()), size=n)]
        case "exponential":
            drawn = rng.geometric(1.0 / (d.mean or 1.0), size=n).astype(np.float64)
        case _:
            drawn = np.rint(_lognormal(d, rng, n))
    high = d.max if d.max is not None else most
    return np.clip(drawn, max(d.min or 1.0, 1.0), high).astype(np.int64)


def draw_seconds(d: Distribution, rng: np.random.Generator, n: int, most: float) -> Floats:
    """``n`` times from 0 to ``most`` seconds: an array (n,); nothing is drawn for a fixed number."""
    match d.kind:
        case "fixed":
            return np.full(n, d.value, dtype=np.float64)
        case "uniform":
            return rng.uniform(d.min or 0.0, d.max or 0.0, size=n)
        case "empirical":
            return np.asarray(d.values, dtype=np.float64)[rng.integers(0, len(d.values or ()), size=n)]
        case "exponential":
            drawn = rng.exponential(d.mean or 1.0, size=n)
        case _:
            drawn = _lognormal(d, rng, n)
    clipped: Floats = np.clip(drawn, d.min or 0.0, d.max if d.max is not None else most)
    return clipped


def draw_arrivals(rate: float | Ramp, burstiness: OrInfinite, rng: np.random.Generator, n: int) -> Floats:
    """Arrival times (n,) of a renewal process with gamma gaps, seconds from 0 on; the first comes after a gap.

    A ramp over time stretches a process of rate 1: request i arrives when the rate's integral reaches the
    i-th time of that process. A ramp over requests divides gap i by the rate of request i.
    """
    if not isinstance(rate, Ramp) and math.isinf(rate):
        return np.zeros(n)
    shape = float(burstiness)
    # mean 1, coefficient of variation 1 / sqrt(shape)
    gaps = np.ones(n) if math.isinf(shape) else rng.standard_gamma(shape, size=n) / shape
    if not isinstance(rate, Ramp):
        return np.cumsum(gaps) / rate
    if rate.duration_s is not None:
        return _ramped(rate, rate.duration_s, np.cumsum(gaps))
    progress = np.arange(n) / max(n - 1, 1)
    return np.cumsum(gaps / _rate_at(rate, progress))


def _rate_at(ramp: Ramp, progress: Floats) -> Floats:
    """Requests per second at a share of the way from start to end."""
    if ramp.strategy == "linear":
        return ramp.start_rate + (ramp.end_rate - ramp.start_rate) * progress
    rates: Floats = ramp.start_rate * (ramp.end_rate / ramp.start_rate) ** progress
    return rates


def _ramped(ramp: Ramp, duration_s: float, expected: Floats) -> Floats:
    """When the integral of the rate reaches each of ``expected`` requests, seconds."""
    start, end = ramp.start_rate, ramp.end_rate
    flat = start == end
    if ramp.strategy == "linear":
        total = 0.5 * (start + end) * duration_s
        inside = np.minimum(expected, total)
        # start t + (end - start) t^2 / (2 T) = inside, in the form that does not cancel
        slope = (end - start) / duration_s
        times = 2.0 * inside / (start + np.sqrt(np.maximum(start**2 + 2.0 * slope * inside, 0.0)))
    else:
        growth = math.log(end / start) / duration_s
        total = start * duration_s if flat else (end - start) / growth
        inside = np.minimum(expected, total)
        times = inside / start if flat else np.log1p(growth * inside / start) / growth
    after: Floats = times + (expected - inside) / end
    return after


def _lognormal(d: Distribution, rng: np.random.Generator, n: int) -> Floats:
    """Lognormal draws with the stated mean and standard deviation."""
    mean, std = d.mean or 1.0, d.std or 0.0
    variance = math.log1p((std / mean) ** 2)
    drawn: Floats = np.exp(rng.normal(math.log(mean) - 0.5 * variance, math.sqrt(variance), size=n))
    return drawn


def constant(n: int, value: int) -> Ints:
    """``n`` times the same whole number, in the memory of one; read-only."""
    return np.broadcast_to(np.int64(value), (n,))
