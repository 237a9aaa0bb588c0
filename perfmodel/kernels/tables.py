"""Interpolated tables of time: what a calibration knows of a kernel class that was measured on a dense grid.

A table holds the time at every point of a grid of the op's shape and interpolates linearly in (log shape, log time).
Values never fall along an axis, so more work is never faster. Below the grid the edge's value holds (a launch costs
what it costs, and what one head reads another reads, too), but for experts: each has weights of its own, so that beyond
a launch time is in proportion to them (PROPORTIONAL). Above it time goes on at the slope of the last points: what is
fixed stays fixed. A curve may hold
several tables, one per model dimension that was measured (heads, expert width); the nearest answers, scaled, and says
so.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.kernels.curves import DOMAIN_SLACK, describe_outside
from perfmodel.numeric import Num, maximum, minimum, where

Array = NDArray[np.float64]
SPANS = (2.0, 4.0)
"""Beyond the grid the slope is that over the last factor 2 or 4 of work, whichever is steeper: time bends upward until
work alone counts, and one point that repeats its neighbour must not make it flat."""
QUADRATIC = ("new_tokens",)
"""Axes with whose square work grows: every token of a prompt meets all before it."""


PROPORTIONAL = ("groups",)
"""Axes below whose first point time beyond a launch is in proportion to them, and said to be. Shipped tables of
grouped GEMMs whose first point is left out are met within 12 % in the median (bias -10 %) where the second is three
launches and more; the edge's own value is 43 % above. Of heads and lanes it is the other way round: 0 to 20 % for the
edge."""


@dataclass(frozen=True, slots=True)
class Table:
    """Times on a full grid."""

    axes: Mapping[str, Array]
    """Variable -> its grid points, increasing and above 0, in the order of the array's dimensions."""
    log_seconds: Array
    """ln(seconds); one dimension per axis, never falling along any."""
    match: Mapping[str, float] = field(default_factory=dict)
    """The model dimensions that it was measured for."""
    _logs: tuple[Array, ...] = ()
    """ln of the grid points."""
    _rises: tuple[Array, ...] = ()
    """Per axis, at its last point: what each further multiple of the work there adds, s; the other axes' dimensions."""

    def __post_init__(self) -> None:
        shape = tuple(len(points) for points in self.axes.values())
        if self.log_seconds.shape != shape:
            raise DataError(f"table: {self.log_seconds.shape} values for axes of {shape}")
        for name, points in self.axes.items():
            if len(points) == 0 or np.any(points <= 0) or np.any(np.diff(points) <= 0):
                raise DataError(f"table: axis {name} must be above 0 and increasing")
        if not np.all(np.isfinite(self.log_seconds)):
            raise DataError("table: values must be finite")
        for axis in range(self.log_seconds.ndim):
            if np.any(np.diff(self.log_seconds, axis=axis) < 0):
                raise DataError(f"table: time falls along {list(self.axes)[axis]}; more work is never faster")
        object.__setattr__(self, "_logs", tuple(np.log(points) for points in self.axes.values()))
        rises = (_rise(self.log_seconds, i, work(name, at)) for i, (name, at) in enumerate(self.axes.items()))
        object.__setattr__(self, "_rises", tuple(rises))

    def seconds(self, variables: Mapping[str, Num]) -> Num:
        """Time, s; variables may be arrays of one shape.

        Beyond the last point of axis i the time there grows by g x rise, with g multiples of its work more. Beyond
        several, what two axes add together is their g's product x the smaller of their rises, which is exact for a
        fixed cost + a product of axes. All rises grow along the other axes, so time never falls.

        Raises:
            KeyError: an axis is not among the variables.
        """
        corners, beyond = [], []
        for name, logs in zip(self.axes, self._logs, strict=True):
            value = np.maximum(np.asarray(variables[name], dtype=float), 1e-9)
            log = np.log(value)
            corners.append(_bracket(np.minimum(np.maximum(log, logs[0]), logs[-1]), logs))
            last = self.axes[name][-1]
            beyond.append(np.maximum(work(name, value) / work(name, last) - 1.0, 0.0))
        seconds: Any = np.exp(_interpolated(self.log_seconds, corners))
        outside = [axis for axis, more in enumerate(beyond) if np.any(more > 0.0)]
        rises = {
            axis: _interpolated(self._rises[axis], corners[:axis] + corners[axis + 1 :]) for axis in outside
        }
        for size in range(1, len(outside) + 1):
            for together in combinations(outside, size):
                growth, least = beyond[together[0]], rises[together[0]]
                for axis in together[1:]:
                    growth, least = growth * beyond[axis], np.minimum(least, rises[axis])
                seconds = seconds + growth * least
        return float(seconds) if np.ndim(seconds) == 0 else seconds

    def beyond(self, variables: Mapping[str, Num]) -> Any:
        """Whether a shape lies above the grid along some axis; an array where the variables are."""
        found: Any = False
        for name, points in self.axes.items():
            found = found | (np.asarray(variables[name], dtype=float) > points[-1])
        return found

    @property
    def fixed_s(self) -> float:
        """Time of the smallest shape, s: what a launch costs."""
        return float(np.exp(self.log_seconds.min()))


def work(axis: str, size: Any) -> Any:
    """Work along an axis, up to a factor: the size itself, or its square."""
    return size**2 if axis in QUADRATIC else size


def _rise(log_seconds: Array, axis: int, done: Array) -> Array:
    """What another multiple of the work at an axis's last point adds, s; ``done`` is the work at its points.

    Between nothing and the whole time there (then all of it is in proportion, as with a single point), and never
    falling along the other axes.
    """
    times = np.exp(np.moveaxis(log_seconds, axis, 0))
    rise: Array = times[-1]
    if len(done) > 1:
        before = np.searchsorted(done, [done[-1] / span for span in SPANS], side="right") - 1
        slopes = [(times[-1] - times[at]) / (1.0 - done[at] / done[-1]) for at in np.maximum(before, 0)]
        rise = np.minimum(np.max(slopes, axis=0), rise)
    for other in range(rise.ndim):
        rise = np.maximum.accumulate(rise, axis=other)
    return rise


def _interpolated(grid: Array, corners: Sequence[tuple[Any, Any, Any]]) -> Any:
    """Linear interpolation of a grid between the bracketing points of every axis."""
    shares = [(1.0 - share, share) for _, _, share in corners]
    parts = []
    for choice in product((0, 1), repeat=len(corners)):
        index = tuple(corner[side] for side, corner in zip(choice, corners, strict=True))
        weights = [own[side] for side, own in zip(choice, shares, strict=True)]
        parts.append(math.prod(weights[1:], start=weights[0]) * grid[index] if weights else grid[index])
    return sum(parts[1:], start=parts[0])


def _bracket(log: Any, logs: Array) -> tuple[Any, Any, Any]:
    """(lower index, upper index, share of the upper) of values inside the grid."""
    if len(logs) == 1:
        zero = np.zeros(np.shape(log), dtype=int)
        return zero, zero, np.zeros(np.shape(log))
    low = np.minimum(np.maximum(np.searchsorted(logs, log, side="right") - 1, 0), len(logs) - 2)
    return low, low + 1, (log - logs[low]) / (logs[low + 1] - logs[low])


class Tables(Sequence[Table]):
    """Tables of a curve that are made as they are asked for; what all of them say is known without making them."""

    matches: Sequence[Mapping[str, float]]
    """What each was measured for."""

    @property
    @abstractmethod
    def fixed_s(self) -> float:
        """Time of the smallest shape of all tables, s."""


@dataclass(frozen=True, slots=True)
class TableCurve:
    """Time of one kernel class in one number format, by one engine's kernels, from tables."""

    kernel: str
    """Kernel class, as in ``Op.kernel``."""
    dtype: str
    """Number format, as in ``Op.curve_dtype``."""
    backend: str
    """As in ``Op.backend``: communication library, or layout of the experts' tokens."""
    engine: str
    """Whose kernels: sglang, trtllm, vllm; empty: any."""
    tables: Sequence[Table]
    """One per combination of model dimensions."""
    scale_by: tuple[str, ...]
    """Dimensions to whose product time is taken as proportional where no table is of the op's."""
    exact: tuple[str, ...]
    """Dimensions that must be a table's own (the size of a group); else the curve does not cover the op."""
    includes: tuple[str, ...]
    """Other kernel classes inside the measured span: they cost nothing beside it."""
    log_std: float
    """Spread: standard deviation of log(predicted / measured) where the shape was left out of the fit."""
    num_rows: int
    """Measured shapes behind it."""
    median_error_pct: float
    """Median |error| where the shape was left out of the fit."""
    p90_error_pct: float
    """90th percentile of it."""
    source: str = ""
    """Package, system, version and kernels."""
    flag: str = ""
    """Why to trust it less; empty: measured."""
    note: str = ""
    """What the rows are."""
    of_model: tuple[str, ...] = ()
    """Dimensions that say whose table it is (a model's hidden size), and count OF_MODEL times in what is nearest: a
    slice of a model's experts is nearer to the whole of them than to another model's slice of that width."""
    between: str = ""
    """A dimension along which times of the two tables around the op's are interpolated (in logs), where the nearest has
    one on the other side with the same other dimensions; beyond them ``scale_by`` answers."""
    _places: Array = field(default_factory=lambda: np.empty((0, 0)))
    """ln(1 + match) of every table, one column per dimension."""

    def __post_init__(self) -> None:
        if not self.tables or not (self.log_std >= 0.0 and self.num_rows > 0):
            raise DataError(
                f"table {self.kernel} {self.dtype}: needs tables, log_std of at least 0 and rows above 0"
            )
        matches = self._matches
        names = list(matches[0])
        if any(list(match) != names for match in matches):
            raise DataError(f"table {self.kernel} {self.dtype}: tables must match by the same dimensions")
        places = np.log1p([list(match.values()) for match in matches])
        object.__setattr__(self, "_places", places.reshape(len(matches), len(names)))

    @property
    def _matches(self) -> Sequence[Mapping[str, float]]:
        """The dimensions that every table was measured for, without making the tables."""
        stored = self.tables
        return stored.matches if isinstance(stored, Tables) else [table.match for table in stored]

    def covers(self, variables: Mapping[str, Num]) -> bool:
        """Whether a table has the op's own ``exact`` dimensions."""
        return any(all(match[name] == variables[name] for name in self.exact) for match in self._matches)

    def seconds(self, variables: Mapping[str, Num]) -> Num:
        """Time, s; may be an array.

        Raises:
            DataError: the op lacks a variable that the tables ask for.
        """
        try:
            asked, factor = self._query(variables), 1.0
            table = self._nearest(asked)
            other = self._beside(asked, table)
            for name in self.scale_by:
                if other is None or name != self.between:
                    factor = factor * asked[name] / table.match[name]
            seconds = _of_chunk(table, asked) if self.kernel in WHOLE_PROMPTS else self._of(table, asked)
            if other is not None:
                share = _share(float(np.mean(asked[self.between])), table, other, self.between)
                seconds = seconds ** (1.0 - share) * self._of(other, asked) ** share
            if isinstance(factor, float) and factor == 1.0:
                return seconds
            fixed = table.fixed_s
            return fixed + maximum(seconds - fixed, 0.0) * factor
        except KeyError as error:
            raise DataError(
                f"table {self.kernel} {self.dtype}: asks for {error}; this class has {', '.join(variables)}"
            ) from error

    def _of(self, table: Table, asked: Mapping[str, Num]) -> Num:
        """Time by one of the tables, s; below its first point of PROPORTIONAL in proportion, but for a launch."""
        seconds = table.seconds(asked)
        for name in PROPORTIONAL:
            first = table.axes[name][0] if name in table.axes else 0.0
            if first and np.any(np.asarray(asked[name]) < first):
                fixed = self.fixed_s
                seconds = fixed + maximum(seconds - fixed, 0.0) * minimum(asked[name] / first, 1.0)
        return seconds

    @property
    def fixed_s(self) -> float:
        """Time of the smallest shape, s."""
        stored = self.tables
        return stored.fixed_s if isinstance(stored, Tables) else min(table.fixed_s for table in stored)

    def outside(self, variables: Mapping[str, Num]) -> str:
        """Which variable leaves what was measured, in words; empty inside."""
        asked = self._query(variables)
        table = self._nearest(asked)
        for name, points in table.axes.items():
            below = name in PROPORTIONAL
            text = describe_outside(name, asked[name], float(points[0]), float(points[-1]), below=below)
            if text:
                return text
        other = self._beside(asked, table)
        for name, value in table.match.items():
            if abs(float(np.mean(asked[name])) - value) > DOMAIN_SLACK * abs(value):
                if other is not None and name == self.between:
                    low, high = sorted((value, other.match[name]))
                    return f"{name} = {float(np.mean(asked[name])):.4g} lies between the timed {low:.4g} and {high:.4g}"
                return f"{name} = {float(np.mean(asked[name])):.4g} is scaled from the timed {value:.4g}"
        return ""

    def beyond(self, variables: Mapping[str, Num]) -> Any:
        """Whether a shape lies above what was measured along some axis; an array where the variables are."""
        asked = self._query(variables)
        return self._nearest(asked).beyond(asked)

    def _nearest(self, variables: Mapping[str, Num]) -> Table:
        if len(self.tables) == 1:
            return self.tables[0]
        names = self._matches[0]
        asked = np.log1p([float(np.mean(variables[name])) for name in names])
        weights = np.array(
            [EXACT if name in self.exact else OF_MODEL if name in self.of_model else 1.0 for name in names]
        )
        far = (np.abs(self._places - asked) * weights).sum(axis=1)
        return self.tables[
            int(np.argmin(np.round(far, 9)))
        ]  # of equally near ones the first, on every processor

    def _beside(self, variables: Mapping[str, Num], table: Table) -> Table | None:
        """The nearest table on the op's other side along :attr:`between`; None where there is none, or ``table`` is of
        the op's own.
        """
        if not self.between:
            return None
        asked, own = float(np.mean(variables[self.between])), table.match[self.between]
        found = [
            (abs(math.log(match[self.between] / asked)), at)
            for at, match in enumerate(self._matches)
            if (match[self.between] - asked) * (own - asked) < 0.0
            and all(match[name] == value for name, value in table.match.items() if name != self.between)
        ]
        return self.tables[min(found)[1]] if found else None

    def _query(self, variables: Mapping[str, Num]) -> dict[str, Num]:
        """An op's variables as the tables were measured.

        Attention was measured with one new token per request (decode) or without cached tokens (prefill). In decode
        every further query token meets the same keys, as further heads would. A chunk of n new tokens with c cached
        ones costs what a prompt with as many query-key pairs costs: p (p + 1) / 2 = n c + n (n + 1) / 2. (Against
        DeepSeek's sparse-attention modules with a prefix of up to 2048 tokens, where they run dense: 3 to 9 % median
        error.)

        Of the mixers' classes ``lanes`` are heads or channels of all requests, ``queries`` new tokens per request,
        ``cached`` what a request had before (and one more, for an axis in logs). A state is read once and written once
        per token that is verified, so n tokens take what (n + 1) / 2 requests with one token take (vLLM's verification
        rows of KDA, which nothing was set by: 2.3 times for four, and this gives 2.5).
        """
        asked = dict(variables)
        if self.kernel in STATES:
            asked["requests"] = asked["requests"] * (asked["new_tokens"] + 1.0) / 2.0
        if self.kernel.startswith(LANED):
            each = asked["channels" if self.kernel.startswith("conv_") else "heads"]
            asked["lanes"] = asked["requests"] * each
        if self.kernel in DECODE or self.kernel.endswith(MODULE):
            asked["heads"] = asked["heads"] * asked.get("new_tokens", 1.0)
        if by_request(self.kernel):
            asked["queries"] = asked["new_tokens"]
            asked["rows"] = asked["requests"] * asked["new_tokens"]
            asked["cached"] = maximum(asked.get("context", 0.0) - asked["new_tokens"] + 1.0, 1.0)
        if self.kernel in WHOLE_PROMPTS:
            asked["queries"] = asked["context"]
        if self.kernel in PREFILL:
            new, context = asked["new_tokens"], asked["context"]
            pairs = new * (context - new) + new * (new + 1.0) / 2.0
            asked["new_tokens"] = (np.sqrt(1.0 + 8.0 * pairs) - 1.0) / 2.0
        return asked


def _share(asked: float, table: Table, other: Table, name: str) -> float:
    """How far an op lies from ``table`` to ``other``, 0 to 1, in logs."""
    own = table.match[name]
    return math.log(asked / own) / math.log(other.match[name] / own)


EXACT = 1e3
OF_MODEL = 4.0
"""Weight of a dimension that must be a table's own, so that it decides first."""
DECODE = ("mla_decode", "gqa_decode", "mla_module_decode")
WHOLE_PROMPTS = ("msa_module_prefill",)
"""Classes whose tables are of prompts without cached tokens, along ``queries``, and whose work is not that of pairs."""
STATES = ("gdn_decode", "kda_decode", "conv_update")
LANED = ("gdn_", "kda_", "conv_")
"""Classes whose heads or channels of all requests work alike, each on a state of its own."""
PER_REQUEST = ("index_", "mla_sparse_prefill", "hca_", "gdn_prefill", "kda_prefill", "conv_prefill")
"""Classes whose tables have axes ``queries`` and ``cached``."""
MODULE = "module_decode"
"""How a whole attention's class ends, whose axes are those of a dense core."""
PREFILL = ("mla_prefill", "gqa_prefill", "mla_module_prefill")


def by_request(kernel: str) -> bool:
    """Whether a class's tables have axes ``queries`` and ``cached``."""
    return kernel.startswith(PER_REQUEST) and not kernel.endswith(MODULE)


def _of_chunk(table: Table, asked: Mapping[str, Num]) -> Num:
    """Time of new tokens behind a prefix, from a table of whole prompts: what prefix and chunk take as one prompt less
    what the prefix does, at least what the chunk takes alone.
    """
    new, context = asked["new_tokens"], asked["context"]
    behind = table.seconds(asked) - table.seconds({**asked, "queries": context - new})
    return maximum(table.seconds({**asked, "queries": new}), where(context > new, behind, 0.0))
