"""Traces in Parquet: the same columns as in CSV, read a batch of rows at a time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.traces.dialects import Columns, Unit, columns_of
from perfmodel.spec.traces.stated import MAX_REQUESTS, MAX_TOKENS, TraceColumns
from perfmodel.spec.traces.table import Rows
from perfmodel.spec.traces.trace import Floats, Ints
from perfmodel.spec.traces.values import MAX_SECONDS, SECONDS, clock_of
from perfmodel.units import MS

MAGIC = b"PAR1"
BATCH_ROWS = 1 << 17


class ParquetTable:
    """A file's columns, told by their names as a CSV header's are."""

    def __init__(
        self,
        path: Path,
        *,
        asked: str = "auto",
        mapped: TraceColumns | None = None,
        unit: Unit | None = None,
        block: int | None = None,
    ) -> None:
        import pyarrow  # deferred: slow to import
        from pyarrow import parquet

        self.path = path
        self.notes: list[str] = []
        try:
            self.file = parquet.ParquetFile(path)
            names = list(self.file.schema_arrow.names)
        except (pyarrow.ArrowException, OSError, RecursionError) as error:
            raise DataError(f"{path}: is no Parquet file that can be read: {str(error)[:200]}") from error
        if self.file.metadata.num_rows > 4 * MAX_REQUESTS:
            raise DataError(
                f"{path}: {self.file.metadata.num_rows:,} rows, at most {4 * MAX_REQUESTS:,}: keep a part of it"
            )
        columns = columns_of(names, path, "its columns", asked=asked, mapped=mapped, unit=unit, csv=True)
        self.columns: Columns = replace(columns, block=block or columns.block)
        self.unit: Unit | None = None
        self.origin: Any = None
        self.sessions: dict[Any, int] = {}

    def blocks(self) -> Iterator[Rows]:
        """Rows, a batch at a time; raises DataError that names the row, counted from 0."""
        import pyarrow

        c = self.columns
        wanted = [name for name in (c.time, c.input, c.output, c.session, c.delay, c.took, c.hashes) if name]
        row, last_s = 0, -np.inf
        try:
            for batch in self.file.iter_batches(BATCH_ROWS, columns=wanted):
                if batch.num_rows:
                    found = self._rows(batch, row)
                    self._check(found, row, last_s)
                    row, last_s = row + batch.num_rows, float(found.seconds[-1])
                    yield found
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged Parquet file: {str(error)[:200]}") from error

    def _rows(self, batch: Any, first: int) -> Rows:
        c = self.columns
        sessions = pauses = took = hashes = None
        if c.session:
            ids = batch.column(c.session).to_pylist()
            sessions = np.asarray(
                [-1 if one is None else self.sessions.setdefault(one, len(self.sessions)) for one in ids],
                dtype=np.int64,
            )
        if c.delay:
            pauses = self._floats(batch, c.delay, first, empty=True) * MS
        if c.took:
            took = self._floats(batch, c.took, first, empty=True)
        if c.hashes:
            lists = [one or [] for one in batch.column(c.hashes).to_pylist()]
            counts = np.asarray(list(map(len, lists)), dtype=np.int64)
            hashes = counts, np.asarray([one for own in lists for one in own], dtype=np.int64)
        return Rows(
            self._times(batch, first),
            self._tokens(batch, c.input, first),
            self._tokens(batch, c.output, first),
            hashes,
            sessions,
            pauses,
            took,
        )

    def _times(self, batch: Any, first: int) -> Floats:
        import pyarrow

        name = self.columns.time
        if name is None:
            return np.zeros(batch.num_rows)
        column = batch.column(name)
        if pyarrow.types.is_timestamp(column.type):
            self.unit = "dates"
            raw = column.cast(pyarrow.timestamp("ns")).cast(pyarrow.int64()).to_numpy(zero_copy_only=False)
            if column.null_count:
                raise DataError(f"{self.path}: {column.null_count:,} rows have no {name}")
        else:
            raw = self._floats(batch, name, first)
            if self.unit is None:
                whole = pyarrow.types.is_integer(column.type)
                self.unit, told = clock_of(
                    self.columns, float(raw[0]), whole=whole, where=f"{self.path}: row 0"
                )
                self.notes += [told] if told else []
        self.origin = raw[0] if self.origin is None else self.origin
        return np.asarray((raw - self.origin) * SECONDS[self._known_unit()], dtype=np.float64)

    def _known_unit(self) -> Unit:
        assert self.unit is not None
        return self.unit

    def _floats(self, batch: Any, name: str, first: int, *, empty: bool = False) -> Floats:
        import pyarrow

        column = batch.column(name)
        if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
            raise DataError(f"{self.path}: column {name} is {column.type}: must be numbers")
        values = np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False))
        bad = ~((values >= 0) & (values <= MAX_SECONDS / SECONDS["ns"]))
        bad &= ~np.isnan(values) if empty else True
        for i in np.flatnonzero(bad)[:1]:
            raise DataError(f"{self.path}: row {first + i}: {name} = {values[i]:g}: must be a number from 0")
        return values

    def _tokens(self, batch: Any, name: str, first: int) -> Ints:
        values = self._floats(batch, name, first)
        for i in np.flatnonzero((values > MAX_TOKENS) | (values != np.rint(values)))[:1]:
            raise DataError(
                f"{self.path}: row {first + i}: {name} = {values[i]:g}: must be a whole number of tokens from 0 to "
                f"{MAX_TOKENS:,}"
            )
        return values.astype(np.int64)

    def _check(self, rows: Rows, first: int, last_s: float) -> None:
        """Refuses rows that are out of order, or have no prompt."""
        c = self.columns
        before = np.concatenate(([last_s], rows.seconds[:-1]))
        for i in np.flatnonzero(c.ordered & (rows.seconds < before))[:1]:
            raise DataError(f"{self.path}: row {first + i}: {c.time} is before the row above: sort by time")
        for i in np.flatnonzero((rows.input == 0) & (rows.output > 0))[:1]:
            raise DataError(f"{self.path}: row {first + i}: {c.input} = 0: must be from 1 to {MAX_TOKENS:,}")
        if not rows.clean(-np.inf, ordered=False):
            raise DataError(f"{self.path}: rows from {first} on: {c.time} spans more than {MAX_SECONDS:g} s")
