"""The record of a calibration: an append-only journal while it is taken, a Parquet file once it is.

The journal ``timings.jsonl`` holds one JSON object per line: a header (format, environment, reference probe, what was
asked for), then an entry for each kernel that was timed, on disk before the next kernel starts. A line that a
sudden end cut short is dropped; whatever else can't be read is an error.
"""

import fcntl
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from calibrate.device.case import SHAPES, Case
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.spec.paths import is_file, kind_of, quoted

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    from calibrate.device.samples import Measurement

FORMAT = 1
JOURNAL = "timings.jsonl"
PARQUET = "timings.parquet"
JOURNAL_BYTES = "journal_bytes"
"""Metadata of the Parquet file: the size of the journal that it was made from."""
MUST_AGREE = ("device", "device_name", "threads", "torch")
"""Parts of the environment without which two timings are not of the same thing."""
MEASURED = ("seconds", "raw_seconds", "spread", "samples", "repeats", "probe_s")
VARIABLES = tuple(dict.fromkeys(name for names in SHAPES.values() for name in names))


@dataclass(frozen=True, slots=True)
class Record:
    """One kernel that was timed."""

    case: Case
    measurement: "Measurement | Mapping[str, float]"
    """As measured; read back from a journal, its fields by name."""
    time: str
    """When it started, ISO, UTC."""
    foreign_load: float
    """Share of the machine that other processes took meanwhile, 0 to 1."""

    @property
    def seconds(self) -> float:
        """What it took, s."""
        return _fields(self.measurement)["seconds"]

    def row(self) -> dict[str, Any]:
        """One row of the Parquet file: NaN for variables that the kernel does not have."""
        shape = {name: float(self.case.shape.get(name, "nan")) for name in VARIABLES}
        return {
            "kernel": self.case.kernel,
            "dtype": self.case.dtype,
            **shape,
            **_fields(self.measurement),
            "time": self.time,
            "foreign_load": self.foreign_load,
        }


@dataclass(frozen=True, slots=True)
class Contention:
    """What computing and communicating at once does to both."""

    dtype: str
    ranks: int
    bytes: float
    """What leaves one rank in the exchange."""
    held: float
    """Share of compute that an exchange in flight takes: 1 - time alone / time together."""
    exchange_stretch: float
    """Time of the exchange beside compute over its time alone."""
    time: str
    """When it started, ISO, UTC."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A case that was timed a second time, to know how far two timings of one thing lie apart."""

    case: Case
    first_seconds: float
    """What was recorded the first time, s."""
    seconds: float
    """The second time, a minute or more later, s."""
    time: str
    """When the second one started, ISO, UTC."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A journal as read."""

    header: Mapping[str, Any]
    """``format``, ``environment``, ``reference_probe_s``, ``requested``."""
    records: tuple[Record, ...] = ()
    contention: tuple[Contention, ...] = ()
    repeats: tuple[Repeat, ...] = ()


@dataclass(slots=True)
class Journal:
    """A journal open for appending; one process at a time."""

    file: BinaryIO
    contents: Contents
    """What was there when it was opened."""
    done: set[str] = field(default_factory=set)
    """Keys of the cases that are recorded."""

    def append(self, entry: Record | Contention | Repeat) -> None:
        """Write an entry and wait until it is on disk."""
        _write_line(self.file, _line(entry))
        if isinstance(entry, Record):
            self.done.add(entry.case.key)

    def close(self) -> None:
        """Close the file, so that another process may append."""
        self.file.close()


def open_journal(folder: Path, header: Mapping[str, Any]) -> Journal:
    """Start the journal of ``folder``, or go on with the one that is there.

    Args:
        folder: is made if it does not exist.
        header: ``environment``, ``reference_probe_s`` and ``requested`` of a new journal. An existing one keeps
            its own, whose environment must agree in device, threads and torch version.

    Raises:
        DataError: the folder can't be written, another process is appending, or the journal is of another
            format, device, number of threads or version of torch, or can't be read.
    """
    path = folder / JOURNAL
    if kind_of(path) in ("folder", "device"):  # a pipe would be waited for
        raise DataError(f"{quoted(path)}: is no file; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise DataError(
            f"{quoted(path)}: can't be written: {error.strerror}; choose another --out"
        ) from error
    try:
        return _begin(file, path, header)
    except BaseException:
        file.close()
        raise


def read_journal(folder: Path) -> Contents | None:
    """The journal of ``folder``; None if there is none, or nothing but a header that was cut short.

    Raises:
        DataError: a line other than the last can't be read, or the format is another version's.
    """
    path = folder / JOURNAL
    if not is_file(path):
        return None
    return _parse(_content(path), path)[0]


def to_parquet(folder: Path) -> Path:
    """Write ``timings.parquet`` from the journal, whole or not at all, and return its path.

    Raises:
        DataError: there is no journal, or the file can't be written.
    """
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    contents = _required(read_journal(folder), folder)
    table = pa.Table.from_pandas(_frame(contents), preserve_index=False)
    metadata = {name: json.dumps(value) for name, value in _metadata(contents).items()}
    metadata[JOURNAL_BYTES] = str((folder / JOURNAL).stat().st_size)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **metadata}), buffer)
    path = folder / PARQUET
    atomic_write(path, buffer.getvalue())
    return path


def read_timings(folder: Path) -> "pd.DataFrame":
    """One row per case: kernel, dtype, a column per shape variable (NaN where the kernel has none), what was measured.

    From the Parquet file, or from the journal if there is none or it has grown since (a run that was killed).

    Raises:
        DataError: the folder holds neither, or they can't be read.
    """
    import pandas as pd

    if _parquet_is_current(folder):
        try:
            return pd.read_parquet(folder / PARQUET)
        except (OSError, ValueError) as error:
            raise DataError(f"{quoted(folder / PARQUET)}: can't be read: {_first_line(error)}") from error
    return _frame(_required(read_journal(folder), folder))


def read_metadata(folder: Path) -> dict[str, Any]:
    """What belongs to all timings: ``format``, ``environment``, ``reference_probe_s``, ``requested``.

    And the lists ``contention`` and ``repeats``: the fields of each :class:`Contention` and :class:`Repeat`.

    Raises:
        DataError: as :func:`read_timings`.
    """
    if not _parquet_is_current(folder):
        return _metadata(_required(read_journal(folder), folder))
    stored = _stored(folder)
    try:
        return {name: json.loads(stored[name]) for name in _metadata(Contents({}))}
    except (KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{quoted(folder / PARQUET)}: its metadata can't be read: {error}") from error


def _parquet_is_current(folder: Path) -> bool:
    """Whether the Parquet file is there and made from the whole journal, or the journal is not there."""
    journal = folder / JOURNAL
    if not is_file(folder / PARQUET):
        return False
    return not is_file(journal) or int(_stored(folder)[JOURNAL_BYTES]) == journal.stat().st_size


def _stored(folder: Path) -> dict[str, str]:
    """The metadata of the Parquet file."""
    import pyarrow.parquet as pq

    path = folder / PARQUET
    try:
        stored = pq.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:
        raise DataError(f"{quoted(path)}: can't be read: {_first_line(error)}") from error
    metadata = {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in stored.items()
    }
    if not metadata.get(JOURNAL_BYTES, "").isdecimal():
        raise DataError(f"{path}: was not written by calibrate profile")
    return metadata


def _metadata(contents: Contents) -> dict[str, Any]:
    names = ("format", "environment", "reference_probe_s", "requested")
    header = {name: contents.header.get(name) for name in names}
    repeats = [asdict(one) for one in contents.repeats]
    return header | {"contention": [asdict(one) for one in contents.contention], "repeats": repeats}


def _frame(contents: Contents) -> "pd.DataFrame":
    import pandas as pd

    columns = ("kernel", "dtype", *VARIABLES, *MEASURED, "time", "foreign_load")
    return pd.DataFrame([record.row() for record in contents.records], columns=list(columns))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be read: {error.strerror}") from error


def _required(contents: Contents | None, folder: Path) -> Contents:
    if contents is None:
        raise DataError(
            f"{quoted(folder)}: holds no timings; make them with calibrate profile --out {folder}"
        )
    return contents


def _line(entry: Record | Contention | Repeat) -> dict[str, Any]:
    """A journal line: ``_entry`` reads it back."""
    if isinstance(entry, Contention):
        return {"contention": asdict(entry)}
    if isinstance(entry, Repeat):
        return {"repeat": asdict(entry)}
    measurement = _fields(entry.measurement)
    return {
        "case": asdict(entry.case),
        "measurement": measurement,
        "time": entry.time,
        "foreign_load": entry.foreign_load,
    }


def _entry(value: Mapping[str, Any]) -> Record | Contention | Repeat:
    if "contention" in value:
        return Contention(**value["contention"])
    if "repeat" in value:
        return Repeat(**value["repeat"] | {"case": Case(**value["repeat"]["case"])})
    measurement = {name: value["measurement"][name] for name in MEASURED}
    return Record(Case(**value["case"]), measurement, value["time"], float(value["foreign_load"]))


def _fields(measurement: "Measurement | Mapping[str, float]") -> dict[str, float]:
    if isinstance(measurement, Mapping):
        return dict(measurement)
    return {name: getattr(measurement, name) for name in MEASURED}


def _begin(file: BinaryIO, path: Path, header: Mapping[str, Any]) -> Journal:
    """Lock the file, drop a last line that was cut short, and check or write the header."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"{path}: another process is writing it; wait, or choose another --out") from error
    file.seek(0)
    contents, good_bytes = _parse(file.read(), path)
    file.truncate(good_bytes)
    if contents is None:
        contents = Contents({"format": FORMAT, **header})
        _write_line(file, contents.header)
    _check_environment(contents.header, header, path)
    _check_request(contents.header, header, path)
    return Journal(file, contents, {record.case.key for record in contents.records})


def _check_environment(stored: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for name in MUST_AGREE:
        there, here = (header["environment"].get(name) for header in (stored, now))
        if there != here:
            raise DataError(
                f"{path}: was taken with {name} = {there}, and this is {here}; the timings can't be mixed: "
                "choose another --out"
            )


def _check_request(stored: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """A design is one question: shapes of two would be neither's, and held-out shapes might have been fitted."""
    there, here = stored.get("requested") or {}, now.get("requested") or {}
    for name in sorted({*there, *here} if there and here else ()):
        if there.get(name) != here.get(name):
            raise DataError(
                f"{path}: was taken with {name} = {there.get(name)}, and this asks for {here.get(name)}; choose "
                "another --out"
            )


def _write_line(file: BinaryIO, value: Mapping[str, Any]) -> None:
    file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _parse(data: bytes, path: Path) -> tuple[Contents | None, int]:
    """What a journal holds, and how many of its bytes are whole lines."""
    lines = data.splitlines(keepends=True)
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise DataError(f"{path}: line {number} is not JSON ({error}); choose another --out") from error
    # a last line without its newline was cut short even if it reads as JSON
    if len(values) == len(lines) and lines and not lines[-1].endswith(b"\n"):
        values.pop()
    good_bytes = sum(map(len, lines[: len(values)]))
    return (_contents(values, path) if values else None), good_bytes


def _contents(values: list[Any], path: Path) -> Contents:
    header = values[0]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise DataError(f"{path}: is of format {found!r}, and this is {FORMAT}; choose another --out")
    entries = []
    for number, value in enumerate(values[1:], 2):
        try:
            entries.append(_entry(value))
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"{path}: line {number} is not a record ({error}); choose another --out"
            ) from error
    return Contents(
        header,
        tuple(entry for entry in entries if isinstance(entry, Record)),
        tuple(entry for entry in entries if isinstance(entry, Contention)),
        tuple(entry for entry in entries if isinstance(entry, Repeat)),
    )
