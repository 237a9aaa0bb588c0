"""Fits each serving engine's constants on published runs: ``python -m calibrate.engines`` (``make engine-constants``).

What an engine's documents and sources say stands in ``data/engines``; what they cannot say is fitted here, on rows
whose committed role is ``fit`` alone (perfmodel/data/published/roles.csv), and never on a LongCat row: cost of an eager
launch, what counted launches take beyond what a launch can, gap per kernel in a graph, time to prepare a step, and what
stands in front of the engine. They minimise |log(predicted / measured)| of TPOT and of TTFT (of runs with a warm-up),
averaged within each group of rows (a set-up: roles.csv) and then over groups, so that many rows of one set-up count as
much as few of another.

A constant must earn its place: starting from none, the one is added that most lowers the errors on groups left out
(each group in turn predicted by constants fitted on the others), as long as they fall by ``WORTH`` (shares of TPOT's
and of TTFT's error, added) and neither rises by more than ``HARM``: what mends one quantity and spoils the other
stands for something else. The rest stay 0.

Every row is served as ``validate`` serves it. Predictions are taken at a few values of each constant around a start and
interpolated between; the fit is made twice, the second time around the first result, and the last residuals are of runs
served anew.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.curves import robust_std
from perfmodel.engines.profile import FITTED, OTHERS
from perfmodel.errors import DataError, PerfModelError
from perfmodel.output.files import atomic_write
from perfmodel.units import MS
from perfmodel.validation import duplicates, roles, serving, silicon
from perfmodel.validation.runs import scenario_of, unknown
from perfmodel.validation.setups import setup_of

Array = NDArray[np.float64]
Values = tuple[float, ...]

ENGINES = ("sglang", "trtllm", "vllm")
FILES = ("silicon_serving.csv", "silicon_2026_field.csv", "silicon_2026.csv")


@dataclass(frozen=True, slots=True)
class Constant:
    """One thing that is fitted."""

    path: str
    """Key path of a scenario."""
    grid: Values
    """Values at which predictions are taken, the first the neutral one."""
    least: float = 0.0
    """Where it is not neutral, it is at least this."""
    bound: float = float("inf")
    """What it may be; the rest is ``beyond``."""
    beyond: str = ""
    """Key path of what exceeds the bound."""

    @property
    def most(self) -> float:
        """The largest that is tried."""
        return self.grid[-1]

    def settings(self, value: float) -> dict[str, float]:
        """Key paths and values."""
        rest = {self.beyond: max(value - self.bound, 0.0)} if self.beyond else {}
        return {self.path: min(value, self.bound), **rest}


CONSTANTS = (
    Constant(
        "deployment.host.launch_us",
        (0.0, 15.0, 30.0, 50.0, 70.0, 100.0),
        least=3.0,
        bound=30.0,
        beyond="deployment.host.uncounted_us",
    ),
    Constant("deployment.host.node_us", (0.0, 1.0, 3.0)),
    Constant("deployment.host.prepare_us", (0.0, 3_000.0)),
    Constant("serving.front_end.latency_s", (0.0, 0.03, 0.08, 0.2)),
    Constant("serving.front_end.request_s", (0.0, 0.004, 0.008)),
    Constant("serving.front_end.chunk_s", (0.0, 5e-5, 1.1e-4)),
)
"""Capacity of a front end is at least what a row of role fit passed through one: 9,043 tokens/s (gpt-oss-120b,
vLLM 0.18, 8 x H100, 64 in flight). Bounds: 3 to 30 us per eager launch (a launch alone, and one through Python and its
dispatchers); what counted launches take beyond that is a floor with a name of its own."""
START = np.array([50.0, 1.0, 0.0, 0.03, 0.003, 5e-5])
WORTH = 0.05
"""Shares by which a constant must lower the errors on groups left out."""
HARM = 0.01
"""Log error by which it may raise any one of them: two runs of one set-up differ by as much in TPOT (0.9 %,
``validation.duplicates.repeat_floor``)."""
PRICE = 1e-3
"""Log error that a constant at its largest must be worth: decides where rows decide nothing."""
MOST_PER_GROUP = 8
"""Rows of one set-up that are taken, spread over its loads: more tell little, and each is served dozens of times."""
MIN_ROWS = 12
"""Rows that an engine needs for constants of its own."""
QUANTITIES = ("tpot_s", "ttft_s")


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

    def predicted_s(self, constants: Array) -> float:
        """Interpolated: what each constant adds to the prediction at ``at``."""
        here = 0.0
        for number, (one, times) in enumerate(zip(CONSTANTS, self.along_s, strict=True)):
            there = float(np.interp(constants[number], one.grid, times))
            here += there if number == 0 else there - float(np.interp(self.at[number], one.grid, times))
        return max(here, 1e-9)


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
    for one, value in zip(CONSTANTS, constants, strict=True):
        stated |= one.settings(float(value))
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


def fit_engine(
    rows: Sequence[FitRow], progress: Callable[[str], None] = print
) -> tuple[Array, list[dict[str, float]]]:
    """(constants, error on groups left out by quantity, without and with each constant added), by forward selection.

    Raises:
        DataError: fewer than two groups, so that nothing can be left out.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < 2:
        raise DataError(
            f"{rows[0].engine if rows else 'engine'}: {len(groups)} group of rows; two are needed"
        )
    chosen: frozenset[int] = frozenset()
    errors = [left_out_errors(rows, groups, chosen)]
    while len(chosen) < len(CONSTANTS):
        tried = {
            index: left_out_errors(rows, groups, chosen | {index})
            for index in range(len(CONSTANTS))
            if index not in chosen
        }
        gains = {
            index: relative_gain(errors[-1], found)
            for index, found in tried.items()
            if all(found[name] <= was + HARM for name, was in errors[-1].items())
        }
        for index in sorted(tried.keys() - gains.keys()):
            progress(f"  refused: {CONSTANTS[index].path} {tried[index]}")
        best = max(gains, key=lambda index: (round(gains[index], 6), -index), default=-1)
        if best < 0 or gains[best] < WORTH:
            break
        chosen |= {best}
        errors.append(tried[best])
        shown = ", ".join(f"{name} {errors[-2][name]:.3f} -> {errors[-1][name]:.3f}" for name in errors[-1])
        progress(f"  + {CONSTANTS[best].path}: on groups left out {shown}")
    return fit_constants(rows, chosen), errors


def relative_gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """By how much errors fell, as shares, added over quantities: TTFT errs more than TPOT and must not drown it."""
    return float(sum(1.0 - after[name] / before[name] for name in before if before[name] > 0.0))


def left_out_errors(rows: Sequence[FitRow], groups: Sequence[str], free: frozenset[int]) -> dict[str, float]:
    """Quantity -> mean |log error| over groups, each under constants fitted on the other groups."""
    errors: dict[str, list[float]] = {}
    for group in groups:
        constants = fit_constants([row for row in rows if row.group != group], free)
        for quantity, error in group_errors([row for row in rows if row.group == group], constants).items():
            errors.setdefault(quantity, []).append(error)
    return {quantity: float(np.mean(own)) for quantity, own in sorted(errors.items())}


def group_errors(rows: Sequence[FitRow], constants: Array) -> dict[str, float]:
    """Quantity -> mean |log error| of a group's rows."""
    by_quantity: dict[str, list[float]] = {}
    for row, log in zip(rows, residuals(rows, constants), strict=True):
        by_quantity.setdefault(row.quantity, []).append(abs(log))
    return {quantity: float(np.mean(logs)) for quantity, logs in by_quantity.items()}


def fit_constants(rows: Sequence[FitRow], free: frozenset[int]) -> Array:
    """The constants of ``free`` (indices into CONSTANTS) that fit best, the others 0.

    One constant after the other is moved to the best of a refined grid, until none moves: the error is an average of
    absolute values, with kinks. A constant that no row exercises stays 0, by a price on its size that is too small to
    move others.
    """
    values = np.zeros(len(CONSTANTS))
    if not free:
        return values
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        counts[row.group, row.quantity] = counts.get((row.group, row.quantity), 0) + 1
    quantities: dict[str, int] = {}
    for group, _ in counts:
        quantities[group] = quantities.get(group, 0) + 1
    weights = np.array([1.0 / counts[row.group, row.quantity] / quantities[row.group] for row in rows])
    weights /= len(quantities)
    table = _Table(rows)

    def loss(constants: Array) -> float:
        price = PRICE * float(sum(value / one.most for value, one in zip(constants, CONSTANTS, strict=True)))
        return price + float(weights @ np.abs(table.logs(constants)))

    best = loss(values)
    for refinement in (8, 8, 16, 32, 64, 128):
        moved = True
        while moved:
            moved = False
            for index in sorted(free):
                one = CONSTANTS[index]
                step = one.most / refinement
                tries = (
                    {0.0, values[index] - step, values[index] + step}
                    if refinement > 8
                    else {0.0, *np.linspace(0.0, one.most, 9).tolist()}
                )
                for value in sorted(tries):
                    if value != 0.0 and not max(one.least, 0.0) <= value <= one.most:
                        continue
                    trial = values.copy()
                    trial[index] = value
                    found = loss(trial)
                    if found < best - 1e-9:
                        best, values, moved = found, trial, True
    return values


class _Table:
    """Residuals of fixed rows, all at once: a fit asks thousands of times."""

    def __init__(self, rows: Sequence[FitRow]) -> None:
        self.measured = np.array([row.measured_s for row in rows])
        self.along = [np.stack([row.along_s[i] for row in rows]) for i in range(len(CONSTANTS))]
        self.base = np.array(
            [
                sum(
                    float(np.interp(row.at[i], one.grid, row.along_s[i]))
                    for i, one in enumerate(CONSTANTS)
                    if i
                )
                for row in rows
            ]
        )

    def logs(self, constants: Array) -> Array:
        """log(predicted / measured)."""
        here = -self.base
        for one, value, times in zip(CONSTANTS, constants, self.along, strict=True):
            k, w = _cell(one.grid, value)
            here = here + times[:, k] * (1 - w) + times[:, k + 1] * w
        return np.asarray(np.log(np.maximum(here, 1e-9) / self.measured))


def _cell(grid: Values, value: float) -> tuple[int, float]:
    at = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    return at, float(np.clip((value - grid[at]) / (grid[at + 1] - grid[at]), 0.0, 1.0))


def residuals(rows: Sequence[FitRow], constants: Array) -> Array:
    """log(predicted / measured) of rows under given constants."""
    return _Table(rows).logs(constants) if rows else np.zeros(0)


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


def spreads(logs: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """(within, between): robust spread of rows around their set-up's median, and root mean square of those medians,
    each set-up counting once: how far off a set-up of this kind is.
    """
    by_group: dict[str, list[float]] = {}
    for group, log in logs:
        by_group.setdefault(group, []).append(log)
    middles = {group: float(np.median(own)) for group, own in by_group.items()}
    within = [log - middles[group] for group, log in logs if len(by_group[group]) > 1]
    between = list(middles.values())
    return (
        robust_std(np.array(within)) if len(within) > 1 else 0.0,
        float(np.sqrt(np.mean(np.square(between)))) if between else 0.0,
    )


def left_out_logs(rows: Sequence[FitRow], free: frozenset[int]) -> list[tuple[str, float]]:
    """(group, log error) of every TPOT under constants fitted on the other groups: how far off new set-ups are."""
    own = [row for row in rows if row.quantity == "tpot_s"]
    found: list[tuple[str, float]] = []
    for group in sorted({row.group for row in own}):
        constants = fit_constants([row for row in rows if row.group != group], free)
        out = [row for row in own if row.group == group]
        found += [(group, float(log)) for log in residuals(out, constants)]
    return found


def document(pool: Executor, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """The constants file: by engine, rules as those of its data; ``others`` for engines without rows."""
    every = jobs()
    own = [engine for engine in ENGINES if sum(engine_of(job) == engine for job in every) >= MIN_ROWS]
    constants = dict.fromkeys(own, START)
    errors: dict[str, list[dict[str, float]]] = {}
    for _ in range(2):
        rows = fit_rows(constants, pool, progress)
        for engine in own:
            progress(engine)
            fitted = fit_engine([row for row in rows if row.engine == engine], progress)
            constants[engine], errors[engine] = fitted
            progress(f"  {dict(zip([one.path for one in CONSTANTS], constants[engine], strict=True))}")
    logs = served_logs(constants, pool)
    date = datetime.now(UTC).date().isoformat()
    source = f"calibrate.engines, {date}: rows with role fit of {', '.join((*FILES, 'serving.csv'))}"
    result: dict[str, Any] = {}
    for engine in own:
        mine = [row for row in rows if row.engine == engine]
        free = frozenset(int(i) for i in np.flatnonzero(constants[engine]))
        within, known = spreads(logs[engine].get("tpot_s", []))
        _, new = spreads(left_out_logs(mine, free))
        settings: dict[str, Any] = {}
        for one, value in zip(CONSTANTS, constants[engine], strict=True):
            for path, part in one.settings(_rounded(float(value))).items():
                _put(settings, path.split("."), _rounded(part))
        _put(settings, ["deployment", "step_log_std"], _rounded(float(np.hypot(within, max(new, known)))))
        seen = _rounded(float(np.hypot(within, known)))
        result[engine] = {
            "rows": sum(len(figures) for figures in logs[engine].values()),
            "groups": len({group for figures in logs[engine].values() for group, _ in figures}),
            "tpot_log_std": {
                "within": _rounded(within),
                "known": _rounded(known),
                "new": _rounded(new),
            },
            "left_out": [{name: _rounded(value) for name, value in step.items()} for step in errors[engine]],
            "rules": [
                {"set": settings, "source": source},
                *(
                    {
                        "when": {"system": system, "model": model},
                        "set": {"deployment": {"step_log_std": seen}},
                        "source": f"{source}; a stack with rows of its own",
                    }
                    for system, model in sorted({_stack(job) for job in every if engine_of(job) == engine})
                ),
            ],
        }
    zero = [
        (row.group, float(log))
        for row, log in zip(rows, residuals(rows, np.zeros(len(CONSTANTS))), strict=True)
        if row.quantity == "tpot_s"
    ]
    result[OTHERS] = {
        "rules": [
            {
                "set": {"deployment": {"step_log_std": _rounded(float(np.hypot(*spreads(zero))))}},
                "source": f"{source}; of all engines, without any constant",
            }
        ]
    }
    return result


def _stack(job: Job) -> tuple[str, str]:
    """(GPU, family of the model) of a row."""
    file, record = job
    scenario = serving.scenario_of(record) if file == "serving.csv" else scenario_of(record)
    return scenario.cluster.gpu.name, scenario.model.family


def _put(document: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    head, *rest = keys
    if rest:
        _put(document.setdefault(head, {}), rest, value)
    else:
        document[head] = value


def _rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def main() -> None:
    """Fit and write ``data/engines/fitted.yaml``."""
    from ruamel.yaml import YAML
    from ruamel.yaml.compat import StringIO

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: the machine's cores)")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.workers) as pool:
        found = document(pool, lambda text: print(text, file=sys.stderr, flush=True))
    text = StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(found, text)
    head = "# Constants of serving engines, written by calibrate.engines (make engine-constants)."
    atomic_write(FITTED, f"{head} Do not edit by hand.\n" + text.getvalue())
    for name, values in found.items():
        print(name, values)


if __name__ == "__main__":
    main()
