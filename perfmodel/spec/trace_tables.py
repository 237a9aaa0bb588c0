"""Traces that are tables of lines, read block by block: what all of them share.

A parser reads a block twice over: fast, all lines in one go, and, if that finds anything that is not clean, line by
line, to name the line. The slow way decides what is allowed; the fast one may only refuse more.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.trace import MAX_REQUESTS, MAX_TOKENS, Floats, Ints, Trace, Window

MAX_SECONDS = 1e12
"""Of a numeric timestamp: more than any clock shows, few enough that a float64 still resolves 0.1 ms."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""A number as tables write it; Python also reads 5_0 and other scripts' digits."""
MAX_HASH_IDS = 100_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of one block, as in :class:`Trace`; ``hashes`` holds one count per row and all ids."""

    seconds: Floats
    input: Ints
    output: Ints
    hashes: tuple[Ints, Ints] | None = None

    def clean(self, last_s: float) -> bool:
        """Whether every value is allowed and time does not run backwards."""
        n = len(self.seconds)
        return n == 0 or bool(
            np.isfinite(self.seconds).all()
            and self.seconds[0] >= last_s
            and (n == 1 or (np.diff(self.seconds) >= 0).all())
            and self.output.min() >= 0
            and max(self.input.max(), self.output.max()) <= MAX_TOKENS
            and ((self.input >= 1) | (self.output == 0)).all()
            and self.input.min() >= 0
        )


class Parser(Protocol):
    """Parses blocks of lines; both ways give seconds since the trace's first row, and agree."""

    path: Path
    """The file, for messages."""

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, look closer."""

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""


def read_table(
    parser: Parser, blocks: Iterable[tuple[int, list[str]]], name: str, found: str, window: Window
) -> Trace:
    """Columns of a table of lines, block by block; a block is the number of its first line, and its lines.

    Raises:
        DataError: a line that is no request, more than MAX_REQUESTS requests, or none in the window.
    """
    path = parser.path
    kept: list[Rows] = []
    count = ids = dropped = 0
    last_s, any_row = -np.inf, False
    for first_line, lines in blocks:
        if not lines:
            continue
        rows = parser.fast(lines, last_s) or parser.slow(lines, first_line, last_s)
        any_row, last_s = True, float(rows.seconds[-1])
        within = (rows.seconds >= window.start_s) & (rows.seconds < window.end_s)
        served = within & (rows.output > 0)
        if window.num_requests is not None:
            before: Ints = np.cumsum(served) - served  # so many are served ahead of each row
            within &= before < window.num_requests - count
        kept.append(_selected(rows, np.flatnonzero(within & served)))
        dropped += int((within & ~served).sum())
        count += len(kept[-1].seconds)
        ids += len(kept[-1].hashes[1]) if kept[-1].hashes else 0
        if ids > MAX_HASH_IDS:
            raise DataError(f"{path}: more than {MAX_HASH_IDS:,} hash ids: read a part with num_requests")
        if count > MAX_REQUESTS:
            raise DataError(
                f"{path}: more than {MAX_REQUESTS:,} requests: read a part with num_requests, or start_s and duration_s"
            )
        if last_s >= window.end_s or (window.num_requests is not None and count >= window.num_requests):
            break
    if not any_row:
        raise DataError(f"{path}: has a header at most, and no requests")
    return _joined(kept, name, found, dropped, window, last_s, path)


def _joined(
    kept: list[Rows], name: str, found: str, dropped: int, window: Window, last_s: float, path: Path
) -> Trace:
    seconds = np.concatenate([rows.seconds for rows in kept])
    if not len(seconds):
        if dropped:
            raise DataError(f"{path}: all {dropped:,} requests have no output: nothing to serve")
        raise DataError(
            f"{path}: no request from start_s = {window.start_s:g} to {window.end_s:g}: the trace ends at {last_s:g} s"
        )
    hash_ids = hash_offsets = None
    if kept[0].hashes is not None:
        counts = np.concatenate([rows.hashes[0] for rows in kept if rows.hashes])
        hash_offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        hash_ids = np.concatenate([rows.hashes[1] for rows in kept if rows.hashes])
    return Trace(
        name=name,
        format=found,
        arrival_s=seconds - window.start_s,
        input_tokens=np.concatenate([rows.input for rows in kept]),
        output_tokens=np.concatenate([rows.output for rows in kept]),
        hash_ids=hash_ids,
        hash_offsets=hash_offsets,
        num_dropped=dropped,
    )


def _selected(rows: Rows, index: NDArray[np.intp]) -> Rows:
    """Some of the rows."""
    if len(index) == len(rows.seconds):
        return rows
    hashes = None
    if rows.hashes is not None:
        counts, ids = rows.hashes
        keep = np.zeros(len(counts), dtype=bool)
        keep[index] = True
        hashes = counts[index], ids[np.repeat(keep, counts)]
    return Rows(rows.seconds[index], rows.input[index], rows.output[index], hashes)


def number_of(text: str, what: str, most: float) -> float:
    """A finite number from 0 to ``most``."""
    value = float(text) if NUMBER.fullmatch(text) else np.nan
    if not 0 <= value <= most:
        raise DataError(f"{what} = {text[:40]!r}: must be a number from 0 to {most:g}")
    return value


def tokens_of(text: Any, what: str, least: int) -> int:
    """A whole number of tokens."""
    plain = type(text) in (int, float) or (isinstance(text, str) and NUMBER.fullmatch(text))
    try:
        value = float(text) if plain else np.nan
    except OverflowError:
        value = np.nan
    if not least <= value <= MAX_TOKENS or value != int(value):
        shown = repr(text)[:40] if text != "" else "nothing"
        raise DataError(f"{what} = {shown}: must be a whole number of tokens from {least} to {MAX_TOKENS:,}")
    return int(value)
