"""Writing a file whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from perfmodel.errors import DataError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` to a temporary name beside ``path`` and rename it, so that no half-written file is ever seen.

    A link keeps its name and its target is replaced; a device or pipe (``/dev/stdout``) is written to directly.

    Raises:
        DataError: the folder does not exist, or the file can't be written there.
    """
    content = data.encode() if isinstance(data, str) else data
    check_writable(path)
    if path.exists() and not path.is_file():
        _write(path, path, content)
        return
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write(temporary, path, content)
        _replace(temporary, target, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a path whose folder is missing, or that is a folder itself.

    Raises:
        DataError: as said.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a file name in it, e.g. {path / 'step.html'}")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist; create it, or give another path")


def check_distinct(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that is another output's file, or one that is read: it would be lost.

    Raises:
        DataError: as said, with the names (an option or a key) of both.
    """
    taken = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), name)
        if other != name:
            raise DataError(f"{name} {path}: is the file of {other} too; give another path")


def _write(file: Path, asked: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise DataError(f"{asked}: can't be written: {error.strerror}") from error


def _replace(temporary: Path, target: Path, asked: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        raise DataError(f"{asked}: can't be written: {error.strerror}") from error
