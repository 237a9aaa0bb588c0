"""A sweep's work: points in pieces, done by any executor in any order, each piece journalled when it is written.

A dataset's folder has ``sweep.json`` (what is swept, by version: the journal belongs to it), ``pieces/N.parquet``
(rows of one piece, written under another name and renamed) and ``journal.txt`` (a line per finished piece). A piece is
done when both are there; what a kill leaves half done is done again. Rows do not depend on who did them: a finished
dataset has the same pieces, byte for byte, on any number of workers, in any order.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import perfmodel
from perfmodel.answer import answer_step
from perfmodel.answer_serve import answer_serve
from perfmodel.errors import DataError, PerfModelError
from perfmodel.explore.sweep.design import Plan, overrides_of
from perfmodel.files import atomic_write
from perfmodel.load import build_scenario
from perfmodel.spec.documents import parse_json
from perfmodel.spec.paths import is_file, is_folder, kind_of, quoted
from perfmodel.stated import document_of_file, with_overrides

Command = Literal["step", "serve"]
PIECE = {"step": 32, "serve": 4}
"""Points of a piece: a few seconds of work."""
VERSION = 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is swept."""

    scenario: str
    overrides: tuple[str, ...]
    plan: Plan
    command: Command

    @property
    def description(self) -> dict[str, Any]:
        """All that a row depends on: what a journal is good for."""
        document, _ = document_of_file(self.scenario, self.overrides)
        return {
            "format": VERSION,
            "perfmodel": perfmodel.__version__,
            "command": self.command,
            "document": hashlib.sha256(
                json.dumps(document, sort_keys=True, default=str).encode()
            ).hexdigest()[:16],
            "design": self.plan.design,
            "points": self.plan.points,
            "seed": self.plan.seed,
            "over": {domain.key: list(domain.values) for domain in self.plan.domains},
            "bounds": {domain.key: domain.bounds for domain in self.plan.domains},
        }


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    points: int
    done: int
    """Points with an answer, those of earlier runs included."""
    failed: int
    """Points that are no scenario, or do not fit: their row says why."""
    dataset: Path


@dataclass(frozen=True, slots=True)
class Piece:
    """Points that one worker does in one go."""

    number: int
    first: int
    points: tuple[dict[str, Any], ...]
    scenario: str
    overrides: tuple[str, ...]
    command: Command
    folder: str


def run_sweep(
    sweep: Sweep, folder: Path, *, executor: Executor | None = None, progress: Progress | None = None
) -> Done:
    """Do what of a sweep is missing in a folder.

    Raises:
        DataError: the folder holds another sweep, or one of another version, or can't be written.
        SpecError: the scenario itself is none.
    """
    build_scenario(*_document(sweep))  # a mistake in the scenario is told before anything is written
    finished = _prepared(sweep, folder)
    pieces = list(_pieces(sweep, folder))
    missing = [piece for piece in pieces if piece.number not in finished]
    done = sum(len(piece.points) for piece in pieces) - sum(len(piece.points) for piece in missing)
    if progress is not None:
        progress(done, sweep.plan.points)
    for piece in _in_any_order(missing, executor):
        _journal(folder, piece.number)
        done += len(piece.points)
        if progress is not None:
            progress(done, sweep.plan.points)
    failed = _failed(folder, pieces)
    return Done(sweep.plan.points, sweep.plan.points - failed, failed, folder)


def _document(sweep: Sweep) -> tuple[dict[str, Any]]:
    return (document_of_file(sweep.scenario, sweep.overrides)[0],)


def _in_any_order(pieces: Sequence[Piece], executor: Executor | None) -> Iterator[Piece]:
    """Pieces as they get done, no more under way than are worked on soon."""
    if executor is None:
        for piece in pieces:
            work(piece)
            yield piece
        return
    waiting: dict[Future[None], Piece] = {}
    left = iter(pieces)
    try:
        while True:
            for piece in left:
                waiting[executor.submit(work, piece)] = piece
                if len(waiting) >= UNDER_WAY:
                    break
            if not waiting:
                return
            over, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in over:
                piece = waiting.pop(future)
                future.result()
                yield piece
    finally:
        for future in waiting:
            future.cancel()


UNDER_WAY = 64


def work(piece: Piece) -> None:
    """Answer all points of a piece and write its rows; in a worker's process, or here."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    document, folder = document_of_file(piece.scenario, piece.overrides)
    rows = []
    for place, values in enumerate(piece.points):
        row: dict[str, Any] = {
            "point": piece.first + place,
            **{key: _cell(value) for key, value in values.items()},
        }
        rows.append({**row, **answered(document, folder, values, piece.command)})
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    table = pa.table(columns).replace_schema_metadata({"perfmodel": perfmodel.__version__})
    target = Path(piece.folder) / "pieces" / f"{piece.number:07d}.parquet"
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    atomic_write(target, content.getvalue())


WORDS = ("scenario_hash", "error")


def _column(name: str, values: list[Any]) -> Any:
    """Values with a type that does not depend on which of them are known: a dataset's pieces have one schema."""
    import pyarrow as pa

    if name == "point":
        return pa.array(values, pa.int64())
    if name in WORDS or any(isinstance(value, str) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, bool) for value in values):
        return pa.array(values, pa.bool_())
    return pa.array(values, pa.float64())


def answered(
    document: dict[str, Any], folder: Path, values: dict[str, Any], command: Command
) -> dict[str, Any]:
    """A point's figures, or why it has none."""
    try:
        scenario = build_scenario(with_overrides(document, overrides_of(values)), folder=folder)
        found = answer_step(scenario, over_steps=False) if command == "step" else answer_serve(scenario)
    except PerfModelError as error:
        return {"scenario_hash": None, "error": str(error)}
    return {"scenario_hash": scenario.hash, "error": None, **_flat(found.values)}


LEFT_OUT = frozenset(
    {"ops", "stages_s", "basis", "provenance", "warnings", "real_experts", "notes", "over_steps"}
)
"""Of an answer: lists and words, which no column holds."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Figures as columns, ``ttft_s.p99`` and the like; texts that say which scenario it is are kept, too."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not prefix and key in LEFT_OUT:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, list):
            if len(value) == 2 and all(isinstance(one, float) for one in value):
                found |= {f"{name}.low": value[0], f"{name}.high": value[1]}
        elif isinstance(value, bool | str):
            found[name] = value
        elif value is None:
            found[name] = None
        else:
            found[name] = float(value)
    return found


def _cell(value: Any) -> Any:
    """A swept value as a cell: numbers and texts as they are, all else as JSON."""
    if isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, int | float) else json.dumps(value, sort_keys=True)


def _pieces(sweep: Sweep, folder: Path) -> Iterator[Piece]:
    points, size = sweep.plan.values(), PIECE[sweep.command]
    for number, first in enumerate(range(0, len(points), size)):
        own = tuple(points[first : first + size])
        yield Piece(number, first, own, sweep.scenario, sweep.overrides, sweep.command, str(folder))


# --- the journal ------------------------------------------------------------------------------------------------------


def _prepared(sweep: Sweep, folder: Path) -> set[int]:
    """The folder with its description; which pieces are done in it.

    Raises:
        DataError: it holds something else.
    """
    head, pieces, journal = folder / "sweep.json", folder / "pieces", folder / "journal.txt"
    text = json.dumps(sweep.description, indent=1, default=str) + "\n"
    if kind_of(folder) not in ("folder", "missing"):
        raise DataError(f"{quoted(folder)}: is no folder: give another --out")
    if is_file(head):
        there = _text(head)
        if there != text:
            differs = _what_differs(there, text)
            raise DataError(
                f"{quoted(folder)}: holds another sweep ({differs}): give another --out, or delete it"
            )
    try:
        if not is_file(head) and kind_of(folder) == "folder" and any(folder.iterdir()):
            raise DataError(f"{quoted(folder)}: is not empty and no sweep's: give another --out")
        pieces.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{quoted(folder)}: can't be written: {error.strerror}") from error
    if not is_file(head):
        atomic_write(head, text)
    lines = _text(journal).split("\n") if is_file(journal) else [""]
    if lines[-1]:  # a kill in the middle of a line: that piece is done again
        atomic_write(journal, "\n".join([*lines[:-1], ""]))
    numbers = {int(line) for line in lines[:-1] if re.fullmatch("[0-9]{1,7}", line)}
    return {number for number in numbers if is_file(pieces / f"{number:07d}.parquet")}


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{quoted(file)}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{quoted(file)}: is damaged: delete the folder, or give another --out") from error


def _what_differs(before: str, now: str) -> str:
    try:
        old, new = parse_json(before, "sweep.json"), json.loads(now)
        keys = [key for key in new if old.get(key) != new[key]]
    except (DataError, AttributeError):
        return "its sweep.json can't be read"
    return f"{', '.join(keys) or 'its description'} differ{'s' if len(keys) == 1 else ''}"


def _journal(folder: Path, number: int) -> None:
    with (folder / "journal.txt").open("a") as journal:
        journal.write(f"{number}\n")
        journal.flush()
        os.fsync(journal.fileno())


def _failed(folder: Path, pieces: Sequence[Piece]) -> int:
    failed = 0
    for piece in pieces:
        column = _table(folder / "pieces" / f"{piece.number:07d}.parquet", ["error"])["error"]
        failed += len(column) - column.null_count
    return failed


def _table(file: Path, columns: list[str] | None = None) -> Any:
    """A piece's rows.

    Raises:
        DataError: it is damaged; without it, it is done again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, columns=columns)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"{quoted(file)}: is damaged: delete it, and sweep again into the folder ({why})"
        ) from error


def read_rows(folder: Path) -> Any:
    """All rows of a dataset as a DataFrame, in the order of the points.

    Raises:
        DataError: no dataset, or a piece of it that is damaged.
    """
    import pyarrow as pa

    pieces = folder / "pieces"
    files = sorted(pieces.glob("*.parquet")) if is_folder(pieces) else []
    if not files:
        raise DataError(
            f"{quoted(folder)}: holds no sweep; make one with perfmodel sweep SCENARIO --over .. --out {quoted(folder)}"
        )
    tables = [_table(file) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="default")
        return table.to_pandas().sort_values("point", ignore_index=True)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(
            f"{quoted(folder)}: its pieces don't belong together ({str(error).splitlines()[0]})"
        ) from error
