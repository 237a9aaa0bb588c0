"""What a session asks: a catalogue scenario or an uploaded one, with overrides; and the same as a link.

A link reads like the command line: ``?v=1&scenario=NAME&set=key.path=value&set=...``, or ``yaml=...`` for an upload,
which it carries whole. ``hash`` is the scenario's, so that a link whose names have come to mean something else says so.
"""

import base64
import binascii
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import perfmodel
from perfmodel.engines.profile import leaves
from perfmodel.errors import DataError, SpecError
from perfmodel.load import build_scenario
from perfmodel.spec.documents import parse_yaml
from perfmodel.spec.scenario import Scenario
from perfmodel.stated import apply_override, document_of_name, document_of_text

VERSION = "1"
"""Of the link's form."""
DEFAULT = "longcat-flash-h800"
MOST_SETS = 200
MOST_CHARACTERS = 2_000
"""Of one override."""
MOST_TEXT = 24_000
"""Characters of an uploaded scenario: a link has to carry it."""
MOST_GPUS = 4096
MOST_FLEET = 16_384
MOST_REPLICAS = 500
MOST_LAYERS = 512
MOST_EXPERTS = 8192
MOST_PICKS = 128
"""What a page computes while somebody waits for it."""
MOST_NUMBER = 2**53 - 1
"""Beyond it a browser's numbers are no longer whole, and its controls fail."""
SHOWN = {"cluster", "deployment", "serving", "workload", "slo", "routing", "prices", "prefill", "ffns"}
"""Sections whose numbers controls show."""

Sets = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asked:
    """A scenario as it was asked for."""

    name: str = DEFAULT
    """Of the catalogue; with ``text``, the upload's own."""
    text: str = ""
    """An uploaded scenario; empty: the catalogue's."""
    sets: Sets = ()
    """Overrides: key path and value, as YAML."""

    def changed(self, changes: Mapping[str, str | None]) -> "Asked":
        """With some overrides replaced (None: dropped); a section's new name drops overrides inside it."""
        kept = {
            path: value
            for path, value in self.sets
            if path not in changes and not any(path.startswith(f"{section}.") for section in changes)
        }
        kept |= {path: value for path, value in changes.items() if value is not None}
        ordered = sorted(
            kept.items(), key=lambda item: (item[0].count("."), item[0])
        )  # sections before their fields
        return replace(self, sets=tuple(ordered))

    def scenario(self) -> Scenario:
        """The scenario.

        Raises:
            SpecError: an unknown name or key, a bad value, a file named, or more than a page can compute.
            DataError: YAML that is none.
            UnsupportedError: a model that is not modelled.
        """
        return _scenario(self)

    def value(self, path: str) -> str | None:
        """What an override says of a key path, as it was written; None: nothing."""
        return dict(self.sets).get(path)

    def states(self, path: str) -> bool:
        """Whether the scenario or an override states a key path, rather than leaving it to defaults."""
        found: Any = _document(self)
        for key in path.split("."):
            if not isinstance(found, Mapping) or key not in found:
                return False
            found = found[key]
        return True

    def command(self, verb: str = "step", options: str = "") -> str:
        """The command line that asks the same (of an upload: with the file that the dashboard gives back)."""
        if self.text:
            return " ".join(filter(None, (f"perfmodel {verb} scenario.yaml", options)))
        sets = (f"--set {shlex.quote(f'{path}={value}')}" for path, value in self.sets)
        return " ".join(filter(None, (f"perfmodel {verb}", shlex.quote(self.name), *sets, options)))

    def query(self) -> dict[str, str | list[str]]:
        """Query parameters of the link."""
        which = {"yaml": packed(self.text), "name": self.name} if self.text else {"scenario": self.name}
        sets = {"set": [f"{path}={value}" for path, value in self.sets]} if self.sets else {}
        return {"v": VERSION, **which, **sets, "hash": _hash(self)}


@lru_cache(maxsize=256)
def yaml_of(asked: Asked) -> str:
    """A scenario file that asks the same, for the command line and to upload again."""
    import io

    from ruamel.yaml import YAML

    document: dict[str, Any] = parse_yaml(asked.text, asked.name) if asked.text else {"base": asked.name}
    for path, value in asked.sets:
        document = apply_override(document, f"{path}={value}")
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(document, out)
    return f"# perfmodel {perfmodel.__version__}, scenario hash {_hash(asked)}\n{out.getvalue()}"


@lru_cache(maxsize=256)
def _hash(asked: Asked) -> str:
    """The scenario's, which takes as long as three elements of a page and is asked with every link."""
    return asked.scenario().hash


@lru_cache(maxsize=256)
def _document(asked: Asked) -> Mapping[str, Any]:
    """What is stated, before engine, cluster and model fill in the rest."""
    overrides = [f"{path}={value}" for path, value in asked.sets]
    if asked.text:
        return document_of_text(asked.text, overrides, name=asked.name)
    return document_of_name(asked.name, overrides)


@lru_cache(maxsize=256)
def _scenario(asked: Asked) -> Scenario:
    """Frozen, and the same for every session that asks the same."""
    found = build_scenario(_document(asked))
    for path, number in leaves(found.model_dump(include=SHOWN)):
        if isinstance(number, (int, float)) and abs(number) > MOST_NUMBER:
            raise SpecError(
                f"{path} = {number:g}: the dashboard shows numbers up to 2^53; use the command line"
            )
    sides = [found, found.prefill_side] if found.prefill_side is not None else [found]
    for side in sides:
        d = side.deployment
        if max(d.num_gpus, d.ep) > MOST_GPUS:
            raise SpecError(
                f"{d.num_gpus:,} GPUs: the dashboard answers up to {MOST_GPUS:,}; use the command line"
            )
        if d.ranks != "representative":
            raise SpecError(
                "deployment.ranks = all: the dashboard simulates the busiest rank; use perfmodel step"
            )
    if found.fleet_gpus > MOST_FLEET:
        raise SpecError(
            f"{found.fleet_gpus:,} GPUs in all replicas: the dashboard answers up to {MOST_FLEET:,}; use the "
            "command line"
        )
    replicas = max(side.serving.replicas for side in sides)
    if replicas > MOST_REPLICAS:
        raise SpecError(
            f"{replicas:,} replicas: the dashboard answers up to {MOST_REPLICAS}; use the command line"
        )
    if found.model.num_layers > MOST_LAYERS:
        raise SpecError(
            f"{found.model.num_layers:,} layers: the dashboard answers up to {MOST_LAYERS}; use the command line"
        )
    moe = found.model.moe
    if moe is not None:
        experts = moe.num_experts + moe.num_zero_experts + max(s.deployment.redundant_experts for s in sides)
        if experts > MOST_EXPERTS or moe.top_k > MOST_PICKS:
            raise SpecError(
                f"{moe.top_k:,} of {experts:,} experts per token: the dashboard answers up to {MOST_PICKS} of "
                f"{MOST_EXPERTS:,}; use the command line"
            )
    return found


def asks(query: Mapping[str, Sequence[str]]) -> bool:
    """Whether a link asks a scenario."""
    return any(key in query for key in ("v", "scenario", "yaml", "set"))


def from_query(query: Mapping[str, Sequence[str]]) -> Asked | None:
    """What a link asks; None where it asks nothing.

    Raises:
        SpecError: another version's link, or one that is damaged; DataError, UnsupportedError: as for a scenario.
    """
    if not asks(query):
        return None
    version = _one(query, "v", "")
    if version != VERSION:
        raise SpecError(f"v = {version or 'missing'!s:.20}: this dashboard reads links of version {VERSION}")
    if "yaml" in query:
        asked = Asked(name=_one(query, "name", "upload")[:80], text=unpacked(_one(query, "yaml", "")))
    else:
        asked = Asked(name=_one(query, "scenario", DEFAULT)[:200])
    asked = replace(asked, sets=parsed_sets(query.get("set", ())))
    asked.scenario()
    return asked


def link_warning(asked: Asked, query: Mapping[str, Sequence[str]]) -> str:
    """What to say where a link's scenario is no longer the one that it was made for."""
    stated = _one(query, "hash", "")
    if stated and stated != _hash(asked):
        return (
            "this link was made for a scenario that has changed since (another version of perfmodel, or a link edited "
            "by hand): figures may differ from those that its sender saw"
        )
    return ""


def parsed_sets(texts: Iterable[str]) -> Sets:
    """``key.path=value`` as pairs.

    Raises:
        SpecError: too many, too long, or not of that form.
    """
    found: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise SpecError(f"set = {text[:60]!r}: must be key.path=value, e.g. deployment.batch_per_gpu=64")
        if len(text) > MOST_CHARACTERS:
            raise SpecError(f"set = {text[:60]!r}...: longer than {MOST_CHARACTERS} characters")
        found[path.strip()] = value
    if len(found) > MOST_SETS:
        raise SpecError(f"{len(found)} overrides: at most {MOST_SETS}; upload a scenario instead")
    return tuple(found.items())


def uploaded(data: bytes, name: str) -> Asked:
    """An uploaded scenario.

    Raises:
        DataError: too long for a link, or not UTF-8; SpecError, UnsupportedError: as for a scenario.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if len(text) > MOST_TEXT:
        raise DataError(
            f"{name}: {len(text):,} characters; the dashboard takes scenarios up to {MOST_TEXT:,}"
        )
    if not text.strip():
        raise DataError(f"{name}: is empty; a scenario begins with e.g. base: {DEFAULT}")
    asked = Asked(name=name[:80], text=text)
    asked.scenario()
    return asked


def packed(text: str) -> str:
    """Text for a link."""
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(packed_text: str) -> str:
    """The text again.

    Raises:
        DataError: damaged, or longer than MOST_TEXT when unpacked.
    """
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.urlsafe_b64decode(packed_text.encode()), 4 * MOST_TEXT + 1)
        text = data.decode("utf-8") if unzip.eof else ""
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DataError("yaml: damaged; the link's end may be missing") from error
    if not unzip.eof and len(data) <= MOST_TEXT:
        raise DataError("yaml: damaged; the link's end may be missing")
    if not unzip.eof or len(text) > MOST_TEXT:
        raise DataError(f"yaml: longer than {MOST_TEXT:,} characters")
    return text


def _one(query: Mapping[str, Sequence[str]], key: str, default: str) -> str:
    values = query.get(key) or (default,)
    return values[-1]
