"""What ``perfmodel validate`` said of every suite when it last ran: a file that ships, because a run takes two minutes.

``make trust`` writes ``data/published/results.parquet`` beside the tables of docs/trust.md. Tests recompute rows and
compare, so that a record which no longer says what perfmodel predicts fails.
"""

import io
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import perfmodel
from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.validation.rows import Row, summarise
from perfmodel.validation.suites import Validation

FILE = DATA / "published" / "results.parquet"
KEY = b"perfmodel"
"""Where the file's metadata say where it comes from."""
SAME = 1e-6
"""Relative difference up to which two results are the same: another machine's arithmetic, not another model."""

COLUMNS = tuple(field.name for field in fields(Row))
NUMBERS = ("measured", "predicted", "low", "high", "peer_predicted")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Rows of a validation, and where they come from."""

    rows: tuple[Row, ...]
    date: str
    """When they were computed (ISO)."""
    version: str
    """perfmodel's, which computed them."""
    calibrations: tuple[str, ...]
    """NAME-ID of what they rest on."""

    @classmethod
    def of(cls, result: Validation, *, date: str) -> "Recorded":
        """What ``run_suites`` gave, to be recorded."""
        return cls(result.rows, date, perfmodel.__version__, result.calibrations)

    def says_what(self, other: "Recorded") -> bool:
        """Whether two records differ in nothing but their date."""
        origin = (self.version, self.calibrations) == (other.version, other.calibrations)
        return origin and not any(differences(self.rows, other.rows))

    def summary(self) -> list[dict[str, Any]]:
        """Errors per suite, quantity and role, as ``perfmodel validate`` has them."""
        return summarise(self.rows)

    def about(
        self,
        *,
        system: str | None = None,
        engine: str | None = None,
        model: str | None = None,
        suites: Collection[str] | None = None,
    ) -> "Recorded":
        """Only the rows of a GPU, an engine, a model (catalogue names) or some suites; what is None is not asked."""
        names = printed_names(model) if model is not None else ()
        return replace(
            self,
            rows=tuple(
                row
                for row in self.rows
                if (system is None or row.system == system)
                and (engine is None or row.engine == engine)
                and (model is None or row.model in names)
                and (suites is None or row.suite in suites)
            ),
        )


def recorded_results() -> Recorded:
    """Every row of every suite, as recorded.

    Raises:
        DataError: the file is missing, or is not what ``make trust`` writes.
    """
    return read(FILE)


@cache
def read(path: Path) -> Recorded:
    """The record in a file.

    Raises:
        DataError: as said.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        origin = json.loads((table.schema.metadata or {})[KEY])
        columns = [table.column(name).to_pylist() for name in COLUMNS]
        rows = [Row(*values) for values in zip(*columns, strict=True)]
        return Recorded(tuple(rows), origin["date"], origin["version"], tuple(origin["calibrations"]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a record of validation results ({error}); run make trust") from error


def content(recorded: Recorded) -> bytes:
    """The file: texts once each, numbers as they are; the same results give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = {name: [getattr(row, name) for row in recorded.rows] for name in COLUMNS}
    columns = {name: pa.array(own, _type(pa, name)) for name, own in values.items()}
    origin = {
        "version": recorded.version,
        "date": recorded.date,
        "calibrations": list(recorded.calibrations),
    }
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(origin, sort_keys=True)})
    out = io.BytesIO()
    texts = [name for name in COLUMNS if name not in NUMBERS]
    pq.write_table(table, out, compression="zstd", compression_level=19, use_dictionary=texts)
    return out.getvalue()


def _type(pa: Any, name: str) -> Any:
    if name in NUMBERS:
        return pa.float64()
    return pa.bool_() if name == "matches_printed" else pa.string()


def differences(found: Sequence[Row], recorded: Sequence[Row]) -> Iterator[str]:
    """What differs between rows computed now and the same rows on record, one by one, in words."""
    for ours, theirs in zip_longest(found, recorded):
        if ours is None or theirs is None:
            yield f"{_of(ours or theirs)}: {'not computed any more' if ours is None else 'not on record'}"
            continue
        for name in COLUMNS:
            now, then = getattr(ours, name), getattr(theirs, name)
            if not _same(now, then):
                yield f"{_of(ours)}: {name} is {now!r}, recorded {then!r}"


def _of(row: Row) -> str:
    return f"{row.suite} {row.id} {row.quantity}"


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=SAME) or (math.isnan(ours) and math.isnan(theirs))
    return bool(ours == theirs)


def printed_names(model: str) -> frozenset[str]:
    """The names under which rows have a catalogue model."""
    from perfmodel.validation.names import MODELS

    return frozenset(printed for printed, name in MODELS.items() if name == model)
