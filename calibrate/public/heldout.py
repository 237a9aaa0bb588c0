"""How far a fitted table is off shapes that it has not seen: a random fifth, and whole slices left out together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibrate.device.curves import robust_std
from calibrate.public.grid import combinations, fit
from calibrate.public.samples import Samples
from perfmodel.kernels.parts import part_of
from perfmodel.kernels.tables import PREFILL, STATES, WHOLE_PROMPTS, TableCurve, by_request
from perfmodel.units import PERCENT

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

SHARE = 0.2
"""Of the shapes, left out at random."""
RANDOM = "random 20 %"
TARGETS = {
    "gemm": (5.0, 12.0),
    "bmm": (5.0, 12.0),
    "quantise": (5.0, 12.0),
    "mla_decode": (7.0, 12.0),
    "mla_prefill": (7.0, 12.0),
    "gqa_decode": (7.0, 12.0),
    "gqa_prefill": (7.0, 12.0),
    "mla_module_decode": (7.0, 12.0),
    "mla_module_prefill": (7.0, 12.0),
    "grouped_gemm": (8.0, 15.0),
}
"""Kernel class -> aims for the median |error| in percent: of the random fifth, of a whole slice."""
MIXERS = (8.0, 20.0)
"""The same for the classes of mixers."""
TRANSFERS = (10.0, 20.0)
"""The same for every other class: communication."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one curve on shapes that were left out together."""

    kernel: str
    dtype: str
    backend: str
    engine: str
    left_out: str
    """RANDOM, or the slice's name."""
    rows: int
    median_pct: float
    p90_pct: float
    bias_pct: float
    """Median signed error: above 0, predictions are too long."""
    log_std: float
    """As a curve's: half the width of the middle 80 % of log(predicted / measured), in standard deviations."""
    target_pct: float

    @property
    def met(self) -> bool:
        """Whether the median is within the aim."""
        return self.median_pct <= self.target_pct


@dataclass(frozen=True, slots=True)
class Held:
    """A curve fitted without its held-out shapes, its errors, and those shapes."""

    curve: TableCurve
    errors: tuple[Errors, ...]
    """Of the random fifth first, then of the slices."""
    rows: "pd.DataFrame"
    """The held-out rows, in the order of their hashes."""


def hold_out(samples: Samples) -> Held:
    """Fit on four fifths of the shapes, and measure the errors of the rest and of every named slice.

    A slice is left out of a fit of its own on all other rows. A table too small to lose a fifth keeps all rows, and
    then its errors are those of its slices alone. Rows that a reader continued rather than read (column ``filled``)
    are never judged.
    """
    order = shape_order(samples.frame, (*samples.match, *samples.axes))
    read = (
        ~samples.frame["filled"].to_numpy(dtype=bool)
        if "filled" in samples.frame
        else np.full(len(order), True)
    )
    out = (order < SHARE) & read
    if not out.any() or len(np.unique(order[~out])) < 2:
        out = np.zeros(len(out), dtype=bool)
    errors = []
    curve = fit(_rows(samples, ~out))
    if out.any():
        errors.append(_errors(samples, RANDOM, residuals(curve, samples, out)))
    for name, mask in samples.slices.items():
        left = np.asarray(mask, dtype=bool)
        if (left & read).any() and not left.all():
            errors.append(_errors(samples, name, residuals(fit(_rows(samples, ~left)), samples, left & read)))
    if errors:
        curve = replace(
            curve,
            log_std=max(errors[0].log_std, samples.least_log_std),
            median_error_pct=errors[0].median_pct,
            p90_error_pct=errors[0].p90_pct,
        )
    rows = samples.frame[out].assign(_order=order[out]).sort_values("_order", kind="stable")
    return Held(curve, tuple(errors), rows.drop(columns="_order"))


def shape_order(frame: "pd.DataFrame", columns: Sequence[str]) -> Array:
    """A number from 0 to 1 per row that depends on its shape alone: repeats and other orders of rows fall alike."""
    shapes = frame[list(columns)].to_numpy(dtype=float)
    digests = [hashlib.blake2b(shape.tobytes(), digest_size=8).digest() for shape in shapes]
    numbers: Array = np.frombuffer(b"".join(digests), dtype="<u8").astype(float) / 2.0**64
    return numbers


def residuals(curve: TableCurve, samples: Samples, out: Mask) -> Array:
    """log(predicted / measured) of the rows of ``out``."""
    found = []
    for match, rows in combinations(_rows(samples, out)):
        seconds = rows["seconds"].to_numpy(dtype=float)
        variables = match | {name: rows[name].to_numpy(dtype=float) for name in samples.axes}
        found.append(np.log(_predict(curve, as_op(samples.kernel, variables)) / seconds))
    return np.concatenate(found)


def as_op(kernel: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with those that an op has beside: prompts were timed without cached tokens; of the mixers' classes
    axes are new tokens per request and what was cached before.
    """
    if by_request(kernel) or kernel in STATES:
        axes = ("queries", "cached", "rows", "lanes")
        found = {name: value for name, value in variables.items() if name not in axes}
        if "lanes" in variables:  # of any requests and heads or channels, as many in all
            found |= {"requests": variables["lanes"], "channels" if "conv" in kernel else "heads": 1.0}
        found["new_tokens"] = variables.get("queries", 1.0)
        if "rows" in variables:  # of any requests and new tokens, as many queries
            found |= {"requests": variables["rows"], "new_tokens": 1.0}
        found["context"] = variables.get("cached", 1.0) + variables.get("queries", 1.0) - 1.0
        return found
    if kernel in WHOLE_PROMPTS:
        others = {name: value for name, value in variables.items() if name != "queries"}
        return {**others, "new_tokens": variables["queries"], "context": variables["queries"]}
    if kernel in PREFILL and "context" not in variables:
        return {**variables, "context": variables["new_tokens"]}
    return dict(variables)


def _predict(curve: TableCurve, variables: Mapping[str, Any]) -> Array:
    predicted: Array = np.asarray(curve.seconds(variables))
    return predicted


def _errors(samples: Samples, name: str, logs: Array) -> Errors:
    percent = PERCENT * np.expm1(logs)
    targets = MIXERS if part_of(samples.kernel, "") else TARGETS.get(samples.kernel, TRANSFERS)
    return Errors(
        kernel=samples.kernel,
        dtype=samples.dtype,
        backend=samples.backend,
        engine=samples.engine,
        left_out=name,
        rows=len(logs),
        median_pct=float(np.median(np.abs(percent))),
        p90_pct=float(np.quantile(np.abs(percent), 0.9)),
        bias_pct=float(np.median(percent)),
        log_std=robust_std(logs),
        target_pct=targets[0] if name == RANDOM else targets[1],
    )


def _rows(samples: Samples, mask: Mask) -> Samples:
    return replace(samples, frame=samples.frame[mask], slices={})
