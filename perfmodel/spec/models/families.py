"""Families as data: one YAML file under ``data/families/`` says how a family's keys become kinds.

A file states ``title``, ``source``, ``model_types`` (and ``architectures``, for configs without a model type), and what
is particular to the family; the rest is its ``base``'s, mapping by mapping (``common`` where it names none). A rule of
null takes what the base says away. Rules and patterns: :mod:`perfmodel.spec.models.rules` and ``patterns``.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perfmodel.errors import DataError
from perfmodel.spec.base import Spec
from perfmodel.spec.documents import read_document
from perfmodel.spec.models.grammar import check

FOLDER = Path(__file__).resolve().parents[2] / "data" / "families"
COMMON = "common"
MAX_BASES = 8


class Family(Spec):
    """How the keys of one family become a model's parts."""

    name: str
    """The file's stem."""
    title: str
    """The models, in words."""
    source: str
    """Where it is written down what is a norm, a bias or a default in this family."""
    model_types: tuple[str, ...] = ()
    """``model_type`` of its configs; empty: a base of others."""
    architectures: tuple[str, ...] = ()
    """Class names that imply it where a config states no model type."""
    notes: tuple[str, ...] = ()
    """What a config leaves unsaid, and what is left out."""
    model: dict[str, Any]
    """Field of :class:`~perfmodel.spec.model.Model` -> rule."""
    num_layers: Any
    """Rule of the number of layers."""
    attentions: dict[str, dict[str, Any]]
    """Name -> kind and its fields' rules; ``layer``: rules of the layer that has it (``num_attentions``, ...)."""
    ffns: dict[str, dict[str, Any]]
    """Name -> rules of a layer's dense FFN and experts."""
    attention_of_layer: Any
    """Pattern of names in ``attentions``."""
    ffn_of_layer: Any
    """Pattern of names in ``ffns``."""
    mtp: dict[str, Any] | None = None
    """Multi-token prediction: rule ``num_layers``, and names ``attention`` and ``ffn``; None: it has none."""
    ngram_embedding: dict[str, Any] | None = None
    """N-gram embedding: keys ``ratio``, ``neighbours``, ``splits``, and ``switch``, which turns it off."""
    checks: dict[str, dict[str, Any]] = {}
    """Key -> what it must be: ``in`` (values), ``unset`` (false, zero or empty), ``equals`` (a rule), ``each``
    (words of a list), ``own`` (a list that names each layer itself), ``present`` (stated, if only as null)."""
    modules: dict[str, tuple[str, ...]] = {}
    """Class of weights -> names of its modules below a layer, where they are not the usual ones (for the lists of
    quantised modules)."""
    known: tuple[str, ...] = ()
    """Keys without consequence in this family."""


def names() -> tuple[str, ...]:
    """All families' files, bases included."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "refused"))


def listed() -> tuple[str, ...]:
    """Files that read model types of their own."""
    return tuple(sorted(set(_index()[0].values())))


@cache
def refused() -> Mapping[str, Mapping[str, str]]:
    """Model types that are known and not modelled -> ``title``, what they have (``has``) and what they would need."""
    found: Mapping[str, Mapping[str, str]] = read_document(FOLDER / "refused.yaml")["refused"]
    return found


def model_types() -> tuple[str, ...]:
    """Every model type that some family reads."""
    return tuple(sorted(_index()[0]))


def of_model_type(model_type: str) -> Family | None:
    """The family of a ``model_type``; None: no file lists it."""
    name = _index()[0].get(model_type)
    return family(name) if name else None


def of_architecture(architecture: str) -> str | None:
    """The model type that a class name implies: the first of its family."""
    name = _index()[1].get(architecture)
    return family(name).model_types[0] if name else None


@cache
def family(name: str) -> Family:
    """A family by the stem of its file, its bases merged in.

    Raises:
        DataError: no such file, or one that is no family.
    """
    document = _document(name, 0)
    document["name"] = name
    for parts in ("attentions", "ffns"):
        named = document.get(parts)
        if not isinstance(named, Mapping) or not all(isinstance(one, Mapping) for one in named.values()):
            raise DataError(
                f"data/families/{name}.yaml: {parts} = {named!r:.60} must be a mapping of parts, each a mapping"
            )
        document[parts] = {one: _like(document[parts], one, 0) for one in document.get(parts, {})}
    try:
        found = Family.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise DataError(f"data/families/{name}.yaml: {where}: {problem['msg']}") from error
    check(found)
    return found


@cache
def _index() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Model type -> file, and class name -> file: from one line of each file, without parsing the rest."""
    types: dict[str, str] = {}
    architectures: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for key, found in (("model_types", types), ("architectures", architectures)):
            match = re.search(rf"^{key}: \[(.*)\]$", text, flags=re.MULTILINE)
            for word in match[1].split(",") if match else ():
                if word.strip() in found:
                    raise DataError(f"{path.name}: {word.strip()} is {found[word.strip()]}'s already")
                found[word.strip()] = path.stem
    return types, architectures


def _document(name: str, depth: int) -> dict[str, Any]:
    if depth > MAX_BASES:
        raise DataError(f"data/families/{name}.yaml: more than {MAX_BASES} bases; is there a cycle?")
    document = read_document(FOLDER / f"{name}.yaml")
    base = document.pop("base", None if name == COMMON else COMMON)
    if base is None:
        return document
    parent = _document(str(base), depth + 1)
    for own in ("model_types", "architectures", "notes"):
        parent.pop(own, None)
    return _merged(parent, document)


def _like(parts: Mapping[str, Any], name: str, depth: int) -> dict[str, Any]:
    """A part with what the one that it is ``like`` says beneath its own."""
    own = dict(parts.get(name, {}))
    other = own.pop("like", None)
    if other is None:
        return own
    if depth > MAX_BASES or not isinstance(other, str) or other not in parts:
        raise DataError(f"data/families: {name} is like {other!r}, which is none of {', '.join(parts)}")
    return _merged(_like(parts, str(other), depth + 1), own)


WHOLE = ("of", "by", "stated", "least", "kind")
"""Keys that show that a mapping is a rule, a pattern or a kind of its own: it replaces what the base says."""


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, mapping by mapping; null takes a key away."""
    result = dict(base)
    for key, value in top.items():
        under = result.get(key)
        if value is None and key in result:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(under, Mapping) and not set(WHOLE) & set(value):
            result[key] = _merged(under, value)
        elif key == "known" and isinstance(value, list) and isinstance(under, list):
            result[key] = [*under, *value]
        else:
            result[key] = value
    return result
