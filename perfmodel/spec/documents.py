"""Reading YAML and JSON files that may be broken or hostile.

A document is refused, with its name and what is wrong, when it is larger than a megabyte (JSON: four), is not UTF-8,
has a duplicate key, an alias or anchor (a few lines of them can expand to gigabytes), a tag, NaN or infinity, or nests
deeper than 50 levels. Nothing is ever executed or unpickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.paths import opened, quoted
from perfmodel.spec.plain_yaml import NotPlain, parse_plain

MAX_BYTES = 2**20
MAX_JSON_BYTES = 2**22
"""A config that names the quantised format of each expert of each layer has 3 MB (MiniMax-M3-NVFP4)."""
MAX_DEPTH = 50
HOLDERS = frozenset((dict, list))


def read_document(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; ``infinite``: JSON may hold NaN and infinity, as published configs do.

    Raises:
        DataError: the file can't be read, is malformed or hostile, or is not a mapping.
    """
    most = MAX_JSON_BYTES if path.suffix == ".json" else MAX_BYTES
    try:
        with opened(path) as file:  # a device states no size and may never end
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"{path}: larger than {most} bytes, which no scenario or config is")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{quoted(path)}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be read: {error.strerror or error}") from error
    except DataError:
        raise
    except ValueError as error:  # a null character, or half a surrogate pair
        raise DataError(f"{quoted(path)}: no file can have that name ({error})") from error
    value = (
        parse_json(text, str(path), infinite=infinite)
        if path.suffix == ".json"
        else parse_yaml(text, str(path))
    )
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold a mapping of keys to values, holds {_kind(value)}")
    return value


def parse_json(text: str, name: str, *, infinite: bool = False) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: malformed, duplicate keys, NaN or infinity, or nested too deep.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, name),
            parse_constant=float if infinite else lambda constant: _refuse_constant(constant, name),
        )
    except json.JSONDecodeError as error:
        raise DataError(f"{name}: not valid JSON: {error.msg} at line {error.lineno}") from error
    except (RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: not valid JSON: {_short(error)}") from error
    _check_depth(value, name)
    return value


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML 1.2 text.

    Raises:
        DataError: malformed, duplicate keys, aliases, tags, or nested too deep.
    """
    try:
        return parse_plain(text)
    except NotPlain:
        return _parse_any_yaml(text, name)


def _parse_any_yaml(text: str, name: str) -> Any:
    """By ruamel.yaml: slow, complete, and it says what is wrong."""
    from ruamel.yaml import YAML  # deferred: slow to import, and what people write is mostly plain
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        depth = 0
        for event in yaml.parse(text):
            depth = _refuse_event(event, depth, name)
        value = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or _short(error)
        raise DataError(f"{name}: not valid YAML: {_short(problem)}{where}") from error
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: not valid YAML: {_short(error)}") from error
    _check_keys(value, name)
    return value


def _refuse_event(event: Any, depth: int, name: str) -> int:
    """The nesting depth after ``event``; raises DataError for aliases, tags and excessive depth."""
    kind = type(event).__name__
    if kind == "AliasEvent" or getattr(event, "anchor", None):
        line = event.start_mark.line + 1
        raise DataError(f"{name}: line {line}: anchors and aliases are not allowed; write the value out")
    tag = getattr(event, "tag", None)
    if tag is not None and str(tag) not in ("", "!") and getattr(event, "implicit", (True,)) is not True:
        raise DataError(f"{name}: line {event.start_mark.line + 1}: tag {tag} is not allowed")
    if kind in ("MappingStartEvent", "SequenceStartEvent"):
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{name}: nested deeper than {MAX_DEPTH} levels")
    elif kind in ("MappingEndEvent", "SequenceEndEvent"):
        depth -= 1
    return depth


def _unique(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise DataError(f"{name}: key {key!r} appears twice")
        seen[key] = value
    return seen


def _refuse_constant(constant: str, name: str) -> Any:
    raise DataError(f"{name}: {constant} is not a number that JSON or perfmodel allows")


def _check_depth(value: Any, name: str) -> None:
    """Level by level, which is several times as fast as a call for each value."""
    level = [value] if type(value) in HOLDERS else []
    for _ in range(MAX_DEPTH + 2):
        if not level:
            return
        level = [
            child
            for holder in level
            for child in (holder.values() if isinstance(holder, dict) else holder)
            if type(child) in HOLDERS
        ]
    raise DataError(f"{name}: nested deeper than {MAX_DEPTH} levels")


def _check_keys(value: Any, name: str) -> None:
    """Keys of a mapping must be text: YAML allows anything."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str):
                raise DataError(f"{name}: key {key!r} must be text, is {_kind(key)}")
            _check_keys(child, name)
    elif isinstance(value, list):
        for child in value:
            _check_keys(child, name)


def _kind(value: Any) -> str:
    return {"NoneType": "nothing", "list": "a list", "str": "text"}.get(
        type(value).__name__, type(value).__name__
    )


def _short(error: object) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
