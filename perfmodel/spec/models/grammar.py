"""Whether a family's file says what can be read: its parts' fields, its rules and its patterns, before a config is.

So a mistake in a file is told of the file and its place in it, whichever config would have met it first.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.errors import DataError
from perfmodel.spec.base import Spec
from perfmodel.spec.model import Layer, Model
from perfmodel.spec.models.kinds import KINDS, NONE, spec_of, target_of
from perfmodel.spec.models.rules import LITERALS, parsed

if TYPE_CHECKING:
    from perfmodel.spec.models.families import Family

RULES = ("of", "stated", "least", "items")
"""Keys of which a rule that is a mapping has one."""
CHECKS: Mapping[str, type] = {
    "in": list,
    "unset": bool,
    "equals": str,
    "each": list,
    "own": bool,
    "present": bool,
}
"""What a check may demand -> the type of its value."""
BY: Mapping[str, tuple[str, ...]] = {
    "words": ("key", "words"),
    "every": ("then", "else"),
    "members": ("key", "then", "else"),
    "counts": ("key", "word", "every", "size", "names"),
}
"""What a pattern goes by -> what it must state."""


def check(family: "Family") -> None:
    """Checks a family's parts, rules and patterns.

    Raises:
        DataError: of the first that cannot be read; says where.
    """
    place = f"data/families/{family.name}.yaml"
    _fields(Model, family.model, f"{place}: model")
    _rule(family.num_layers, f"{place}: num_layers")
    _no_literal(family.num_layers, f"{place}: num_layers")
    for name, rules in family.attentions.items():
        _attention(rules, f"{place}: attentions.{name}")
    for name, rules in family.ffns.items():
        _fields(Layer, rules, f"{place}: ffns.{name}")
    _pattern(family.attention_of_layer, family.attentions, f"{place}: attention_of_layer")
    _pattern(family.ffn_of_layer, family.ffns, f"{place}: ffn_of_layer")
    for key, one in family.checks.items():
        _check(one, f"{place}: checks.{key}")
    if family.mtp is not None:
        _has(family.mtp, ("num_layers", "attention", "ffn"), f"{place}: mtp")
        _rule(family.mtp["num_layers"], f"{place}: mtp.num_layers")
        _no_literal(family.mtp["num_layers"] or None, f"{place}: mtp.num_layers")
        _pattern(family.mtp["attention"], family.attentions, f"{place}: mtp.attention")
        _pattern(family.mtp["ffn"], family.ffns, f"{place}: mtp.ffn")
    if family.ngram_embedding is not None:
        _has(family.ngram_embedding, ("ratio", "neighbours", "splits"), f"{place}: ngram_embedding")
        for name, key in family.ngram_embedding.items():
            _word(key, f"{place}: ngram_embedding.{name}")


def _attention(rules: Mapping[str, Any], place: str) -> None:
    kind = rules.get("kind")
    if kind not in (*KINDS, NONE):
        raise DataError(f"{place}.kind = {kind!r:.60} must be one of {', '.join((*KINDS, NONE))}")
    layer = rules.get("layer", {})
    if not isinstance(layer, Mapping):
        raise DataError(f"{place}.layer = {layer!r:.60} must be a mapping of a layer's fields")
    _fields(Layer, layer, f"{place}.layer")
    own = {name: rule for name, rule in rules.items() if name not in ("kind", "layer")}
    if kind != NONE:
        _fields(KINDS[str(kind)], own, place)


def _fields(cls: type[Spec], rules: Mapping[str, Any], place: str) -> None:
    """Rules of the fields of a class."""
    for name, rule in rules.items():
        info = cls.model_fields.get(name)
        if info is None:
            raise DataError(
                f"{place}: {cls.__name__} has no field {name}; it has {', '.join(cls.model_fields)}"
            )
        inner = spec_of(info)
        if inner is not None and isinstance(rule, Mapping) and not {"of", "stated"} & set(rule):
            _fields(inner, rule, f"{place}.{name}")
        else:
            _rule(rule, f"{place}.{name}", target_of(name, info, None).words)


def _rule(rule: Any, place: str, words: Collection[str] = ()) -> None:
    if isinstance(rule, str):
        if rule not in words:
            _expression(rule, place)
    elif isinstance(rule, Mapping):
        found = [one for one in RULES if one in rule]
        if len(found) != 1:
            raise DataError(
                f"{place}: a rule has one of {', '.join(RULES)}; this one has {', '.join(map(str, rule))}"
            )
        if found[0] == "least":
            least = rule["least"]
            if not isinstance(least, list) or not least:
                raise DataError(f"{place}.least = {least!r:.60} must be a list of rules")
            for number, one in enumerate(least):
                _rule(one, f"{place}.least[{number}]", words)
            return
        _branches(rule, found[0], place, lambda one, where: _rule(one, where, words))
    elif isinstance(rule, float) and not math.isfinite(rule):
        raise DataError(f"{place} = {rule} must be a finite number")
    elif rule is not None and not isinstance(rule, bool | int | float):
        raise DataError(f"{place} = {rule!r:.60} is no rule (docs/models.md)")


def _branches(rule: Mapping[str, Any], form: str, place: str, inside: Callable[[Any, str], None]) -> None:
    """What ``of``, ``stated`` and ``items`` choose by, and what they choose between."""
    _word(rule[form], f"{place}.{form}")
    if form == "of":
        values = rule.get("values")
        if not isinstance(values, Mapping) or not values:
            raise DataError(f"{place}.values = {values!r:.60} must be a mapping of values")
        default = rule.get("default")
        if default is not None and not isinstance(default, bool | int | str):
            raise DataError(f"{place}.default = {default!r:.60} must be true, false, an integer or a word")
        for name, one in values.items():
            inside(one, f"{place}.values.{name}")
        if "else" in rule:
            inside(rule["else"], f"{place}.else")
    elif form == "stated":
        _has(rule, ("then", "else"), place)
        inside(rule["then"], f"{place}.then")
        inside(rule["else"], f"{place}.else")


def _expression(text: str, place: str) -> None:
    for alternative in parsed(text):
        for term in alternative:
            for match, factor in term:
                literal = factor.lstrip("/")
                if match is None and literal not in LITERALS and not literal.replace(".", "", 1).isdecimal():
                    raise DataError(f"{place} = {text!r:.60}: {literal!r:.30} is neither a key nor a number")
                if factor.startswith("/") and match is None and not float(literal.strip("tfn") or 0):
                    raise DataError(f"{place} = {text!r:.60} divides by zero")


def _pattern(pattern: Any, parts: Mapping[str, Any], place: str) -> None:
    if isinstance(pattern, str):
        if pattern not in parts:
            raise DataError(f"{place}: {pattern!r:.60} is not among {', '.join(parts)}")
        return
    if not isinstance(pattern, Mapping):
        raise DataError(f"{place} = {pattern!r:.60} is no pattern of layers (docs/models.md)")

    def inside(one: Any, where: str) -> None:
        _pattern(one, parts, where)

    for form in ("of", "stated"):
        if form in pattern:
            _branches(pattern, form, place, inside)
            return
    by = pattern.get("by")
    if not isinstance(by, str) or by not in BY:
        raise DataError(f"{place}.by = {by!r:.60} must be one of {', '.join(BY)} (docs/models.md)")
    _has(pattern, BY[by], place)
    for name in ("key", "except"):
        if name in pattern:
            _word(pattern[name], f"{place}.{name}")
    for name in ("words", "names"):
        named = pattern.get(name, {})
        if not isinstance(named, Mapping):
            raise DataError(f"{place}.{name} = {named!r:.60} must be a mapping to names of parts")
        for word, one in named.items():
            inside(one, f"{place}.{name}.{word}")
            if not isinstance(one, str):
                raise DataError(f"{place}.{name}.{word} = {one!r:.60} must be the name of a part")
    for name in ("then", "else"):
        if name in pattern:
            if not isinstance(pattern[name], str):
                raise DataError(f"{place}.{name} = {pattern[name]!r:.60} must be the name of a part")
            inside(pattern[name], f"{place}.{name}")
    if pattern.get("absent") is not None:
        inside(pattern["absent"], f"{place}.absent")
    for name in ("period", "offset", "first", "every"):
        if name in pattern and pattern[name] is None:
            raise DataError(f"{place}.{name} is empty: state it or leave it out")
    for name in ("period", "offset", "first", "last", "every"):
        _rule(pattern.get(name), f"{place}.{name}")
    for name in ("size", "base"):
        if name in pattern and not (isinstance(pattern[name], int) and 0 <= pattern[name] <= 2):
            raise DataError(f"{place}.{name} = {pattern[name]!r:.60} must be a small number")


def _check(one: Mapping[str, Any], place: str) -> None:
    if not one:
        raise DataError(f"{place} = {{}}: a check is one of {', '.join(CHECKS)}")
    for name, value in one.items():
        if name not in CHECKS or not isinstance(value, CHECKS[name]):
            raise DataError(
                f"{place}.{name} = {value!r:.60}: a check is one of {', '.join(CHECKS)}, with a list, true, or a rule"
            )
        if name == "each" and not all(isinstance(word, str) for word in one["each"]):
            raise DataError(f"{place}.each = {value!r:.60} must be a list of words")
        if name == "equals":
            _rule(value, f"{place}.equals")


def _no_literal(rule: Any, place: str) -> None:
    if isinstance(rule, bool | int | float):
        raise DataError(f"{place} = {rule!r} must be read from a key of the config")


def _has(mapping: Mapping[str, Any], names: Collection[str], place: str) -> None:
    for name in names:
        if mapping.get(name) is None:
            raise DataError(f"{place}: {name} is missing")


def _word(key: Any, place: str) -> None:
    if not isinstance(key, str) or not key.strip():
        raise DataError(f"{place} = {key!r:.60} must be a key of the config")
