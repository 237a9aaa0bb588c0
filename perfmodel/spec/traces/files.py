"""Lines of a text file, plain or gzipped, a few megabytes at a time, with their numbers."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from perfmodel.errors import DataError

MAX_LINE_BYTES = 4 * 2**20
BLOCK_BYTES = 4 * 2**20
MAX_BLANK_LINES = 1000
"""In a row; more are not looked through for what may stand behind them."""


def opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked if it is gzipped (told by its first bytes, whatever its name)."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


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
        if not newline:
            rest += tail
        else:
            lines = _decoded(rest + whole, path, line)
            rest = tail
            line += len(lines)
            end = len(lines)
            while end and not lines[end - 1].strip():
                end -= 1
            if end:  # blank lines that something follows are not at the end: they belong to this block
                yield line - len(lines) - pending, [""] * pending + lines[:end]
                pending = 0
            pending += len(lines) - end
            if pending > MAX_BLANK_LINES:
                raise DataError(
                    f"{path}: line {line - pending} is empty, and so are {pending - 1:,} lines behind it"
                )
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}: line {line} is longer than {MAX_LINE_BYTES:,} bytes, which no request is"
            )
    if rest.strip():
        yield line - pending, [""] * pending + _decoded(rest, path, line)


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
