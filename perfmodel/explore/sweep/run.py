"""A sweep's work: points in pieces, done by any executor in any order, each piece journalled when it is written.

A dataset's folder has ``sweep.json`` (what is swept, by version: the journal belongs to it), ``pieces/N.parquet``
(rows of one piece, written under another name and renamed) and ``journal.txt`` (a line per finished piece). A piece is
done when both are there; what a kill leaves half done is done again. Workers only answer, here alone is written:
whoever is killed, no row is lost and none is there twice. Rows do not depend on who made them: a finished dataset has
the same pieces, byte for byte, from any engine, on any number of workers, in any order.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import perfmodel
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.explore.sweep.carried import NOTHING, carried_of
from perfmodel.explore.sweep.design import Domain, Plan, overrides_of
from perfmodel.explore.sweep.piece import Command, Material, texts_of, work
from perfmodel.files import writing
from perfmodel.load import build_scenario
from perfmodel.spec.documents import parse_json
from perfmodel.spec.messages import shown
from perfmodel.spec.model_overrides import NOT_READ
from perfmodel.spec.models.fields import UNKNOWN
from perfmodel.spec.paths import is_file, is_folder, kind_of, quoted
from perfmodel.stated import document_of_file, with_overrides
from perfmodel.workers import Shared, has_files_of_this_machine, shared

PIECE: dict[Command, int] = {"step": 32, "serve": 4, "plan": 1}
"""Points of a piece: a few seconds of work."""
UNDER_WAY = 2048
"""Pieces that an executor holds at most: more than a cluster works on at a time, few enough to keep."""
VERSION = 2
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sweep:
    """What is swept."""

    scenario: str
    overrides: tuple[str, ...]
    plan: Plan
    command: Command

    @cached_property
    def stated(self) -> tuple[dict[str, Any], Path]:
        """The scenario's document before a point's values, and the folder that its paths are relative to.

        Raises:
            SpecError, DataError: there is none.
        """
        return document_of_file(self.scenario, self.overrides)

    @property
    def description(self) -> dict[str, Any]:
        """All that a row depends on: what a journal is good for."""
        return {
            "format": VERSION,
            "perfmodel": perfmodel.__version__,
            "command": self.command,
            "document": hashlib.sha256(
                json.dumps(self.stated[0], sort_keys=True, default=str).encode()
            ).hexdigest()[:16],
            "design": self.plan.design,
            "points": self.plan.points,
            "seed": self.plan.seed,
            "over": {domain.key: list(domain.values) for domain in self.plan.domains},
            "bounds": {domain.key: domain.bounds for domain in self.plan.domains},
        }

    def pieces(self) -> list[range]:
        """Numbers of the points of each piece, which is known by its place."""
        size = PIECE[self.command]
        return [
            range(first, min(first + size, self.plan.points)) for first in range(0, self.plan.points, size)
        ]


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    points: int
    done: int
    """Points with an answer, those of earlier runs included."""
    failed: int
    """Points that are no scenario, or do not fit: their row says why."""
    dataset: Path


def check_sweep(sweep: Sweep) -> None:
    """Refuse a scenario that is none, a key that is set for every point and varied as well, and an unknown one.

    Raises:
        SpecError: as said.
        PerfModelError: what is wrong with the scenario.
    """
    document, folder = sweep.stated
    build_scenario(document, folder=folder)
    stated = {text.partition("=")[0].strip() for text in sweep.overrides}
    for domain in sweep.plan.domains:
        if domain.key in stated:
            raise SpecError(f"--over {domain.key}: --set states it for every point: leave one of the two out")
        if domain.key.startswith("model."):  # no list has the keys of a model's own config
            _refuse_unread(document, folder, domain)


def run_sweep(
    sweep: Sweep, folder: Path, *, executor: Executor | None = None, progress: Progress | None = None
) -> Done:
    """Do what of a sweep is missing in a folder.

    Raises:
        DataError: the folder holds another sweep, or one of another version, or can't be written.
        SpecError: the scenario itself is none, or a domain varies nothing.
        WorkerError: workers were lost again and again.
    """
    check_sweep(sweep)  # a mistake is told before anything is written
    material = _material(sweep, executor)
    pieces = sweep.pieces()
    with _prepared(sweep, folder) as finished:
        missing = [number for number in range(len(pieces)) if number not in finished]
        done = sweep.plan.points - sum(len(pieces[number]) for number in missing)
        if progress is not None:
            progress(done, sweep.plan.points)

        def piece(number: int) -> tuple[int, list[dict[str, Any]]]:
            return pieces[number].start, sweep.plan.values(pieces[number])

        for number, rows in _in_any_order(material, missing, piece, executor):
            _keep(folder, number, rows)
            done += len(pieces[number])
            if progress is not None:
                progress(done, sweep.plan.points)
        failed = _failed(folder, len(pieces))
    return Done(sweep.plan.points, sweep.plan.points - failed, failed, folder)


def _material(sweep: Sweep, executor: Executor | None) -> Shared[Material]:
    """What all pieces share."""
    document, folder = sweep.stated
    swept = {domain.key: domain.values for domain in sweep.plan.domains}
    here = has_files_of_this_machine(executor)
    carried = NOTHING if here else carried_of(document, swept, folder)
    return shared(executor, Material(document, folder, sweep.command, carried, texts_of(swept)))


def _refuse_unread(document: Mapping[str, Any], folder: Path, domain: Domain) -> None:
    """Refuse a domain of a key that the model's reader does not know, rather than in every row.

    Raises:
        SpecError: as said.
    """
    for value in (domain.values[0], domain.values[-1]):
        try:
            build_scenario(with_overrides(dict(document), overrides_of({domain.key: value})), folder=folder)
        except PerfModelError as error:  # another reason may be this value's alone: its rows say so
            if NOT_READ in str(error) or UNKNOWN in str(error):
                raise SpecError(f"--over {domain.key}: {error}") from None


def _in_any_order(
    material: Shared[Material],
    numbers: Sequence[int],
    piece: Callable[[int], tuple[int, list[dict[str, Any]]]],
    executor: Executor | None,
) -> Iterator[tuple[int, bytes]]:
    """Pieces as they get done: number, and rows as a file."""
    if executor is None:
        for number in numbers:
            yield number, work(material, *piece(number))
        return
    over: SimpleQueue[Future[bytes]] = SimpleQueue()
    waiting: dict[Future[bytes], int] = {}
    left = iter(numbers)
    try:
        while True:
            for number in islice(left, UNDER_WAY - len(waiting)):
                future = executor.submit(work, material, *piece(number))
                waiting[future] = number
                future.add_done_callback(over.put)
            if not waiting:
                return
            future = over.get()
            yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()


# --- the dataset ------------------------------------------------------------------------------------------------------


@contextmanager
def _prepared(sweep: Sweep, folder: Path) -> Iterator[set[int]]:
    """The folder with its description, nobody else's for as long as this lasts; which pieces are done in it.

    Raises:
        DataError: it holds something else, or is written by another run.
    """
    head, journal, pieces = folder / "sweep.json", folder / "journal.txt", folder / "pieces"
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
    with writing(folder):
        if not is_file(head) and is_folder(folder) and any(one.name not in OWN for one in folder.iterdir()):
            raise DataError(f"{quoted(folder)}: is not empty and no sweep's: give another --out")
        pieces.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not is_file(head):
            _replace(head, text.encode())
        with writing(folder):
            for half in (*folder.glob(".*.part"), *pieces.glob(".*.part")):  # of a run that was killed
                half.unlink()
        lines = _text(journal).split("\n") if is_file(journal) else [""]
        if lines[-1]:  # a kill in the middle of a line: that piece is done again
            _replace(journal, "\n".join([*lines[:-1], ""]).encode())
        numbers = {int(line) for line in lines[:-1] if re.fullmatch("[0-9]{1,7}", line)}
        yield {number for number in numbers if is_file(_piece(folder, number))}


OWN = ("pieces", ".lock", ".sweep.json.part")
"""What a run that was killed at its beginning leaves."""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A lock that ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    with writing(folder):
        lock = (folder / ".lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"{quoted(folder)}: another run is writing it: wait, or give another --out"
            ) from None
        yield


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
        if old.get("perfmodel") != new["perfmodel"]:
            return f"made by perfmodel {shown(old.get('perfmodel'))}, this is {new['perfmodel']}"
        keys = ["scenario" if key == "document" else key for key in new if old.get(key) != new[key]]
    except (DataError, AttributeError):
        return "its sweep.json can't be read"
    return f"{', '.join(keys) or 'its description'} differ{'s' if len(keys) == 1 else ''}"


def _piece(folder: Path, number: int) -> Path:
    return folder / "pieces" / f"{number:07d}.parquet"


def _keep(folder: Path, number: int, rows: bytes) -> None:
    """Write a piece, then say so."""
    _replace(_piece(folder, number), rows)
    journal = folder / "journal.txt"
    with writing(journal), journal.open("a") as file:
        file.write(f"{number}\n")
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, on the disk before anything says that it is there: the power may go. Nobody
    else writes here, so its temporary name needs no process in it.
    """
    half = path.with_name(f".{path.name}.part")
    with writing(path):
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)


def _failed(folder: Path, pieces: int) -> int:
    failed = 0
    for number in range(pieces):
        column = _table(_piece(folder, number), ["error"])["error"]
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
