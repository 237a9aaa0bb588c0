"""Fits each serving engine's constants on published steps: ``python -m calibrate.engines`` (``make engine-constants``).

Three constants per engine (:class:`perfmodel.spec.engine.EngineConstants`): host gap per step, synchronisation per
layer, load of the busiest expert-parallel rank. They minimise the mean |log(predicted / measured)| over the rows whose
committed role is ``fit`` (perfmodel/data/published/roles.csv): TPOT of clean aggregated rows of
``silicon_serving.csv``, throughput of ``serving.csv``. No ``check`` row and no LongCat row is read. An engine without
rows that exercise a constant keeps its neutral value. Times are linear in the first two constants and smooth in the
third, so predictions are taken at a few values of each and interpolated between.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.curves import robust_std
from perfmodel.output.files import atomic_write
from perfmodel.spec import engine
from perfmodel.validation import roles, serving, silicon

Array = NDArray[np.float64]

ENGINES = ("sglang", "trtllm", "vllm")
PROBE_US = {"host_gap_us": 1000.0, "layer_sync_us": 10.0}
"""Where the slope against a constant is taken."""
LOADS = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Imbalances at which predictions are taken."""
MIN_ROWS = 12
"""Rows that an engine needs for constants of its own."""


@dataclass(frozen=True, slots=True)
class FitRow:
    """One published row, as a function of an engine's constants."""

    id: str
    engine: str
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
    committed = roles.committed()
    found: list[FitRow] = []
    for record in roles.read_published(silicon.FILE):
        if committed[silicon.FILE, record["id"]] == "fit" and is_documented(record):
            found += _row(record["id"], record["backend"], _tpot(record))
    for record in roles.read_published("serving.csv"):
        if committed["serving.csv", record["id"]] == "fit" and serving.answerable(record):
            found += _row(record["id"], serving.engine_of(record["framework"]), _step(record))
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
        return float(record["tpot_ms"]) * 1e-3, mean.tpot_s

    return times


def _step(record: Mapping[str, str]) -> Callable[..., tuple[float, float]]:
    def times(**constants: float) -> tuple[float, float]:
        measured, predicted = serving.throughput(record, **constants)
        return 1.0 / measured, 1.0 / predicted

    return times


def _row(name: str, engine_name: str, times: Callable[..., tuple[float, float]]) -> list[FitRow]:
    neutral = {"host_gap_us": 0.0, "layer_sync_us": 0.0}
    try:
        pairs = [times(**neutral, imbalance=load) for load in LOADS]
        slopes = [
            (times(**{**neutral, key: probe}, imbalance=1.0)[1] - pairs[0][1]) / probe
            for key, probe in PROBE_US.items()
        ]
    except LookupError:
        return []
    base = np.array([predicted for _, predicted in pairs])
    return [FitRow(name, engine_name, pairs[0][0], base, np.array(slopes))]


def fit_engine(rows: Sequence[FitRow]) -> tuple[Array, Array]:
    """(constants, log residuals) of one engine: least mean |log(predicted / measured)|.

    The host gap stays at most 20 ms, synchronisation at most 200 us a layer, imbalance within LOADS.
    """
    from scipy.optimize import Bounds, differential_evolution  # deferred: slow to import

    def logs(constants: Array) -> Array:
        return np.log([row.predicted_s(constants) / row.measured_s for row in rows])

    spread = any(row.base_s[-1] > row.base_s[0] * 1.001 for row in rows)
    most = LOADS[-1] if spread else LOADS[0] + 1e-9
    bounds = Bounds(np.array([0.0, 0.0, LOADS[0]]), np.array([20_000.0, 200.0, most]))

    def loss(constants: Array) -> float:
        return float(np.abs(logs(constants)).mean())

    found = differential_evolution(loss, bounds, rng=0, tol=1e-8, maxiter=400)
    return found.x, logs(found.x)


def document(rows: Sequence[FitRow]) -> dict[str, Any]:
    """The constants file."""
    date = datetime.now(UTC).date().isoformat()
    result: dict[str, Any] = {}
    for name in ENGINES:
        own = [row for row in rows if row.engine == name]
        if len(own) < MIN_ROWS:
            continue
        constants, residuals = fit_engine(own)
        result[name] = {
            "host_gap_us": float(f"{constants[0]:.3g}"),
            "layer_sync_us": float(f"{constants[1]:.3g}"),
            "imbalance": float(f"{constants[2]:.3g}"),
            "log_std": float(f"{robust_std(residuals):.3g}"),
            "rows": len(own),
            "source": f"calibrate.engines, {date}: rows with role fit of silicon_serving.csv and serving.csv",
        }
    return result


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
