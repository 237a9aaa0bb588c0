"""Published rows of role ``fit`` as functions of an engine's constants.

Every row is served as ``validate`` serves it. Predictions are taken at a few values of each constant around a start and
interpolated between.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.engines.constants import CONSTANTS, START, Values
from perfmodel.engines.profile import profile
from perfmodel.errors import PerfModelError
from perfmodel.units import MS
from perfmodel.validation import duplicates, roles, serving, silicon
from perfmodel.validation.runs import scenario_of, stated_version, unknown
from perfmodel.validation.setups import setup_of

Array = NDArray[np.float64]

FILES = ("silicon_serving.csv", "silicon_2026_field.csv", "silicon_2026.csv")
MOST_PER_GROUP = 8
"""Rows of one set-up that are taken, spread over its loads: more tell little, and each is served dozens of times."""


@dataclass(frozen=True, slots=True)
class FitRow:
    """One published figure, as a function of an engine's constants."""

    id: str
    engine: str
    group: str
    """Rows of one set-up count together, each quantity for itself."""
    quantity: str
    measured_s: float
    """Time per token, to the first token, or per step; throughputs are inverted."""
    at: Array
    """Constants around which predictions were taken."""
    along_s: tuple[Array, ...]
    """Predicted along each constant's grid, the others as in ``at``."""


Job = tuple[str, dict[str, str]]
"""File and record."""


def jobs() -> list[Job]:
    """Every ``fit`` row that may set a constant."""
    files = [(file, is_documented) for file in FILES]
    found = [
        (file, record)
        for file, wanted in (*files, ("serving.csv", _is_step))
        for record in roles.read_published(file)
        if roles.may_fit(file, record) and wanted(file, record)
    ]
    return [job for job in found if measured(job)]


def taken(every: Sequence[Job]) -> list[Job]:
    """At most MOST_PER_GROUP of each set-up, spread over its lengths and loads."""
    groups: dict[str, list[Job]] = {}
    for job in every:
        groups.setdefault(roles.role_of(*job)[0], []).append(job)
    found: list[Job] = []
    for own in groups.values():
        ordered = sorted(own, key=_load)
        most = min(MOST_PER_GROUP, len(ordered))
        found += [ordered[round(i)] for i in np.linspace(0, len(ordered) - 1, most)]
    return found


def _load(job: Job) -> tuple[float, ...]:
    return tuple(float(job[1].get(name) or 0.0) for name in ("isl", "concurrency", "osl"))


def _is_step(_: str, record: Mapping[str, str]) -> bool:
    return serving.answerable(record)


def is_documented(file: str, record: Mapping[str, str]) -> bool:
    """Whether it is known how a row was run: clean, of one instance, not a repetition. The recipes of disaggregated
    runs are known from samples alone, and what tensor parallelism's collectives cost between nodes from two timings:
    such rows show errors and set nothing.
    """
    repeated = (file, record["id"]) in duplicates.repeated()
    if record["note"] or record["mode"] != "agg" or repeated or unknown(record) or _queued(record):
        return False
    try:
        scenario = scenario_of(record)
    except PerfModelError:
        return False
    return bool(scenario.deployment.attention_tp <= scenario.cluster.node.link_domain_gpus)


def _queued(record: Mapping[str, str]) -> bool:
    """Whether requests waited longer than they decoded: then a limit was at work that the row does not state."""
    if not record["ttft_ms"] or not record["tpot_ms"]:
        return False
    return float(record["ttft_ms"]) > float(record["osl"]) * float(record["tpot_ms"])


def engine_of(job: Job) -> str:
    """The engine of a row."""
    file, record = job
    return serving.engine_of(record["framework"]) if file == "serving.csv" else record["backend"]


def version_of(job: Job) -> str:
    """The engine's version: as the row states it, else the engine's newest that was read."""
    file, record = job
    stated = stated_version(record) if file != "serving.csv" else serving.engine_version_of(record)
    return profile(engine_of(job), stated).version


def measured(job: Job) -> dict[str, float]:
    """Quantity -> seconds, of those that may set a constant: a cold run's TTFT holds its start-up."""
    file, record = job
    if file == "serving.csv":
        return {"step_s": 1.0 / serving.throughput(record)[0]}
    found = {}
    if record["tpot_ms"]:
        found["tpot_s"] = float(record["tpot_ms"]) * MS
    if record["ttft_ms"] and not setup_of(record).cold:
        found["ttft_s"] = float(record["ttft_ms"]) * MS
    return found


def predicted(job: Job, constants: Sequence[float]) -> dict[str, float]:
    """The same quantities at given constants; empty where the row can't be answered."""
    file, record = job
    stated: dict[str, float] = {}
    engine, version = engine_of(job), version_of(job)
    for one, value in zip(CONSTANTS, constants, strict=True):
        stated |= one.settings(float(value) if one.of(engine, version) else 0.0)
    try:
        if file == "serving.csv":
            own = {path: value for path, value in stated.items() if path.startswith("deployment")}
            return {"step_s": 1.0 / serving.throughput(record, own)[1]}
        answer, _ = silicon.predict(record, stated, interval=False)
    except PerfModelError:
        return {}
    return {} if answer is None else {"tpot_s": answer.tpot_s, "ttft_s": answer.ttft_s}


def design(at: Array) -> list[Values]:
    """Constants at which every row is predicted: along each grid."""
    points: list[Values] = []
    for number, one in enumerate(CONSTANTS):
        for value in one.grid:
            point = at.copy()
            point[number] = value
            points.append(tuple(point))
    return points


def _rows_of(work: tuple[Job, Array]) -> list[FitRow]:
    """A row's predictions over the design (in a process of its own)."""
    job, at = work
    known, points = measured(job), design(at)
    answers = [predicted(job, point) for point in points]
    if not all(answers):
        return []
    found = []
    file, record = job
    group, _, _ = roles.role_of(file, record)
    ends = np.cumsum([len(one.grid) for one in CONSTANTS])[:-1]
    for quantity, seconds in known.items():
        along = tuple(np.split(np.array([answer[quantity] for answer in answers]), ends))
        found.append(FitRow(record["id"], engine_of(job), group, quantity, seconds, at, along))
    return found


def fit_rows(
    at: Mapping[str, Array], pool: Executor, progress: Callable[[str], None] = print
) -> list[FitRow]:
    """Every row, predicted around its engine's ``at``."""
    work = [(job, at[engine_of(job)]) for job in taken(jobs()) if engine_of(job) in at]
    progress(f"{len(work)} rows with role fit, {len(design(START))} predictions each")
    found: list[FitRow] = []
    for number, rows in enumerate(pool.map(_rows_of, work)):
        found += rows
        if number % 20 == 0:
            progress(f"  {number} of {len(work)}")
    return found


def _served(work: tuple[Job, Array]) -> tuple[Job, dict[str, float]]:
    job, constants = work
    return job, predicted(job, tuple(constants))


def served_logs(
    constants: Mapping[str, Array], pool: Executor
) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Engine -> quantity -> (group, log error) of every row, served anew."""
    work = [(job, constants[engine_of(job)]) for job in jobs() if engine_of(job) in constants]
    found: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for job, answer in pool.map(_served, work):
        group, _, _ = roles.role_of(*job)
        for quantity, seconds in measured(job).items():
            if quantity in answer:
                log = float(np.log(answer[quantity] / seconds))
                found.setdefault(engine_of(job), {}).setdefault(quantity, []).append((group, log))
    return found
