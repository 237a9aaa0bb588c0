"""Mooncake's traces: JSON lines with the ids of prompt blocks, so that shared prefixes show."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.trace import HASH_BLOCK_TOKENS, MAX_TOKENS, Ints
from perfmodel.spec.trace_tables import MAX_SECONDS, Rows, number_of, tokens_of
from perfmodel.units import MS

KEYS = ("timestamp", "input_length", "output_length")


class MooncakeParser:
    """JSON lines of timestamp (milliseconds), input_length, output_length and, in all lines or none, hash_ids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin: float | None = None
        self.hashed: bool | None = None  # whether lines have hash_ids: settled by the first

    def fast(self, lines: list[str], last_s: float) -> Rows | None:
        """The rows of a clean block; None: something may be wrong, look closer."""
        try:
            rows = json.loads(f"[{','.join(lines)}]")
            columns = [[row[key] for row in rows] for key in KEYS]
            hashed = "hash_ids" in rows[0]
            hash_lists = [row["hash_ids"] for row in rows] if hashed else []
            if any(set(map(type, column)) - {int, float} for column in columns) or len(rows) != len(lines):
                return None
            if not hashed and any("hash_ids" in row for row in rows):
                return None
            times, *counts = (np.asarray(column, dtype=np.float64) for column in columns)
            flat = list(chain.from_iterable(hash_lists))
            if set(map(type, flat)) - {int} or set(map(type, hash_lists)) - {list}:
                return None
            hashes = np.asarray(list(map(len, hash_lists)), dtype=np.int64), np.asarray(flat, dtype=np.int64)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, IndexError):
            return None
        numbers = np.stack(counts)
        if not (np.abs(numbers) <= MAX_TOKENS).all() or (numbers != np.rint(numbers)).any():
            return None
        if not ((times >= 0) & (times <= MAX_SECONDS)).all() or (self.hashed not in (None, hashed)):
            return None
        origin = float(times[0]) if self.origin is None else self.origin
        prompts, outputs = numbers.astype(np.int64)
        table = Rows((times - origin) * MS, prompts, outputs, hashes if hashed else None)
        if not table.clean(last_s) or (hashed and not _hashes_fit(table.input, *hashes)):
            return None
        self.origin, self.hashed = origin, hashed
        return table

    def slow(self, lines: list[str], first_line: int, last_s: float) -> Rows:
        """The rows, line by line; raises DataError that names the line."""
        seconds, counts, lengths, ids = [], [], [], []
        for number, line in enumerate(lines, first_line):
            where = f"{self.path}: line {number}"
            row = _object(line, where)
            raw = row["timestamp"]
            time = number_of(repr(raw), f"{where}: timestamp", MAX_SECONDS)  # a number in quotes is text
            self.origin = time if self.origin is None else self.origin
            now = (time - self.origin) * MS
            if now < last_s:
                raise DataError(
                    f"{where}: timestamp = {raw} is {last_s - now:g} s before the line above: sort by time"
                )
            last_s = now
            seconds.append(now)
            for key in ("output_length", "input_length"):
                if isinstance(row[key], str):
                    raise DataError(f"{where}: {key} = {row[key][:40]!r}: must be a number, is text")
            output = tokens_of(row["output_length"], f"{where}: output_length", least=0)
            prompt = tokens_of(row["input_length"], f"{where}: input_length", least=1 if output else 0)
            counts.append((prompt, output))
            own = self._hash_ids(row, prompt, where)
            lengths.append(len(own))
            ids += own
        table = np.asarray(counts, dtype=np.int64)
        hashes = np.asarray(lengths, dtype=np.int64), np.asarray(ids, dtype=np.int64)
        return Rows(
            np.asarray(seconds), table[:, 0].copy(), table[:, 1].copy(), hashes if self.hashed else None
        )

    def _hash_ids(self, row: dict[str, Any], prompt: int, where: str) -> list[int]:
        """The line's ids; empty where the trace has none."""
        hashed = "hash_ids" in row
        self.hashed = hashed if self.hashed is None else self.hashed
        if hashed != self.hashed:
            has, have = ("has", "have none") if hashed else ("has no", "have them")
            raise DataError(
                f"{where}: {has} hash_ids, the lines above {have}: give them in all lines or in none"
            )
        found: list[int] = row.get("hash_ids", [])
        most = -(-prompt // HASH_BLOCK_TOKENS)
        fits = isinstance(found, list) and len(found) <= most
        if not fits or any(type(one) is not int or not 0 <= one < 2**63 for one in found):
            raise DataError(
                f"{where}: hash_ids = {str(found)[:40]}: must be a list of whole numbers, one per "
                f"{HASH_BLOCK_TOKENS} tokens of the prompt, so at most {most} for {prompt}"
            )
        return found


def _hashes_fit(prompts: Ints, counts: Ints, ids: Ints) -> bool:
    """Whether no request has more ids than blocks, and none is negative."""
    return bool((counts <= -(-prompts // HASH_BLOCK_TOKENS)).all() and (len(ids) == 0 or ids.min() >= 0))


def _object(line: str, where: str) -> dict[str, Any]:
    """One JSON line with the three keys of a request."""
    if not line.strip():
        raise DataError(f"{where}: is empty; every line must be a request")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        end = line.rstrip()[-30:]
        raise DataError(f"{where}: not valid JSON (cut off?): it ends in {end!r}") from error
    missing = [key for key in KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(
            f"{where}: {line[:60]!r} has no {' and no '.join(missing)}; a line of Mooncake needs {', '.join(KEYS)}"
        )
    return row  # type: ignore[no-any-return]
