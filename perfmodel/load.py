"""From what a scenario states to a :class:`Scenario`: sections read in full, and everything that follows filled in.

A section (model, cluster, cluster.gpu, prices, power) is a catalogue name, or a mapping whose ``base`` names one and
whose other keys replace fields of it. ``model`` may also be the path of a Hugging Face config.json; its other keys then
replace keys of that config. What is stated, and over what, is :mod:`perfmodel.stated`'s.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perfmodel.engines.fill import prefill_deployment, prefill_routing, with_engine
from perfmodel.engines.formats import with_checkpoint
from perfmodel.engines.known_routing import with_known_routing
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.keys import unknown_key
from perfmodel.spec.messages import describe, shown
from perfmodel.spec.model import Model
from perfmodel.spec.model_overrides import refuse_unread
from perfmodel.spec.models.reader import Reading, model_from_config, read_config
from perfmodel.spec.models.wrappers import beneath
from perfmodel.spec.paths import is_file, is_folder, printable, resolved
from perfmodel.spec.published_drafts import with_drafts
from perfmodel.spec.routing import FROM_FILES
from perfmodel.spec.scenario import PLACES, Scenario
from perfmodel.stated import (
    BEFORE,
    PLACE,
    SECTIONS,
    calibration_place,
    document_of_file,
    document_of_name,
    document_of_text,
    merged_over,
    refuse_controls,
    with_engine_inside,
)

CALIBRATED = "calibrated"
"""Cluster name that stands for the device of the scenario's calibration."""


def load_scenario(name: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """The scenario of a catalogue name or YAML file, with ``key.path=value`` overrides applied.

    Raises:
        SpecError: an unknown name, key or value; the message names the field.
        DataError: a file that can't be read.
        UnsupportedError: a model that is not modelled.
    """
    document, folder = document_of_file(str(name), overrides)
    return build_scenario(document, folder=folder)


def scenario_of_text(text: str, overrides: Iterable[str] = (), *, name: str = "scenario") -> Scenario:
    """The scenario of a YAML text from somebody unknown, e.g. an upload: it may name the catalogue, but no file.

    Raises:
        SpecError: an unknown key or name, a bad value, or a file named.
        DataError: malformed or hostile YAML, or more than a megabyte of it.
        UnsupportedError: a model that is not modelled.
    """
    return build_scenario(document_of_text(text, overrides, name=name))


def scenario_of_name(name: str, overrides: Iterable[str] = ()) -> Scenario:
    """A catalogue scenario with overrides from somebody unknown, e.g. a link: nothing in them may name a file.

    Raises:
        SpecError: no such name, an unknown key, a bad value, or a file named.
        UnsupportedError: a model that is not modelled.
    """
    return build_scenario(document_of_name(name, overrides))


def build_scenario(document: Mapping[str, Any], *, folder: Path = Path()) -> Scenario:
    """The scenario of a document; relative paths are taken from ``folder``.

    Raises:
        SpecError: unknown key, missing section or bad value.
    """
    refuse_controls(document, "")
    document, before = dict(document), document.get(BEFORE, {})
    document.pop(BEFORE, None)
    document = with_engine_inside(document)
    unknown = [key for key in document if key not in SECTIONS]
    if unknown:
        raise SpecError(unknown_key(unknown[0]))
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
    fields["calibration"] = calibration_place(calibration_for(fields, gpu), Path())
    fields["prices"] = _prices(prices_for(fields, gpu, before))
    if before:
        notes += _what_moved(fields, before, [key for key in PLACE if key not in document])
    fields["power"] = _power(fields.get("power", {}), fields["cluster"])
    if isinstance(fields.get("prefill"), Mapping):
        fields["prefill"] = _placed("prefill", fields)
    if isinstance(fields.get("ffns"), Mapping):
        fields["ffns"] = _differing(_placed("ffns", fields), fields)
    _write_out_drafts(fields)
    sections, differing = _with_engines(fields, gpu)
    fields |= sections
    fields |= _with_routing(fields)
    notes += differing
    fields["notes"] = tuple(notes)
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise SpecError(describe(error, unknown_key)) from error


def calibration_for(fields: Mapping[str, Any], gpu: Any) -> Any:
    """The stated calibration; else that of the cluster's GPU, where one ships."""
    if "calibration" in fields:
        return fields["calibration"]
    name = gpu.get("name", "") if isinstance(gpu, Mapping) else ""
    return name if name in catalogue.names("calibrations") and fields.get("costs") != "report" else ""


def _placed(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``prefill`` or ``ffns`` with its own cluster in full, and that GPU's calibration, price and power
    where none is stated; what has the same GPU as the scenario is lent the scenario's.

    Raises:
        SpecError: no price.
    """
    found = dict(fields[name])
    for key in ("calibration", "cluster", "prices"):
        if key in found and found[key] is None:
            del found[key]
    if "calibration" in found:
        found["calibration"] = calibration_place(found["calibration"], Path(), f"{name}.calibration")
    if "cluster" not in found:
        if "prices" in found:
            found["prices"] = _prices(found["prices"], f"{name}.prices")
        if "power" in found:
            found["power"] = _power(found["power"] or {}, fields["cluster"])
        return found
    if _base(found["cluster"]) == CALIBRATED:
        raise SpecError(
            f"{name}.cluster = {CALIBRATED}: stands for the scenario's own calibration; name a cluster, or leave it "
            f"out where {PLACED[name]} the same GPUs"
        )
    found["cluster"] = cluster = _section("clusters", found["cluster"], f"{name}.cluster")
    gpu = cluster.get("gpu", {})
    alike = isinstance(gpu, Mapping) and gpu == fields["cluster"].get("gpu")
    if "calibration" not in found:
        found["calibration"] = (
            fields["calibration"] if alike else calibration_for({"costs": fields.get("costs")}, gpu)
        )
    if alike and "prices" not in found:
        found["prices"] = fields["prices"]
    else:
        found["prices"] = _prices(prices_for(found, gpu, {}, f"{name}.prices"), f"{name}.prices")
    found["power"] = _power(found.get("power") or {}, cluster)
    return found


PLACED = {"prefill": "prompts are computed on", "ffns": "FFNs are computed on"}
"""Sections that may stand on another cluster -> what is done there."""


def _differing(ffns: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section ``ffns``, without a cluster that is the scenario's and what else is as there; None: all of it. With
    ``num_gpus`` it is a cluster of its own, however alike.
    """
    cluster = ffns.get("cluster")
    if cluster is not None and {"num_gpus": None, **cluster} != {**fields["cluster"], "num_gpus": None}:
        return dict(ffns)
    own = {key: value for key, value in ffns.items() if key != "cluster"}
    kept = {
        key: value
        for key, value in own.items()
        if key not in PLACES or (value is not None and value != fields[key])
    }
    return kept or None


def prices_for(fields: Mapping[str, Any], gpu: Any, before: Mapping[str, Any], field: str = "prices") -> Any:
    """The stated price; else the catalogue's for the cluster's GPU; else that of the cluster before. A section that
    states neither a name nor an amount refines what would stand there without it.

    Raises:
        SpecError: no price.
    """
    stated = fields.get("prices")
    refined = isinstance(stated, Mapping) and not {"base", "usd_per_gpu_hour"} & stated.keys()
    if stated is not None and not refined:
        return stated
    name = gpu.get("name", "") if isinstance(gpu, Mapping) else ""
    found = _priced(name) or _price_before(before)
    if not found:
        raise SpecError(
            f"{field}: missing, and the catalogue has no price for {name or 'this GPU'}; give a catalogue name "
            f"(perfmodel show prices) or {field}: {{usd_per_gpu_hour: 2}}"
        )
    return merged_over({"prices": found}, {"prices": stated or {}})["prices"] if refined else found


def _prices(section: Any, field: str = "prices") -> dict[str, Any]:
    """A price as its section says. An amount that is not the catalogue entry's has none of that entry's labels: it was
    quoted neither there nor then.
    """
    found = _section("prices", section, field)
    entry = _base(section)
    if not isinstance(section, Mapping) or entry is None:
        return found
    amount = catalogue.entry("prices", entry)["usd_per_gpu_hour"]
    return (
        found
        if found.get("usd_per_gpu_hour") == amount
        else {k: v for k, v in section.items() if k != "base"}
    )


def _priced(gpu: Any) -> str:
    """The catalogue's price for a GPU where none is stated; empty: it has none."""
    entries = catalogue.names("prices")
    return next((e for e in entries if gpu in catalogue.entry("prices", e).get("default_for", ())), "")


def _price_before(before: Mapping[str, Any]) -> Any:
    """The price of the cluster before: stated, or its GPU's; empty: there was none."""
    return before.get("prices") or _priced(before.get("gpu"))


def _what_moved(fields: Mapping[str, Any], before: Mapping[str, Any], moved: Iterable[str]) -> list[str]:
    """What another cluster brought along, and what it could not bring, of the sections that moved with it."""
    gpu = fields["cluster"].get("gpu", {}).get("name", "the GPU")
    notes = []
    calibration, price = calibration_for(before, {"name": before["gpu"]}), _price_before(before)
    if "calibration" in moved and calibration:
        found = fields["calibration"]
        text = (
            f"its calibration is {found}" if found else f"no calibration ships for {gpu}: kernels by roofline"
        )
        notes.append(f"another cluster: {text}, instead of {calibration}")
    if "prices" in moved and price:
        was, now = _base(price) or price, fields["prices"].get("name")
        same = f"the catalogue has no price for {gpu}, the old one is kept: {shown(was)}"
        notes.append(
            f"another cluster: {same if not _priced(gpu) else f'its price is {now}, instead of {shown(was)}'}"
        )
    return notes


def _with_engines(fields: Mapping[str, Any], gpu: Any) -> tuple[dict[str, Any], list[str]]:
    """Deployment and serving, and those of prefill replicas, with what their checkpoint holds and their engines do
    filled in, and notes on what is stated otherwise.
    """
    gpu = gpu if isinstance(gpu, Mapping) else {}
    decode = fields.get("deployment", {})
    serving = fields.get("serving", {})
    if not isinstance(decode, Mapping) or not isinstance(serving, Mapping):
        return {"deployment": decode, "serving": serving}, []
    filled, notes = with_checkpoint(decode, fields["model"].formats)
    own = with_engine(filled, serving, fields["model"], gpu)
    found: dict[str, Any] = {"deployment": own.deployment, "serving": own.serving}
    notes += _about_experts(own.deployment, decode, fields["model"])
    prefill = fields.get("prefill")
    if isinstance(prefill, Mapping) and "deployment" in prefill:
        deployment, serving = prefill["deployment"], prefill.get("serving", {})
        if isinstance(deployment, Mapping) and isinstance(serving, Mapping):
            section, other = with_checkpoint(prefill_deployment(deployment, decode), fields["model"].formats)
            notes += [text for text in other if text not in notes]
            own_gpu = prefill.get("cluster", fields["cluster"]).get("gpu", {})
            side = with_engine(
                section, serving, fields["model"], own_gpu if isinstance(own_gpu, Mapping) else {}
            )
            other = _about_experts(side.deployment, deployment, fields["model"])
            notes += [f"prefill: {text}" for text in other]
            found["prefill"] = {
                **side.prefill,
                **prefill,
                "deployment": side.deployment,
                "serving": side.serving,
            }
    return found, notes


def _about_experts(filled: Mapping[str, Any], stated: Mapping[str, Any], model: Model) -> list[str]:
    """What an engine makes of experts that do not divide over ``ep``, where nobody stated it."""
    ep, copies = filled.get("ep"), filled.get("redundant_experts")
    if model.moe is None or not isinstance(ep, int) or ep < 1:
        return []
    experts, engine = model.moe.num_experts, filled.get("engine")
    if copies and "redundant_experts" not in stated:
        return [
            f"{engine} loads only experts that divide: {experts} over ep = {ep} take deployment.redundant_experts = "
            f"{copies}, the fewest that do"
        ]
    if filled.get("uneven_experts") and "uneven_experts" not in stated:
        return [
            f"{experts} experts do not divide over ep = {ep}: {engine} gives {experts % ep} ranks "
            f"{experts // ep + 1} and the others {experts // ep}"
        ]
    return []


def _write_out_drafts(fields: dict[str, Any]) -> None:
    """Deployments with what their ``mtp`` names: a curve, or a draft model."""

    def read(value: Any) -> Mapping[str, Any] | Model:
        value = {"base": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            raise SpecError(
                f"deployment.mtp.drafter.model = {shown(value)}: must be a name, a config.json or a mapping"
            )
        base = value.get("base")
        if isinstance(base, str) and not (base.endswith(".json") or "/" in base):
            return _model(value, Path())
        own = {key: one for key, one in value.items() if key != "base"}
        if base is None:
            return own
        if not isinstance(base, str):
            raise SpecError(f"deployment.mtp.drafter.model.base = {shown(base)}: must be a name or a path")
        path = Path(base)
        return {**read_document(path / "config.json" if is_folder(path) else path, infinite=True), **own}

    def written(deployment: Any) -> Any:
        found = with_drafts(deployment, read)
        mtp = found.get("mtp") if isinstance(found, Mapping) else None
        drafter = mtp.get("drafter") if isinstance(mtp, Mapping) else None
        if isinstance(drafter, Mapping) and isinstance(drafter.get("model"), Mapping):
            name = str(drafter.get("name") or "draft")
            own = model_from_config(drafter["model"], name=name)
            found = {**found, "mtp": {**found["mtp"], "drafter": {**drafter, "model": own}}}
        return found

    if "deployment" in fields:
        fields["deployment"] = written(fields["deployment"])
    prefill = fields.get("prefill")
    if isinstance(prefill, Mapping) and "deployment" in prefill:
        fields["prefill"] = {**prefill, "deployment": written(prefill["deployment"])}


def _with_routing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Routing with what is known of the model's router, for either side by its own layout; prefill replicas have a
    section where theirs is another one.
    """
    shared, model = fields["routing"], fields["model"]
    known = fields.get("costs") != "report"

    def of(routing: Mapping[str, Any], deployment: Any) -> dict[str, Any]:
        return with_known_routing(routing, model, deployment) if known else dict(routing)

    decode, prefill = fields["deployment"], fields.get("prefill")
    if not isinstance(shared, Mapping) or not isinstance(decode, Mapping):
        return {}
    found: dict[str, Any] = {"routing": of(shared, decode)}
    if not isinstance(prefill, Mapping) or not isinstance(prefill.get("deployment"), Mapping):
        return found
    own = prefill.get("routing") or {}
    if isinstance(own, Mapping):
        side = prefill["deployment"]
        stated = prefill_routing(own, shared, side.get("ep", 1), decode.get("ep", 1))
        filled = of(stated, side)
        routing = None if filled == found["routing"] else filled
        found["prefill"] = {**prefill, "routing": routing}
    return found


def _routing(section: Any, model: Model) -> Any:
    """Routing with the content of the files that it names."""
    if not isinstance(section, Mapping):
        return section
    found, sources = dict(section), []
    for key in FROM_FILES:
        if isinstance(found.get(key), str):
            if model.moe is None:
                raise SpecError(f"routing.{key}: model {model.name} has no experts, leave it out")
            from perfmodel.spec.routing_files import READERS  # numpy, which an error is told without

            found[key], source = READERS[key](Path(found[key]), model.moe)
            sources.append(source)
    return {**found, "source": ", ".join(sources)} if sources else found


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
    if not isinstance(calibration, str):
        raise SpecError(f"calibration = {shown(calibration)}: must be a name or a folder")
    described = read_document(catalogue.calibration_path(calibration)).get("cluster")
    if not isinstance(described, Mapping):
        raise SpecError(f"calibration {calibration}: has no cluster section")
    keys = dict(section) if isinstance(section, Mapping) else {}
    keys.pop("base", None)
    return merged_over(described, keys)


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
    return read_file(folder / base, keys).model


def read_file(path: Path, keys: Mapping[str, Any]) -> Reading:
    """What a ``config.json`` (or the one in a folder) says, with some of its keys replaced.

    Raises:
        SpecError, UnsupportedError: as the reader does, with the path before it.
        DataError: the file can't be read.
    """
    if is_folder(path):
        path = path / "config.json"
    name = printable(path.stem if path.stem != "config" else (resolved(path).parent.name or "model"))
    own, quantised = read_document(path, infinite=True), _beside(path)
    own = beneath(own, keys)
    refuse_unread(keys, own, lambda one: read_config(one, name=name, beside=quantised).model)
    config = own | dict(keys)
    try:
        return read_config(config, name=name, beside=quantised)
    except PerfModelError as error:
        raise type(error)(f"{path}: {error}") from error


def _beside(config: Path) -> dict[str, Any] | None:
    """ModelOpt's ``hf_quant_config.json`` beside a config (``X_hf_quant_config.json`` beside ``X_config.json``)."""
    path = config.with_name(config.name.replace("config.json", "hf_quant_config.json"))
    return read_document(path) if path != config and is_file(path) else None


def _cluster_named(name: str, field: str) -> str:
    """The cluster that is meant by its own name or its GPU's.

    Raises:
        SpecError: none; the message says how to state one's own.
    """
    found = catalogue.cluster_named(name)
    if found is not None:
        return found
    try:
        catalogue.entry("clusters", name)
    except SpecError as error:
        raise SpecError(
            f"{error}; one of your own: {field}: {{gpu: NAME or mapping, node: {{num_gpus: 8, link_gb_per_s: 448, "
            "link_domain_gpus: 8}, network: {gb_per_s_per_gpu: 50}} (perfmodel show keys cluster)"
        ) from error
    return name


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
        base = _cluster_named(base, field) if kind == "clusters" else base
        parent: dict[str, Any] = {**catalogue.entry(kind, base), "name": base}
        if kind == "clusters":
            parent["gpu"] = _section("gpus", parent["gpu"], "cluster.gpu")
            if isinstance(keys.get("gpu"), str):
                parent.pop("gpu")
        keys = merged_over(parent, keys)
    if kind == "clusters" and "gpu" in keys and not isinstance(keys["gpu"], Mapping):
        keys["gpu"] = _section("gpus", keys["gpu"], "cluster.gpu")
    elif kind == "clusters" and "base" in keys.get("gpu", {}):
        keys["gpu"] = _section("gpus", {"base": keys["gpu"]["base"]} | keys["gpu"], "cluster.gpu")
    return keys
