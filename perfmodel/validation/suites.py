"""The suites of ``perfmodel validate``, and running them.

A suite is a module of this folder with ``rows() -> list[Row]``, imported when it runs: the command's help names all
suites and one suite never loads another. ``rows`` may take ``progress``, called with the suite's name, the rows done
and all of them, and ``executor``, which shares its rows out. A suite whose predictions rest on calibrations also has
``calibrations() -> Sequence[str]``, their ids.
"""

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from perfmodel.errors import SpecError
from perfmodel.validation.names_of_suites import TITLES
from perfmodel.validation.rows import Row, summarise
from perfmodel.validation.user_data import Measurements, own_records, read_measurements

USER_SUITE = "data"
"""What the user's own rows are filed under."""

Progress = Callable[[str, int, int], None]
"""Told a suite's name, how many of its rows are done, and how many there are."""


class Suite(NamedTuple):
    """One set of published figures."""

    title: str
    """What it compares, as the end of "N rows of ..."."""
    rows: Callable[[Progress | None, Executor | None], list[Row]]


def _module(name: str) -> Any:
    return import_module(f"perfmodel.validation.{name.replace('-', '_')}")


def _called(function: Callable[..., list[Row]], **more: Any) -> list[Row]:
    """Call ``function`` with what it takes of ``more``."""
    takes = inspect.signature(function).parameters
    return function(**{key: value for key, value in more.items() if key in takes})


def _suite_rows(name: str, progress: Progress | None, executor: Executor | None = None) -> list[Row]:
    return _called(_module(name).rows, progress=progress, executor=executor)


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

    @property
    def values(self) -> dict[str, Any]:
        """The keys of ``perfmodel validate --json``."""
        import perfmodel

        return {
            "rows": [row.as_dict() for row in self.rows],
            "summary": summarise(self.rows),
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
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Validation:
    """Run one suite or all of them, the user's own measurements, or a suite and those.

    Args:
        name: a suite; without it every suite runs, or none if there is ``data``.
        data: a CSV file of the user's own measurements.
        progress: told how far a suite is.
        executor: shares out the rows of suites that take one (those that serve every row); None: one after the other.

    Raises:
        SpecError: no such suite.
        DataError: the file of measurements is not what it should be.
    """
    from perfmodel.answer import calibration_id
    from perfmodel.validation.ceilings import above

    chosen = _chosen(name, data)
    own = read_measurements(data) if data is not None else None  # before a suite: a mistake is told at once
    rows = [row for key in chosen for row in SUITES[key].rows(progress, executor)]
    if data is not None and own is not None:
        rows += _user_rows(data, own, progress, executor)
    modules = [*chosen, *([own.layout] if own else [])]
    named = (id_ for key in modules for id_ in getattr(_module(key), "calibrations", tuple)())
    return Validation(
        rows=tuple(rows),
        above_ceiling=above(rows, chosen),
        suites=tuple(chosen),
        data=data,
        calibrations=tuple(dict.fromkeys((f"roofline-{calibration_id()}", *named))),
    )


def _chosen(name: str | None, data: Path | None) -> list[str]:
    if name is None:
        return list(SUITES) if data is None else []
    if name not in SUITES:
        raise SpecError(f"--suite {name}: unknown suite; allowed: {', '.join(SUITES)}")
    return [name]
