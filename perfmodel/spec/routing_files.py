"""Measured routing from files: how many real experts tokens woke, and which.

A file is CSV or Parquet, in long form, whole numbers; ``layer`` counts MoE layers from 0 (or from where an engine's
numbers of MoE layers begin), and a file without that column stands for all layers:

- popularity: ``layer``, ``expert``, ``tokens``; experts that no row names got none;
- activation: ``layer``, ``real_experts``, ``tokens``; numbers that no row names did not occur;
- a routing trace: ``layer``, ``token``, ``expert``, one row per token and chosen expert, from which either is counted.
  Zero-computation experts are those from the model's number of real experts on. A token whose experts all compute
  nothing must have their rows, or it is not seen.

Popularity may also be a plain matrix (:mod:`perfmodel.spec.routing_matrices`).

Parquet may carry JSON under the schema metadata's key ``perfmodel``; ``"toy": true`` in it makes every answer say so.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.model import Moe
from perfmodel.spec.paths import is_file, quoted
from perfmodel.spec.routing_matrices import is_matrix, read_matrix

SUFFIXES = (".parquet", ".csv")
MOST_ROWS = 8_000_000
"""Of the columns that are read: a few hundred megabytes while they are turned into counts."""
MOST_CSV_BYTES = 64 * 2**20
COLUMNS = ("layer", "expert", "tokens", "token", "real_experts")
"""What a file's columns may be called; others are left unread."""
MOST_LAYERS = 512
Rows = list[list[float]]
Columns = dict[str, NDArray[np.int64]]


def read_histogram(path: Path, moe: Moe) -> tuple[Rows, str]:
    """Tokens per real expert, one row per layer (or one), and where they come from.

    Raises:
        DataError: a file that can't be read, or holds something else; the message names the row.
    """
    if is_matrix(path):
        whole: Rows = read_matrix(path, moe.num_experts).tolist()
        return whole, path.name
    columns, source = _read(path, "expert")
    layers = _layers(columns, path)
    if "token" in columns:
        columns = _by_expert(columns, _real_pairs(columns, moe, path))
    rows: Rows = _table(columns, "expert", moe.num_experts, layers, path).tolist()
    return rows, source


def read_activation(path: Path, moe: Moe) -> tuple[Rows, str]:
    """Probabilities of 0 .. top_k real experts, one row per layer (or one), and where they come from.

    Raises:
        DataError: a file that can't be read, or holds something else; the message names the row.
    """
    columns, source = _read(path, "real_experts")
    layers = _layers(columns, path)
    if "token" in columns:
        columns = _by_number(columns, _real_pairs(columns, moe, path))
    counts = _table(columns, "real_experts", moe.top_k + 1, layers, path)
    totals = counts.sum(axis=1, keepdims=True)
    for layer in np.flatnonzero(totals == 0):
        raise DataError(f"{path}: layer {layer} has no tokens; give each layer some")
    rows: Rows = (counts / totals).tolist()
    return rows, source


def _read(path: Path, key: str) -> tuple[Columns, str]:
    """The columns that are needed, by name, and the source to be named in answers: ``key`` and tokens, or a trace's."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: must be a file that ends in {' or '.join(SUFFIXES)}")
    if not is_file(path):
        raise DataError(f"{quoted(path)}: no such file")
    frame, note = (_parquet if path.suffix == ".parquet" else _csv)(path)
    if not 0 < len(frame) <= MOST_ROWS:
        raise DataError(f"{path}: has {len(frame)} rows; must be from 1 to {MOST_ROWS}")
    first = 2 if path.suffix == ".csv" else 0
    names = [str(name) for name in frame.columns]
    wanted = next((kind for kind in ((key, "tokens"), ("token", "expert")) if set(kind) <= set(names)), None)
    if wanted is None:
        raise DataError(
            f"{path}: has the columns {', '.join(names)}; it must have {key} and tokens, or token and expert (and "
            "layer, where layers differ)"
        )
    used = [*wanted, *(["layer"] if "layer" in names else [])]
    columns = {name: _whole(frame[name], name, path, first) for name in used}
    toy = "a toy model, which supports no claim: " if note.get("toy") or "toy" in path.stem else ""
    return columns, toy + path.name


def _parquet(path: Path) -> tuple[Any, dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, thrift_string_size_limit=MOST_NOTE, memory_map=False) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
            if not 0 < rows <= MOST_ROWS:  # before any of them is unpacked
                raise DataError(f"{quoted(path)}: has {rows:,} rows; must be from 1 to {MOST_ROWS:,}")
            wanted = [name for name in schema.names if name in COLUMNS]
            for name in wanted:
                kind = schema.field(name).type
                if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
                    raise DataError(
                        f"{quoted(path)}: {name} is of type {str(kind)[:40]}: must be whole numbers"
                    )
            note = json.loads((schema.metadata or {}).get(b"perfmodel", b"{}"))
            # the columns that are not wanted are named in messages, so they stay, empty
            frame = file.read(columns=wanted).to_pandas().reindex(columns=list(dict.fromkeys(schema.names)))
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{quoted(path)}: is not a Parquet file that can be read ({_first_line(error)})"
        ) from error
    return frame, note if isinstance(note, dict) else {}


MOST_NOTE = 10_000_000
"""Bytes of the metadata of a Parquet file."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _csv(path: Path) -> tuple[Any, dict[str, Any]]:
    import pandas

    try:
        if path.stat().st_size > MOST_CSV_BYTES:
            raise DataError(f"{quoted(path)}: larger than {MOST_CSV_BYTES:,} bytes; write it as Parquet")
        with path.open("rb") as file:
            header = file.readline(2**16).decode("utf-8", "replace").strip().split(",")
        frame = pandas.read_csv(path, skipinitialspace=True, skip_blank_lines=False)
    except DataError:
        raise
    except (
        ValueError,
        OSError,
        OverflowError,
    ) as error:  # pandas' parser errors and bad encodings are ValueErrors
        raise DataError(
            f"{quoted(path)}: is not a CSV file that can be read ({_first_line(error)})"
        ) from error
    if not isinstance(frame.index, pandas.RangeIndex) or len(header) != len(set(map(str.strip, header))):
        raise DataError(f"{path}: rows have more fields than the header, or the header names a column twice")
    return frame, {}


def _layers(columns: Columns, path: Path) -> int:
    """Number of layers, which are numbered from 0 without gaps; 1 without such a column."""
    if "layer" not in columns:
        return 1
    layer = columns["layer"]
    if int(layer.max()) >= MOST_LAYERS:
        raise DataError(f"{path}: layer = {layer.max()}: must be from 0 to {MOST_LAYERS - 1}")
    layer = columns["layer"] = layer - layer.min()  # an engine counts dense layers before them, too
    layers = int(layer.max()) + 1
    for gap in np.setdiff1d(np.arange(layers), layer):
        raise DataError(f"{path}: layer {gap} is missing; number MoE layers without gaps")
    return layers


def _whole(column: Any, name: str, path: Path, first: int) -> NDArray[np.int64]:
    """A column of whole numbers, 0 or above."""
    import pandas

    try:
        values = pandas.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    except (OverflowError, ValueError, TypeError):  # a number of hundreds of digits
        values = np.array([_float(one) for one in column])
    good = np.isfinite(values) & (values >= 0) & (values < 2**53) & (values == np.floor(values))
    for row in np.flatnonzero(~good):
        where = f"line {row + first}" if first else f"row {row}"
        raise DataError(
            f"{path}, {where}: {name} = {str(column.iloc[row])[:40]}: must be a whole number, 0 or above"
        )
    whole: NDArray[np.int64] = values.astype(np.int64)
    return whole


def _float(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError, TypeError):
        return np.nan


def _table(columns: Columns, key: str, width: int, layers: int, path: Path) -> NDArray[np.float64]:
    """Tokens by layer and ``key``, (layers, width)."""
    layer = columns.get("layer", np.zeros_like(columns[key]))
    for row in np.flatnonzero(columns[key] >= width):
        raise DataError(f"{path}: {key} = {columns[key][row]}: this model's go from 0 to {width - 1}")
    cell = layer * width + columns[key]
    for twice in np.flatnonzero(np.bincount(cell, minlength=layers * width) > 1):
        raise DataError(
            f"{path}: layer {twice // width}, {key} {twice % width} stands there twice; add the rows up"
        )
    counts = np.bincount(cell, weights=columns["tokens"], minlength=layers * width)
    return counts.astype(np.float64).reshape(layers, width)


def _real_pairs(columns: Columns, moe: Moe, path: Path) -> NDArray[np.bool_]:
    """Which rows of a trace are of real experts."""
    most = moe.num_experts + moe.num_zero_experts
    layer = columns.get("layer", np.zeros_like(columns["expert"]))
    _, first, times = np.unique(
        np.stack([layer, columns["token"], columns["expert"]]), axis=1, return_index=True, return_counts=True
    )
    for row in np.sort(first[times > 1]):
        raise DataError(
            f"{path}: layer {layer[row]}, token {columns['token'][row]} has expert {columns['expert'][row]} twice; a "
            "token picks an expert once"
        )
    for row in np.flatnonzero(columns["expert"] >= most):
        raise DataError(f"{path}: expert = {columns['expert'][row]}: this model's go from 0 to {most - 1}")
    real: NDArray[np.bool_] = columns["expert"] < moe.num_experts
    return real


def _by_expert(columns: Columns, real: NDArray[np.bool_]) -> Columns:
    """A trace's pairs as tokens per layer and real expert."""
    layer = columns.get("layer", np.zeros_like(columns["expert"]))
    return _grouped(layer[real], columns["expert"][real], "expert")


def _by_number(columns: Columns, real: NDArray[np.bool_]) -> Columns:
    """A trace as tokens per layer and number of real experts."""
    layer = columns.get("layer", np.zeros_like(columns["expert"]))
    tokens, of_token = np.unique(np.stack([layer, columns["token"]]), axis=1, return_inverse=True)
    numbers = np.bincount(of_token.ravel(), weights=real, minlength=tokens.shape[1]).astype(np.int64)
    return _grouped(tokens[0], numbers, "real_experts")


def _grouped(layer: NDArray[np.int64], values: NDArray[np.int64], name: str) -> Columns:
    """Rows counted by layer and value."""
    cells, tokens = np.unique(np.stack([layer, values]), axis=1, return_counts=True)
    return {"layer": cells[0], name: cells[1], "tokens": tokens}


READERS: dict[str, Callable[[Path, Moe], tuple[Rows, str]]] = {
    "histogram": read_histogram,
    "activation": read_activation,
}
"""Field of a scenario's routing -> what reads it from a file."""
