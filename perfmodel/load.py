"""From a catalogue name or a YAML file, plus ``key.path=value`` overrides, to a :class:`Scenario`.

A section (model, cluster, cluster.gpu, prices, power) is a catalogue name, or a mapping whose ``base`` names one and
whose other keys replace fields of it. A scenario may have a ``base`` too. ``model`` may also be the path of a Hugging
Face config.json; its other keys then replace keys of that config.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from perfmodel.engines.fill import prefill_deployment, with_engine
from perfmodel.engines.known_routing import with_known_routing
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.documents import MAX_BYTES, parse_yaml, read_document
from perfmodel.spec.hf_config import model_from_config
from perfmodel.spec.messages import describe, shown
from perfmodel.spec.model import Model
from perfmodel.spec.routing_files import READERS
from perfmodel.spec.scenario import Scenario

SECTIONS = (*Scenario.model_fields, "engine")
MAX_BASES = 10
CALIBRATED = "calibrated"
"""Cluster name that stands for the device of the scenario's calibration."""
NAMED = ("model", "cluster", "prices", "power", "gpu")
"""Sections that a catalogue name may stand for."""
FILE_ENDINGS = (".yaml", ".yml", ".json", ".csv", ".jsonl", ".parquet", ".gz")


def load_scenario(name: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """The scenario of a catalogue name or YAML file, with ``key.path=value`` overrides applied.

    Raises:
        SpecError: an unknown name, key or value; the message names the field.
        DataError: a file that can't be read.
        UnsupportedError: a model that is not modelled.
    """
    before, folder = _document(str(name))
    document, texts = before, tuple(overrides)
    for text in texts:
        document = apply_override(document, text)
        _refuse_nulls(document, "")
        document = _from_here(document, text)
    return build_scenario(_moved(document, before, texts), folder=folder)


def scenario_of_text(text: str, overrides: Iterable[str] = (), *, name: str = "scenario") -> Scenario:
    """The scenario of a YAML text from somebody unknown, e.g. an upload: it may name the catalogue, but no file.

    Raises:
        SpecError: an unknown key or name, a bad value, or a file named.
        DataError: malformed or hostile YAML, or more than a megabyte of it.
        UnsupportedError: a model that is not modelled.
    """
    return build_scenario(document_of_text(text, overrides, name=name))


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
    return _overridden(before, overrides)


def scenario_of_name(name: str, overrides: Iterable[str] = ()) -> Scenario:
    """A catalogue scenario with overrides from somebody unknown, e.g. a link: nothing in them may name a file.

    Raises:
        SpecError: no such name, an unknown key, a bad value, or a file named.
        UnsupportedError: a model that is not modelled.
    """
    return build_scenario(document_of_name(name, overrides))


def document_of_name(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The document that :func:`scenario_of_name` builds its scenario of: what is stated, before anything is filled in.

    Raises:
        SpecError: as there.
    """
    document: dict[str, Any] = {"base": name}
    refuse_files(document)
    before, _ = _with_base(document, Path(), 0)
    return _overridden({"name": name, **before}, overrides)


def _overridden(before: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A document of somebody unknown with overrides applied: none of them may name a file."""
    document, texts = before, tuple(overrides)
    for override in texts:
        document = apply_override(document, override)
    refuse_files(document)
    return _moved(document, before, texts)


def refuse_files(document: Mapping[str, Any]) -> None:
    """Refuse a document that names a file of this machine, where a catalogue name or the content itself would do.

    Raises:
        SpecError: as said, with the key.
    """
    sections = {key: document.get(key) for key in ("model", "workload", "routing")}
    inner = {key: value for key, value in sections.items() if isinstance(value, Mapping)}
    named = {
        "base": document.get("base"),
        "calibration": document.get("calibration"),
        "model": sections["model"] if isinstance(sections["model"], str) else None,
        "model.base": inner.get("model", {}).get("base"),
        "workload.trace": inner.get("workload", {}).get("trace"),
    }
    for key, value in named.items():
        if isinstance(value, str) and ("/" in value or "\\" in value or value.endswith(FILE_ENDINGS)):
            raise SpecError(
                f"{key} = {shown(value)}: a file can't be named here; allowed: names of the catalogue"
            )
    for key, kind in (("calibration", "calibrations"), ("workload.trace", "traces")):
        value = named[key]  # readers take any name that exists in the working directory for a path
        if isinstance(value, str) and value and value not in catalogue.names(kind):
            raise SpecError(f"{key} = {shown(value)}: not in the catalogue (perfmodel show {kind})")
    for key in READERS:
        value = inner.get("routing", {}).get(key)
        if isinstance(value, str):
            raise SpecError(f"routing.{key} = {shown(value)}: a file can't be named here; state the numbers")


def build_scenario(document: Mapping[str, Any], *, folder: Path = Path()) -> Scenario:
    """The scenario of a document; relative paths are taken from ``folder``.

    Raises:
        SpecError: unknown key, missing section or bad value.
    """
    _refuse_nulls(document, "")
    document, before = dict(document), document.get(BEFORE, {})
    document.pop(BEFORE, None)
    document = _with_engine_inside(document)
    unknown = [key for key in document if key not in SECTIONS]
    if unknown:
        raise SpecError(f"{unknown[0]}: unknown key of a scenario; allowed: {', '.join((*SECTIONS, 'base'))}")
    fields = dict(document)
    for section in ("model", "cluster"):
        if section not in fields:
            raise SpecError(f"{section}: missing; give a catalogue name (perfmodel show) or a mapping")
    fields["model"] = _model(fields["model"], folder)
    if _base(fields["cluster"]) == CALIBRATED:
        fields["cluster"] = _calibrated_cluster(fields["cluster"], fields.get("calibration", ""))
    fields["routing"] = _routing(fields.get("routing", {}), fields["model"])
    fields["cluster"] = _section("clusters", fields["cluster"], "cluster")
    gpu = fields["cluster"].get("gpu", {})
    stated_notes = fields.get("notes", ())
    if not isinstance(stated_notes, (list, tuple)):
        raise SpecError(f"notes = {shown(stated_notes)}: must be a list of texts")
    notes = list(stated_notes)
    fields["calibration"] = _calibration(calibration_for(fields, gpu), Path())
    fields["prices"] = _section("prices", prices_for(fields, gpu, before), "prices")
    notes += _what_moved(fields, before)
    fields["power"] = _power(fields.get("power", {}), fields["cluster"])
    fields |= _with_engines(fields, gpu)
    sections = (fields["routing"], fields["deployment"])
    if all(isinstance(one, Mapping) for one in sections) and fields.get("costs") != "report":
        fields["routing"] = with_known_routing(fields["routing"], fields["model"], fields["deployment"])
    fields["notes"] = tuple(notes)
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise SpecError(describe(error)) from error


def calibration_for(fields: Mapping[str, Any], gpu: Any) -> Any:
    """The stated calibration; else that of the cluster's GPU, where one ships."""
    if "calibration" in fields:
        return fields["calibration"]
    name = gpu.get("name", "") if isinstance(gpu, Mapping) else ""
    return name if name in catalogue.names("calibrations") and fields.get("costs") != "report" else ""


def prices_for(fields: Mapping[str, Any], gpu: Any, before: Mapping[str, Any]) -> Any:
    """The stated price; else the catalogue's for the cluster's GPU; else that of the cluster before.

    Raises:
        SpecError: neither.
    """
    if "prices" in fields:
        return fields["prices"]
    name = gpu.get("name", "") if isinstance(gpu, Mapping) else ""
    if entry := _priced(name):
        return entry
    if "prices" in before:
        return before["prices"]
    raise SpecError(
        f"prices: missing, and the catalogue has no price for {name or 'this GPU'}; give a catalogue name (perfmodel "
        "show prices) or prices: {usd_per_gpu_hour: 2}"
    )


def _priced(gpu: Any) -> str:
    """The catalogue's price for a GPU where none is stated; empty: it has none."""
    entries = catalogue.names("prices")
    return next((e for e in entries if gpu in catalogue.entry("prices", e).get("default_for", ())), "")


def _what_moved(fields: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What another cluster brought along, and what it could not bring."""
    if not before:
        return []
    gpu = fields["cluster"].get("gpu", {}).get("name", "the GPU")
    notes = []
    if "calibration" in before:
        found = fields["calibration"]
        text = (
            f"its calibration is {found}" if found else f"no calibration ships for {gpu}: kernels by roofline"
        )
        notes.append(f"another cluster: {text}, instead of {before['calibration']}")
    if "prices" in before:
        was, now = _base(before["prices"]) or before["prices"], fields["prices"].get("name")
        same = f"the catalogue has no price for {gpu}, the old one is kept: {shown(was)}"
        notes.append(
            f"another cluster: {same if was == now else f'its price is {now}, instead of {shown(was)}'}"
        )
    return notes


def _with_engines(fields: Mapping[str, Any], gpu: Any) -> dict[str, Any]:
    """Deployment and serving, and those of prefill replicas, with what their engines do filled in."""
    gpu = gpu if isinstance(gpu, Mapping) else {}
    decode = fields.get("deployment", {})
    serving = fields.get("serving", {})
    if not isinstance(decode, Mapping) or not isinstance(serving, Mapping):
        return {"deployment": decode, "serving": serving}
    own = with_engine(decode, serving, fields["model"], gpu)
    found: dict[str, Any] = {"deployment": own.deployment, "serving": own.serving}
    prefill = fields.get("prefill")
    if isinstance(prefill, Mapping) and "deployment" in prefill:
        deployment, serving = prefill["deployment"], prefill.get("serving", {})
        if isinstance(deployment, Mapping) and isinstance(serving, Mapping):
            side = with_engine(prefill_deployment(deployment, decode), serving, fields["model"], gpu)
            found["prefill"] = {
                **side.prefill,
                **prefill,
                "deployment": side.deployment,
                "serving": side.serving,
            }
    return found


def _with_engine_inside(document: dict[str, Any], *, over: bool = False) -> dict[str, Any]:
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
        own["engine_version"] = str(stated["version"])
    other = deployment.get("engine") or stated["name"]
    if other != stated["name"] and not over:
        raise SpecError(
            f"engine = {stated['name']} and deployment.engine = {other} differ: state one of them"
        )
    rest = {key: value for key, value in document.items() if key != "engine"}
    return {**rest, "deployment": {**deployment, **own}}


def _engine_of(document: Mapping[str, Any], key: str = "engine") -> Any:
    deployment = document.get("deployment")
    return deployment.get(key) if isinstance(deployment, Mapping) else None


def _without_version(document: dict[str, Any]) -> dict[str, Any]:
    """The document without its engine's version: a version belongs to its engine, and goes with it."""
    if _engine_of(document, "engine_version") is None:
        return document
    kept = {key: value for key, value in document["deployment"].items() if key != "engine_version"}
    return {**document, "deployment": kept}


def _refuse_nulls(value: Any, path: str) -> None:
    """A null character in a text: no name and no path has one, and the system's calls fail on it."""
    if isinstance(value, str) and "\0" in value:
        raise SpecError(f"{path} = {shown(value)}: holds a null character, which no name or path can have")
    if isinstance(value, Mapping):
        for key, one in value.items():
            _refuse_nulls(one, f"{path}.{key}" if path else str(key))


def _anchored(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with paths of files that belong to it taken from its own folder, whatever it is merged into."""
    routing = document.get("routing")
    if isinstance(routing, Mapping):
        own = {key: str(folder / routing[key]) for key in READERS if isinstance(routing.get(key), str)}
        document = {**document, "routing": {**routing, **own}}
    workload = document.get("workload")
    if isinstance(workload, Mapping) and _is_path(workload.get("trace")):
        document = {**document, "workload": {**workload, "trace": str(folder / workload["trace"])}}
    calibration = document.get("calibration")
    if isinstance(calibration, str):
        document = {**document, "calibration": _calibration(calibration, folder)}
    return document


def _from_here(document: dict[str, Any], text: str) -> dict[str, Any]:
    """Paths that an override states are taken from the working directory, as the shell means them."""
    path = text.partition("=")[0].strip()
    if path == "calibration" and "/" in str(document[path]):
        return {**document, path: str(Path(document[path]).absolute())}
    if path == "workload.trace" and _is_path(document["workload"]["trace"]):
        there = str(Path(document["workload"]["trace"]).absolute())
        return {**document, "workload": {**document["workload"], "trace": there}}
    section, _, key = path.partition(".")
    if section == "routing" and key in READERS and isinstance(document[section][key], str):
        return {**document, section: {**document[section], key: str(Path(document[section][key]).absolute())}}
    return document


def _is_path(value: Any) -> bool:
    """Whether a trace is named by a file rather than by the catalogue."""
    return isinstance(value, str) and ("/" in value or "." in value)


def _routing(section: Any, model: Model) -> Any:
    """Routing with the content of the files that it names."""
    if not isinstance(section, Mapping):
        return section
    found, sources = dict(section), []
    for key, read in READERS.items():
        if isinstance(found.get(key), str):
            if model.moe is None:
                raise SpecError(f"routing.{key}: model {model.name} has no experts, leave it out")
            found[key], source = read(Path(found[key]), model.moe)
            sources.append(source)
    return {**found, "source": ", ".join(sources)} if sources else found


def _calibration(value: Any, folder: Path) -> str:
    """A calibration as a catalogue name or a path that does not depend on the scenario's folder."""
    if not isinstance(value, str):
        raise SpecError(f"calibration = {shown(value)}: must be a catalogue name or the path of a folder")
    return str(folder / value) if "/" in value or value.endswith(".json") else value


def _power(section: Any, cluster: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the cluster's GPU draws: its own figures, its architecture's or those named, with the section's keys over
    them.
    """
    gpu = cluster.get("gpu")
    known = [gpu.get(key) for key in ("name", "architecture")] if isinstance(gpu, Mapping) else []
    bases = [name for name in known if name in catalogue.names("power")]
    if isinstance(section, Mapping) and "base" not in section and bases:
        section = {**section, "base": bases[0]}
    return _section("power", section, "power") or None


def _base(section: Any) -> Any:
    return section.get("base") if isinstance(section, Mapping) else section


def _calibrated_cluster(section: Any, calibration: str) -> dict[str, Any]:
    """The device that a calibration was made on, with the section's other keys over it."""
    if not calibration:
        raise SpecError(f"cluster = {CALIBRATED}: needs a calibration, e.g. --set calibration=FOLDER")
    described = read_document(catalogue.calibration_path(calibration)).get("cluster")
    if not isinstance(described, Mapping):
        raise SpecError(f"calibration {calibration}: has no cluster section")
    keys = dict(section) if isinstance(section, Mapping) else {}
    keys.pop("base", None)
    return _merged(described, keys)


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
        raise SpecError(f"{BEFORE}: unknown key of a scenario; allowed: {', '.join(SECTIONS)}")
    value = parse_yaml(raw, f"--set {path.strip()}")
    document = _with_engine_inside(document)
    if keys[0] == "engine" and len(keys) > 1:
        keys = [
            "deployment",
            {"name": "engine", "version": "engine_version"}.get(keys[1], keys[1]),
            *keys[2:],
        ]
    return _with_engine_inside(_replaced(document, keys, value, path.strip()), over=True)


NumberT = TypeVar("NumberT", int, float)
MOST_NUMBERS = 64


def number_list(option: str, text: str, kind: Callable[[str], NumberT]) -> list[NumberT]:
    """``1,2,3`` as numbers.

    Raises:
        SpecError: something else, or more than MOST_NUMBERS.
    """
    parts = text.split(",")
    if len(parts) > MOST_NUMBERS:
        raise SpecError(f"{option}: {len(parts)} numbers; at most {MOST_NUMBERS}")
    found = []
    for part in parts:
        try:
            number = kind(part.strip())
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            raise SpecError(
                f"{option} {text!r}: {part.strip()!r} must be {what} with commas between"
            ) from error
        if not math.isfinite(number):
            raise SpecError(f"{option} {text!r}: {part.strip()!r} must be finite")
        found.append(number)
    return found


def _document(name: str, depth: int = 0) -> tuple[dict[str, Any], Path]:
    """The document of a name or path with its bases merged in, and the folder that its paths are relative to."""
    if depth > MAX_BASES:
        raise SpecError(f"base = {name}: more than {MAX_BASES} bases; is there a cycle?")
    if name.endswith((".yaml", ".yml", ".json")) or "/" in name:
        path = Path(name)
        document, folder = _anchored(read_document(path), path.parent), path.parent
        document.setdefault("name", path.stem)
    else:
        document, folder = catalogue.entry("scenarios", name), Path()
        document.setdefault("name", name)
    return _with_base(document, folder, depth)


BEFORE = "(before)"
"""Key under which a document keeps what belonged to a cluster that was replaced; no file can hold it."""
PLACE = ("calibration", "prices")
"""Sections that belong to a cluster: another cluster brings its own along."""


def _moved(document: dict[str, Any], before: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The document without the old cluster's calibration and price where overrides name another cluster or GPU, and
    without the old engine's version where they name another engine.

    What overrides state themselves stays.

    Args:
        document: with ``overrides`` applied.
        before: without.
        overrides: as given.
    """
    paths = [text.partition("=")[0].strip() for text in overrides]
    kept = _engine_of(document, "engine_version") == _engine_of(before, "engine_version")
    if (
        kept
        and _engine_of(document) != _engine_of(before)
        and not {"deployment.engine_version", "engine.version"} & {*paths}
    ):
        document = _without_version(document)
    named = {"cluster", "cluster.base", "cluster.gpu", "cluster.gpu.base"} & set(paths)
    if not named or _gpu_of(document) == _gpu_of(before):
        return document
    stated = {path.split(".")[0]: True for path in paths}
    return _without_place(document, before, stated)


def _without_place(
    document: dict[str, Any], before: Mapping[str, Any], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """The document without calibration and price, unless ``stated`` has them too; what ``before`` had, stated or as its
    GPU's, is noted.
    """
    gpu = {"name": _gpu_of(before)}
    own = {
        "calibration": calibration_for(before, gpu),
        "prices": before.get("prices") or _priced(gpu["name"]),
    }
    moved = {key: value for key, value in own.items() if value and key not in stated}
    return {**{key: value for key, value in document.items() if key not in moved}, BEFORE: moved}


def _gpu_of(document: Mapping[str, Any]) -> str | None:
    """The GPU (or the cluster) that a document names; None: it names none."""
    cluster = document.get("cluster")
    if isinstance(cluster, Mapping):
        gpu = cluster.get("gpu")
        named = gpu.get("base", gpu.get("name")) if isinstance(gpu, Mapping) else gpu
        return str(named) if named else _gpu_of({"cluster": cluster["base"]}) if cluster.get("base") else None
    if not isinstance(cluster, str):
        return None
    return (
        str(catalogue.entry("clusters", cluster)["gpu"])
        if cluster in catalogue.names("clusters")
        else cluster
    )


def _with_base(document: dict[str, Any], folder: Path, depth: int) -> tuple[dict[str, Any], Path]:
    """The document merged over its base, and the folder that the result's paths are relative to."""
    base = document.pop("base", None)
    document = _with_engine_inside(document)
    if base is None:
        return document, folder
    if not isinstance(base, str):
        raise SpecError(f"base = {shown(base)}: must be the name or path of a scenario")
    is_path = base.endswith((".yaml", ".yml", ".json"))
    parent, parent_folder = _document(str(folder / base) if is_path else base, depth + 1)
    if _gpu_of(document) is not None and _gpu_of(document) != _gpu_of(parent):
        parent = _without_place(parent, parent, document)
    if _engine_of(document) not in (None, _engine_of(parent)):
        parent = _without_version(parent)
    merged = _merged(parent, document)
    return merged, folder if "model" in document else parent_folder


def _model(value: Any, folder: Path) -> Model:
    if isinstance(value, str):
        value = {"base": value}
    if not isinstance(value, Mapping):
        raise SpecError(f"model = {shown(value)}: must be a catalogue name, a config.json or a mapping")
    keys = dict(value)
    base = keys.pop("base", None)
    if base is None:
        return model_from_config(keys, name="model")
    if not isinstance(base, str):
        raise SpecError(f"model.base = {shown(base)}: must be a catalogue name or the path of a config.json")
    if not (base.endswith(".json") or "/" in base):
        return catalogue.model(base, keys)
    path = folder / base
    if path.is_dir():
        path = path / "config.json"
    name = path.stem if path.stem != "config" else (path.resolve().parent.name or "model")
    config = read_document(path) | keys
    try:
        return model_from_config(config, name=name)
    except PerfModelError as error:
        raise type(error)(f"{path}: {error}") from error


def _section(kind: str, value: Any, field: str) -> dict[str, Any]:
    """A section as a mapping of its own fields, with its base (and its GPU's) expanded."""
    if isinstance(value, str):
        value = {"base": value}
    if not isinstance(value, Mapping):
        raise SpecError(f"{field} = {shown(value)}: must be a catalogue name or a mapping")
    keys = dict(value)
    base = keys.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise SpecError(f"{field}.base = {shown(base)}: must be a catalogue name")
        parent: dict[str, Any] = {**catalogue.entry(kind, base), "name": base}
        if kind == "clusters":
            parent["gpu"] = _section("gpus", parent["gpu"], "cluster.gpu")
            if isinstance(keys.get("gpu"), str):
                parent.pop("gpu")
        keys = _merged(parent, keys)
    if kind == "clusters" and "gpu" in keys and not isinstance(keys["gpu"], Mapping):
        keys["gpu"] = _section("gpus", keys["gpu"], "cluster.gpu")
    elif kind == "clusters" and "base" in keys.get("gpu", {}):
        keys["gpu"] = _section("gpus", {"base": keys["gpu"]["base"]} | keys["gpu"], "cluster.gpu")
    return keys


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, mapping by mapping; a name replaces a mapping, and a mapping refines a name."""
    result = dict(base)
    for key, value in top.items():
        under = result.get(key)
        if isinstance(value, Mapping) and "base" not in value:
            if isinstance(under, str) and key in NAMED:
                under = {"base": under}
            if isinstance(under, Mapping):
                result[key] = _merged(under, value)
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
