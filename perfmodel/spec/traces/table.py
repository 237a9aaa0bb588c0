"""Traces that are tables of rows, read block by block: what all of them share.

A parser reads a block twice over: fast, all lines in one go, and, if that finds anything that is not clean, line by
line, to name the line. The slow way decides what is allowed; the fast one may only refuse more.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.traces.dialects import Columns
from perfmodel.spec.traces.sessions import link_sessions
from perfmodel.spec.traces.stated import MAX_REQUESTS, MAX_TOKENS, TurnInputs
from perfmodel.spec.traces.stream import Aside, TraceStream
from perfmodel.spec.traces.trace import Floats, Ints, Trace, Window
from perfmodel.spec.traces.values import MAX_SECONDS

MAX_HASH_IDS = 100_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of one block, as in :class:`Trace`; ``hashes`` holds one count per row and all ids."""

    seconds: Floats
    """Since the trace's first row; 0 where the file has no times, the row's before where a turn has only a delay."""
    input: Ints
    output: Ints
    hashes: tuple[Ints, Ints] | None = None
    session: Ints | None = None
    """Number of the row's session, -1: none."""
    pause_s: Floats | None = None
    """From the end of the session's row before; nan: not stated."""
    took_s: Floats | None = None
    """How long the answer took; nan: not known."""

    def clean(self, last_s: float, *, ordered: bool = True) -> bool:
        """Whether every value is allowed and, where rows are in order, time does not run backwards."""
        n = len(self.seconds)
        return n == 0 or bool(
            (np.abs(self.seconds) <= MAX_SECONDS).all()
            and (
                not ordered or (self.seconds[0] >= last_s and (n == 1 or (np.diff(self.seconds) >= 0).all()))
            )
            and self.output.min() >= 0
            and max(self.input.max(), self.output.max()) <= MAX_TOKENS
            and ((self.input >= 1) | (self.output == 0)).all()
            and self.input.min() >= 0
        )


class Parser(Protocol):
    """Parses blocks of lines; both ways give seconds since the trace's first row, and agree."""

    path: Path
    """The file, for messages."""
    columns: Columns
    """What is read of it."""
    notes: list[str]
    """What was taken for granted, in words."""

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, look closer."""

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""


def read_lines(
    parser: Parser,
    blocks: Iterable[tuple[int, list[str]]],
    name: str,
    window: Window,
    turn_inputs: TurnInputs = "whole",
    hold: int = MAX_REQUESTS,
) -> Trace | TraceStream:
    """The trace in blocks of lines; a block is the number of its first line, and its lines.

    Raises:
        DataError: as :func:`read_table`, or a line that is no request.
    """

    def rows() -> Iterable[Rows]:
        last_s = -np.inf
        for first_line, lines in blocks:
            if lines:
                found = parser.fast(lines, last_s) or parser.slow(lines, first_line, last_s)
                last_s = float(found.seconds[-1])
                yield found

    return read_table(rows(), parser, name, window, turn_inputs, hold)


class Source(Protocol):
    """Where blocks of rows come from: a parser of lines, or a file of columns."""

    path: Path
    columns: Columns
    notes: list[str]


def read_table(
    blocks: Iterable[Rows],
    source: Source,
    name: str,
    window: Window,
    turn_inputs: TurnInputs = "whole",
    hold: int = MAX_REQUESTS,
) -> Trace | TraceStream:
    """Columns of a table, block by block; a stream of them where there are more than ``hold`` that stand alone.

    Raises:
        DataError: more than MAX_REQUESTS requests, none in the window, or sessions that make no sense.
    """
    path, columns = source.path, source.columns
    if columns.time is None and columns.delay is None and (window.start_s or window.duration_s is not None):
        raise DataError(f"{path}: has no times, so start_s and duration_s select nothing: leave them out")
    kept: list[Rows] = []
    aside = Aside(window, ordered=columns.ordered) if hold < MAX_REQUESTS else None
    count = ids = dropped = 0
    last_s, any_row = -np.inf, False
    for rows in blocks:
        any_row, last_s = True, float(rows.seconds[-1])
        within = (rows.seconds >= window.start_s) & (rows.seconds < window.end_s)
        if not columns.ordered:  # the first row's time is not the start: the window is cut when all are there
            within = np.ones(len(rows.seconds), dtype=bool)
        served = within & (rows.output > 0)
        if window.num_requests is not None and columns.ordered:
            before: Ints = np.cumsum(served) - served  # so many are served ahead of each row
            within &= before < window.num_requests - count
        kept.append(selected(rows, np.flatnonzero(within & served)))
        dropped += int((within & ~served).sum())
        count += len(kept[-1].seconds)
        ids += len(kept[-1].hashes[1]) if kept[-1].hashes else 0
        if ids > MAX_HASH_IDS:
            raise DataError(f"{path}: more than {MAX_HASH_IDS:,} hash ids: read a part with num_requests")
        if count > MAX_REQUESTS:
            raise DataError(
                f"{path}: more than {MAX_REQUESTS:,} requests: read a part with num_requests, or start_s and duration_s"
            )
        if count > hold:
            kept = _put_aside(kept, aside)
        enough = window.num_requests is not None and count >= window.num_requests
        if columns.ordered and (last_s >= window.end_s or enough):
            break
    if not any_row:
        raise DataError(f"{path}: has a header at most, and no requests")
    if aside is not None and aside.rows and not kept:
        first, end = aside.span()
        if end - first > hold:
            notes = _notes(source, link_sessions(rows, columns, turn_inputs, path, select=selected)[2])
            return TraceStream(
                name, columns.format, end - first, dropped, notes, columns.time is not None,
                aside.spool, first, aside.origin_s, window.start_s,
            )  # fmt: skip
        kept = [Rows(*aside.all())]
    rows = _joined(kept)
    if not columns.ordered and len(rows.seconds):
        last_s = float(np.ptp(rows.seconds))
        rows = _in_order(rows, window)
    if not len(rows.seconds):
        if dropped:
            raise DataError(f"{path}: all {dropped:,} requests have no output: nothing to serve")
        raise DataError(
            f"{path}: no request from start_s = {window.start_s:g} to {window.end_s:g}: the trace ends at {last_s:g} s"
        )
    return _trace(rows, source, name, dropped, window, turn_inputs)


def _put_aside(kept: list[Rows], aside: Aside | None) -> list[Rows]:
    """What stays in memory of the rows that are kept: nothing, or all where one stands out of order or in a session."""
    if aside is None:
        return kept
    for number, rows in enumerate(kept):
        if not aside.takes(rows):
            before = [Rows(*aside.all())] if aside.rows else []
            aside.rows, aside.last_s = 0, np.inf
            return [*before, *kept[number:]]
        aside.add(rows)
    return []


def _in_order(rows: Rows, window: Window) -> Rows:
    """Rows by time, the first at 0, and those in the window."""
    order = np.argsort(rows.seconds, kind="stable")
    rows = selected(rows, order)
    rows = replace(rows, seconds=rows.seconds - rows.seconds[0])
    within = np.flatnonzero((rows.seconds >= window.start_s) & (rows.seconds < window.end_s))
    return selected(rows, within[: window.num_requests])


def _trace(
    rows: Rows, source: Source, name: str, dropped: int, window: Window, turn_inputs: TurnInputs
) -> Trace:
    columns = source.columns
    rows, parent, notes = link_sessions(rows, columns, turn_inputs, source.path, select=selected)
    hash_ids = hash_offsets = None
    if rows.hashes is not None and len(rows.hashes[1]):
        counts, hash_ids = rows.hashes
        hash_offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        without = int((counts == 0).sum())
        if without:
            notes.append(
                f"{without:,} of {len(counts):,} requests have no {columns.hashes}: they share no prefix"
            )
    times = rows.seconds - window.start_s
    arrivals = times if parent is None or rows.pause_s is None else np.where(parent < 0, times, rows.pause_s)
    return Trace(
        name=name,
        format=columns.format,
        arrival_s=None if columns.time is None and columns.delay is None else arrivals,
        input_tokens=rows.input,
        output_tokens=rows.output,
        hash_ids=hash_ids,
        hash_offsets=hash_offsets,
        hash_block_tokens=columns.block,
        parent=parent,
        times_s=times if parent is not None and columns.delay is None else None,
        num_dropped=dropped,
        notes=_notes(source, notes),
    )


def _notes(source: Source, more: list[str]) -> tuple[str, ...]:
    """What the source took for granted, ``more``, what it lacks and what of it is not read, in words."""
    columns, notes = source.columns, [*source.notes, *more]
    if columns.time is None and columns.delay is None:
        notes.append(
            "no times: lengths without arrival times; give workload.request_rate or workload.max_concurrency"
        )
    if columns.ignored:
        notes.append(f"not read: {', '.join(columns.ignored)}")
    return tuple(notes)


def _joined(kept: list[Rows]) -> Rows:
    """One block of all."""

    def joined(field: str) -> Any:
        parts = [getattr(rows, field) for rows in kept]
        return None if parts[0] is None else np.concatenate(parts)

    hashes = None
    if kept[0].hashes is not None:
        pairs = [rows.hashes for rows in kept if rows.hashes is not None]
        hashes = np.concatenate([counts for counts, _ in pairs]), np.concatenate([ids for _, ids in pairs])
    fields = ("seconds", "input", "output", "session", "pause_s", "took_s")
    return Rows(**{field: joined(field) for field in fields}, hashes=hashes)


def selected(rows: Rows, index: NDArray[np.intp]) -> Rows:
    """Some of the rows, in the order of the index."""
    hashes = None
    if rows.hashes is not None:
        counts, ids = rows.hashes
        starts = np.cumsum(counts) - counts
        mine = counts[index]
        # each id's place: its row's start, and how far into the row it stands
        places = np.repeat(starts[index] - (np.cumsum(mine) - mine), mine) + np.arange(int(mine.sum()))
        hashes = mine, ids[places]

    def some(column: Any) -> Any:
        return None if column is None else column[index]

    return Rows(
        rows.seconds[index],
        rows.input[index],
        rows.output[index],
        hashes,
        some(rows.session),
        some(rows.pause_s),
        some(rows.took_s),
    )
