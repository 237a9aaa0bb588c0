"""Fits each serving engine's constants on published steps: ``python -m calibrate.engines`` (``make engine-constants``).

Three constants per engine (:class:`perfmodel.spec.engine.EngineConstants`): host gap per step, synchronisation per
layer, load of the busiest expert-parallel rank. They minimise the |log(predicted / measured)| of the rows whose
committed role is ``fit`` (perfmodel/data/published/roles.csv), averaged within each group of rows and then over groups:
TPOT of clean aggregated rows of ``silicon_serving.csv``, throughput of ``serving.csv``. No ``check`` row and no LongCat
row is read.

A constant must earn its place: starting from none, the one is added that most lowers the error on groups left out
(each group in turn predicted by constants fitted on the others), as long as that falls by ``WORTH``. The rest stay
neutral. Times are linear in the first two constants and smooth in the third, so predictions are taken at a few values
of each and interpolated between.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.curves import robust_std
from perfmodel.errors import DataError, PerfModelError
from perfmodel.output.files import atomic_write
from perfmodel.spec import engine
from perfmodel.units import MS
from perfmodel.validation import roles, serving, silicon
from perfmodel.validation.duplicates import once

Array = NDArray[np.float64]

ENGINES = ("sglang", "trtllm", "vllm")
PROBE_US = {"host_gap_us": 1000.0, "layer_sync_us": 10.0}
"""Where the slope against a constant is taken."""
LOADS = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Imbalances at which predictions are taken."""
NEUTRAL = np.array([0.0, 0.0, 1.0])
"""Host gap (us), synchronisation (us per layer), imbalance: nothing added."""
MOST = np.array([20_000.0, 200.0, LOADS[-1]])
"""Largest constants that are tried."""
PRICE = 1e-3
"""Log error that a constant at its largest must be worth: decides where rows decide nothing."""
WORTH = 0.05
"""Share by which a constant must lower the error on groups left out."""
MIN_ROWS = 12
"""Rows that an engine needs for constants of its own."""


@dataclass(frozen=True, slots=True)
class FitRow:
    """One published row, as a function of an engine's constants."""

    id: str
    engine: str
    group: str
    """Rows of one set-up (the roles file's group) count together."""
    measured_s: float
    """Time per step or per token; throughputs are inverted."""
    base_s: Array
    """Predicted at each of LOADS, other constants 0."""
    slope: Array
    """Predicted seconds per us of host gap and per us of layer synchronisation."""

    def predicted_s(self, constants: Array) -> float:
        """Prediction for (host gap us, layer sync us, imbalance)."""
        return float(np.interp(constants[2], LOADS, self.base_s) + self.slope @ constants[:2])


def fit_rows(progress: Callable[[str], None] = print) -> list[FitRow]:
    """Every ``fit`` row that can be predicted."""
    found: list[FitRow] = []
    documented = [
        record
        for record in roles.read_published(silicon.FILE)
        if roles.may_fit(silicon.FILE, record) and is_documented(record)
    ]
    for record in once({silicon.FILE: documented})[silicon.FILE]:
        found += _row(silicon.FILE, record, record["backend"], _tpot(record))
    for record in roles.read_published("serving.csv"):
        if roles.may_fit("serving.csv", record) and serving.answerable(record):
            found += _row("serving.csv", record, serving.engine_of(record["framework"]), _step(record))
    progress(f"{len(found)} rows with role fit")
    return found


def is_documented(record: Mapping[str, str]) -> bool:
    """Whether it is known how a row was run: clean, and of one instance. The recipes of disaggregated runs are known
    from samples alone, so those rows show errors and set nothing.
    """
    return not record["note"] and record["mode"] == "agg"


def _tpot(record: Mapping[str, str]) -> Callable[..., tuple[float, float]]:
    def times(**constants: float) -> tuple[float, float]:
        mean, reason = silicon.predict(record, **constants)
        if mean is None:
            raise LookupError(reason)
        return float(record["tpot_ms"]) * MS, mean.tpot_s

    return times


def _step(record: Mapping[str, str]) -> Callable[..., tuple[float, float]]:
    def times(**constants: float) -> tuple[float, float]:
        measured, predicted = serving.throughput(record, **constants)
        return 1.0 / measured, 1.0 / predicted

    return times


def _row(
    file: str, record: Mapping[str, str], engine_name: str, times: Callable[..., tuple[float, float]]
) -> list[FitRow]:
    neutral = {"host_gap_us": 0.0, "layer_sync_us": 0.0}
    try:
        pairs = [times(**neutral, imbalance=load) for load in LOADS]
        slopes = [
            (times(**{**neutral, key: probe}, imbalance=1.0)[1] - pairs[0][1]) / probe
            for key, probe in PROBE_US.items()
        ]
    except (LookupError, PerfModelError):
        return []
    base = np.array([predicted for _, predicted in pairs])
    group, _, _ = roles.role_of(file, record)
    return [FitRow(record["id"], engine_name, group, pairs[0][0], base, np.array(slopes))]


def fit_engine(rows: Sequence[FitRow]) -> tuple[Array, Array]:
    """(constants, log residuals) of one engine, by forward selection on groups left out.

    Raises:
        DataError: fewer than two groups, so that nothing can be left out.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < 2:
        raise DataError(
            f"{rows[0].engine if rows else 'engine'}: {len(groups)} group of rows; two are needed"
        )
    chosen: frozenset[int] = frozenset()
    error = left_out_error(rows, groups, chosen)
    while len(chosen) < len(NEUTRAL):
        tried = {
            index: left_out_error(rows, groups, chosen | {index})
            for index in range(len(NEUTRAL))
            if index not in chosen
        }
        best = min(tried, key=lambda index: (tried[index], index))
        if tried[best] > error * (1.0 - WORTH):
            break
        chosen, error = chosen | {best}, tried[best]
    constants = fit_constants(rows, chosen)
    return constants, residuals(rows, constants)


def left_out_error(rows: Sequence[FitRow], groups: Sequence[str], free: frozenset[int]) -> float:
    """Mean |log error| of every group under constants fitted on the other groups."""
    errors = []
    for group in groups:
        constants = fit_constants([row for row in rows if row.group != group], free)
        errors.append(float(np.abs(residuals([row for row in rows if row.group == group], constants)).mean()))
    return float(np.mean(errors))


def fit_constants(rows: Sequence[FitRow], free: frozenset[int]) -> Array:
    """The constants of ``free`` (indices into NEUTRAL) that fit best, the others neutral.

    A constant that no row exercises stays neutral too, by a price on its size that is too small to move others.
    """
    from scipy.optimize import Bounds, differential_evolution  # deferred: slow to import

    if not free:
        return NEUTRAL.copy()
    open_ = np.array([index in free for index in range(len(NEUTRAL))])
    bounds = Bounds(NEUTRAL, np.where(open_, MOST, NEUTRAL + 1e-9))
    counts = {group: sum(row.group == group for row in rows) for group in {row.group for row in rows}}
    weights = np.array([1.0 / counts[row.group] for row in rows]) / len(counts)

    logs = _residuals(rows)

    def loss(constants: Array) -> float:
        price = PRICE * float(((constants - NEUTRAL) / (MOST - NEUTRAL)).sum())
        return price + float(weights @ np.abs(logs(constants)))

    found: Array = differential_evolution(loss, bounds, rng=0, tol=1e-8, maxiter=200).x
    return found


def residuals(rows: Sequence[FitRow], constants: Array) -> Array:
    """log(predicted / measured) of rows under given constants."""
    return _residuals(rows)(constants)


def _residuals(rows: Sequence[FitRow]) -> Callable[[Array], Array]:
    """:func:`residuals` of fixed rows, all at once: a fit asks thousands of times."""
    measured = np.array([row.measured_s for row in rows])
    base, slope = np.stack([row.base_s for row in rows]), np.stack([row.slope for row in rows])
    loads = np.array(LOADS)

    def logs(constants: Array) -> Array:
        at = int(np.clip(np.searchsorted(loads, constants[2], side="right") - 1, 0, len(loads) - 2))
        share = np.clip((constants[2] - loads[at]) / (loads[at + 1] - loads[at]), 0.0, 1.0)
        own = base[:, at] * (1.0 - share) + base[:, at + 1] * share
        ratios: Array = (own + slope @ constants[:2]) / measured
        return np.asarray(np.log(ratios))

    return logs


def document(rows: Sequence[FitRow]) -> dict[str, Any]:
    """The constants file."""
    date = datetime.now(UTC).date().isoformat()
    result: dict[str, Any] = {}
    for name in ENGINES:
        own = [row for row in rows if row.engine == name]
        if len(own) < MIN_ROWS:
            continue
        constants, logs = fit_engine(own)
        result[name] = {
            "host_gap_us": _rounded(constants[0]),
            "layer_sync_us": _rounded(constants[1]),
            "imbalance": _rounded(constants[2]),
            "log_std": _rounded(robust_std(logs)),
            "rows": len(own),
            "source": f"calibrate.engines, {date}: rows with role fit of silicon_serving.csv and serving.csv",
        }
    return result


def _rounded(value: float) -> float:
    """Three significant digits; what is within rounding of nothing is 0."""
    return 0.0 if abs(value) < 1e-3 else float(f"{value:.3g}")


def main() -> None:
    """Fit and write ``data/engine_constants.yaml``."""
    from ruamel.yaml import YAML
    from ruamel.yaml.compat import StringIO

    found = document(fit_rows())
    text = StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(found, text)
    head = "# Constants of serving engines, written by calibrate.engines (make engine-constants)."
    atomic_write(engine.FILE, f"{head} Do not edit by hand.\n" + text.getvalue())
    for name, values in found.items():
        print(name, values)


if __name__ == "__main__":
    main()
