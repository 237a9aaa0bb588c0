"""The user's own measurements: a CSV file in the columns of ``silicon_serving.csv`` or of ``serving.csv``, and more.

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

from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.spec.documents import parse_yaml
from perfmodel.spec.paths import opened
from perfmodel.validation.figures import FIGURES, RATE

MAX_ROWS = 1_000_000
MAX_LINE_BYTES = 100_000
MAX_FIELD_CHARACTERS = 2_000
LARGEST = 1e18
"""Above this, a number is a mistake in whatever unit."""

FOLDER = "folder"
"""Key of a user's record that says where its file is: paths in it are relative to that. Published records have none."""
UNREAD = ("origin", "measured", "note")
"""Columns that say where a row comes from. Of published rows they tell how it was run; of a user's nothing follows."""
MAX_DRAFTS = 64

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
    problem: Callable[[Mapping[str, str]], tuple[str, str] | None] = lambda _record: None
    """(column, what is allowed) of cells that contradict each other, or None."""

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


def _count(text: str) -> str | None:
    right = _WHOLE.fullmatch(text) and float(text) <= LARGEST
    return None if right else f"a whole number from 0 to {LARGEST:g}"


def _drafts(text: str) -> str | None:
    right = _WHOLE.fullmatch(text) and float(text) <= MAX_DRAFTS
    return None if right else f"a whole number of draft tokens from 0 to {MAX_DRAFTS}"


def _probability(text: str) -> str | None:
    right = _DECIMAL.fullmatch(text) and 0.0 <= float(text) <= 1.0
    return None if right else "a number from 0 to 1"


def _positive_or_infinite(text: str) -> str | None:
    allowed = None if text == "inf" else _positive(text)
    return f"{allowed}, or inf" if allowed else None


def _settings(text: str) -> str | None:
    try:
        settings_in(text)
    except PerfModelError as error:
        return f"key.path=value with ; between, e.g. serving.max_running=256 ({error})"
    return None


def settings_in(text: str) -> dict[str, str]:
    """Key paths and values of a cell like ``serving.max_running=256; deployment.overlap=tbo``.

    Raises:
        PerfModelError: not of that form, or a value that is no YAML.
    """
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        path, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not all(path.split(".")):
            raise SpecError(f"{_shown(part)} is not of that form")
        if path in found:
            raise SpecError(f"{path} is there twice")
        parse_yaml(value, path)
        found[path] = value
    return found


def _or_empty(text: str, check: Check) -> str | None:
    allowed = check(text) if text else None
    return f"{allowed}, or nothing" if allowed else None


def _perhaps(names: str, check: Check) -> dict[str, Check]:
    """Columns whose cells may be empty."""
    return dict.fromkeys(names.split(), partial(_or_empty, check=check))


def _run_problem(record: Mapping[str, str]) -> tuple[str, str] | None:
    """Cells of a served model's row that contradict each other."""
    for name in ("isl", "osl"):
        if not record[name] and not record[f"{name}_min"] and not record[f"{name}_max"]:
            return name, f"a whole number, or {name}_min and {name}_max instead"
    problem = _traffic_problem(record)
    if problem:
        return problem
    drafts = float(record["mtp"] or 0)
    for name in ("acceptance", "accepted_length"):
        if record[name] and not drafts:
            return name, "nothing without mtp, the number of draft tokens"
    if drafts and bool(record["acceptance"]) == bool(record["accepted_length"]):
        return "mtp", "drafts with one of acceptance and accepted_length, which say how many are accepted"
    if record["accepted_length"] and not 1.0 <= float(record["accepted_length"]) <= drafts + 1.0:
        return "accepted_length", f"tokens per step, from 1 to {drafts + 1:g} with {drafts:g} drafts"
    if record[RATE] and not record["gpus"]:
        return "gpus", f"the number of GPUs, over which {RATE} is divided"
    return None


def _traffic_problem(record: Mapping[str, str]) -> tuple[str, str] | None:
    """Lengths and load of a row that contradict each other."""
    for name in ("isl", "osl"):
        low, high = record[f"{name}_min"], record[f"{name}_max"]
        if bool(low) != bool(high):
            return (
                f"{name}_{'max' if low else 'min'}",
                f"a length, as {name}_{'min' if low else 'max'} is stated",
            )
        if low and float(low) > float(high):
            return f"{name}_min", f"at most {name}_max, {high}"
        if low and record[name] and not float(low) <= float(record[name]) <= float(high):
            return name, f"a length from {name}_min to {name}_max, {low} to {high}"
    if record["burstiness"] and record["request_rate"] in ("", "inf"):
        return "burstiness", "nothing without a finite request_rate: all arrive at once"
    return None


LAYOUTS: Mapping[str, Layout] = {
    "silicon": Layout(
        file="silicon_serving.csv",
        required=dict.fromkeys(("id", "model", "system", "parallel_or_prefill"), _filled),
        optional={
            **_perhaps("isl osl isl_min isl_max osl_min osl_max concurrency num_prompts gpus", _whole),
            **_perhaps("request_rate burstiness", _positive_or_infinite),
            **_perhaps("warm_up_requests", _count),
            **_perhaps("mtp", _drafts),
            **_perhaps("acceptance", _probability),
            **_perhaps("accepted_length", _positive),
            **_perhaps("set", _settings),
            **_perhaps(" ".join(FIGURES), _positive),
            **_perhaps("derived_output_tok_s_gpu", _positive),
            **dict.fromkeys(("backend", "backend_version", "precision", "mode", "decode"), _anything),
            **dict.fromkeys((*UNREAD, "source"), _anything),
        },
        figures=tuple(FIGURES),
        problem=_run_problem,
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
            **_perhaps("set", _settings),
        },
        figures=("value",),
    ),
}
"""Kinds of files, told apart by their header."""
RUNS = Layout(
    file="a file of runs",
    required={},
    optional={
        **dict.fromkeys(("id", "scenario"), _anything),
        **_perhaps("isl osl isl_min isl_max osl_min osl_max concurrency num_prompts", _whole),
        **_perhaps("request_rate burstiness", _positive_or_infinite),
        **_perhaps("warm_up_requests", _count),
        **_perhaps("set", _settings),
        **_perhaps(" ".join(FIGURES), _positive),
        **dict.fromkeys((*UNREAD, "source"), _anything),
    },
    figures=tuple(FIGURES),
    problem=_traffic_problem,
)
"""Runs of a scenario, which says all that the columns don't; only those that are there are needed."""
RUNS_OF_SCENARIO = "runs"
"""The name of that layout."""
SCENARIO = "scenario"
"""The column that names it."""


def read_measurements(path: Path, *, runs: bool = False) -> Measurements:
    """Read and check a file; ``runs``: of a scenario that is given beside it, as where it has that column.

    Raises:
        DataError: it can't be read, or a line, column or value is not what it should be.
    """
    try:
        with opened(path) as file:
            return _read(path, _lines(path, file), runs=runs)
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


def _read(path: Path, lines: Iterator[str], *, runs: bool) -> Measurements:
    reader = csv.reader(lines, strict=True)
    records: list[dict[str, str]] = []
    first_lines: dict[str, int] = {}
    try:
        header = [column.strip() for column in next(reader, [])]
        name = RUNS_OF_SCENARIO if runs or SCENARIO in header else _layout(path, header)
        layout = RUNS if name == RUNS_OF_SCENARIO else LAYOUTS[name]
        _check_header(path, header, layout)
        checks = layout.checks
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(records) == MAX_ROWS:
                raise DataError(f"--data {path}: more than {MAX_ROWS:,} rows; split the file")
            record = _record(path, reader.line_num, header, cells, checks)
            where = f"--data {path}: line {reader.line_num}"
            if not any(record[figure] for figure in layout.figures):
                raise DataError(f"{where}: nothing measured; fill {_figures(layout)}")
            problem = layout.problem(record)
            if problem:
                column, allowed = problem
                raise DataError(f"{where}, column {column}: {_shown(record[column])}; allowed: {allowed}")
            record["id"] = record["id"] or f"line {reader.line_num}"
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
    return name


def _check_header(path: Path, header: Sequence[str], layout: Layout) -> None:
    """Refuses columns that the layout does not have, or not twice, and those that are missing."""
    where = f"--data {path}: line 1"
    for column in header:
        if column not in layout.checks:
            near = difflib.get_close_matches(column, layout.checks, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(layout.checks)}"
            if layout is RUNS and any(column in one.checks for one in LAYOUTS.values()):
                hint = "the scenario says that: leave it out, change it per row in set, or give no --scenario"
            raise DataError(f"{where}: unknown column {_shown(column)} beside those of {layout.file}; {hint}")
        if header.count(column) > 1:
            raise DataError(f"{where}: column {column} is there {header.count(column)} times; name it once")
    missing = [column for column in layout.required if column not in header]
    if not set(layout.figures) & set(header):
        missing.append(_figures(layout))
    if missing:
        raise DataError(
            f"{where}: missing columns {', '.join(missing)}; required of a file like {layout.file}: "
            f"{', '.join(dict.fromkeys((*layout.required, _figures(layout))))}"
        )


def _figures(layout: Layout) -> str:
    """Its columns of figures in words, the first few of many."""
    most = 3
    listed = " or ".join(layout.figures[:most])
    return f"{listed} or another figure (docs/validate.md)" if len(layout.figures) > most else listed


def own_records(path: Path, measurements: Measurements) -> list[dict[str, str]]:
    """The records of a user's file as they are predicted: with its folder, and without what says where they come from,
    so that no rule about published rows can apply to them.
    """
    blank = dict.fromkeys(set(UNREAD) & LAYOUTS[measurements.layout].checks.keys(), "")
    return [{**record, **blank, FOLDER: str(path.parent)} for record in measurements.records]


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
