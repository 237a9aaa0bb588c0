"""The trade-off curve: what each user gets against what each GPU gives, over the batch, with intervals.

One step per batch size, all of them together on the vectorised twin; the draws of an interval are shared by all points,
so that the band moves as one: if a kernel is slower than modelled, it is at every batch.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.economics.rates import StepRates, rate_range, step_rates
from perfmodel.ops.limits import batch_key, batch_of, check_runs, limits, runs, with_batch
from perfmodel.overlap.twin import step_times
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.scenario import Scenario
from perfmodel.step import common_log_std, drawable, has_contention, step_segments
from perfmodel.uncertainty import QUANTILES, drawn_curve

if TYPE_CHECKING:
    import pandas as pd

POINTS = 16
"""Batch sizes of a curve, where none are stated."""

RATES = (
    "step_time_s",
    "tpot_s",
    "ttft_s",
    "tokens_per_s_per_user",
    "output_tokens_per_s_per_gpu",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
    "usd_per_million_input_tokens",
)
"""Columns of a curve beside the batch; those with an interval have ``_low`` and ``_high`` too."""

Array = NDArray[np.float64]


def curve_batches(scenario: Scenario, points: int = POINTS) -> Array:
    """Batch sizes per GPU, from one request per attention group to what fits: whole requests of a group, evenly spread
    in logarithms, with the scenario's own where it runs.

    Raises:
        InfeasibleError: the engine would not load this layout, or nothing fits.
    """
    found = limits(scenario)
    most = found.per_group
    spread = np.unique(np.round(np.geomspace(1.0, most, points))) / found.gpus if most else np.array([])
    if not runs(scenario) and most:
        return spread
    check_runs(scenario)
    return np.unique(np.append(spread, batch_of(scenario)))


def batch_curve(scenario: Scenario, batches: Array | None = None) -> "pd.DataFrame":
    """One row per batch size: ``batch_per_gpu`` and RATES in SI units, 80 % intervals as ``NAME_low``, ``NAME_high``.

    Quantities that the phase does not have are left out; intervals too, where the spread of some op is not known.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
        SpecError: a batch out of range.
        InfeasibleError: the engine would not load this layout, or a batch exceeds what fits.
    """
    import pandas as pd

    found = curve_batches(scenario) if batches is None else np.asarray(batches, dtype=float)
    check_runs(with_batch(scenario, float(found.max())))
    many = with_arrays(scenario, {batch_key(scenario): found})
    segments, contention = step_segments(many), has_contention(scenario)
    drawn = None
    if scenario.costs != "report":  # a published way of counting has no spread
        drawn = drawn_curve(
            segments, drawable(scenario), common_log_std=common_log_std(scenario), contention=contention
        )
    seconds = step_times(segments, contention=contention).step_time_s if drawn is None else drawn[0]
    columns: dict[str, Array] = {"batch_per_gpu": found, **_rates(seconds, step_rates(many, seconds))}  # type: ignore[arg-type]
    if drawn is not None:
        ends = [np.quantile(drawn[1], q, axis=0) for q in QUANTILES]
        fast, slow = map(_rates, ends, rate_range(many, *ends))  # type: ignore[arg-type]
        for name in fast:
            columns[f"{name}_low"] = np.minimum(fast[name], slow[name])
            columns[f"{name}_high"] = np.maximum(fast[name], slow[name])
    return pd.DataFrame(columns)


def _rates(seconds: Any, rates: StepRates) -> dict[str, Array]:
    """RATES that the phase has, one value per batch size."""
    known = {"step_time_s": seconds, **asdict(rates)}
    return {name: np.broadcast_to(known[name], seconds.shape) for name in RATES if known[name] is not None}
