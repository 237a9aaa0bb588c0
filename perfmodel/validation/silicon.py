"""Suite ``silicon``: measured TTFT and TPOT at a fixed concurrency, in 399 published rows; and any rows in its columns.

Each row is served, request by request, as the scenario that its user would write (:mod:`perfmodel.validation.runs`):
both figures are means over requests, as its client takes them. A measurement that stands in two rows is judged once
(:mod:`perfmodel.validation.duplicates`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from perfmodel.economics.requests import serving_metrics
from perfmodel.engines.profile import names as engines
from perfmodel.errors import PerfModelError
from perfmodel.serving.closed_loop import loop_of, mean_step, steps_of, tpot_draws
from perfmodel.serving.serve import serve
from perfmodel.spec.scenario import Scenario
from perfmodel.step import common_log_std
from perfmodel.units import MS
from perfmodel.validation import duplicates, roles
from perfmodel.validation.figures import FIGURES, Figure
from perfmodel.validation.measured import identities
from perfmodel.validation.names import SYSTEMS, gpu_in, gpu_named
from perfmodel.validation.rows import Row
from perfmodel.validation.runs import remarks, scenario_of, settings_of, unknown, waves_of
from perfmodel.validation.setups import setup_of
from perfmodel.validation.steps import bounds
from perfmodel.workers import each

NAME = "silicon"
FILE = "silicon_serving.csv"
REPEATED = "repeats the measurement of another row, which is judged"
Progress = Callable[[str, int, int], None]


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that predictions rest on."""
    return identities(gpu_in(cluster) for cluster in SYSTEMS.values())


def rows(progress: Progress | None = None, executor: Executor | None = None) -> list[Row]:
    """The suite's rows: one for TPOT and one for TTFT per measurement."""
    return published_rows(NAME, FILE, progress, executor)


def published_rows(
    suite: str, file: str, progress: Progress | None = None, executor: Executor | None = None
) -> list[Row]:
    """A suite's rows, of a published file with the columns of ``silicon_serving.csv``."""
    committed = roles.committed()
    return predict_rows(
        roles.read_published(file),
        suite=suite,
        role=lambda record: committed[file, record["id"]],
        file=file,
        progress=progress,
        executor=executor,
    )


def predict_rows(
    records: Sequence[Mapping[str, str]],
    *,
    suite: str,
    role: Callable[[Mapping[str, str]], str],
    file: str = "",
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> list[Row]:
    """Predictions for records in the columns of ``silicon_serving.csv``; ``file``: the published one they are from."""
    pieces = [(record, role(record)) for record in records]
    tell = None if progress is None else partial(progress, suite)
    found = each(partial(_rows_of, suite=suite, file=file), pieces, executor=executor, progress=tell)
    return [row for own in found for row in own]


def _rows_of(piece: tuple[Mapping[str, str], str], *, suite: str, file: str) -> list[Row]:
    """Of one record and its role."""
    record, role = piece
    kind = _kind(record, file) if file else ""
    predicted, reason = predict(record)
    if kind == "-repeated":
        reason = REPEATED
    common: dict[str, Any] = {
        "id": record["id"],
        "model": record["model"],
        "role": role,
        "source": record.get("source", ""),
        "system": gpu_named(record["system"]),
        "engine": record["backend"] if record["backend"] in engines() else "",
        "settings": settings_of(record) if predicted else "",
    }
    peers = _peers() if file == FILE else {}
    found = []
    for column, figure in FIGURES.items():
        if not record.get(column):
            continue
        measured = figure.measured(record[column], record)
        value, why = _answer(predicted, figure)
        cold = bool(file) and not kind and column == "ttft_ms" and setup_of(record).cold
        if cold and value is not None:
            why = _start_up(measured - value, record)
        bounded = predicted if column == "tpot_ms" else None
        found.append(
            Row(
                suite=suite + kind + ("-cold" if cold else ""),
                quantity=figure.quantity,
                unit=figure.unit,
                measured=measured,
                predicted=value,
                low=bounded.low_s if bounded else None,
                high=bounded.high_s if bounded else None,
                reason=why or reason,
                peer_predicted=peers.get((record["id"], column)),
                **common,
            )
        )
    return found


def _answer(predicted: "Prediction | None", figure: Figure) -> tuple[float | None, str | None]:
    """A figure of the simulated run, or None and why."""
    if predicted is None:
        return None, None
    value = figure.predicted(predicted.metrics)
    return value, None if value is not None else f"{figure.key}: outputs of one token have none"


def _kind(record: Mapping[str, str], file: str) -> str:
    """What is summed up apart from the clean aggregated rows: repetitions, rows with a remark, models that no fit sees,
    disaggregated ones.
    """
    if (file, record["id"]) in duplicates.repeated():
        return "-repeated"
    if record.get("note") or setup_of(record).remark:
        return "-noted"
    if roles.is_transfer(record):
        return "-transfer"
    return "-disaggregated" if record["mode"] == "disagg" else ""


def _start_up(missing_s: float, record: Mapping[str, str]) -> str:
    """What the first wave of a run without warm-up must have waited for, if all of the error is that: the mean over its
    waves is the settled TTFT and a share of the start-up.
    """
    return f"no warm-up: start-up of {missing_s * waves_of(record, setup_of(record)):.1f} s implied"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a run's requests would see in the mean."""

    tpot_s: float
    ttft_s: float
    low_s: float | None
    """80 % interval of the TPOT."""
    high_s: float | None
    metrics: Mapping[str, Any]
    """The keys of ``perfmodel serve --json`` that follow from the requests."""


def predict(
    record: Mapping[str, str], constants: Mapping[str, Any] | None = None, *, interval: bool = True
) -> tuple[Prediction | None, str | None]:
    """The run of a record, or None and the reason; ``constants`` are set over the engine's own."""
    reason = setup_of(record).not_predicted or unknown(record)
    if reason:
        return None, reason
    try:
        told = (record.get("note", ""), setup_of(record).remark, remarks(record))
        remark = "; ".join(filter(None, told)) or None
        return predict_scenario(scenario_of(record, constants), interval=interval), remark
    except PerfModelError as error:
        return None, str(error)


def predict_scenario(scenario: Scenario, *, interval: bool = True) -> Prediction:
    """Means over the judged requests of a scenario that is served.

    Raises:
        PerfModelError: it can't be served.
    """
    metrics = serving_metrics(serve(scenario).records, scenario)
    tpot = metrics["tpot_s"]["mean"] if metrics["tpot_s"] else 0.0
    low, high = _interval(scenario, tpot) if interval else (None, None)
    return Prediction(tpot, metrics["ttft_s"]["mean"], low, high, metrics)


def _interval(scenario: Scenario, tpot_s: float) -> tuple[float | None, float | None]:
    """The 80 % interval of a TPOT, by the spread of the steps of the same loop in the mean."""
    workload = scenario.workload
    if workload.max_concurrency is None or workload.request_rate not in (None, "inf") or not tpot_s:
        return None, None
    steps, load = steps_of(scenario), loop_of(scenario)
    mean = mean_step(steps, load)
    draws = tpot_draws(steps, load, mean, common_log_std=common_log_std(steps.decode))
    return (None, None) if draws is None else bounds(draws * (tpot_s / mean.tpot_s))


@cache
def _peers() -> dict[tuple[str, str], float]:
    """(id, column) -> what aiconfigurator 0.12.0 predicts, s."""
    found = {}
    for record in roles.read_published("silicon_peer_predictions.csv"):
        for column in ("ttft_ms", "tpot_ms"):
            if record[column]:
                found[record["id"], column] = float(record[column]) * MS
    return found
