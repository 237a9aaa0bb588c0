"""Writing a file whole or not at all."""

import hashlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from perfmodel.errors import DataError
from perfmodel.spec.paths import kind_of, quoted, resolved


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path``, whole or not at all: see :func:`atomic_file`.

    Raises:
        DataError: the folder does not exist, or the file can't be written there.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with atomic_file(path) as file, writing(path):
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, under a temporary name beside ``path``, that is renamed when all went well, so that no
    half-written file is ever seen. Whoever writes does it in :func:`writing`.

    A link keeps its name and its target is replaced; a device or pipe (``/dev/stdout``) is written to directly.

    Raises:
        DataError: the folder does not exist, or the file can't be written there.
    """
    check_writable(path)
    if kind_of(path) == "device":
        with writing(path):
            device = path.open("wb")
        with closing(device):
            yield device
        return
    target = resolved(path)
    _remove_leftovers(target)
    temporary = target.with_name(f"{_part_stem(target)}{os.getpid()}.part")
    try:
        with writing(path):
            file = temporary.open("wb")
        try:
            yield file
        finally:
            with writing(path):
                file.close()
        with writing(path):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file while it is written is told by the name that was asked for.

    Raises:
        DataError: it does.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be written: {error.strerror or error}") from error


def check_writable(path: Path) -> None:
    """Refuse a path whose folder is missing, or that is a folder itself.

    Raises:
        DataError: as said.
    """
    if kind_of(path) == "folder":
        raise DataError(
            f"{quoted(path)}: is a folder; give a file name in it, e.g. {quoted(path / 'step.html')}"
        )
    if kind_of(path.parent) != "folder":
        raise DataError(
            f"{quoted(path)}: the folder {quoted(path.parent)} does not exist; create it, or give another path"
        )


def check_distinct(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that is another output's file, or one that is read: it would be lost.

    Raises:
        DataError: as said, with the names (an option or a key) of both.
    """
    taken = {resolved(path): name for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(resolved(path), name)
        if other != name:
            raise DataError(f"{name} {path}: is the file of {other} too; give another path")


_NAME_BYTES = 180
"""Of a name that a temporary one can begin with: file systems take 255."""


@cache
def _machine() -> str:
    """This machine in six letters, for folders that several share: a process id means nothing on another."""
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:6]


def _part_stem(target: Path) -> str:
    """What temporary names of a file begin with, before the process's id."""
    name = target.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}.{_machine()}-"


def _remove_leftovers(target: Path) -> None:
    """Remove what processes of this machine that are no more left of the same file; what can't be removed stays."""
    own = re.compile(re.escape(_part_stem(target)) + r"([0-9]{1,9})\.part\Z")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            found = own.fullmatch(name)
            if found and not _lives(int(found[1])):
                target.with_name(name).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether there is a process of this id; one that may not be asked is one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
