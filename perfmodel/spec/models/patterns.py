"""Which layer has which attention and which FFN: what a family's file says, as one name per layer.

A *pattern* is a name (every layer), or one of

- ``{by: words, key: KEY, words: {WORD: NAME}, absent: PATTERN}``: a list with a word, a number or true/false per layer,
  or a text with a character per layer; ``absent`` where the config has none; ``extra``: more items (of draft layers)
  may follow;
- ``{by: every, period: RULE, offset: RULE, first: RULE, last: RULE, except: KEY, then: NAME, else: NAME}``: the layers
  i with first <= i < last and (i - offset) a multiple of period, but not those that ``except`` lists;
- ``{by: members, key: KEY, base: 0 or 1, then: NAME, else: NAME, absent: PATTERN}``: the layers that a list (or a text
  of numbers with commas) names;
- ``{by: counts, key: KEY, word: WORD, every: RULE, size: N, names: {COUNT: NAME}}``: a list with a word for each of N
  attentions of a layer; which name depends on how many of them are WORD. Without the list it is every so many'th;
- ``{of: KEY, default: VALUE, values: {VALUE: PATTERN}, else: PATTERN}`` and ``{stated: KEY, then: PATTERN, else:
  PATTERN}``: as rules.
"""

from collections.abc import Mapping
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.models.fields import MAX_LAYERS, Fields
from perfmodel.spec.models.rules import Target, chosen, evaluate, keys_of

POSITION = Target("integer", low=0, high=MAX_LAYERS)


def names_by_layer(pattern: Any, fields: Fields, num_layers: int) -> list[str]:
    """One name per layer.

    Raises:
        SpecError: a list of another length, or a number out of range.
        UnsupportedError: a word that the family's file does not list.
        DataError: the family's file holds what is no pattern.
    """
    if isinstance(pattern, str):
        return [pattern] * num_layers
    if isinstance(pattern, Mapping):
        if "of" in pattern:
            return names_by_layer(chosen(pattern, fields), fields, num_layers)
        if "stated" in pattern:
            branch = pattern["then" if fields.has(pattern["stated"]) else "else"]
            return names_by_layer(branch, fields, num_layers)
        kind = pattern.get("by")
        if kind == "words":
            return _by_words(pattern, fields, num_layers)
        if kind == "every":
            return _by_period(pattern, fields, num_layers)
        if kind == "members":
            return _by_members(pattern, fields, num_layers)
        if kind == "counts":
            return _by_counts(pattern, fields, num_layers)
    raise DataError(f"family of {fields.model_type}: {pattern!r} is no pattern of layers (docs/models.md)")


def keys_of_pattern(pattern: Any) -> tuple[str, ...]:
    """The config's keys that a pattern may read."""
    if not isinstance(pattern, Mapping):
        return ()
    own = [str(pattern[name]) for name in ("of", "stated", "key", "except") if name in pattern]
    own += [
        key for name in ("period", "offset", "first", "last", "every") for key in keys_of(pattern.get(name))
    ]
    inner = [pattern.get("absent"), *pattern.get("values", {}).values()]
    inner += [pattern[name] for name in ("then", "else") if name in pattern and "stated" in pattern]
    inner += [pattern["else"]] if "else" in pattern and "of" in pattern else []
    return (*own, *(key for one in inner for key in keys_of_pattern(one)))


def names_in(pattern: Any) -> tuple[str, ...]:
    """Every name that a pattern may give a layer."""
    if isinstance(pattern, str):
        return (pattern,)
    if not isinstance(pattern, Mapping):
        return ()
    inner = [pattern.get(name) for name in ("absent", "then", "else")]
    for name in ("words", "values", "names"):
        inner += pattern.get(name, {}).values()
    return tuple(name for one in inner for name in names_in(one))


def _by_words(
    pattern: Mapping[str, Any], fields: Fields, num_layers: int, others: tuple[str, ...] = ()
) -> list[str]:
    """``others`` are keys that could have said the same and are missing, too."""
    key, words = pattern["key"], pattern["words"]
    if not fields.has(key):
        absent = pattern.get("absent")
        if absent is None:
            raise fields.missing(key, *others)
        if isinstance(absent, Mapping) and absent.get("by") == "words":
            return _by_words(absent, fields, num_layers, (key, *others))
        return names_by_layer(absent, fields, num_layers)
    whole = fields.config.get(fields.alias(key))
    items: Any
    if isinstance(whole, str):
        items = list(whole)
        if len(items) != num_layers:
            raise fields.wrong(
                fields.alias(key),
                whole,
                f"a text of {num_layers} characters, one per layer ({fields.counted_by})",
            )
    else:
        items = fields.items(key, length=None if pattern.get("extra") else num_layers)
        if items is not None and len(items) < num_layers:
            raise fields.wrong(
                fields.alias(key), items, f"a list of {num_layers} items, one per layer ({fields.counted_by})"
            )
        items = items and items[:num_layers]
    found = []
    for item in items:
        word = str(item).lower() if isinstance(item, bool) else str(item)
        if isinstance(item, list | dict | float) or word not in words:
            raise fields.not_modelled(
                f"{fields.alias(key)} holds {item!r:.60}, which", item, ", ".join(words)
            )
        found.append(words[word])
    return found


def _by_period(pattern: Mapping[str, Any], fields: Fields, num_layers: int) -> list[str]:
    period = evaluate(pattern.get("period", 1), fields, Target("integer", high=MAX_LAYERS))
    within = Target("integer", low=0, high=num_layers)
    if not period:
        raise DataError(
            f"family of {fields.model_type}: {pattern!r} is no pattern of layers (docs/models.md)"
        )
    offset = evaluate(pattern.get("offset", 0), fields, POSITION)
    first = evaluate(pattern.get("first", 0), fields, within if "first" in pattern else POSITION)
    last = evaluate(pattern.get("last"), fields, POSITION)
    last = num_layers if last is None else last
    left_out: set[Any] = set()
    if "except" in pattern:
        left_out = _positions(pattern["except"], fields, num_layers, base=0) or set()
    return [
        pattern["then"]
        if first <= i < last and (i - offset) % period == 0 and i not in left_out
        else pattern["else"]
        for i in range(num_layers)
    ]


def _by_members(pattern: Mapping[str, Any], fields: Fields, num_layers: int) -> list[str]:
    members = _positions(pattern["key"], fields, num_layers, base=int(pattern.get("base", 0)))
    if members is None:
        if "absent" not in pattern:
            raise fields.missing(pattern["key"])
        return names_by_layer(pattern["absent"], fields, num_layers)
    return [pattern["then"] if i in members else pattern["else"] for i in range(num_layers)]


def _by_counts(pattern: Mapping[str, Any], fields: Fields, num_layers: int) -> list[str]:
    key, size = pattern["key"], int(pattern["size"])
    total = size * num_layers
    every = evaluate(pattern["every"], fields, Target("integer", high=total))
    if total % every:
        raise fields.wrong(str(pattern["every"]).split(" ")[0], every, f"a divisor of the {total} attentions")
    items = fields.items(key, length=total)
    own = (
        [i % every == 0 for i in range(total)] if items is None else [one == pattern["word"] for one in items]
    )
    if not any(own):
        raise fields.wrong(key, items, f"a list with at least one {pattern['word']!r}")
    return [pattern["names"][str(sum(own[i : i + size]))] for i in range(0, total, size)]


def _positions(key: str, fields: Fields, num_layers: int, *, base: int) -> set[int] | None:
    """The layers that a list of integers, or a text of them with commas, names; None: the config has none."""
    if not fields.has(key):
        return None
    value: Any = fields.config
    for part in fields.alias(key).split("."):
        value = value[part]
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        value = [int(part) if part.isdecimal() else part for part in parts]
    good = isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and base <= item < num_layers + base
        for item in value
    )
    if not good:
        raise fields.wrong(
            fields.alias(key),
            value,
            f"a list of layers from {base} to {num_layers + base - 1} ({fields.counted_by})",
        )
    return {item - base for item in value}
