"""The suites of ``perfmodel validate``, and running them.

A suite is a module of this folder with ``rows() -> list[Row]``, imported when it runs: the command's help names all
suites and one suite never loads another. ``rows`` may take ``progress``, called with the suite's name, the rows done
and all of them, ``executor``, which shares its rows out, and ``before``, the rows of the suites before it. A suite
whose predictions rest on calibrations also has ``calibrations() -> Sequence[str]``, their ids.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perfmodel.errors import SpecError
from perfmodel.spec.benchmarks.read import holds_benchmark, read_benchmarks
from perfmodel.spec.paths import names_file
from perfmodel.stated import document_of_file
from perfmodel.validation.names_of_suites import TITLES
from perfmodel.validation.rows import Row, summarise
from perfmodel.validation.user_data import RUNS_OF_SCENARIO, Measurements, own_records, read_measurements

if TYPE_CHECKING:
    from perfmodel.validation.benchmarks import Comparison

USER_SUITE = "data"
"""What the user's own rows are filed under."""

Progress = Callable[[str, int, int], None]
"""Told a suite's name, how many of its rows are done, and how many there are."""


class Suite(NamedTuple):
    """One set of published figures."""

    title: str
    """What it compares, as the end of "N rows of ..."."""
    rows: Callable[..., list[Row]]
    """Takes progress, executor and, where there is, what the suites before it found."""


def _module(name: str) -> Any:
    return import_module(f"perfmodel.validation.{name.replace('-', '_')}")


def _called(function: Callable[..., list[Row]], **more: Any) -> list[Row]:
    """Call ``function`` with what it takes of ``more``."""
    takes = inspect.signature(function).parameters
    return function(**{key: value for key, value in more.items() if key in takes})


def _suite_rows(
    name: str,
    progress: Progress | None = None,
    executor: Executor | None = None,
    before: Sequence[Row] = (),
) -> list[Row]:
    return _called(_module(name).rows, progress=progress, executor=executor, before=before)


def _user_rows(
    path: Path, own: Measurements, progress: Progress | None, executor: Executor | None
) -> list[Row]:
    predict, records = _module(own.layout).predict_rows, own_records(path, own)
    asked = partial(predict, records, suite=USER_SUITE, role=lambda _: "user")
    return _called(asked, progress=progress, executor=executor)


SUITES: Mapping[str, Suite] = {name: Suite(title, partial(_suite_rows, name)) for name, title in TITLES}
"""The suites by name."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The rows of some suites, and what is worse than recorded."""

    rows: tuple[Row, ...]
    above_ceiling: tuple[str, ...]
    suites: tuple[str, ...] = ()
    """Names of the suites that ran."""
    data: Path | None = None
    """The user's own measurements, where there are any."""
    calibrations: tuple[str, ...] = ()
    """Ids of what the predictions rest on."""
    runs: tuple["Comparison", ...] = ()
    """Those of the user's measurements that were simulated on a scenario."""
    scenario: str | None = None
    """That one, as it was named."""
    overrides: tuple[str, ...] = ()
    """What was set over it."""

    @property
    def values(self) -> dict[str, Any]:
        """The keys of ``perfmodel validate --json``."""
        import perfmodel

        return {
            "rows": [row.as_dict() for row in self.rows],
            "summary": summarise(self.rows),
            **({"runs": [one.values for one in self.runs]} if self.runs else {}),
            "warnings": [],
            "provenance": {
                "perfmodel": perfmodel.__version__,
                "scenario_hash": None,
                "calibration": ", ".join(self.calibrations),
                "seed": None,
            },
        }


def run_suites(
    name: str | None = None,
    *,
    data: Path | None = None,
    scenario: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Validation:
    """Run one suite or all of them, the user's own measurements, or a suite and those.

    Args:
        name: a suite; without it every suite runs, or none if there is ``data``.
        data: the user's own measurements: a CSV file, or the result of a benchmark.
        scenario: the deployment that they measured, a catalogue name or a file; needed by results of benchmarks.
        overrides: ``key.path=value`` over that and over what the file states.
        progress: told how far a suite is.
        executor: shares out the rows of suites that take one (those that serve every row); None: one after the other.

    Raises:
        SpecError: no such suite, a result of a benchmark without a scenario, or a scenario without measurements.
        DataError: the file of measurements is not what it should be.
    """
    from perfmodel.answers.step import calibration_id
    from perfmodel.validation.ceilings import above

    chosen = _chosen(name, data)
    measured = _measured(data, scenario, overrides)  # before a suite: a mistake is told at once
    rows: list[Row] = []
    for key in chosen:
        rows += _called(SUITES[key].rows, progress=progress, executor=executor, before=tuple(rows))
    runs: tuple[Comparison, ...] = ()
    modules = list(chosen)
    if not isinstance(measured, Measurements):
        runs = _compared(measured, overrides, progress, executor)
        rows += [row for one in runs for row in one.rows]
    elif data is not None:
        rows += _user_rows(data, measured, progress, executor)
        modules.append(measured.layout)
    named = [id_ for key in modules for id_ in getattr(_module(key), "calibrations", tuple)()]
    named += [one.calibration for one in runs if one.calibration]
    return Validation(
        rows=tuple(rows),
        above_ceiling=above(rows, chosen),
        suites=tuple(chosen),
        data=data,
        calibrations=tuple(dict.fromkeys((f"roofline-{calibration_id()}", *named))),
        runs=runs,
        scenario=scenario,
        overrides=tuple(overrides),
    )


class _Run(NamedTuple):
    """A measured run, and the scenario that it is simulated on."""

    id: str
    benchmark: Any
    scenario: str


def _measured(data: Path | None, scenario: str | None, overrides: Sequence[str]) -> Measurements | list[_Run]:
    """The user's own measurements: rows that describe their deployment, or runs of a scenario.

    Raises:
        SpecError, DataError: as :func:`run_suites`.
    """
    from perfmodel.validation.benchmarks import benchmark_of

    if data is None:
        if scenario is not None or overrides:
            raise SpecError("--scenario and --set say what --data measured: give --data FILE")
        return []
    if holds_benchmark(data):
        found = read_benchmarks(data)
        if scenario is None:
            raise SpecError(
                f"--data {data}: is a result of {found[0].writer}: give --scenario NAME or FILE.yaml, the deployment "
                "that it measured (perfmodel init writes one, also from the server's command)"
            )
        ids = [data.name if len(found) == 1 else f"{data.name}[{index}]" for index in range(len(found))]
        return [_Run(id_, one, scenario) for id_, one in zip(ids, found, strict=True)]
    own = read_measurements(data, runs=scenario is not None)
    if own.layout != RUNS_OF_SCENARIO:
        if overrides:
            raise SpecError("--set changes the scenario of --data: give --scenario")
        return own
    runs = []
    for record in own.records:
        one = benchmark_of(record)
        place = one.scenario
        if names_file(place) and not Path(place).is_absolute():
            place = str(data.parent / place)
        if not place and scenario is None:
            raise SpecError(f"--data {data}: row {record['id']} names no scenario: give --scenario for those")
        runs.append(_Run(record["id"], one, place or str(scenario)))
    return runs


def _compared(
    runs: Sequence[_Run], overrides: Sequence[str], progress: Progress | None, executor: Executor | None
) -> tuple["Comparison", ...]:
    from perfmodel.validation.benchmarks import compare, scenario_of

    for run in runs:  # a scenario that can't be read is told at once; what goes wrong with a run is its own
        document_of_file(run.scenario, overrides)
    if len(runs) == 1:
        scenario_of(runs[0].benchmark, runs[0].scenario, overrides)
    found = []
    for number, run in enumerate(runs):
        if progress is not None:
            progress(USER_SUITE, number, len(runs))
        found.append(
            compare(run.benchmark, run.id, run.scenario, overrides, suite=USER_SUITE, executor=executor)
        )
    return tuple(found)


def _chosen(name: str | None, data: Path | None) -> list[str]:
    if name is None:
        return list(SUITES) if data is None else []
    if name not in SUITES:
        raise SpecError(f"--suite {name}: unknown suite; allowed: {', '.join(SUITES)}")
    return [name]
