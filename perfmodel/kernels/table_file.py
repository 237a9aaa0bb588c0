"""Interpolated tables on disk: 16-bit integers, 1000 x ln(seconds / 1 ns), in ``tables.npz`` beside
``calibration.json``: one flat array of all values and one of all grid points; the JSON says where each table begins.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.kernels.tables import Array, Table, TableCurve, Tables
from perfmodel.spec.paths import is_file

FILE = "tables.npz"
UNIT_S = 1e-9
STEPS = 1000.0
"""Steps per factor e: a resolution of 0.1 %."""
TABLE_ARRAYS = {"values": "i", "points": "f"}
"""Arrays of the tables -> their kind: whole numbers, or numbers."""
MOST_TABLE_BYTES = 64 * 2**20
"""Of the file, and of each array: eighty times what a shipped GPU has."""


class Store:
    """The numbers of a calibration's tables, in two flat arrays: values as 16-bit steps, and grid points."""

    def __init__(self) -> None:
        self._values: list[NDArray[np.int16]] = []
        self._points: list[Array] = []
        self._places: dict[bytes, int] = {}
        self._sizes = [0, 0]

    def add(self, table: Table) -> dict[str, Any]:
        """Keep a table's numbers; what a file says of it: where they are."""
        packed = pack(table.log_seconds).ravel()
        at = self._sizes[0]
        self._values.append(packed)
        self._sizes[0] += packed.size
        axes = {name: [self._add_points(points), len(points)] for name, points in table.axes.items()}
        return {"match": dict(table.match), "axes": axes, "at": at}

    def arrays(self) -> dict[str, Any]:
        """What ``tables.npz`` holds."""
        empty_values, empty_points = np.empty(0, dtype=np.int16), np.empty(0)
        return {
            "values": np.concatenate([empty_values, *self._values]),
            "points": np.concatenate([empty_points, *self._points]),
        }

    def _add_points(self, points: Array) -> int:
        """Where an axis is; equal axes are kept once."""
        key = points.tobytes()
        if key not in self._places:
            self._places[key] = self._sizes[1]
            self._points.append(points)
            self._sizes[1] += points.size
        return self._places[key]


def table_curve_document(curve: TableCurve, store: Store) -> dict[str, Any]:
    """A curve as a calibration file holds it; its numbers go to ``store``."""
    return {
        "kernel": curve.kernel,
        "dtype": curve.dtype,
        "backend": curve.backend,
        "engine": curve.engine,
        "scale_by": list(curve.scale_by),
        "exact": list(curve.exact),
        "includes": list(curve.includes),
        "log_std": float(f"{curve.log_std:.4g}"),
        "rows": curve.num_rows,
        "leave_out_median_pct": float(f"{curve.median_error_pct:.4g}"),
        "leave_out_p90_pct": float(f"{curve.p90_error_pct:.4g}"),
        "source": curve.source,
        "flag": curve.flag,
        "note": curve.note,
        "tables": [store.add(table) for table in curve.tables],
        **({"of_model": list(curve.of_model)} if curve.of_model else {}),
        **({"between": curve.between} if curve.between else {}),
    }


def table_curve_from(
    document: Mapping[str, Any], arrays: Mapping[str, Any], name: str, *, shipped: bool = False
) -> TableCurve:
    """A curve as a calibration file holds it; the inverse of :func:`table_curve_document`.

    Every table is made and checked here, but those that ship with the package, which a test has checked: they are made
    as they are asked for.

    Raises:
        DataError: a missing or malformed field.
    """
    try:
        stored = StoredTables(document["tables"], arrays, name)
        return TableCurve(
            kernel=str(document["kernel"]),
            dtype=str(document["dtype"]),
            backend=str(document["backend"]),
            engine=str(document["engine"]),
            tables=stored if shipped else tuple(stored),
            scale_by=tuple(document["scale_by"]),
            exact=tuple(document["exact"]),
            of_model=tuple(document.get("of_model", ())),
            between=str(document.get("between", "")),
            includes=tuple(document["includes"]),
            log_std=float(document["log_std"]),
            num_rows=int(document["rows"]),
            median_error_pct=float(document["leave_out_median_pct"]),
            p90_error_pct=float(document["leave_out_p90_pct"]),
            source=str(document["source"]),
            flag=str(document["flag"]),
            note=str(document["note"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: a table is malformed ({type(error).__name__}: {error})") from error


class StoredTables(Tables):
    """The tables of a curve as a file holds them: made as they are asked for: a step asks a few of thousands.

    Raises:
        DataError: where a table is made that is malformed; the numbers it was measured for are read at once.
    """

    def __init__(self, documents: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any], name: str) -> None:
        self._documents, self._arrays, self._name = tuple(documents), arrays, name
        self._made: dict[int, Table] = {}
        self._fixed_s: float | None = None
        self.matches = tuple(
            {str(key): float(value) for key, value in document["match"].items()} for document in documents
        )

    def __len__(self) -> int:
        return len(self._documents)

    @overload
    def __getitem__(self, at: int) -> Table: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Table]: ...

    def __getitem__(self, at: int | slice) -> Table | Sequence[Table]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        place = range(len(self))[at]
        if place not in self._made:
            self._made[place] = self._table(place)
        return self._made[place]

    @property
    def fixed_s(self) -> float:
        """Time of the smallest shape of all tables, s."""
        if self._fixed_s is None:
            least = min(unpack(self._values(place)).min() for place in range(len(self)))
            self._fixed_s = float(np.exp(least))
        return self._fixed_s

    def _values(self, place: int) -> NDArray[np.int16]:
        """The steps of one table, flat."""
        document = self._documents[place]
        try:
            count = math.prod(int(points) for _, points in document["axes"].values())
            at = int(document["at"])
            found: NDArray[np.int16] = self._arrays["values"][at : at + count]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise self._malformed(error) from error
        if at < 0 or count < 1 or found.shape != (count,):
            raise self._malformed(f"its {count} values are not in {FILE}")
        return found

    def _table(self, place: int) -> Table:
        values, points = self._values(place), self._arrays["points"]
        try:
            axes = {
                str(name): np.array(points[start : start + count])
                for name, (start, count) in self._documents[place]["axes"].items()
            }
            shape = tuple(len(axis) for axis in axes.values())
            return Table(axes, unpack(values).reshape(shape), self.matches[place])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            raise self._malformed(error) from error

    def _malformed(self, error: object) -> DataError:
        kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
        return DataError(f"{self._name}: a table is malformed ({kind}{error})")


def pack(log_seconds: Array) -> NDArray[np.int16]:
    """ln(seconds) as 16-bit steps above 1 ns; times from 1 ns to 170 ks fit."""
    steps = np.rint(STEPS * (log_seconds - np.log(UNIT_S)))
    if np.any(steps < 0) or np.any(steps > np.iinfo(np.int16).max):
        raise DataError("table: times must lie between 1 ns and 170,000 s")
    packed: NDArray[np.int16] = steps.astype(np.int16)
    return packed


def unpack(steps: NDArray[np.int16]) -> Array:
    """The inverse of :func:`pack`."""
    return steps.astype(float) / STEPS + float(np.log(UNIT_S))


def read_tables(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arrays beside the file, if it states any; nothing but the stated bytes is read, and no pickle."""
    stated = document.get("tables")
    if not stated:
        return {}
    file = path.parent / FILE
    try:
        if is_file(file) and file.stat().st_size > MOST_TABLE_BYTES:
            raise DataError(f"{file}: larger than {MOST_TABLE_BYTES:,} bytes, which no tables are")
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read: {error.strerror or error}") from error
    if not isinstance(stated, Mapping) or hashlib.sha256(content).hexdigest() != stated.get("sha256"):
        raise DataError(
            f"{file}: not the tables that {path.name} was made with; run calibrate import-tables again"
        )
    try:
        _check_headers(content, file)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in TABLE_ARRAYS}
    except DataError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(
            f"{file}: not an archive of numbers ({error}); run calibrate import-tables again"
        ) from error


def _check_headers(content: bytes, file: Path) -> None:
    """Refuse arrays that are not flat, of another kind, or too large: what their headers claim, before they are made.

    Raises:
        DataError: as said.
        ValueError, zipfile.BadZipFile: not an archive of arrays.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, kind in TABLE_ARRAYS.items():
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as array:
                version = np.lib.format.read_magic(array)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(array)
            size = math.prod(shape) * dtype.itemsize
            if (
                len(shape) != 1
                or dtype.kind != kind
                or size > MOST_TABLE_BYTES
                or member.file_size > size + 2**16
            ):
                raise DataError(
                    f"{file}: {name} is of shape {str(shape)[:40]} and type {str(dtype)[:20]}; must be one row of "
                    f"numbers of at most {MOST_TABLE_BYTES:,} bytes"
                )
