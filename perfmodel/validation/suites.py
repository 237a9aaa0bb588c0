"""The suites of ``perfmodel validate`` and their recorded ceilings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.validation import longcat_theory
from perfmodel.validation.rows import Row, summarise

SUITES: Mapping[str, Callable[[], list[Row]]] = {longcat_theory.NAME: longcat_theory.rows}


@dataclass(frozen=True, slots=True)
class Validation:
    """The rows of some suites, and what is worse than recorded."""

    rows: tuple[Row, ...]
    above_ceiling: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The keys of ``perfmodel validate --json``."""
        import perfmodel
        from perfmodel.answer import calibration_id

        return {
            "rows": [row.as_dict() for row in self.rows],
            "summary": summarise(self.rows),
            "warnings": [],
            "provenance": {
                "perfmodel": perfmodel.__version__,
                "scenario_hash": None,
                "calibration": f"roofline-{calibration_id()}",
                "seed": None,
            },
        }


def run_suites(name: str | None = None) -> Validation:
    """Run one suite, or all of them.

    Raises:
        SpecError: no such suite.
    """
    if name is not None and name not in SUITES:
        raise SpecError(f"--suite {name}: unknown suite; allowed: {', '.join(SUITES)}")
    rows = [row for key, run in SUITES.items() if name in (None, key) for row in run()]
    above = [
        f"{row.id} {row.quantity}: {row.predicted:.6g} does not round to the printed {row.measured:.6g}"
        for row in rows
        if row.matches_printed is False
    ]
    return Validation(tuple(rows), tuple(above))
