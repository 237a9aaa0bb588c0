"""Traces in lines of JSON, an object per request: Mooncake's and its relatives, with ids by which prefixes show."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.traces.dialects import Columns, Unit
from perfmodel.spec.traces.stated import MAX_TOKENS
from perfmodel.spec.traces.table import Rows
from perfmodel.spec.traces.trace import Ints
from perfmodel.spec.traces.values import (
    MAX_SECONDS,
    SECONDS,
    clock_of,
    is_date,
    nanoseconds_of,
    number_of,
    tokens_of,
)
from perfmodel.units import MS

WORDS_FROM = 2**62
"""Ids that are words, or too long for 64 bits, are numbered from here on, where no number of a trace is."""
BLOCKS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Sizes of hashed blocks that are tried, tokens."""
_NOTHING = object()


def flat_keys(row: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys of an object, those of objects inside it with dots."""
    keys = []
    for key, value in row.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += flat_keys(value, f"{prefix}{key}.")
    return keys


def value_at(row: Any, path: str) -> Any:
    """What a key, or a path with dots, holds; _NOTHING: there is no such key."""
    if isinstance(row, dict) and path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    if dot and isinstance(row, dict) and head in row:
        return value_at(row[head], rest)
    return _NOTHING


def block_tokens(rows: list[Any], columns: Columns, where: str) -> int:
    """Tokens per hash id, from the first rows: the dialect's, unless lengths and numbers of ids agree on another.

    Raises:
        DataError: no size fits, or several do and the dialect's does not.
    """
    pairs = [
        (tokens, len(ids))
        for row in rows
        for tokens, ids in [(value_at(row, columns.input), value_at(row, columns.hashes or ""))]
        if isinstance(ids, list) and ids and type(tokens) is int
    ]
    if not pairs:
        return columns.block
    exact = [
        size
        for size in BLOCKS
        if all(tokens // size <= count <= -(-tokens // size) for tokens, count in pairs)
    ]
    if columns.block in exact:
        return columns.block
    if len(exact) == 1:
        return exact[0]
    tokens, count = pairs[0]
    if not exact and count <= -(-tokens // columns.block):
        return (
            columns.block
        )  # prompts of which only a part is hashed; the parser names a row of which too much is
    fit = f"{' and '.join(map(str, exact))} tokens per id fit" if exact else "no usual size of block fits"
    raise DataError(
        f"{where}: {count} {columns.hashes} for a prompt of {tokens} tokens: {fit}: give workload.hash_block_tokens"
    )


class JsonParser:
    """One object per line; both ways of :class:`Parser`."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path, self.columns = path, columns
        self.notes: list[str] = []
        self.unit: Unit | None = None  # settled by the first row
        self.origin: float | None = None
        self.sessions: dict[Any, int] = {}
        self.words: dict[Any, int] = {}

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, or unusual: look closer."""
        c = self.columns
        if c.time is None or c.delay or "." in f"{c.time}{c.input}{c.output}":
            return None
        if (self.unit is None and not self._settle(lines[0])) or self.unit == "dates":
            return None
        try:
            rows = json.loads(f"[{','.join(lines)}]")
            columns = [[row[key] for row in rows] for key in (c.time, c.input, c.output)]
            if any(set(map(type, column)) - {int, float} for column in columns) or len(rows) != len(lines):
                return None
            hash_lists = [row.get(c.hashes, ()) for row in rows] if c.hashes else []
            times, *counts = (np.asarray(column, dtype=np.float64) for column in columns)
            flat = list(chain.from_iterable(hash_lists))
            if set(map(type, flat)) - {int} or set(map(type, hash_lists)) - {list, tuple}:
                return None
            hashes = np.asarray(list(map(len, hash_lists)), dtype=np.int64), np.asarray(flat, dtype=np.int64)
            sessions = [self._session(row.get(c.session)) for row in rows] if c.session else []
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, IndexError, DataError):
            return None
        numbers = np.stack(counts)
        if not (np.abs(numbers) <= MAX_TOKENS).all() or (numbers != np.rint(numbers)).any():
            return None
        if not ((times >= 0) & (times <= self._most())).all():
            return None
        origin = float(times[0]) if self.origin is None else self.origin
        prompts, outputs = numbers.astype(np.int64)
        table = Rows(
            (times - origin) * self._scale(),
            prompts,
            outputs,
            hashes if c.hashes else None,
            np.asarray(sessions, dtype=np.int64) if c.session else None,
        )
        if not table.clean(last_s, ordered=c.ordered) or (
            c.hashes and not self._hashes_fit(table.input, *hashes)
        ):
            return None
        self.origin = origin
        return table

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""
        c = self.columns
        seconds, counts, lengths, sessions, pauses = [], [], [], [], []
        ids: list[int] = []
        for number, line in enumerate(lines, first_line):
            where = f"{self.path}: line {number}"
            row = self._object(line, where)
            begun = len(self.sessions)
            session = self._session(self._get(row, c.session), where)
            delay = self._get(row, c.delay)
            raw = self._get(row, c.time)
            if raw is None and c.time is not None:
                if delay is None or session < 0 or len(self.sessions) > begun:
                    raise DataError(f"{where}: has no {c.time}, which every session's first request needs")
                now = last_s
            else:
                now = 0.0 if c.time is None else self._now(raw, where)
            if now < last_s and c.ordered:
                raise DataError(
                    f"{where}: {c.time} = {raw} is {last_s - now:g} s before the line above: sort by time"
                )
            last_s = now
            seconds.append(now)
            output = tokens_of(self._get(row, c.output), f"{where}: {c.output}", least=0)
            prompt = tokens_of(self._get(row, c.input), f"{where}: {c.input}", least=1 if output else 0)
            counts.append((prompt, output))
            sessions.append(session)
            pauses.append(
                np.nan if delay is None else MS * number_of(delay, f"{where}: {c.delay}", MAX_SECONDS / MS)
            )
            own = self._hash_ids(row, prompt, where)
            lengths.append(len(own))
            ids += own
        table = np.asarray(counts, dtype=np.int64)
        hashes = np.asarray(lengths, dtype=np.int64), np.asarray(ids, dtype=np.int64)
        return Rows(
            np.asarray(seconds),
            table[:, 0].copy(),
            table[:, 1].copy(),
            hashes if c.hashes else None,
            np.asarray(sessions, dtype=np.int64) if c.session else None,
            np.asarray(pauses) if c.delay else None,
        )

    def _settle(self, line: str) -> bool:
        """Learns the unit of times from the first row; False: it has none that is plain."""
        try:
            self._now(self._get(json_object(line, ""), self.columns.time), "")
        except DataError:
            return False  # the slow way says it with the line
        self.origin = None
        return True

    def _now(self, raw: Any, where: str) -> float:
        """Seconds since the first row, of a time as the file has it."""
        c = self.columns
        what = f"{where}: {c.time}"
        if isinstance(raw, str) and (c.unit == "dates" or (c.unit is None and is_date(raw))):
            self.unit, time = "dates", float(nanoseconds_of(raw, what))
        else:
            scale = SECONDS["ns"] if c.unit in (None, "dates") or self.unit is None else self._scale()
            if isinstance(raw, str):
                raise DataError(f"{what} = {raw[:40]!r}: must be a number, stands in quotes")
            time = number_of(raw, what, MAX_SECONDS / scale)
        if self.unit is None:
            whole = not isinstance(raw, float)
            self.unit, told = clock_of(c, time, whole=whole, where=where)
            self.notes += [told] if told else []
        self.origin = time if self.origin is None else self.origin
        return (time - self.origin) * self._scale()

    def _scale(self) -> float:
        assert self.unit is not None
        return SECONDS[self.unit]

    def _most(self) -> float:
        return MAX_SECONDS / self._scale()

    @staticmethod
    def _get(row: dict[str, Any], name: str | None) -> Any:
        """What the row has under a column's name; None: nothing."""
        value = None if name is None else value_at(row, name)
        return None if value is _NOTHING else value

    def _session(self, value: Any, where: str = "") -> int:
        """The number of a session; -1 without an id."""
        if value is None or value == "":
            return -1
        if isinstance(value, (dict, list, bool)):
            raise DataError(
                f"{where}: {self.columns.session} = {str(value)[:40]}: must be a text or a number"
            )
        return self.sessions.setdefault(value, len(self.sessions))

    def _hash_ids(self, row: dict[str, Any], prompt: int, where: str) -> list[int]:
        """The line's ids as numbers; empty where it has none."""
        found = self._get(row, self.columns.hashes)
        if found is None:
            return []
        block = self.columns.block
        most = -(-prompt // block)
        fits = isinstance(found, list) and len(found) <= most
        plain = fits and all(
            (type(one) is int and one >= 0) or (isinstance(one, str) and one) for one in found
        )
        if not plain:
            raise DataError(
                f"{where}: {self.columns.hashes} = {str(found)[:40]}: must be a list of whole numbers or texts, one "
                "per "
                f"{block} tokens of the prompt, so at most {most} for {prompt} (workload.hash_block_tokens states "
                "another size)"
            )
        return [
            one
            if type(one) is int and one < WORDS_FROM
            else WORDS_FROM + self.words.setdefault(one, len(self.words))
            for one in found
        ]

    def _hashes_fit(self, prompts: Ints, counts: Ints, ids: Ints) -> bool:
        """Whether no request has more ids than blocks, and all are plain numbers."""
        if len(ids) and not (ids.min() >= 0 and ids.max() < WORDS_FROM):
            return False
        return bool((counts <= -(-prompts // self.columns.block)).all())

    def _object(self, line: str, where: str) -> dict[str, Any]:
        """One JSON line with the keys of a request."""
        row = json_object(line, where)
        missing = [key for key in self.columns.needed if value_at(row, key) is _NOTHING]
        if self.columns.delay and self.columns.time in missing:
            missing.remove(self.columns.time)
        if missing:
            raise DataError(
                f"{where}: {line[:60]!r} has no {' and no '.join(missing)}; a line of {self.columns.writer} needs "
                f"{', '.join(self.columns.needed)}"
            )
        return row


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line.

    Raises:
        DataError: empty, not JSON, or something else than an object.
    """
    if not line.strip():
        raise DataError(f"{where}: is empty; every line must be a request")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        end = line.rstrip()[-30:]
        raise DataError(f"{where}: not valid JSON (cut off?): it ends in {end!r}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: {line[:60]!r} is no JSON object; every line must be a request, {{...}}")
    return row
