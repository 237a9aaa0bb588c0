"""One row per request of a serving simulation, as Parquet or CSV."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from perfmodel.answers.serve import ServeAnswer
from perfmodel.answers.serve_stream import Long, provenance_of
from perfmodel.economics.facts import Write
from perfmodel.errors import DataError
from perfmodel.files import atomic_file, check_writable, writing
from perfmodel.serving.in_order import BLOCK
from perfmodel.serving.records import Records
from perfmodel.serving.serve import as_columns
from perfmodel.serving.window import counted_rows
from perfmodel.spec.scenario import Scenario

SUFFIXES = (".parquet", ".csv")


def check_requests_file(path: Path) -> None:
    """Refuses a place that can't be written to, or a suffix that says nothing.

    Raises:
        DataError: either.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"--requests {path}: must end in {' or '.join(SUFFIXES)}")
    check_writable(path)


def write_requests(answer: ServeAnswer, path: Path) -> None:
    """Writes the file of a run whose records were kept, whole or not at all.

    Raises:
        DataError: it can't be written.
    """
    records = answer.served.records
    judged = counted_rows(records, answer.scenario.workload)
    with requests_file(path, answer.values["provenance"]) as write:
        for first in range(0, len(judged), BLOCK):
            rows = slice(first, first + BLOCK)
            write(records.where(rows), judged[rows])


@contextmanager
def requests_while_served(path: Path | None, scenario: Scenario, traffic: Long) -> Iterator[Write | None]:
    """The same of a run whose records are not kept, to be called while it goes on; None without a path.

    Raises:
        DataError: it can't be written.
    """
    if path is None:
        yield None
        return
    with requests_file(path, provenance_of(scenario, traffic)) as write:
        yield write


@contextmanager
def requests_file(path: Path, provenance: Mapping[str, Any]) -> Iterator[Write]:
    """What is called with requests that follow each other, and which of them are judged; the file is there when all
    went well. Parquet has a group of rows per call, and carries the provenance in its metadata (key ``perfmodel``).

    Raises:
        DataError: it can't be written.
    """
    with atomic_file(path) as file:
        rows = _Csv(file) if path.suffix == ".csv" else _Parquet(file, json.dumps(provenance))

        def write(records: Records, judged: NDArray[np.bool_]) -> None:
            with writing(path):
                rows.add(as_columns(records) | {"counted": judged})

        try:
            yield write
        finally:
            with writing(path):
                rows.close()


class _Csv:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rows = file, 0

    def add(self, columns: dict[str, Any]) -> None:
        import pandas

        frame = pandas.DataFrame(columns)
        frame.index += self._rows
        self._file.write(frame.to_csv(index_label="request", header=not self._rows).encode())
        self._rows += len(frame)

    def close(self) -> None:
        """There is nothing behind the last row."""


class _Parquet:
    def __init__(self, file: BinaryIO, note: str) -> None:
        self._file, self._note = file, note
        self._writer: Any = None

    def add(self, columns: dict[str, Any]) -> None:
        import pandas
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pandas(pandas.DataFrame(columns), preserve_index=False)
        own = {**(table.schema.metadata or {}), b"perfmodel": self._note.encode()}
        table = table.replace_schema_metadata(own)
        self._writer = self._writer or parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
