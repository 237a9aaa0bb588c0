"""Monotone curves of time: what a calibration knows of one kernel class.

A curve is a sum of terms with non-negative coefficients,

    time = sum of coefficient_j x product of factors of the op's shape,

and every factor never falls when a shape grows, so more work is never faster, wherever the curve is asked. A term is
written as text, so that a person can read a calibration file:

    1                     a fixed cost
    n*k*m[4:16]           n x k x (the part of m between 4 and 16), that is clip(m, 4, 16) - 4
    n*k*m[64:]            n x k x max(m - 64, 0)
    n*k*min(rows,4*groups)

Variables are those of the op's ``shape``, and ``flops`` and ``bytes`` (HBM bytes, for communication the bytes on the
wire).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from perfmodel.errors import DataError
from perfmodel.numeric import Num, maximum, minimum
from perfmodel.ops.op import Op

_FACTOR = re.compile(
    r"(?P<name>[a-z_]+)(\[(?P<low>[0-9.e+]+):(?P<high>[0-9.e+]*)\])?$"
    r"|min\((?P<first>[a-z_]+),(?P<times>[0-9.e+]+)\*(?P<second>[a-z_]+)\)$"
)
_SPLIT = re.compile(r"\*(?![^(]*\))")
"""A product's stars, those inside min(...) left alone."""


class Factor(NamedTuple):
    """One factor of a term: a variable, a part of it, or the smaller of two."""

    name: str
    low: float = 0.0
    high: float = float("inf")
    other: str = ""
    """Second variable of min(name, times*other)."""
    times: float = 1.0

    def value(self, variables: Mapping[str, Num]) -> Num:
        """The factor for a shape; may be an array."""
        own = variables[self.name]
        if self.other:
            return minimum(own, self.times * variables[self.other])
        if self.low == 0.0 and self.high == float("inf"):
            return own
        return maximum(minimum(own, self.high) - self.low, 0.0)


@cache
def parse_term(text: str) -> tuple[Factor, ...]:
    """The factors of a term's text; ``1`` has none.

    Raises:
        DataError: not of that form.
    """
    if text == "1":
        return ()
    factors = []
    for part in _SPLIT.split(text):
        match = _FACTOR.match(part)
        if match is None:
            raise DataError(
                f"term {text!r}: {part!r} is not a variable, a part m[4:16] or min(rows,4*groups)"
            )
        found = match.groupdict()
        if found["first"]:
            factors.append(Factor(found["first"], other=found["second"], times=float(found["times"])))
        else:
            low, high = float(found["low"] or 0.0), float(found["high"] or "inf")
            factors.append(Factor(found["name"], low, high))
    return tuple(factors)


def evaluate(terms: Iterable[tuple[str, float]], variables: Mapping[str, Num]) -> Num:
    """Sum of coefficient x product of factors; variables may be arrays.

    Raises:
        KeyError: a term names a variable that is not there.
    """
    total: Num = 0.0
    for text, coefficient in terms:
        product: Num = coefficient
        for factor in parse_term(text):
            product = product * factor.value(variables)
        total = total + product
    return total


def variables_of(op: Op) -> dict[str, Num]:
    """What a curve may ask of an op: its shape, FLOPs and bytes."""
    own = {"flops": op.flops, "bytes": op.hbm_bytes}
    if op.is_communication:
        own |= {"link_bytes": op.link_bytes, "network_bytes": op.network_bytes}
    return {**own, **op.shape}


@dataclass(frozen=True, slots=True)
class Curve:
    """Time of one kernel class in one number format on one device."""

    kernel: str
    """Kernel class, as in ``Op.kernel``."""
    dtype: str
    """Number format, as in ``Op.dtype``."""
    terms: tuple[tuple[str, float], ...]
    """(term, coefficient in seconds), coefficients above 0."""
    domain: Mapping[str, tuple[float, float]]
    """Variable -> smallest and largest value that was timed."""
    log_std: float
    """Spread: standard deviation of log(predicted / measured) where the shape was left out of the fit."""
    num_rows: int
    """Timed shapes behind it."""
    median_error_pct: float
    """Median |error| where the shape was left out of the fit."""
    p90_error_pct: float
    """90th percentile of it."""
    backend: str = ""
    """As in ``Op.backend``: communication library, or layout of the experts' tokens."""
    engine: str = ""
    """Whose kernel: sglang, trtllm, vllm; empty: any."""
    source: str = ""
    """Where the timings come from; empty: the calibration's own."""
    flag: str = ""
    """Why to trust it less; empty: measured."""
    note: str = ""
    """What the rows are."""

    def seconds(self, variables: Mapping[str, Num]) -> Num:
        """Time, s; may be an array.

        Raises:
            DataError: a term asks for a variable that ops of this class do not have.
        """
        try:
            return evaluate(self.terms, variables)
        except KeyError as error:
            raise DataError(
                f"curve {self.kernel} {self.dtype}: a term asks for {error}; this class has {', '.join(variables)}"
            ) from error

    @property
    def fixed_s(self) -> float:
        """The part that does not depend on the work, s."""
        return sum(coefficient for text, coefficient in self.terms if text == "1")

    def outside(self, variables: Mapping[str, Num]) -> str:
        """Which variable leaves the domain, in words; empty inside. Zero work counts as inside."""
        for name, (low, high) in self.domain.items():
            text = describe_outside(name, variables[name], low, high)
            if text:
                return text
        return ""

    @property
    def exact(self) -> tuple[str, ...]:
        """Dimensions that must be measured ones; a sum of terms has none."""
        return ()

    @property
    def includes(self) -> tuple[str, ...]:
        """Other kernel classes inside the measured span; a kernel timed alone has none."""
        return ()

    def covers(self, variables: Mapping[str, Num]) -> bool:
        """Always: what lies outside the domain is flagged."""
        return True


def describe_outside(name: str, value: Num, low: float, high: float, *, below: bool = True) -> str:
    """How ``value`` leaves [low, high], in words; empty inside. Zero counts as inside, and so does what is too small
    where ``below`` is False.
    """
    values = np.asarray(value, dtype=float)
    smallest, largest = float(values.min()), float(values.max())
    if below and 0.0 < smallest < low * (1 - DOMAIN_SLACK):
        return f"{name} = {smallest:.4g} is below the timed {low:.4g} to {high:.4g}"
    if largest > high * (1 + DOMAIN_SLACK):
        return f"{name} = {largest:.4g} is above the timed {low:.4g} to {high:.4g}"
    return ""


DOMAIN_SLACK = 0.02
"""A shape this close to the edge of what was timed counts as inside: timed counts are rounded to whole numbers."""


OPTIONAL = ("backend", "engine", "source", "flag", "note")
"""Fields of a curve that a file may leave out: empty."""


def curve_from(document: Mapping[str, Any], name: str) -> Curve:
    """A curve as a calibration file holds it.

    Raises:
        DataError: a missing or malformed field.
    """
    try:
        curve = Curve(
            kernel=str(document["kernel"]),
            dtype=str(document["dtype"]),
            terms=tuple((str(text), float(coefficient)) for text, coefficient in document["terms"]),
            domain={str(key): (float(low), float(high)) for key, (low, high) in document["domain"].items()},
            log_std=float(document["log_std"]),
            num_rows=int(document["rows"]),
            median_error_pct=float(document["leave_out_median_pct"]),
            p90_error_pct=float(document["leave_out_p90_pct"]),
            **{key: str(document[key]) for key in OPTIONAL if key in document},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: a curve is malformed ({type(error).__name__}: {error})") from error
    label = f"{name}: curve {curve.kernel} {curve.dtype}"
    if not curve.terms or any(not 0.0 < coefficient < 1e6 for _, coefficient in curve.terms):
        raise DataError(f"{label}: needs terms with coefficients above 0: time must grow with work")
    for text, _ in curve.terms:
        parse_term(text)
    if not (curve.log_std >= 0.0 and curve.num_rows > 0):
        raise DataError(f"{label}: log_std must be at least 0 and rows above 0")
    return curve


def curve_document(curve: Curve) -> dict[str, Any]:
    """A curve as a calibration file holds it; the inverse of :func:`curve_from`."""
    return {
        "kernel": curve.kernel,
        "dtype": curve.dtype,
        "terms": [[text, float(f"{coefficient:.6g}")] for text, coefficient in curve.terms],
        "domain": {name: [low, high] for name, (low, high) in curve.domain.items()},
        "log_std": float(f"{curve.log_std:.4g}"),
        "rows": curve.num_rows,
        "leave_out_median_pct": float(f"{curve.median_error_pct:.4g}"),
        "leave_out_p90_pct": float(f"{curve.p90_error_pct:.4g}"),
        **{key: getattr(curve, key) for key in OPTIONAL if getattr(curve, key)},
    }
