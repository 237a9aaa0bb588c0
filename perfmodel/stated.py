"""What a scenario states: its document from the catalogue, a file or a text, merged over its bases, with overrides.

Nothing is filled in here (:mod:`perfmodel.load` does that): a key is in a document if somebody stated it. What was
stated for a cluster or an engine that a later layer replaces goes with it.
"""

import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from perfmodel.engines.profile import leaves
from perfmodel.errors import DataError, SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.documents import MAX_BYTES, parse_yaml, read_document
from perfmodel.spec.keys import unknown_key
from perfmodel.spec.messages import shown
from perfmodel.spec.paths import names_file, printable
from perfmodel.spec.routing import FROM_FILES
from perfmodel.spec.scenario import Scenario

SECTIONS = (*Scenario.model_fields, "engine")
MAX_BASES = 10
NAMED = ("model", "cluster", "prices", "power", "gpu", "drafter")
"""Sections that a catalogue name may stand for."""
BEFORE = "(before)"
"""Key under which a document keeps what was stated for a cluster that a later layer replaced; no file can hold it."""
PLACE = ("calibration", "prices")
"""Sections that belong to a cluster: another cluster brings its own along."""
CALIBRATIONS = (("calibration",), ("prefill", "calibration"), ("ffns", "calibration"))
"""Where a calibration is stated."""
MOVES = frozenset({"cluster", "cluster.base", "cluster.gpu", "cluster.gpu.base"})
"""Overrides that name another cluster or GPU; others change a figure of the one that is there."""
VERSIONS = (("deployment",), ("prefill", "deployment"))
"""Where an engine of a version is stated."""
FILE_ENDINGS = (".yaml", ".yml", ".json", ".csv", ".jsonl", ".parquet", ".gz")


def document_of_file(name: str, overrides: Iterable[str] = ()) -> tuple[dict[str, Any], Path]:
    """The document of a catalogue name or of a user's own file, and the folder that its paths are relative to.

    Raises:
        SpecError: an unknown name, or a bad override.
        DataError: a file that can't be read.
    """
    document, folder = _document(name)
    return with_overrides(document, overrides, from_here=True), folder


def document_of_text(text: str, overrides: Iterable[str] = (), *, name: str = "scenario") -> dict[str, Any]:
    """The document that :func:`scenario_of_text` builds its scenario of: what is stated, before anything is filled in.

    Raises:
        SpecError, DataError: as there.
    """
    if len(text.encode()) > MAX_BYTES:
        raise DataError(f"{name}: larger than {MAX_BYTES} bytes, which no scenario is")
    found = parse_yaml(text, name)
    if not isinstance(found, dict):
        raise DataError(f"{name}: must hold a mapping of keys to values, e.g. base: longcat-flash-h800")
    refuse_files(found)
    before, _ = _with_base({"name": name, **found}, Path(), 0)
    return _without_files(with_overrides(before, overrides))


def document_of_name(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The document that :func:`scenario_of_name` builds its scenario of: what is stated, before anything is filled in.

    Raises:
        SpecError: as there.
    """
    document: dict[str, Any] = {"base": name}
    refuse_files(document)
    before, _ = _with_base(document, Path(), 0)
    return _without_files(with_overrides({"name": name, **before}, overrides))


def _without_files(document: dict[str, Any]) -> dict[str, Any]:
    refuse_files(document)
    return document


def with_overrides(
    before: dict[str, Any], overrides: Iterable[str], *, from_here: bool = False
) -> dict[str, Any]:
    """A document with ``key.path=value`` applied in order, and without what belonged to a cluster or an engine that
    they replace; ``from_here``: paths in them are taken from the working directory.

    Raises:
        SpecError: an override of another form, or one that leads nowhere.
    """
    document, texts = before, tuple(overrides)
    for text in texts:
        document = apply_override(document, text)
        refuse_controls(document, "")
        if from_here:
            document = _from_here(document, text)
    stated = {path for text in texts for path in _paths_stated(text)}
    document = _without_old_versions(document, before, stated)
    if not MOVES & stated or not _moved(document, before):
        return document
    kept = {key: _stated_within(key, document, stated) for key in PLACE}
    own = {key: one for key, one in kept.items() if one is not None}
    return {**_without_place(document, before), **own}


def _stated_within(key: str, document: Mapping[str, Any], stated: Set[str]) -> Any:
    """What overrides state of a section: all of it where they name it, else the keys that they set; None: nothing."""
    if {key, f"{key}.base"} & stated:
        return document[key]
    inside = {path.partition(".")[2].partition(".")[0] for path in stated if path.startswith(f"{key}.")}
    return {name: document[key][name] for name in sorted(inside)} or None


def refuse_files(document: Mapping[str, Any]) -> None:
    """Refuse a document that names a file of this machine, where a catalogue name or the content itself would do.

    Raises:
        SpecError: as said, with the key.
    """
    sections = {key: document.get(key) for key in ("model", "workload", "routing")}
    inner = {key: value for key, value in sections.items() if isinstance(value, Mapping)}
    stated = {".".join(path): _inside(document, path) for path in CALIBRATIONS}
    named = {
        "base": document.get("base"),
        **stated,
        "model": sections["model"] if isinstance(sections["model"], str) else None,
        "model.base": inner.get("model", {}).get("base"),
        "workload.trace": inner.get("workload", {}).get("trace"),
    }
    for place in VERSIONS:
        drafter = _inside(document, (*place, "mtp", "drafter", "model"))
        path = ".".join((*place, "mtp.drafter.model"))
        named[path] = drafter if isinstance(drafter, str) else None
        named[f"{path}.base"] = drafter.get("base") if isinstance(drafter, Mapping) else None
    for key, value in named.items():
        if isinstance(value, str) and ("/" in value or "\\" in value or value.endswith(FILE_ENDINGS)):
            raise SpecError(
                f"{key} = {shown(value)}: a file can't be named here; allowed: names of the catalogue"
            )
    for key, kind in (*((one, "calibrations") for one in stated), ("workload.trace", "traces")):
        value = named[key]  # readers take any name that exists in the working directory for a path
        if isinstance(value, str) and value and value not in catalogue.names(kind):
            raise SpecError(f"{key} = {shown(value)}: not in the catalogue (perfmodel show {kind})")
    for key in FROM_FILES:
        value = inner.get("routing", {}).get(key)
        if isinstance(value, str):
            raise SpecError(f"routing.{key} = {shown(value)}: a file can't be named here; state the numbers")


def with_engine_inside(document: dict[str, Any], *, over: bool = False) -> dict[str, Any]:
    """The document with ``engine: NAME`` or ``engine: {name: NAME, version: VERSION}`` as deployment.engine and
    engine_version; ``over``: it comes later than what the deployment says, and replaces it.

    Raises:
        SpecError: neither form, or the document names two engines.
    """
    deployment = document.get("deployment", {})
    if "engine" not in document or not isinstance(deployment, Mapping):
        return document
    stated = document["engine"]
    stated = {"name": stated} if isinstance(stated, str) else stated
    named = isinstance(stated, Mapping) and isinstance(stated.get("name"), str)
    if not named or stated.keys() - {"name", "version"}:
        raise SpecError(
            f"engine = {shown(stated)}: must be a name (perfmodel show engines) or {{name: vllm, version: 0.17.0}}"
        )
    own = {"engine": stated["name"]}
    if "version" in stated:
        own["engine_version"] = stated["version"]
    other = deployment.get("engine") or stated["name"]
    if other != stated["name"] and not over:
        raise SpecError(
            f"engine = {stated['name']} and deployment.engine = {other} differ: state one of them"
        )
    rest = {key: value for key, value in document.items() if key != "engine"}
    return {**rest, "deployment": {**deployment, **own}}


def _inside(document: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value at a key path; None where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _paths_stated(text: str) -> Set[str]:
    """Key paths that an override states, the short forms of engine and version written out."""
    path, _, raw = text.partition("=")
    path = path.strip()
    if path == "engine":
        value = parse_yaml(raw, text)
        keys = (
            ["engine.name", *(f"engine.{key}" for key in value)]
            if isinstance(value, dict)
            else ["engine.name"]
        )
    else:
        keys = [path]
    full = {"engine.name": "deployment.engine", "engine.version": "deployment.engine_version"}
    return {full.get(key, key) for key in keys}


def _engine_at(document: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    """The engine that a side runs: its own, else that of the replicas that decode; None: none."""
    return _inside(document, (*place, "engine")) or _inside(document, ("deployment", "engine")) or None


def _without_old_versions(
    document: dict[str, Any], before: Mapping[str, Any], stated: Set[str]
) -> dict[str, Any]:
    """The document without versions of engines that were replaced: a version belongs to its engine, and goes with it.

    Args:
        document: as it is now.
        before: as it was.
        stated: key paths that were stated since.
    """
    for place in VERSIONS:
        path = (*place, "engine_version")
        version = _inside(document, path)
        newly = {".".join(path[: i + 1]) for i in range(len(path))} & stated
        if version is None or newly or _engine_at(document, place) == _engine_at(before, place):
            continue
        if version == _inside(before, path):
            document = _dropped(document, path)
    return document


def _dropped(document: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The document without the value at a key path that it has."""
    head, *rest = keys
    if not rest:
        return {key: value for key, value in document.items() if key != head}
    return {**document, head: _dropped(document[head], tuple(rest))}


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def refuse_controls(value: Any, path: str) -> None:
    """Refuse control characters in texts: the system's calls fail on some, and a terminal obeys others. Lone surrogates
    too, which no encoding can write; in a path they stand for bytes that are no UTF-8.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise SpecError(
                f"{path} = {shown(value)}: holds a null character, which no name or path can have"
            )
        if _CONTROL.search(value):
            raise SpecError(
                f"{path} = {shown(value)}: holds a control character, which a terminal would obey"
            )
        if _SURROGATE.search(value) and "/" not in value:
            raise SpecError(f"{path} = {shown(value)}: holds half a character (a lone surrogate)")
    elif isinstance(value, Mapping):
        for key, one in value.items():
            refuse_controls(str(key), f"{path}.key" if path else "a key")
            refuse_controls(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            if not isinstance(one, (int, float)):
                refuse_controls(one, f"{path}.{number}")


def _anchored(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with paths of files that belong to it taken from its own folder, whatever it is merged into."""
    routing = document.get("routing")
    if isinstance(routing, Mapping):
        own = {key: str(folder / routing[key]) for key in FROM_FILES if isinstance(routing.get(key), str)}
        document = {**document, "routing": {**routing, **own}}
    workload = document.get("workload")
    if isinstance(workload, Mapping) and _is_path(workload.get("trace")):
        document = {**document, "workload": {**workload, "trace": str(folder / workload["trace"])}}
    for path in CALIBRATIONS:
        calibration = _inside(document, path)
        if isinstance(calibration, str):
            document = _replaced(document, list(path), calibration_place(calibration, folder), ".".join(path))
    for place in VERSIONS:
        drafter: tuple[str, ...] = (*place, "mtp", "drafter", "model")
        if isinstance(_inside(document, drafter), Mapping):
            drafter = (*drafter, "base")
        named = _inside(document, drafter)
        if isinstance(named, str) and ("/" in named or named.endswith(".json")):
            document = _replaced(document, list(drafter), str(folder / named), ".".join(drafter))
    return document


def calibration_place(value: Any, folder: Path, field: str = "calibration") -> str:
    """A calibration as a catalogue name or a path that does not depend on the scenario's folder."""
    if not isinstance(value, str):
        raise SpecError(f"{field} = {shown(value)}: must be a catalogue name or the path of a folder")
    return str(folder / value) if "/" in value or value.endswith(".json") else value


def _from_here(document: dict[str, Any], text: str) -> dict[str, Any]:
    """Paths that an override states are taken from the working directory, as the shell means them."""
    path = text.partition("=")[0].strip()
    keys = tuple(path.split("."))
    if keys in CALIBRATIONS and "/" in str(_inside(document, keys)):
        return _replaced(document, list(keys), str(Path(str(_inside(document, keys))).absolute()), path)
    if path == "workload.trace" and _is_path(document["workload"]["trace"]):
        there = str(Path(document["workload"]["trace"]).absolute())
        return {**document, "workload": {**document["workload"], "trace": there}}
    section, _, key = path.partition(".")
    if section == "routing" and key in FROM_FILES and isinstance(document[section][key], str):
        return {**document, section: {**document[section], key: str(Path(document[section][key]).absolute())}}
    return document


def _is_path(value: Any) -> bool:
    """Whether a trace is named by a file rather than by the catalogue."""
    return isinstance(value, str) and ("/" in value or "." in value)


def apply_override(document: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy of the document with ``key.path=value`` applied; the value is read as YAML.

    Raises:
        SpecError: not of that form, or the path leads into something that is not a mapping.
    """
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {text!r}: must be key.path=value, e.g. deployment.batch_per_gpu=64")
    if keys[0] == BEFORE:
        raise SpecError(unknown_key(BEFORE))
    value = parse_yaml(raw, f"--set {path.strip()}")
    document = with_engine_inside(document)
    if keys[0] == "engine" and len(keys) > 1:
        keys = [
            "deployment",
            {"name": "engine", "version": "engine_version"}.get(keys[1], keys[1]),
            *keys[2:],
        ]
    if keys[-1] == "engine_version" and isinstance(value, float):
        value = raw.strip()  # 0.10 is a version, and as a number another one
    if tuple(keys) in CALIBRATIONS and not raw.strip():
        value = ""  # none, as a shell writes it
    return with_engine_inside(_replaced(document, keys, value, path.strip()), over=True)


def _document(name: str, depth: int = 0) -> tuple[dict[str, Any], Path]:
    """The document of a name or path with its bases merged in, and the folder that its paths are relative to."""
    if depth > MAX_BASES:
        raise SpecError(f"base = {name}: more than {MAX_BASES} bases; is there a cycle?")
    if names_file(name) or "/" in name:
        path = Path(name)
        document, folder = _anchored(read_document(path), path.parent), path.parent
        document.setdefault("name", printable(path.stem))
    else:
        document, folder = catalogue.entry("scenarios", name), Path()
        document.setdefault("name", name)
    return _with_base(document, folder, depth)


def _gpu_of(document: Mapping[str, Any]) -> str | None:
    """The GPU (or the cluster) that a document names; None: it names none."""
    cluster = document.get("cluster")
    if isinstance(cluster, Mapping):
        gpu = cluster.get("gpu")
        named = gpu.get("base", gpu.get("name")) if isinstance(gpu, Mapping) else gpu
        return str(named) if named else _gpu_of({"cluster": cluster["base"]}) if cluster.get("base") else None
    if not isinstance(cluster, str):
        return None
    named = catalogue.cluster_named(cluster)
    return cluster if named is None else str(catalogue.entry("clusters", named)["gpu"])


def _without_place(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A document whose cluster was replaced, without calibration and price; ``BEFORE`` keeps the old cluster's GPU and
    what was stated for it (of an earlier move, where nothing was stated since).
    """
    known = {"gpu": _gpu_of(before), **{key: before[key] for key in PLACE if key in before}}
    rest = {key: value for key, value in document.items() if key not in PLACE}
    return {**rest, BEFORE: {**before.get(BEFORE, {}), **known}}


def _moved(document: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a document names another GPU than one that named one."""
    old, new = _gpu_of(before), _gpu_of(document)
    return old is not None and new is not None and old != new


def _with_base(document: dict[str, Any], folder: Path, depth: int) -> tuple[dict[str, Any], Path]:
    """The document merged over its base, and the folder that the result's paths are relative to."""
    base = document.pop("base", None)
    document = with_engine_inside(document)
    if base is None:
        return document, folder
    if not isinstance(base, str):
        raise SpecError(f"base = {shown(base)}: must be the name or path of a scenario")
    parent, parent_folder = _document(str(folder / base) if names_file(base) else base, depth + 1)
    under = parent
    if _moved(document, parent):
        under = _without_place(parent, parent)
    merged = merged_over(under, document)
    stated = {path for path, _ in leaves(document)}
    return _without_old_versions(merged, parent, stated), folder if "model" in document else parent_folder


def merged_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, mapping by mapping; a name replaces a mapping, and a mapping refines a name."""
    result = dict(base)
    for key, value in top.items():
        under = result.get(key)
        if isinstance(value, Mapping) and "base" not in value:
            if isinstance(under, str) and key in NAMED:
                under = {"base": under}
            if isinstance(under, Mapping):
                result[key] = merged_over(under, value)
                continue
        result[key] = value
    return result


def _replaced(document: Mapping[str, Any], keys: list[str], value: Any, path: str) -> dict[str, Any]:
    head, *rest = keys
    result = dict(document)
    if not rest:
        result[head] = value
        return result
    child = result.get(head, {})
    if isinstance(child, str) and head in NAMED:
        child = {"base": child}
    if not isinstance(child, Mapping):
        raise SpecError(f"--set {path}: {head} is {shown(child)}, which has no field {rest[0]}")
    result[head] = _replaced(child, rest, value, path)
    return result
