"""Asking about a path that somebody unknown wrote: the one guarded way.

``Path.exists`` and its kin raise where a name is longer than the file system takes, a folder may not be entered, a name
holds a null character or what the system's encoding can't say. Each of those is the user's mistake and one line.
"""

import os
import select
import stat
from pathlib import Path
from typing import BinaryIO, Literal
from unicodedata import category

from perfmodel.errors import DataError

Kind = Literal["file", "folder", "device", "missing"]


def kind_of(path: Path | str) -> Kind:
    """What a path leads to: a device is anything but a file and a folder (a pipe, a terminal, /dev/null).

    Raises:
        DataError: the path can't be asked about.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be reached: {error.strerror or error}") from error
    except ValueError as error:  # a null character, or half a surrogate pair
        raise DataError(f"{quoted(path)}: no file can have that name ({error})") from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device"


def is_file(path: Path | str) -> bool:
    """Whether a path leads to a plain file.

    Raises:
        DataError: as :func:`kind_of`.
    """
    return kind_of(path) == "file"


def is_folder(path: Path | str) -> bool:
    """Whether a path leads to a folder.

    Raises:
        DataError: as :func:`kind_of`.
    """
    return kind_of(path) == "folder"


def names_file(name: str) -> bool:
    """Whether a scenario is a file rather than an entry of the catalogue."""
    return name.endswith((".yaml", ".yml", ".json"))


def resolved(path: Path | str) -> Path:
    """The file that a path leads to, links followed; one that does not exist yet too.

    Raises:
        DataError: the path can't be asked about, or its links lead in a circle.
    """
    kind_of(path)
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{quoted(path)}: can't be reached: its links lead in a circle") from error


def opened(path: Path | str) -> BinaryIO:
    """A file to read bytes from; a pipe too (``<(command)``), if somebody writes to it within PIPE_S.

    Raises:
        DataError: nobody does, or as :func:`kind_of`.
        OSError: it can't be opened.
    """
    if kind_of(path) != "device" or not stat.S_ISFIFO(os.stat(path).st_mode):
        return open(path, "rb")
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it would wait for a writer without end
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    if not waiting.poll(PIPE_S * 1000):
        os.close(pipe)
        raise DataError(f"{quoted(path)}: is a pipe that nobody writes to; give a file")
    os.set_blocking(pipe, True)
    return os.fdopen(pipe, "rb")


PIPE_S = 3.0


def quoted(path: Path | str) -> str:
    """A path as a message shows it: cut where it is long, and with nothing that a terminal would obey or refuse."""
    text = printable(str(path))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


LONGEST = 300


def printable(text: str) -> str:
    """Text without control characters (a terminal would obey them) and lone surrogates (no encoding can write them):
    each as its escape, a backslash and its number; line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one in "\n\t" or one.isprintable() or category(one) == "Zs" else _escaped(one) for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
