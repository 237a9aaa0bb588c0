"""The recorded limits of ``data/published/ceilings.yaml``, and which results are worse."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.validation.rows import Row, summarise

CEILINGS = DATA / "published" / "ceilings.yaml"

Key = tuple[str, str, str]
"""Suite, quantity, role."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the rows of one suite, quantity and role must reach."""

    answered_at_least: int
    """Rows with a prediction; required, because an error falls when the hard rows go unanswered."""
    median_abs_pct: float | None = None
    as_printed: bool = False
    """Every prediction rounds to the published figure as printed."""


@cache
def recorded() -> Mapping[Key, Ceiling]:
    """The limits on record.

    Raises:
        DataError: the file holds something else.
    """
    return {key: _ceiling(key, limits) for key, limits in _entries()}


def _entries() -> Iterator[tuple[Key, Any]]:
    try:
        for suite, quantities in read_document(CEILINGS).items():
            for quantity, roles in quantities.items():
                for role, limits in roles.items():
                    yield (suite, quantity, role), limits
    except AttributeError as error:
        raise DataError(f"{CEILINGS}: must be suite: quantity: role: limits") from error


def _ceiling(key: Key, limits: Any) -> Ceiling:
    try:
        return Ceiling(**limits)
    except TypeError as error:
        allowed = "answered_at_least (required), median_abs_pct, as_printed"
        raise DataError(f"{CEILINGS}: {' '.join(key)}: {limits!r}; allowed: {allowed}") from error


def above(rows: Sequence[Row], suites: Collection[str]) -> tuple[str, ...]:
    """What is worse than recorded, in words, for the ``suites`` that were run and their parts (``silicon-noted``)."""
    summary = {(line["suite"], line["quantity"], line["role"]): line for line in summarise(rows)}
    found: list[str] = []
    for key, ceiling in recorded().items():
        if owner(key[0]) in suites:
            own = [row for row in rows if (row.suite, row.quantity, row.role) == key]
            found += (f"{' '.join(key)}: {text}" for text in _worse(ceiling, summary.get(key), own))
    return tuple(found)


def owner(part: str) -> str:
    """The suite that a part (``silicon-noted``) belongs to: the longest name that begins it, so that ``deepseek`` does
    not answer for ``deepseek-fleet``.
    """
    from perfmodel.validation.suites import SUITES

    names = [name for name in SUITES if part == name or part.startswith(f"{name}-")]
    return max(names, key=len, default=part)


def _worse(ceiling: Ceiling, line: Mapping[str, Any] | None, rows: Sequence[Row]) -> Iterator[str]:
    answered = line["answered"] if line else 0
    if answered < ceiling.answered_at_least:
        yield f"{answered} rows answered, at least {ceiling.answered_at_least} recorded"
    limit = ceiling.median_abs_pct
    if line and limit is not None and line["answered"] and line["median_abs_pct"] > limit:
        yield f"median |error| {line['median_abs_pct']:.4g} % is above its ceiling of {limit:g} %"
    for row in rows:
        if ceiling.as_printed and row.matches_printed is False:
            yield f"{row.id} is {row.predicted:.6g}, which does not round to the printed {row.measured:.6g}"
