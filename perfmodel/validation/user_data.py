"""The user's own measurements: a CSV file in the columns of ``silicon_serving.csv`` or of ``serving.csv``.

The file may be broken or hostile: it is read line by line, with limits, and its first mistake is told with its line
and column. What a row means (which model, which deployment) is for the suite that predicts it.
"""

import csv
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from perfmodel.errors import DataError

MAX_ROWS = 1_000_000
MAX_LINE_BYTES = 100_000
MAX_FIELD_CHARACTERS = 2_000
LARGEST = 1e18
"""Above this, a number is a mistake in whatever unit."""

Check = Callable[[str], str | None]
"""A cell's text -> what is allowed instead, or None if it is right."""

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHOLE = re.compile(r"\d+(\.0*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one kind of file."""

    file: str
    """The published file with the same columns."""
    required: Mapping[str, Check]
    """Columns that must be there."""
    optional: Mapping[str, Check]
    """Columns that may be left out; the records have them all the same, empty."""
    figures: Sequence[str]
    """Columns of what was measured; every row has one of them at least."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """Every column's check."""
        return {**self.required, **self.optional}


@dataclass(frozen=True, slots=True)
class Measurements:
    """A checked file."""

    layout: str
    """Key of :data:`LAYOUTS`; also the module of ``perfmodel.validation`` that predicts its rows."""
    records: list[dict[str, str]]
    """Every column of the layout, as text."""


def _filled(text: str) -> str | None:
    return None if text.strip() else "text that is not empty"


def _anything(_text: str) -> str | None:
    return None


def _positive(text: str) -> str | None:
    right = _DECIMAL.fullmatch(text) and 0.0 < float(text) <= LARGEST
    return None if right else f"a number above 0 and up to {LARGEST:g}, with a point for decimals"


def _whole(text: str) -> str | None:
    right = _WHOLE.fullmatch(text) and 1.0 <= float(text) <= LARGEST
    return None if right else f"a whole number from 1 to {LARGEST:g}"


def _or_empty(text: str, check: Check) -> str | None:
    allowed = check(text) if text else None
    return f"{allowed}, or nothing" if allowed else None


LAYOUTS: Mapping[str, Layout] = {
    "silicon": Layout(
        file="silicon_serving.csv",
        required={
            **dict.fromkeys(("id", "model", "system", "backend", "precision", "mode"), _filled),
            **dict.fromkeys(("isl", "osl"), _whole),
            "concurrency": partial(_or_empty, check=_whole),
            "gpus": _whole,
            "parallel_or_prefill": _filled,
        },
        optional={
            **dict.fromkeys(("ttft_ms", "tpot_ms"), partial(_or_empty, check=_positive)),
            **dict.fromkeys(("backend_version", "decode", "origin", "measured", "note", "source"), _anything),
            "derived_output_tok_s_gpu": partial(_or_empty, check=_positive),
        },
        figures=("ttft_ms", "tpot_ms"),
    ),
    "serving": Layout(
        file="serving.csv",
        required={
            **dict.fromkeys(("id", "model", "system", "phase", "metric", "unit"), _filled),
            "value": _positive,
        },
        optional={
            **dict.fromkeys(("gpus", "gpus_per_unit"), partial(_or_empty, check=_whole)),
            **dict.fromkeys(("isl_or_kv", "osl"), partial(_or_empty, check=_positive)),
            **dict.fromkeys(("framework", "batch_per_gpu", "attn_parallel", "moe_parallel"), _anything),
            **dict.fromkeys(("precision", "mtp", "routing", "kind", "source"), _anything),
        },
        figures=("value",),
    ),
}
"""Kinds of files, told apart by their header."""


def read_measurements(path: Path) -> Measurements:
    """Read and check a file.

    Raises:
        DataError: it can't be read, or a line, column or value is not what it should be.
    """
    try:
        with path.open("rb") as file:
            return _read(path, _lines(path, file))
    except OSError as error:
        raise DataError(
            f"--data {path}: can't be read: {error.strerror or error}; give a CSV file (docs/validate.md)"
        ) from error


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The file's lines, each with a limit of its own, so that no file fills the memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"--data {path}: line {number}: longer than {MAX_LINE_BYTES:,} bytes; is it a CSV file?"
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"--data {path}: line {number}: not UTF-8 text (byte {error.object[error.start]:#04x} at position "
                f"{error.start + 1}); save the file as UTF-8"
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text  # spreadsheets begin a file with a mark


def _read(path: Path, lines: Iterator[str]) -> Measurements:
    reader = csv.reader(lines, strict=True)
    records: list[dict[str, str]] = []
    first_lines: dict[str, int] = {}
    try:
        header = [column.strip() for column in next(reader, [])]
        name = _layout(path, header)
        layout = LAYOUTS[name]
        checks = layout.checks
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(records) == MAX_ROWS:
                raise DataError(f"--data {path}: more than {MAX_ROWS:,} rows; split the file")
            record = _record(path, reader.line_num, header, cells, checks)
            if not any(record[figure] for figure in layout.figures):
                raise DataError(
                    f"--data {path}: line {reader.line_num}: nothing measured; fill {' or '.join(layout.figures)}"
                )
            before = first_lines.setdefault(record["id"], reader.line_num)
            if before != reader.line_num:
                raise DataError(
                    f"--data {path}: line {reader.line_num}, column id: {_shown(record['id'])} is also on line "
                    f"{before}; every row needs an id of its own"
                )
            records.append(record)
    except csv.Error as error:
        raise DataError(f"--data {path}: line {reader.line_num}: not valid CSV: {error}") from error
    if not records:
        raise DataError(f"--data {path}: has a header and no rows; add one row per measurement")
    return Measurements(name, records)


def _layout(path: Path, header: Sequence[str]) -> str:
    """The kind of file, by the columns that its header names."""
    if not header:
        raise DataError(
            f"--data {path}: is empty; its first line must name the columns, {_columns()} (docs/validate.md)"
        )
    name = max(LAYOUTS, key=lambda name: len(LAYOUTS[name].checks.keys() & set(header)))
    layout = LAYOUTS[name]
    where = f"--data {path}: line 1"
    if not layout.checks.keys() & set(header):
        raise DataError(
            f"{where}: names no known column ({_shown(','.join(header))}); it must name {_columns()}, separated by "
            "commas"
        )
    for column in header:
        if column not in layout.checks:
            near = difflib.get_close_matches(column, layout.checks, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(layout.checks)}"
            raise DataError(f"{where}: unknown column {_shown(column)} beside those of {layout.file}; {hint}")
        if header.count(column) > 1:
            raise DataError(f"{where}: column {column} is there {header.count(column)} times; name it once")
    missing = [column for column in layout.required if column not in header]
    if not set(layout.figures) & set(header):
        missing.append(" or ".join(layout.figures))
    if missing:
        raise DataError(
            f"{where}: missing columns {', '.join(missing)}; required of a file like {layout.file}: "
            f"{', '.join(dict.fromkeys((*layout.required, ' or '.join(layout.figures))))}"
        )
    return name


def _columns() -> str:
    return " or ".join(f"those of {layout.file}" for layout in LAYOUTS.values())


def _record(
    path: Path, line: int, header: Sequence[str], cells: Sequence[str], checks: Mapping[str, Check]
) -> dict[str, str]:
    where = f"--data {path}: line {line}"
    if len(cells) != len(header):
        raise DataError(
            f"{where}: {len(cells)} cells under {len(header)} columns; quote a cell that has a comma in it"
        )
    record = dict.fromkeys(checks, "")
    for column, cell in zip(header, cells, strict=True):
        text = cell.strip()
        allowed = _too_much(text) or checks[column](text)
        if allowed:
            raise DataError(f"{where}, column {column}: {_shown(text)}; allowed: {allowed}")
        record[column] = text
    return record


def _too_much(text: str) -> str | None:
    if len(text) > MAX_FIELD_CHARACTERS:
        return f"up to {MAX_FIELD_CHARACTERS:,} characters"
    # a terminal obeys control characters, so a file must not be able to send any
    return (
        None
        if text.isprintable() or not any(_is_control(c) for c in text)
        else "text without control characters"
    )


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _shown(text: str) -> str:
    """A cell in an error message: quoted, escaped, and short."""
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")
