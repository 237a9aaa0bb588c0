"""Traces of real traffic, read into one plain table: when requests came and how long they were.

A file is CSV, lines of JSON, Parquet or a benchmark's result, plain or gzipped, in a dialect that its keys tell
(:mod:`perfmodel.spec.traces.dialects`) or in a user's own columns. Lines are read in blocks of a few megabytes, each
parsed by numpy or the json module in one go; only a block that is not clean is read again line by line, to name the
line. So a table of ten million rows costs its columns and one block.

Requests with no output (a failed call in BurstGPT; none exist in Azure 2023) are left out and counted: a
simulator can't serve them, and their prompts may never have reached a GPU.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from perfmodel.errors import DataError
from perfmodel.spec import catalogue
from perfmodel.spec.paths import is_file
from perfmodel.spec.traces.delimited import CsvParser, header_cells
from perfmodel.spec.traces.dialects import columns_of, known
from perfmodel.spec.traces.files import blocks, guarded, opened
from perfmodel.spec.traces.foreign import writer_of
from perfmodel.spec.traces.json_lines import JsonParser, block_tokens, flat_keys, json_object
from perfmodel.spec.traces.parquet import MAGIC, ParquetTable
from perfmodel.spec.traces.results import (
    GUIDELLM_KEY,
    RESULT_KEYS,
    documents,
    is_result,
    read_results,
    runs_in,
)
from perfmodel.spec.traces.stated import MAX_REQUESTS, TimeUnit, TraceColumns, TraceFormat, TurnInputs
from perfmodel.spec.traces.stream import TraceStream
from perfmodel.spec.traces.table import read_lines, read_table
from perfmodel.spec.traces.trace import Trace, Window

if TYPE_CHECKING:
    from perfmodel.spec.workload import Workload

HEAD_BYTES = 2**16
"""Enough to tell a format: the lists of a benchmark's result come after its settings."""
HEAD_ROWS = 200
"""Rows whose keys and hashed blocks say what a file of lines has."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".gz", ".parquet")
"""What tells a path from a name of the catalogue, beside a slash."""
RESULTS = ("vllm", "sglang", "guidellm")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read where it doesn't say so itself; the keys of a workload's trace."""

    columns: TraceColumns | None = None
    """A user's own names of columns."""
    time_unit: TimeUnit | None = None
    """Of times."""
    hash_block_tokens: int | None = None
    """Tokens that a hash id stands for."""
    turn_inputs: TurnInputs = "whole"
    """Whether a session's later rows state whole prompts or their new tokens."""
    result_index: int | None = None
    """Which of several results in one file, from 0."""
    hold: int = MAX_REQUESTS
    """Requests beyond which those that stand alone are given as a stream."""


def trace_of(workload: "Workload", *, whole: bool = False) -> Trace:
    """A workload's trace, as far as the workload uses it; ``whole``: all of it.

    Raises:
        SpecError, DataError: as :func:`read_trace`.
    """
    found = long_trace_of(workload, hold=MAX_REQUESTS, whole=whole)
    assert isinstance(found, Trace)  # there are no more than that
    return found


def long_trace_of(workload: "Workload", *, hold: int, whole: bool = False) -> Trace | TraceStream:
    """As :func:`trace_of`; a stream where it has more than ``hold`` requests and they stand alone, in order of time.

    Raises:
        SpecError, DataError: as :func:`read_trace`.
    """
    window = Window() if whole else Window(workload.start_s, workload.duration_s, workload.num_requests)
    reading = Reading(
        workload.columns,
        workload.time_unit,
        workload.hash_block_tokens,
        workload.turn_inputs,
        workload.result_index,
        hold,
    )
    return _read(workload.trace, workload.trace_format, window, reading)


def read_trace(
    name: str,
    trace_format: TraceFormat = "auto",
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    num_requests: int | None = None,
) -> Trace:
    """The requests of a trace of the catalogue or of a file that arrive in start_s .. start_s + duration_s.

    Reading stops at the window's end or after ``num_requests`` requests; what follows is not looked at.

    Raises:
        SpecError: a name that the catalogue does not have.
        DataError: a file that can't be read, is of no known format, holds something else than it should (the
            message names the line, the value and what is allowed), has more than MAX_REQUESTS requests, or
            none in the window.
    """
    found = _read(name, trace_format, Window(start_s, duration_s, num_requests), Reading())
    assert isinstance(found, Trace)  # there are no more than that
    return found


def _read(name: str, asked: TraceFormat, window: Window, reading: Reading) -> Trace | TraceStream:
    path = trace_path(name)
    with opened(path) as file:
        head = guarded(path, lambda: file.read(HEAD_BYTES))
        if not head.strip():
            raise DataError(f"{path}: is empty; known formats of a trace: {known()}")
        file.seek(0)
        if head.startswith(MAGIC):
            parquet = ParquetTable(
                path,
                asked=asked,
                mapped=reading.columns,
                unit=reading.time_unit,
                block=reading.hash_block_tokens,
            )
            return read_table(parquet.blocks(), parquet, name, window, reading.turn_inputs, reading.hold)
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith(b"version https://git-lfs"):
            raise DataError(
                f"{path}: is a Git LFS pointer, not the trace itself: fetch the file it stands for"
            )
        if asked in RESULTS or (start[:1] in (b"{", b"[") and not _is_lines(start)):
            return _of_documents(file, path, name, asked, window, reading)
        lines = blocks(file, path)
        if start.startswith(b"{") or asked == "mooncake":
            return _of_json_lines(lines, path, name, asked, window, reading)
        first_line, first = next(lines)
        cells, delimiter = header_cells(first[0], f"{path}: line 1")
        columns = columns_of(
            cells, path, "line 1", asked=asked, mapped=reading.columns, unit=reading.time_unit, csv=True
        )
        parser = CsvParser(path, columns, cells, delimiter)
        lines = chain([(first_line + 1, first[1:])], lines)
        return read_lines(parser, lines, name, window, reading.turn_inputs, reading.hold)


def _is_lines(start: bytes) -> bool:
    """Whether a file that starts so holds a request per line, rather than one JSON value or several results."""
    first, newline, _ = start.partition(b"\n")
    if not newline:  # a line that is longer than the head, or the only one
        if any(f'"{key}"'.encode() in first for key in (*RESULT_KEYS, GUIDELLM_KEY)):
            return False
        if len(start) >= HEAD_BYTES // 2:
            return True
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return first.lstrip().startswith(b'{"') and newline != b""  # a request's line that is damaged
    return isinstance(value, dict) and not is_result(value) and writer_of(value) is None


def _of_documents(
    file: BinaryIO, path: Path, name: str, asked: TraceFormat, window: Window, reading: Reading
) -> Trace | TraceStream:
    """JSON values over several lines: results of benchmarks, or requests that somebody has indented."""
    values = documents(file, path)
    if asked in RESULTS or is_result(next(iter(runs_in(values)), None)) or is_result(values[0]):
        return read_results(values, path, name, asked, window, reading.result_index)
    told = writer_of(values[0])
    if told:
        raise DataError(f"{path}: {told}")
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: is JSON, but neither requests nor a result: {known()}")
    lines = [(1, [json.dumps(row) for row in rows])]
    return _of_json_lines(iter(lines), path, name, asked, window, reading)


def _of_json_lines(
    lines: Iterator[tuple[int, list[str]]],
    path: Path,
    name: str,
    asked: TraceFormat,
    window: Window,
    reading: Reading,
) -> Trace | TraceStream:
    begin: list[tuple[int, list[str]]] = []
    for own in lines:
        begin.append(own)
        if sum(len(texts) for _, texts in begin) >= HEAD_ROWS:
            break
    first_line, first = begin[0]
    rows: list[dict[str, Any]] = [json_object(first[0], f"{path}: line {first_line}")]
    for line in [line for _, texts in begin for line in texts][1:HEAD_ROWS]:
        try:
            rows.append(json_object(line, ""))
        except DataError:
            break  # the parser names it
    keys = dict.fromkeys(key for row in rows for key in flat_keys(row))
    where = f"line {begin[0][0]}"
    columns = columns_of(keys, path, where, asked=asked, mapped=reading.columns, unit=reading.time_unit)
    block = reading.hash_block_tokens or block_tokens(rows, columns, f"{path}: {where}")
    parser = JsonParser(path, replace(columns, block=block))
    return read_lines(parser, chain(begin, lines), name, window, reading.turn_inputs, reading.hold)


def trace_path(name: str) -> Path:
    """The file of a catalogue name, or of a path (with a slash, a suffix of a trace, or existing).

    Raises:
        SpecError: neither; the message proposes names.
    """
    if "/" in name or name.endswith(SUFFIXES) or is_file(name):
        return Path(name)
    return catalogue.DATA / "traces" / str(catalogue.entry("traces", name)["file"])
