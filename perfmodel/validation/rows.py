"""Rows of a validation and their summary, the same for every suite."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from perfmodel.units import PERCENT


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure and what perfmodel says instead. SI units."""

    suite: str
    id: str
    model: str
    quantity: str
    """The key of ``step --json`` or ``serve --json``."""
    unit: str
    measured: float
    """The published figure."""
    predicted: float | None
    """None where perfmodel has no answer; ``reason`` says why."""
    role: str
    """fit, check, theory (a published calculation), comparison (beside a row, not against it) or user."""
    source: str
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    matches_printed: bool | None = None
    """Whether the prediction rounds to the figure as printed; None where no printed cell is meant."""
    peer_predicted: float | None = None
    """What another tool predicts for the row."""
    system: str = ""
    """Catalogue name of the GPU that was measured; empty: the catalogue has none, or nobody says."""
    engine: str = ""
    """Serving engine whose kernels and constants stand for it; empty: none."""
    settings: str = ""
    """The traffic, and what was set beyond the engine's defaults and the layout: ``key.path=value``, with ; between."""

    @property
    def error_pct(self) -> float | None:
        """Signed error in percent of the published figure."""
        return _error_pct(self.predicted, self.measured)

    @property
    def peer_error_pct(self) -> float | None:
        """The other tool's signed error in percent of the published figure."""
        return _error_pct(self.peer_predicted, self.measured)

    def as_dict(self) -> dict[str, Any]:
        """The row with the contract's keys."""
        return {**asdict(self), "error_pct": self.error_pct}


def _error_pct(predicted: float | None, measured: float) -> float | None:
    return None if predicted is None else PERCENT * (predicted - measured) / measured


def matches_printed(predicted: float, printed: str) -> bool:
    """Whether ``predicted`` rounds (half up) to ``printed`` at the decimals that were printed."""
    cell = Decimal(printed)
    return Decimal(repr(predicted)).quantize(cell, rounding=ROUND_HALF_UP) == cell


def unanswered(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """(suite, reason, number of rows) of the rows without a prediction, the most frequent first."""
    reasons = Counter((row.suite, row.reason or "no reason given") for row in rows if row.predicted is None)
    return [(suite, reason, number) for (suite, reason), number in reasons.most_common()]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Errors per suite, quantity and role; a quantity's roles follow each other."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.suite, row.quantity), {}).setdefault(row.role, []).append(row)
    return [
        _summary((suite, quantity, role), own)
        for (suite, quantity), roles in groups.items()
        for role, own in roles.items()
    ]


def _summary(key: tuple[str, str, str], rows: Sequence[Row]) -> dict[str, Any]:
    suite, quantity, role = key
    errors = [row.error_pct for row in rows if row.error_pct is not None]
    bounded = [row for row in rows if row.low is not None and row.high is not None]
    inside = [row for row in bounded if row.low <= row.measured <= row.high]  # type: ignore[operator]
    widths = [(row.high - row.low) / row.predicted for row in bounded if row.predicted]  # type: ignore[operator]
    absolute = [abs(error) for error in errors]
    # only rows that both answer: a tool that leaves out the hard rows would look better than one that doesn't
    pairs = [
        (abs(row.error_pct), abs(row.peer_error_pct))
        for row in rows
        if row.error_pct is not None and row.peer_error_pct is not None
    ]
    return {
        "suite": suite,
        "quantity": quantity,
        "role": role,
        "n": len(rows),
        "answered": len(errors),
        "median_abs_pct": statistics.median(absolute) if errors else None,
        "mean_abs_pct": statistics.fmean(absolute) if errors else None,
        "p90_abs_pct": _quantile(absolute, 0.9) if errors else None,
        "bias_pct": statistics.fmean(errors) if errors else None,
        "coverage_pct": PERCENT * len(inside) / len(bounded) if bounded else None,
        "mean_interval_width_pct": PERCENT * statistics.fmean(widths) if widths else None,
        "peer_n": len(pairs),
        "peer_median_abs_pct": statistics.median(peer for _, peer in pairs) if pairs else None,
        "median_abs_pct_beside_peer": statistics.median(own for own, _ in pairs) if pairs else None,
    }


def _quantile(values: Sequence[float], share: float) -> float:
    """Linear between the values, as numpy's."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))
