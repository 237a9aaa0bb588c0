"""Parts of a model built from a family's rules: each field of the spec's own class is a rule.

So a kind of attention, mixer or expert needs no reader: what its class (:mod:`perfmodel.spec.model`) has for fields is
what a family's file may set, with the class's types and ranges.
"""

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from perfmodel.errors import DataError, SpecError
from perfmodel.spec.base import Spec
from perfmodel.spec.mixers import Mixer
from perfmodel.spec.models.fields import MAX_COUNT, MAX_TOKENS, Fields
from perfmodel.spec.models.rules import Target, chosen, evaluate, keys_of


def _kinds() -> Mapping[str, type[Spec]]:
    """Kind -> class, of everything that may stand where a layer's attention does."""
    union, _ = get_args(Mixer)
    return {cls.model_fields["kind"].default: cls for cls in get_args(union)}


KINDS: Mapping[str, type[Spec]] = _kinds()
"""Kinds of attention and mixers that a family's file may name."""


NONE = "none"
"""Kind of a layer without attention."""


def mixer(rules: Mapping[str, Any], fields: Fields, layer: int | None = None) -> Any:
    """The attention or other mixer that ``{kind: KIND, FIELD: RULE, ...}`` describes; None for kind ``none``.

    Raises:
        SpecError, UnsupportedError: as rules do.
        DataError: the family's file names a kind or a field that there is not.
    """
    kind = str(rules.get("kind"))
    if kind == NONE:
        return None
    if kind not in KINDS:
        raise DataError(f"family of {fields.model_type}: kind = {kind!r} must be one of {', '.join(KINDS)}")
    own = {name: rule for name, rule in rules.items() if name not in ("kind", "layer")}
    return build(KINDS[kind], own, fields, layer)


def build(
    cls: type[Spec], rules: Mapping[str, Any], fields: Fields, layer: int | None = None, **given: Any
) -> Any:
    """An object of ``cls`` whose fields are the values of rules; a field without a rule has its default.

    Raises:
        SpecError: a key is missing or wrong, or values that don't go together; messages name the config's keys.
        UnsupportedError: as rules do.
        DataError: a rule for a field that ``cls`` does not have.
    """
    values: dict[str, Any] = dict(given)
    for name, rule in rules.items():
        info = cls.model_fields.get(name)
        if info is None:
            raise DataError(f"family of {fields.model_type}: {cls.__name__} has no field {name}")
        inner = spec_of(info)
        if inner is not None and isinstance(rule, Mapping) and not {"of", "stated"} & set(rule):
            values[name] = build(inner, rule, fields, layer)
            continue
        value = evaluate(rule, fields, target_of(name, info, layer))
        if value is None and not _optional(info):
            continue
        values[name] = value
    try:
        return cls(**values)
    except ValidationError as error:
        raise SpecError(
            f"model config ({fields.model_type}): {_in_keys(error, rules, fields, layer)}"
        ) from error


def _in_keys(error: ValidationError, rules: Mapping[str, Any], fields: Fields, layer: int | None) -> str:
    """The first problem, with the config's keys in place of the spec's fields."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    if where:
        text = f"{where} = {problem['input']!r:.60}: {text}"
    for name, rule in sorted(rules.items(), key=lambda item: -len(item[0])):
        keys = keys_of(chosen(rule, fields, layer) if isinstance(rule, Mapping) and "of" in rule else rule)
        if keys:
            stated = next((key for key in keys if fields.has(key)), keys[0])
            text = re.sub(rf"\b{name}\b", fields.alias(stated), text)
    return text


def target_of(name: str, info: FieldInfo, layer: int | None) -> Target:
    """What a value of this field must be, from its annotation."""
    base, metadata = _plain(info.annotation)
    metadata = (*info.metadata, *metadata)
    if base is bool:
        return Target("flag", layer=layer)
    if get_origin(base) is Literal:
        allowed = get_args(base)
        if all(isinstance(one, str) for one in allowed):
            return Target("word", words=allowed, layer=layer)
        return Target("integer", low=min(allowed), high=max(allowed), layer=layer)
    if base is float:
        return Target("number", layer=layer)
    many = "token" in name or name in ("vocab_size", "sliding_window", "rows_per_table")
    if name == "dense_ffn_size":  # a rule for it means that there is one
        return Target("integer", layer=layer)
    low, high = 0, MAX_TOKENS if many else MAX_COUNT
    for one in metadata:
        if isinstance(one, Gt):
            low = int(one.gt) + 1  # type: ignore[call-overload]
        elif isinstance(one, Ge):
            low = int(one.ge)  # type: ignore[call-overload]
        elif isinstance(one, Le):
            high = min(high, int(one.le))  # type: ignore[call-overload]
    return Target("integer", low=low, high=high, layer=layer)


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without None and without metadata, and the metadata."""
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        inner, more = _plain(base)
        flat = [item for one in metadata for item in (one.metadata if isinstance(one, FieldInfo) else (one,))]
        return inner, (*flat, *more)
    if get_origin(annotation) in (Union, types.UnionType):
        options = [one for one in get_args(annotation) if one is not type(None)]
        if len(options) == 1:
            return _plain(options[0])
    return annotation, ()


def _optional(info: FieldInfo) -> bool:
    """Whether None is a value of the field."""
    return type(None) in get_args(info.annotation)


def spec_of(info: FieldInfo) -> type[Spec] | None:
    """The class of a field that holds a part of its own."""
    base, _ = _plain(info.annotation)
    return base if isinstance(base, type) and issubclass(base, Spec) else None
