"""A trace that is too long to be held: read once, checked, and put aside as plain columns to be gone through again.

The columns lie in unnamed temporary files (24 bytes per request, in the system's folder for them, ``TMPDIR``). So
nothing that is simulated rests on a line that was not looked at, a file that changes meanwhile does no harm, and text
is parsed once. Only requests that stand alone and come in the order of their times are taken so: sessions, and prefixes
of hashed blocks, need all that came before them.
"""

import hashlib
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.traces.trace import Floats, Ints, Window

if TYPE_CHECKING:
    from perfmodel.spec.traces.table import Rows

COLUMNS = (np.float64, np.int64, np.int64)
"""Times (s), prompts and outputs (tokens)."""
HASH_ROWS = 1 << 17
"""Requests whose columns are read back together to be hashed."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some requests that follow each other; columns (n,) as in :class:`perfmodel.spec.traces.trace.Trace`."""

    arrival_s: Floats | None
    input_tokens: Ints
    output_tokens: Ints


class Spool:
    """COLUMNS that are written once, in order, and read as often as is wanted."""

    def __init__(self) -> None:
        try:
            self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in COLUMNS]  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: no temporary file can be made: {error.strerror}"
            ) from error

        weakref.finalize(self, _close, self._files)

    def add(self, *columns: Any) -> None:
        """More rows.

        Raises:
            DataError: there is no room for them.
        """
        try:
            for file, column in zip(self._files, columns, strict=True):
                file.write(np.ascontiguousarray(column).data)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: {error.strerror}: a long trace takes 24 bytes per request there; the "
                "environment's TMPDIR names another folder"
            ) from error

    def _piece(self, which: int, kind: type, first: int, rows: int) -> Any:
        file = self._files[which]
        file.flush()
        file.seek(first * np.dtype(kind).itemsize)
        found: Any = np.fromfile(file, kind, rows)
        file.seek(0, 2)
        return found

    def around(self, first: int, end: int, rows: int) -> Iterator[tuple[Floats, Ints, Ints]]:
        """Rows from ``first`` up to ``end`` of the three columns of a trace, ``rows`` at a time."""
        for at in range(first, end, rows):
            count = min(rows, end - at)
            yield tuple(self._piece(which, kind, at, count) for which, kind in enumerate(COLUMNS))


def _close(files: list[IO[bytes]]) -> None:
    for file in files:
        file.close()


@dataclass(frozen=True, slots=True)
class TraceStream:
    """A trace's requests, in the order of arrival, to be gone through any number of times."""

    name: str
    """Catalogue name or path."""
    format: str
    """As in :class:`perfmodel.spec.traces.trace.Trace`."""
    num_requests: int
    num_dropped: int
    """Requests without output that were left out."""
    notes: tuple[str, ...]
    """What the file lacks and what of it is not read, in words."""
    timed: bool
    """Whether the file says when requests came."""
    spool: Spool
    """Times (s), prompts and outputs (tokens)."""
    first: int = 0
    """Row of the spool that is the first of these requests."""
    origin_s: float = 0.0
    """Where the trace's clock starts, on that of the spool."""
    start_s: float = 0.0
    """Where the part begins that is read, on the trace's clock."""

    def stretches(self, rows: int) -> Iterator[Stretch]:
        """All requests, ``rows`` at a time."""
        for seconds, inputs, outputs in self.spool.around(self.first, self.first + self.num_requests, rows):
            yield Stretch((seconds - self.origin_s) - self.start_s if self.timed else None, inputs, outputs)

    @property
    def id(self) -> str:
        """That of the same trace as a :class:`perfmodel.spec.traces.trace.Trace`."""
        digest = hashlib.sha256()
        for name in ("arrival_s", "input_tokens", "output_tokens"):
            for stretch in self.stretches(HASH_ROWS):
                column = getattr(stretch, name)
                digest.update(b"" if column is None else column.tobytes())
        return digest.hexdigest()[:16]


class Aside:
    """Requests of a table that are put aside while it is read, as long as they stand alone and come in order."""

    def __init__(self, window: Window, *, ordered: bool) -> None:
        """``ordered``: rows are those of the window, from the trace's own start; else the first one is the start, and
        the window has yet to be cut.
        """
        self.spool, self.rows = Spool(), 0
        self._window, self._ordered = window, ordered
        self.origin_s = 0.0
        self.last_s = -np.inf
        self._first = self._end = 0

    def takes(self, rows: "Rows") -> bool:
        """Whether these may follow."""
        alone = rows.session is None and rows.hashes is None and rows.pause_s is None
        seconds = rows.seconds
        return alone and not (len(seconds) and (seconds[0] < self.last_s or (np.diff(seconds) < 0.0).any()))

    def add(self, rows: "Rows") -> None:
        """They do.

        Raises:
            DataError: there is no room for them.
        """
        if not len(rows.seconds):
            return
        if not self.rows and not self._ordered:
            self.origin_s = float(rows.seconds[0])
        self.last_s = float(rows.seconds[-1])
        self.spool.add(rows.seconds, rows.input, rows.output)
        self.rows += len(rows.seconds)
        on_clock = rows.seconds - self.origin_s
        self._first += int(np.searchsorted(on_clock, self._window.start_s))
        self._end += int(np.searchsorted(on_clock, self._window.end_s))

    def span(self) -> tuple[int, int]:
        """First row and end of what is in the window."""
        if self._ordered:
            return 0, self.rows
        most = self._window.num_requests
        return self._first, self._end if most is None else min(self._end, self._first + most)

    def all(self) -> "tuple[Floats, Ints, Ints]":
        """Everything that was put aside, into memory."""
        found = next(self.spool.around(0, self.rows, self.rows), None)
        assert found is not None
        return found
