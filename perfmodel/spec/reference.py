"""What every key of a scenario is: type, unit, default and meaning, read from the descriptions themselves.

The meaning is the string under a field in its source, which is the one place where it is written.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from perfmodel.spec.distributions import Distribution
from perfmodel.spec.keys import OWN_KEYS
from perfmodel.spec.scenario import Scenario

LEAST_UNBOUNDED = 1e9
"""Upper bounds from here on only keep arithmetic safe: they are not told."""
_SUFFIXES = {
    "tokens": "tokens",
    "tokens_per_gpu": "tokens",
    "us": "us",
    "ms": "ms",
    "s": "s",
    "gb_per_s": "GB/s",
    "gb_per_s_per_gpu": "GB/s",
    "tflops": "TFLOP/s",
    "bytes": "bytes",
    "w": "W",
    "usd_per_gpu_hour": "USD per GPU and hour",
    "rate": "1/s",
    "requests": "requests",
    "requests_per_gpu": "requests",
    "batch_per_gpu": "requests",
    "concurrency": "sessions",
    "share_per_hour": "1/h",
    "gpus": "GPUs",
    "experts": "experts",
    "running": "requests",
    "turns": "requests",
    "delay": "ms",
}
"""Units by how a key's name ends, in words of the name."""
_UNITLESS = {"shared_experts", "columns.delay"}
_AS = {f"prefill.{name}": name for name in ("deployment", "serving", "routing", "cluster", "prices", "power")}
"""Sections that have the keys of another one."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a scenario."""

    path: str
    type: str
    """In words, with the values or the range that are allowed."""
    unit: str
    """Empty: none, or that of what it holds."""
    default: str
    """In YAML; ``required``; ``-``: nothing, and ``meaning`` says what then holds."""
    meaning: str


@cache
def keys() -> tuple[Key, ...]:
    """Every key, a section before those inside it; what a distribution, or a section that another one describes, holds
    is not repeated.
    """
    return (
        *_keys(Scenario, ""),
        Key("engine", "text, or {name, version}", "", "-", "Short for deployment.engine and engine_version."),
        Key("base", "text", "", "-", "Scenario to start from: a catalogue name, or the path of a file."),
    )


def _keys(spec: type[BaseModel], prefix: str) -> Iterator[Key]:
    words = meanings(spec)
    for name, field in spec.model_fields.items():
        path = prefix + name
        kind = field.annotation
        inner = _section(kind)
        meaning = words.get(name, "")
        if path in _AS:
            meaning = f"{meaning} Its keys are those of `{_AS[path]}`."
        elif path in OWN_KEYS:
            meaning = "A catalogue name, the path of a config.json, or a mapping: base, and keys of its config over it."
        yield Key(path, _type(kind, field.metadata), _unit(path, kind), _default(field), meaning)
        if inner is not None and inner is not Distribution and path not in _AS and path not in OWN_KEYS:
            yield from _keys(inner, f"{path}.")


@cache
def meanings(spec: type[BaseModel]) -> dict[str, str]:
    """Field -> the string under it, of a description and those that it extends."""
    found: dict[str, str] = {}
    for one in reversed(spec.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
                found[field.target.id] = _words(text.value.value)  # type: ignore[attr-defined]
    return found


def _words(text: str) -> str:
    """A field's string as one paragraph for people who write YAML."""
    plain = " ".join(text.split()).replace("``", "`")
    return re.sub(r"(?<![.] )\bNone:", "left out:", re.sub(r"(?<=[.] )None:", "Left out:", plain))


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _section(kind: Any) -> type[BaseModel] | None:
    """The description in a type: itself, or in its optional or list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_section, get_args(kind))), None)


def _parts(kind: Any) -> list[Any]:
    """The members of a union without None; of another type itself."""
    if get_origin(kind) in (Union, UnionType):
        return [part for part in get_args(kind) if part is not NoneType]
    return [kind]


def _type(kind: Any, metadata: Any) -> str:
    """A type in words."""
    return " or ".join(_one_type(part, metadata) for part in _parts(kind))


def _one_type(kind: Any, metadata: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *more = get_args(kind)
        return _type(inner, [*_flat(more), *metadata])
    if origin is Literal:
        return " or ".join(f"`{value}`" if value != "" else '`""`' for value in get_args(kind))
    if origin in (tuple, list):
        inner = get_args(kind)[0]
        return "a list" if get_origin(inner) in (tuple, list) else f"list of {_type(inner, ())}"
    if origin is dict:
        return "mapping"
    if kind is Distribution:
        return "distribution"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    if kind is bool:
        return "`true` or `false`"
    if kind in (int, float):
        return ("whole number" if kind is int else "number") + _range(metadata, whole=kind is int)
    return "text"


def _flat(metadata: Any) -> list[Any]:
    """Bounds in pydantic's fields and outside."""
    return [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _range(metadata: Any, *, whole: bool) -> str:
    """The bounds of a number in words; of several the narrowest."""
    lows: list[tuple[float, str]] = []
    highs: list[float] = []
    for one in metadata:
        if isinstance(one, annotated_types.Ge) and isinstance(one.ge, (int, float)):
            lows.append((one.ge, f" from {one.ge:g}"))
        elif isinstance(one, annotated_types.Gt) and isinstance(one.gt, (int, float)):
            lows.append((one.gt + 1, f" from {one.gt + 1:g}") if whole else (one.gt, f" above {one.gt:g}"))
        elif isinstance(one, annotated_types.Le) and isinstance(one.le, (int, float)):
            highs.append(one.le)
    low = max(lows)[1] if lows else ""
    return low + (f" to {min(highs):,.15g}" if highs and min(highs) < LEAST_UNBOUNDED else "")


def _unit(path: str, kind: Any) -> str:
    """By the end of the key's name; of numbers and distributions alone."""
    if not any(_counts(part) for part in _parts(kind)) or path.rpartition(".")[2] in _UNITLESS:
        return ""
    words = path.rpartition(".")[2].split("_")
    ends = ("_".join(words[i:]) for i in range(len(words)))
    return next((_SUFFIXES[end] for end in ends if end in _SUFFIXES), "")


def _counts(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return any(_counts(part) for part in _parts(get_args(kind)[0]))
    return kind in (int, float) or kind is Distribution


def _default(field: FieldInfo) -> str:
    """A default in YAML."""
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, Distribution):
        value = value.value
    if value is None or isinstance(value, BaseModel) or value in ((), {}):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'
