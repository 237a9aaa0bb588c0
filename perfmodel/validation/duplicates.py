"""One measurement that stands in several rows, and how far two measurements of one set-up differ.

Public files repeat runs: with and without their date, and with more or fewer digits (12.907 and 12.91 ms). Such a run
is judged once. Rows of one set-up whose figures differ are measurements of their own, and their difference is a floor
for errors: no prediction can meet both.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import combinations
from typing import NamedTuple

from perfmodel.validation import roles
from perfmodel.validation.setups import setup_of

SET_UP = (
    *("model", "system", "backend", "backend_version", "precision", "mode", "parallel_or_prefill", "decode"),
    *("isl", "osl", "concurrency"),
)
"""Columns that say what was run."""
FIGURES = {"ttft_ms": "ttft_s", "tpot_ms": "tpot_s"}
"""Column of what was measured -> quantity."""

Key = tuple[str, str]
"""(file, id) of a row."""


class Floor(NamedTuple):
    """How far repeated measurements differ."""

    pairs: int
    """Pairs of rows of one set-up with figures of their own."""
    median_abs_log: float
    """Median of |log(one / other)|; nan without pairs."""


class _Row(NamedTuple):
    file: str
    record: Mapping[str, str]

    @property
    def key(self) -> Key:
        return self.file, self.record["id"]


@cache
def repeated() -> dict[Key, Key]:
    """Row that repeats another -> the row that is judged, over all silicon files.

    Two rows are one measurement if every column of :data:`SET_UP` is equal, and TTFT and TPOT are to the digits that
    both print. Kept is one without a remark, then one with a date, then the first.
    """
    return _repeats(_published(roles.SILICON))


def once(records: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, list[Mapping[str, str]]]:
    """The records by file without those that repeat another one: of these records alone, no file is read."""
    left_out = _repeats(_Row(file, record) for file, own in records.items() for record in own)
    return {
        file: [record for record in own if (file, record["id"]) not in left_out]
        for file, own in records.items()
    }


def _repeats(published: Iterable[_Row]) -> dict[Key, Key]:
    found: dict[Key, Key] = {}
    for rows in _by_set_up(published).values():
        rows = sorted(rows, key=lambda row: (bool(row.record["note"]), not row.record["measured"]))
        for number, row in enumerate(rows):
            same = (one for one in rows[:number] if one.key not in found and is_same(one.record, row.record))
            kept = next(same, None)
            if kept is not None:
                found[row.key] = kept.key
    return found


def is_same(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Whether two rows of one set-up state the same TTFT and TPOT, to the digits that both print."""
    return all(_equal_as_printed(first[name], second[name]) for name in FIGURES)


def repeat_floor(file: str) -> dict[str, Floor]:
    """By quantity, how far the rows of a file differ that measured one set-up, engine version included, more than once.

    Rows with a remark, without a load and repeated ones don't count; of TTFT none of a run without warm-up, whose first
    wave compiles.
    """
    apart: dict[str, list[float]] = {quantity: [] for quantity in FIGURES.values()}
    for rows in _by_set_up(_published((file,))).values():
        own = [row.record for row in rows if row.key not in repeated() and not row.record["note"]]
        for first, second in combinations(own, 2):
            for column, quantity in FIGURES.items():
                if column == "ttft_ms" and (setup_of(first).cold or setup_of(second).cold):
                    continue
                if first[column] and second[column]:
                    apart[quantity].append(abs(math.log(float(first[column]) / float(second[column]))))
    return {
        quantity: Floor(len(values), statistics.median(values) if values else math.nan)
        for quantity, values in apart.items()
    }


def _published(files: Iterable[str]) -> Iterator[_Row]:
    return (_Row(file, record) for file in files for record in roles.read_published(file))


def _by_set_up(rows: Iterable[_Row]) -> dict[tuple[str, ...], list[_Row]]:
    """Rows by what was run; those without a load can't be compared."""
    groups: defaultdict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        if row.record["concurrency"]:
            groups[tuple(row.record[name] for name in SET_UP)].append(row)
    return groups


def _equal_as_printed(first: str, second: str) -> bool:
    """Whether two decimals are equal once the longer is rounded, half up or down, to the digits of the shorter."""
    if not first or not second:
        return first == second
    one, other = Decimal(first), Decimal(second)
    coarse = max(int(value.as_tuple().exponent) for value in (one, other))
    return abs(one - other) <= Decimal(5).scaleb(coarse - 1)
