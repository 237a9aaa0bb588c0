"""What a family's file says of one value, evaluated on one config.

A *rule* is one of

- a number, true, false or null: that value;
- a text: keys of the config, as sums, products and quotients (``qk_nope_head_dim + qk_rope_head_dim``; ``/`` must leave
  no rest, ``//`` rounds down), with alternatives after ``|``: the first whose keys are all stated counts, a literal at
  the end is the default (``num_key_value_heads | num_attention_heads``, ``attention_bias | false``). ``key[]`` is the
  item of a list at the layer's own position, ``key[0]`` the one at a fixed position;
- ``{of: KEY, default: VALUE, values: {VALUE: RULE}, else: RULE}``: the rule that a switch selects; a value that is not
  listed is refused by name unless there is an ``else``; ``of: KEY[]`` is the switch at the layer's own position;
- ``{stated: KEY, then: RULE, else: RULE}``: by whether the config states a key;
- ``{least: [RULE, ...]}``, ``{items: KEY}`` (how many items a list has).

Which type and range a value must have is the target's: the field of the spec that it fills.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from perfmodel.errors import DataError, SpecError
from perfmodel.spec.models.fields import MAX_COUNT, Fields, show

LITERALS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
TERM = re.compile(r"(?P<key>[A-Za-z_][\w.]*)(?:\[(?P<index>\d*)\])?")


@dataclass(frozen=True, slots=True)
class Target:
    """What a value must be."""

    kind: Literal["integer", "number", "flag", "word"]
    low: int = 1
    high: int = MAX_COUNT
    words: tuple[str, ...] = ()
    """Allowed texts of a word."""
    layer: int | None = None
    """Position of the layer that ``key[]`` means."""


INTEGER_OR_ZERO = Target("integer", low=0)


def evaluate(rule: Any, fields: Fields, target: Target) -> Any:
    """The value of a rule; None: null.

    Raises:
        SpecError: a key is missing, of another type or out of range.
        UnsupportedError: a switch has a value that the family's file does not list.
        DataError: the family's file holds what is no rule.
    """
    if rule is None or isinstance(rule, bool | int | float):
        return rule
    if isinstance(rule, str):
        return rule if rule in target.words else _expression(rule, fields, target)
    if isinstance(rule, Mapping):
        if "of" in rule:
            return _selected(rule, fields, target)
        if "stated" in rule:
            key = "then" if fields.has(rule["stated"]) else "else"
            if key in rule:
                return evaluate(rule[key], fields, target)
        if "least" in rule:
            return min(evaluate(one, fields, target) for one in rule["least"])
        if "items" in rule:
            return len(fields.items(rule["items"]) or ())
    raise DataError(f"family of {fields.model_type}: {rule!r} is no rule (docs/models.md)")


def _selected(rule: Mapping[str, Any], fields: Fields, target: Target) -> Any:
    """The value of the rule that a switch selects; an error says that the switch demands it."""
    own = chosen(rule, fields, target.layer)
    try:
        return evaluate(own, fields, target)
    except SpecError as error:
        if not fields.has(_switch(rule)):
            raise
        switch = f"{fields.alias(_switch(rule))} = {show(_stated(rule, fields, target.layer))}"
        raise SpecError(f"{error}; {switch} needs it") from error


def chosen(rule: Mapping[str, Any], fields: Fields, layer: int | None = None) -> Any:
    """What ``{of, default, values, else}`` selects in the layer at a position.

    Raises:
        SpecError: the switch is missing and has no default.
        UnsupportedError: its value is not listed.
    """
    key, values = _switch(rule), rule["values"]
    stated = _stated(rule, fields, layer)
    if stated is None:
        if "default" not in rule:
            raise fields.missing(key)
        stated = rule["default"]
    word = str(stated).lower() if isinstance(stated, bool) else str(stated)
    if word in values:
        return values[word]
    if "else" in rule:
        return rule["else"]
    raise fields.not_modelled(fields.alias(key), stated, ", ".join(values))


def _switch(rule: Mapping[str, Any]) -> str:
    """The key of a rule's switch."""
    return str(rule["of"]).removesuffix("[]")


def _stated(rule: Mapping[str, Any], fields: Fields, layer: int | None) -> bool | int | str | None:
    """The value of a rule's switch; None: the config has none."""
    key = _switch(rule)
    if key == rule["of"]:
        return fields.scalar(key)
    items = fields.items(key)
    if items is None:
        return None
    if layer is None or layer >= len(items):
        raise _short(key, items, layer, fields)
    return Fields({key: items[layer]}, fields.model_type).scalar(key)


def keys_of(rule: Any) -> tuple[str, ...]:
    """The config's keys that a rule, or a mapping of rules, may read, in order of appearance."""
    if isinstance(rule, str):
        return tuple(match["key"] for terms in parsed(rule) for term in terms for match, _ in term if match)
    if not isinstance(rule, Mapping):
        return ()
    own = tuple(str(rule[name]).removesuffix("[]") for name in ("of", "stated", "items") if name in rule)
    inner = [one for name, one in rule.items() if name not in ("of", "stated", "items", "default", "kind")]
    nested = [one for part in inner for one in (part if isinstance(part, list) else [part])]
    return own + tuple(key for one in nested for key in keys_of(one))


@cache
def parsed(text: str) -> tuple[tuple[tuple[tuple[re.Match[str] | None, str], ...], ...], ...]:
    """Alternatives -> terms of a sum -> factors, each a key or (None, literal); a divisor begins with "/"."""
    alternatives = []
    for part in text.split("|"):
        terms = []
        for summand in part.split(" + "):
            pieces = re.split(r"\s+(\*|//?)\s+", summand.strip())
            signs = ("*", *pieces[1::2])
            factors = []
            for sign, piece in zip(signs, pieces[::2], strict=True):
                match = None if piece in LITERALS else TERM.fullmatch(piece)
                factors.append((match, sign.replace("*", "") + piece))
            terms.append(tuple(factors))
        alternatives.append(tuple(terms))
    return tuple(alternatives)


def _expression(text: str, fields: Fields, target: Target) -> Any:
    alternatives = parsed(text)
    for key in keys_of(text):
        fields.mark_read((key,))
    for terms in alternatives:
        keys = [factor["key"] for term in terms for factor, _ in term if factor]
        if all(fields.has(key) for key in keys):
            return _alternative(terms, fields, target)
    lacking = []
    for terms in alternatives:
        keys = [factor["key"] for term in terms for factor, _ in term if factor]
        lacking.append(next(key for key in keys if not fields.has(key)))
    raise fields.missing(*dict.fromkeys(lacking))


def _alternative(
    terms: tuple[tuple[tuple[re.Match[str] | None, str], ...], ...], fields: Fields, target: Target
) -> Any:
    if len(terms) == len(terms[0]) == 1:
        return _factor(*terms[0][0], fields, target)
    inner = replace(target, kind="integer", low=0 if target.low == 0 else 1)
    total = 0
    for term in terms:
        product = 1
        for match, text in term:
            value = _factor(match, text.lstrip("/"), fields, inner)
            if text.startswith("/"):
                if not value:
                    raise fields.wrong(
                        str(match and match["key"]), value, "above 0: another key is divided by it"
                    )
                if product % value and not text.startswith("//"):
                    keys = " * ".join(str(m and m["key"]) for m, t in term if not t.startswith("/"))
                    divisor = f"{match['key']} = {value}" if match else str(value)
                    raise fields.wrong(keys, product, f"a multiple of {divisor}")
                product //= value
            else:
                product *= value
        total += product
    return total


def _factor(match: re.Match[str] | None, text: str, fields: Fields, target: Target) -> Any:
    if match is None:
        return LITERALS[text] if text in LITERALS else (float(text) if "." in text else int(text))
    key, index = match["key"], match["index"]
    if index is not None:
        return _item(key, target.layer if index == "" else int(index), fields, target)
    if target.kind == "flag":
        return fields.flag(key)
    if target.kind == "number":
        return fields.number(key, high=1e18)
    if target.kind == "word":
        value = fields.text(key)
        if value not in target.words:
            raise fields.not_modelled(key, value, ", ".join(target.words))
        return value
    return fields.integer(key, low=target.low, high=target.high)


def _item(key: str, position: int | None, fields: Fields, target: Target) -> Any:
    """One item of a list; a number in its place stands for every layer."""
    if isinstance(fields.config.get(fields.alias(key)), int):
        return fields.integer(key, low=target.low, high=target.high)
    items = fields.items(key) or []
    if position is None or position >= len(items):
        raise _short(key, items, position, fields)
    inner = Fields({key: items[position]}, fields.model_type)
    if items[position] is None:
        raise fields.wrong(fields.alias(key), items, f"a list with a number at position {position}")
    return _factor(TERM.fullmatch(key), key, inner, target)


def _short(key: str, items: list[Any], position: int | None, fields: Fields) -> SpecError:
    """The error for a list that ends before a layer's position."""
    return fields.wrong(
        fields.alias(key),
        items,
        f"a list with an item for position {position}, as {fields.counted_by} demands",
    )
