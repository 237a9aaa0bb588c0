"""Drafts as files state them: a name of the catalogue, a draft's config.json, a published curve of acceptance."""

from collections.abc import Callable, Mapping
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.messages import shown
from perfmodel.spec.model import Model

PLACE = "deployment.mtp"
EAGLE3, BLOCK = "Eagle3", ("DSpark", "DFlash")
"""What the class of a published draft's config is called."""
OF_DRAFTS = (
    "eagle_config",
    "dflash_config",
    "dspark_config",
    "draft_vocab_size",
    "architectures",
    "auto_map",
    "block_size",
)
"""Keys of such a config that no language model has."""


def with_drafts(deployment: Any, read: Callable[[Any], Mapping[str, Any] | Model]) -> Any:
    """A deployment section with what its ``mtp`` names written out.

    Args:
        deployment: as stated.
        read: from what stands for a model to its config, or to the model where it is one of the catalogue.

    Raises:
        SpecError: an unknown name, or another form.
    """
    section = deployment.get("mtp") if isinstance(deployment, Mapping) else None
    if not isinstance(section, Mapping) or not section.keys() & {"base", "drafter"}:
        return deployment
    found = dict(section)
    if "base" in found:
        found = {**_acceptance(found.pop("base"), found), **found}
    if found.get("drafter") is not None:
        found["drafter"] = _drafter(found["drafter"], read)
    return {**deployment, "mtp": found}


def _acceptance(name: Any, stated: Mapping[str, Any]) -> dict[str, Any]:
    """What a published curve states; nothing of how often where the file says that itself."""
    if not isinstance(name, str):
        raise SpecError(f"{PLACE}.base = {shown(name)}: must be a name (perfmodel show acceptance)")
    entry = catalogue.entry("acceptance", name)
    if stated.keys() & {"acceptance", "acceptance_by_position", "accepted_lengths"}:
        raise SpecError(f"{PLACE}: base = {name} says how many drafts are accepted: leave one of the two out")
    source = {"acceptance_source": f"{name}: {entry['model']}, {entry['workload']} ({entry['source']})"}
    if "accepted_lengths" in entry:
        return {"accepted_lengths": entry["accepted_lengths"], **source}
    return {"acceptance": acceptance_of(entry["drafts"], entry["accepted_length"]), **source}


def acceptance_of(drafts: int, length: float) -> float:
    """The acceptance a of each draft with 1 + a + ... + a^drafts = ``length``, the mean tokens per step.

    Raises:
        SpecError: no acceptance gives that length.
    """
    if not 1.0 <= length <= drafts + 1.0:
        raise SpecError(f"accepted length {length}: must be from 1 to {drafts + 1} with {drafts} drafts")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if sum(middle**i for i in range(drafts + 1)) < length else (low, middle)
    return high


def _drafter(section: Any, read: Callable[[Any], Mapping[str, Any] | Model]) -> Any:
    place = f"{PLACE}.drafter"
    section = {"base": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping):
        raise SpecError(f"{place} = {shown(section)}: must be a name (perfmodel show drafters) or a mapping")
    keys = dict(section)
    base = keys.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise SpecError(f"{place}.base = {shown(base)}: must be a name (perfmodel show drafters)")
        entry = catalogue.entry("drafters", base)
        keys = {"name": base, "source": entry["source"], "model": entry["model"], **keys}
    if "model" not in keys:
        raise SpecError(
            f"{place}.model: missing; a draft's config.json, a catalogue model, or base: a drafter's name"
        )
    config = read(keys["model"])
    if isinstance(config, Model):
        return {"kind": "model", **keys, "model": config}
    shape, plain = _shape(config)
    return {**shape, **keys, "model": plain}


def _shape(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a draft's config says of how it drafts, and the language model's keys alone."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    plain = {key: value for key, value in config.items() if key not in OF_DRAFTS}
    if EAGLE3 in name:
        states = _inner(config, "eagle_config").get("eagle_aux_hidden_state_layer_ids")
        plain["vocab_size"] = config.get("draft_vocab_size") or config.get("vocab_size")
        if name.startswith("Llama"):
            plain["model_type"] = "llama"  # some configs keep their target's
        return {"kind": "eagle3", **_count(states)}, plain
    if any(one in name for one in BLOCK):
        inner = {**_inner(config, "dflash_config"), **_inner(config, "dspark_config")}
        return {
            "kind": "dspark",
            **_count(inner.get("target_layer_ids")),
            "markov_rank": inner.get("markov_rank", 0),
        }, plain
    return {}, dict(config)


def _inner(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _count(layers: Any) -> dict[str, int]:
    return {"fused_states": len(layers)} if isinstance(layers, list) and layers else {}
