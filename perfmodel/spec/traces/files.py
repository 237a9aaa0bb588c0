"""Lines of a text file, plain or gzipped, a few megabytes at a time, with their numbers."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from perfmodel.errors import DataError
from perfmodel.spec.paths import kind_of, quoted

MAX_LINE_BYTES = 4 * 2**20
BLOCK_BYTES = 4 * 2**20
UNPACKED_BYTES = 16 * 2**20
"""A gzipped file may always unpack to this much."""
UNPACKED_TIMES = 200
"""Traces shrink by a factor of 3 to 30; gzip's most is 1,032."""
MOST_BLANK = 100_000
"""Blank lines in a row that may still turn out to be the file's end."""


def opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked if it is gzipped (told by its first bytes, whatever its name)."""
    try:
        if kind_of(path) == "device":
            raise DataError(f"{quoted(path)}: is a device or a pipe; a trace is a file")
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return _Unpacked(path) if packed else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be read: {error.strerror or error}") from error


class _Unpacked(gzip.GzipFile):
    """A gzipped file, refused once it has unpacked to far more than requests would."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path, self._most = path, max(UNPACKED_BYTES, UNPACKED_TIMES * path.stat().st_size)
        self._unpacked = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, at most as many as may still come and one.

        Raises:
            DataError: more than that.
        """
        left = self._most - self._unpacked + 1
        found = super().read(left if size is None or size < 0 else min(size, left))
        self._unpacked += len(found)
        if self._unpacked > self._most:
            raise DataError(
                f"{quoted(self._path)}: unpacks to more than {UNPACKED_TIMES} times its size, which no trace does: "
                "unpack it first if it really is one"
            )
        return found


def guarded(path: Path, read: Callable[[], bytes]) -> bytes:
    """What ``read`` gives; a damaged file is the user's mistake, not ours."""
    try:
        return read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def blocks(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Whole lines, a few megabytes at a time: the number of the first, and their texts without line ends.

    Blank lines at the end of the file are dropped; elsewhere they are left for the parser to refuse.
    """
    line, rest, pending = 1, b"", 0
    while chunk := guarded(path, lambda: file.read(BLOCK_BYTES)):
        whole, newline, tail = chunk.rpartition(b"\n")
        if pending and newline and not (rest + whole).strip():  # nothing but blank lines: counted, not listed
            pending += whole.count(b"\n") + 1
            line += whole.count(b"\n") + 1
            rest = tail
            _refuse_blank(pending, line - pending, path)
        elif not newline:
            rest += tail
        else:
            lines = _decoded(rest + whole, path, line)
            rest = tail
            line += len(lines)
            end = len(lines)
            while end and not lines[end - 1].strip():
                end -= 1
            if end:
                if pending:  # something follows, so they are not the end: one of them is enough to be refused
                    yield line - len(lines) - pending, [""]
                yield line - len(lines), lines[:end]
                pending = 0
            pending += len(lines) - end
            _refuse_blank(pending, line - pending, path)
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}: line {line} is longer than {MAX_LINE_BYTES:,} bytes, which no request is"
            )
    if rest.strip():
        if pending:
            yield line - pending, [""]
        yield line, _decoded(rest, path, line)


def _refuse_blank(pending: int, first: int, path: Path) -> None:
    if pending > MOST_BLANK:
        raise DataError(
            f"{quoted(path)}: line {first} is empty, and {MOST_BLANK:,} lines after it: this is no trace"
        )


def _decoded(block: bytes, path: Path, first_line: int) -> list[str]:
    """Lines of a block; carriage returns before line ends go."""
    if first_line == 1:
        block = block.removeprefix(b"\xef\xbb\xbf")
    try:
        return block.decode("utf-8").replace("\r\n", "\n").removesuffix("\r").split("\n")
    except UnicodeDecodeError as error:
        number = first_line + block.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}: line {number}: not UTF-8 text (byte 0x{block[error.start]:02x}): convert the file to UTF-8"
        ) from error
