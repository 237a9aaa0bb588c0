"""One measured run as a benchmark's file tells it, whoever wrote the file; and how its numbers are read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.traces.trace import Floats
from perfmodel.units import MS

US, NS = 1e-6, 1e-9
SECONDS = {"s": 1.0, "sec": 1.0, "ms": MS, "us": US, "ns": NS}
"""Units of times as tools name them."""
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
LARGEST = 1e20


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A run's traffic and what its client measured. SI units."""

    writer: str
    """The tool."""
    label: str
    """What tells the run from others of the file, in words."""
    figures: Mapping[str, float]
    """``ttft_s.mean``, ``tpot_s.p99``, ``output_tokens_per_s``, ... -> what was measured; keys and definitions are
    those of ``perfmodel serve --json``. ``tpot_incl_s``, which that has not, is E2E over all output tokens."""
    workload: Mapping[str, Any]
    """Keys of a scenario's ``workload`` that the run stated, lengths or a trace of its requests among them."""
    samples: Mapping[str, Floats] = field(default_factory=dict)
    """Quantity -> what each request saw (n,), s; empty where the file has only sums."""
    num_gpus: int | None = None
    """GPUs that the file says ran it; None: it does not say."""
    assumed: tuple[str, ...] = ()
    """What the file leaves open and how it is taken, in words."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Key paths of the scenario that the run set otherwise."""
    scenario: str = ""
    """The scenario that it names; empty: none."""


def number(value: Any, key: str, where: str) -> float | None:
    """A number above or at 0 of a file; None: the key is absent or null.

    Raises:
        DataError: something else.
    """
    if value is None:
        return None
    plain = type(value) in (int, float) or (isinstance(value, str) and _is_number(value))
    found = float(value) if plain else math.nan
    if not 0.0 <= found <= LARGEST:
        raise DataError(f"{where}: {key} = {str(value)[:40]}: must be a number from 0 to {LARGEST:g}")
    return found


def _is_number(text: str) -> bool:
    try:
        return text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False


def inside(value: Any, *keys: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def keep(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are known and mean something: a time or rate of 0 was not measured."""
    return {key: value for key, value in figures.items() if value}


def spread_figures(quantity: str, values: Floats) -> dict[str, float]:
    """Mean and percentiles of what each request saw; none of nothing."""
    if not len(values):
        return {}
    found = np.percentile(values, list(PERCENTILES.values()))
    each = {"mean": float(values.mean()), **dict(zip(PERCENTILES, map(float, found), strict=True))}
    return {f"{quantity}.{name}": value for name, value in each.items()}


def lengths(mean: float | None, std: float | None = None) -> Any:
    """A distribution of token counts with a mean and, where it is known, a standard deviation; None: no mean."""
    if not mean:
        return None
    if std:
        return {"mean": mean, "std": std}
    return max(1, round(mean))


def load_of(rate: float | None, cap: float | None) -> dict[str, Any]:
    """Keys of a workload for a rate (requests/s; inf: all at once, None: not said) and a cap on requests in flight."""
    found: dict[str, Any] = {}
    if rate:
        found["request_rate"] = "inf" if math.isinf(rate) else rate
    if cap:
        found["max_concurrency"] = max(1, round(cap))
    return found
