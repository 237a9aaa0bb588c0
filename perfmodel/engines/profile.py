"""One engine as data: rules that say which keys of a scenario it sets, when, and where that is documented.

``data/engines/NAME.yaml`` has a title, a default version, and rules. Every rule whose ``when`` holds applies in order;
later ones win. A rule's ``set`` is written in the scenario's own keys (``deployment``, ``serving``), so what an engine
does can be read, stated and overridden in one language. What was fitted on published runs instead of read stands in
``data/engines/fitted.yaml``, written by ``python -m calibrate.engines``, and is applied last.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.engines.versions import in_order, is_before, public_version
from perfmodel.errors import DataError, SpecError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

FOLDER = DATA / "engines"
FITTED = FOLDER / "fitted.yaml"
OTHERS = "others"
"""Entry of ``fitted.yaml`` for engines that have no rows of their own."""
WITHOUT_ROWS = ("cdna3", "cdna4")
"""Architectures of which no published serving row is at hand: AMD's."""
NO_ROWS = "no serving row of this architecture is at hand"
KEYS = frozenset({"title", "url", "default_version", "read", "kernels", "experts", "rules"})
CONDITIONS = frozenset(
    {"since", "before", "architecture", "system", "gpus", "ep", "attention_dp", "model", "odd_experts"}
)
RANGES = frozenset({"gpus", "ep", "attention_dp", "odd_experts"})
"""Conditions given as [least, most]."""


SIZES = frozenset({"attention_dp", "fewest_copies"})
"""Sizes that a rule may set a key to, by name."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What an engine's defaults depend on."""

    architecture: str
    """Of the GPU: hopper, blackwell, ..."""
    system: str
    """Catalogue name of the GPU, or the user's own."""
    gpus: int
    """GPUs of one instance (pipeline stages not counted)."""
    ep: int
    attention_dp: int
    model: str
    """Architecture of the model: its catalogue name, or the family it was read as."""
    odd_experts: int = 0
    """Experts, stated copies included, that are left over when they are divided over ``ep``."""
    fewest_copies: int = 0
    """Redundant experts with which they divide."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key that an engine sets."""

    path: str
    """Key path in a scenario."""
    value: Any
    source: str
    """URL, or the fit."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One engine, of one version."""

    name: str
    title: str
    version: str
    read: tuple[str, ...]
    """Versions whose sources were read; others are taken as their neighbours."""
    kernels: str
    """Engine whose timed kernels stand for its own: its own, or the nearest that was timed."""
    experts: str
    """Where experts go when nothing is stated: ``sliced`` (every GPU has a slice of each) or ``parallel``."""
    rules: tuple[Mapping[str, Any], ...]
    num_fitted: int = 0
    """How many of the rules, the last ones, are fitted constants."""

    def settings(self, at: Circumstances) -> tuple[Setting, ...]:
        """What the engine sets under these circumstances, later rules over earlier ones."""
        found: dict[str, Setting] = {}
        for rule in self.rules:
            if self._applies(rule.get("when") or {}, at):
                for path, value in leaves(rule["set"]):
                    size = getattr(at, value) if isinstance(value, str) and value in SIZES else value
                    found[path] = Setting(path, size, rule["source"])
        return tuple(found.values())

    @property
    def version_note(self) -> str:
        """What to know of a version whose sources were not read; empty: they were."""
        if self.version in self.read:
            return ""
        read = in_order(self.read)
        before = [one for one in read if is_before(one, self.version)]
        if not before:
            how = f"it is older than all that were read ({', '.join(read)})"
        elif len(before) == len(read):
            how = f"it is newer than all that were read, the last of them {read[-1]}"
        else:
            how = f"it lies between {before[-1]} and {read[len(before)]}, which were"
        return f"{self.title} {self.version} was not read: {how}; its defaults are taken from those"

    def _applies(self, when: Mapping[str, Any], at: Circumstances) -> bool:
        if "since" in when and is_before(self.version, when["since"]):
            return False
        if "before" in when and not is_before(self.version, when["before"]):
            return False
        for name in when.keys() - {"since", "before"}:
            value, wanted = getattr(at, name), when[name]
            if name in RANGES:
                if not wanted[0] <= value <= wanted[1]:
                    return False
            elif value not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True


def names() -> tuple[str, ...]:
    """Engines that are known."""
    return tuple(sorted(name for name in _files() if "default_version" in _document(name)))


def profile(name: str, version: Any = "") -> Profile:
    """An engine of a version, as stated (whatever that is); empty: the one that it was read at last.

    Raises:
        SpecError: no such engine, or no version.
    """
    if name not in _files() or "default_version" not in _document(name):
        raise SpecError(f"engine = {name!r}: must be one of {', '.join(names())}")
    document = _document(name)
    return Profile(
        name=name,
        title=document["title"],
        version=public_version(version or document["default_version"], f"version of {name}"),
        read=tuple(document["read"]),
        kernels=document.get("kernels", name),
        experts=document.get("experts", "sliced"),
        rules=(*document["rules"], *_fitted(name)),
        num_fitted=len(_fitted(name)),
    )


def kernels_of(name: str) -> str:
    """The engine whose timed kernels stand for those of ``name``; empty for none."""
    return str(_document(name).get("kernels", name)) if name else ""


def _fitted(name: str) -> tuple[Mapping[str, Any], ...]:
    """The fitted constants as last rules; of an engine without rows, or on GPUs of which no engine has any, only
    how little is known of it.
    """
    document = _fitted_document(FITTED, FITTED.stat().st_mtime_ns if FITTED.is_file() else None)
    others = (document.get(OTHERS) or {}).get("rules", ())
    if not document.get(name):
        return tuple(others)
    elsewhere = [
        {**rule, "when": {"architecture": list(WITHOUT_ROWS)}, "source": f"{rule['source']}; {NO_ROWS}"}
        for rule in others
    ]
    return (*document[name].get("rules", ()), *elsewhere)


@cache
def _fitted_document(path: Path, modified: int | None) -> Mapping[str, Any]:
    return {} if modified is None else read_document(path)


@cache
def _files() -> frozenset[str]:
    return frozenset(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def _document(name: str) -> dict[str, Any]:
    document = read_document(FOLDER / f"{name}.yaml")
    if "default_version" not in document:  # another file of the folder
        return document
    unknown = document.keys() - KEYS
    for rule in document["rules"]:
        unknown |= rule.keys() - {"when", "set", "source", "note"}
        when = rule.get("when") or {}
        unknown |= when.keys() - CONDITIONS
        for bound in ("since", "before"):
            public_version(when.get(bound, "0"), f"{name}.yaml: {bound}")
        if not rule.get("source"):
            raise DataError(f"{name}.yaml: a rule has no source: {rule}")
    if unknown:
        raise DataError(f"{name}.yaml: unknown keys {', '.join(sorted(unknown))}")
    return document


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key path, value) of everything in nested mappings."""
    for key, value in mapping.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from leaves(value, path)
        else:
            yield path, value
