"""One row per request of a serving simulation, as Parquet or CSV."""

import json
from pathlib import Path

from perfmodel.answer_serve import ServeAnswer
from perfmodel.errors import DataError
from perfmodel.output.files import atomic_write, check_writable
from perfmodel.serving.serve import as_columns
from perfmodel.serving.window import counted_rows

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
    """Writes the file, whole or not at all; Parquet carries the provenance in its metadata (key ``perfmodel``)."""
    import io

    import pandas

    served = answer.served
    judged = counted_rows(served.records, served.scenario.workload)
    frame = pandas.DataFrame(as_columns(served) | {"counted": judged})
    if path.suffix == ".csv":
        atomic_write(path, frame.to_csv(index_label="request"))
        return
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    note = json.dumps(answer.values["provenance"])
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"perfmodel": note.encode()})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    atomic_write(path, buffer.getvalue())
