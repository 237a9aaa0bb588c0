"""Columns that come in pieces of some size and are wanted in pieces of another."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class Pieces:
    """One column, to be taken from the front."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._have: list[Any] = []

    def take(self, rows: int) -> Any:
        """The next rows (rows,); there must be as many."""
        found: list[Any] = []
        while rows > 0:
            piece = self._have.pop() if self._have else next(self._source)
            found.append(piece[:rows])
            if len(piece) > rows:
                self._have.append(piece[rows:])
            rows -= len(found[-1])
        return found[0] if len(found) == 1 else np.concatenate(found)


class Blocks:
    """Columns of equal length, gathered until a block of ``rows`` is whole."""

    def __init__(self, rows: int) -> None:
        self._rows, self._have, self._parts = rows, 0, []  # type: ignore[var-annotated]

    def add(self, *columns: Any) -> Iterator[tuple[Any, ...]]:
        """More of them; gives the blocks that are whole now."""
        self._parts.append(columns)
        self._have += len(columns[0])
        if self._have < self._rows:
            return
        whole = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        end = self._have - self._have % self._rows
        self._parts, self._have = [tuple(column[end:].copy() for column in whole)], self._have - end
        for first in range(0, end, self._rows):
            yield tuple(column[first : first + self._rows] for column in whole)

    def rest(self) -> tuple[Any, ...] | None:
        """What is left, less than a block; None: nothing."""
        if not self._have:
            return None
        whole = tuple(np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        self._parts, self._have = [], 0
        return whole
