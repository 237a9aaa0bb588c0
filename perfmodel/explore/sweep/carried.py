"""Files that a scenario names, carried to workers on other machines.

A scenario may name a calibration, a trace, a config and tables of routing by their path. Their bytes travel with
what all pieces share; a worker puts them in a folder of its own and reads them there. What is answered does not depend
on where that is: paths are in no figure and no hash, and a message gets the name back that the user gave.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec import catalogue
from perfmodel.spec.paths import is_file, is_folder, names_file, quoted, resolved
from perfmodel.spec.routing_files import READERS

MOST_BYTES = 512 * 2**20
"""Of all files of a sweep: they are held in every worker's memory."""
KEYS = (
    "calibration",
    "prefill.calibration",
    "ffns.calibration",
    "model",
    "model.base",
    "workload.trace",
    *(f"routing.{key}" for key in READERS),
)
"""Key paths whose text may name a file or a folder."""


@dataclass(frozen=True, slots=True)
class Here:
    """Where a worker has them: names as stated -> its own."""

    names: Mapping[str, str]
    told: Mapping[str, str]
    """Its own names -> as messages have them where the files are at home."""

    def moved(self, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """A document, or values by key path, with its own names."""
        if not self.names:
            return dict(values)
        found: dict[str, Any] = {}
        for key, value in values.items():
            path = f"{prefix}{key}"
            if isinstance(value, Mapping):
                found[key] = self.moved(value, f"{path}.")
            else:
                found[key] = (
                    self.names.get(value, value) if path in KEYS and isinstance(value, str) else value
                )
        return found

    def back(self, text: str) -> str:
        """A message with names as they were stated."""
        for own, told in self.told.items():
            text = text.replace(own, told)
        return text


@dataclass(frozen=True, slots=True)
class Carried:
    """Files by the name that the scenario gives them."""

    names: tuple[tuple[str, str, str], ...] = ()
    """As stated, as messages have it, and the path inside ``files`` that stands for it."""
    files: tuple[tuple[str, bytes], ...] = ()

    def here(self) -> Here:
        """The files put in a folder of this process, once."""
        return _put(self) if self.names else AT_HOME


AT_HOME = Here({}, {})
NOTHING = Carried()
"""Of a scenario that names no file, or whose workers have this machine's."""


def carried_of(document: Mapping[str, Any], swept: Mapping[str, Iterable[Any]], folder: Path) -> Carried:
    """The files that a document or swept values name.

    Raises:
        DataError: one can't be read, or they are more than anybody sends.
    """
    stated = {
        name: folder if key.startswith("model") else Path()  # others are anchored already
        for key in KEYS
        for name in (_at(document, key), *swept.get(key, ()))
        if isinstance(name, str)
    }
    names, files, left = [], [], MOST_BYTES
    for number, (name, place) in enumerate(stated.items()):
        path = _path_of(name, place)
        if path is None:
            continue
        real = resolved(path)  # a model is called after its file, or the file's real folder
        within = f"{number}/{real.parent.name or 'root'}"
        inside = f"{within}/{real.name if is_folder(path) else path.name}"
        names.append((name, str(path), inside))
        base = path if is_folder(path) else path.parent
        for file in _belonging(path):
            try:
                left -= file.stat().st_size
                if left < 0:
                    raise DataError(
                        f"{quoted(name)}: the sweep's files are larger than {MOST_BYTES / 2**20:.0f} MiB, too much to "
                        "send to each worker: leave --on ray out"
                    )
                data = file.read_bytes()
            except OSError as error:
                raise DataError(f"{quoted(file)}: can't be read: {error.strerror}") from error
            under = inside if is_folder(path) else within
            files.append((f"{under}/{file.relative_to(base)}", data))
    return Carried(tuple(names), tuple(files))


def _path_of(name: str, folder: Path) -> Path | None:
    """What a name leads to on this machine; None: a catalogue's name, or nothing (the answer says so)."""
    known = (names for kind in ("calibrations", "traces", "models") for names in catalogue.names(kind))
    if not ("/" in name or "." in name) or name in known:
        return None
    path = folder / name
    return path if is_file(path) or is_folder(path) else None


def _belonging(path: Path) -> list[Path]:
    """A folder's files; a file, and what is read beside it."""
    if is_folder(path):
        return sorted(file for file in path.rglob("*") if is_file(file))
    if path.name == "calibration.json":
        return _belonging(path.parent)
    beside = path.with_name(path.name.replace("config.json", "hf_quant_config.json"))
    return [path, *([beside] if names_file(path.name) and beside != path and is_file(beside) else [])]


def _at(document: Mapping[str, Any], key: str) -> Any:
    found: Any = document
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


@cache
def _put(carried: Carried) -> Here:
    folder = tempfile.TemporaryDirectory(prefix="perfmodel-")
    _FOLDERS.append(folder)
    for inside, data in carried.files:
        path = Path(folder.name) / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    own = [str(Path(folder.name) / inside) for _, _, inside in carried.names]
    return Here(
        {stated: there for (stated, _, _), there in zip(carried.names, own, strict=True)},
        {there: told for (_, told, _), there in zip(carried.names, own, strict=True)},
    )


_FOLDERS: list["tempfile.TemporaryDirectory[str]"] = []
"""Removed when the process ends."""
