"""A scenario's document with what its engine does filled in: whatever is stated wins, and layouts follow.

Works on documents (mappings of key paths to values) before they are validated, because only there "stated" and
"default" can be told apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.engines.profile import Circumstances, Profile, leaves, profile
from perfmodel.errors import SpecError
from perfmodel.spec.model import Model

SHAPE = ("attention_tp", "attention_dp", "moe_tp", "ep", "dense_tp")
"""Parallelism of one pipeline stage."""
INHERITED = ("precision", "tp_collectives")
"""What prefill replicas take from the decoding deployment, unless they state it: not the layout."""
OF_ENGINE = ("engine", "engine_version", "memory_utilization")
"""What they take beside, unless they state another engine: a setting of one engine means nothing to another."""
OF_LAYOUT = ("rank_loads",)
"""What of a routing section is said of a layout, and holds for another EP no more."""
OF_ONE_POOL = ("deployment.all_to_all",)
"""What an engine sets of GPUs that have both attention and experts."""
LARGEST = 10**9


@dataclass(frozen=True, slots=True)
class Filled:
    """The sections as they stand after filling in."""

    deployment: dict[str, Any]
    serving: dict[str, Any]
    prefill: dict[str, Any]
    """What it sets of prefill replicas beside their deployment (how caches are sent)."""


def with_engine(
    deployment: Mapping[str, Any], serving: Mapping[str, Any], model: Model, gpu: Mapping[str, Any]
) -> Filled:
    """Deployment and serving sections with layout and engine filled in.

    Args:
        deployment: as stated, with ``engine`` (and ``engine_version``) where one is named.
        serving: as stated.
        model: what is served.
        gpu: the GPU's mapping (``name``, ``architecture``).

    Raises:
        SpecError: an unknown engine or version.
    """
    name = deployment.get("engine") or ""
    if not isinstance(name, str):
        raise SpecError(f"deployment.engine = {name!r}: must be the name of an engine")
    engine = profile(name, deployment.get("engine_version") or "") if name else None
    shaped = {**deployment, **_shape(deployment, model, engine)}
    if engine is None:
        return Filled(shaped, dict(serving), {})
    shaped["engine_version"] = engine.version
    at = _circumstances(shaped, model, gpu)
    if at is None:  # a size that is no number: validation will say so
        return Filled(shaped, dict(serving), {})
    stated = {path for path, _ in leaves({"deployment": deployment, "serving": serving})}
    if shaped.get("ffn_gpus"):
        stated |= set(OF_ONE_POOL)
    document: dict[str, Any] = {"deployment": shaped, "serving": dict(serving), "prefill": {}}
    for one in engine.settings(at):
        if one.path not in stated:
            _put(document, one.path.split("."), one.value)
    return Filled(document["deployment"], document["serving"], document["prefill"])


def prefill_deployment(own: Mapping[str, Any], decode: Mapping[str, Any]) -> dict[str, Any]:
    """What prefill replicas state, over engine, version and number formats as stated for those that decode: layout and
    scheduler are their own, filled in by the engine's rules for them.
    """
    same = own.get("engine") in (None, decode.get("engine"))
    keys = (*INHERITED, *(OF_ENGINE if same else ()))
    found = {"phase": "prefill", **{key: decode[key] for key in keys if key in decode}, **own}
    formats = (decode.get("precision"), own.get("precision"))
    if all(isinstance(one, Mapping) for one in formats):
        found["precision"] = {**decode["precision"], **own["precision"]}
    return found


def prefill_routing(
    own: Mapping[str, Any], shared: Mapping[str, Any], ep: Any, decode_ep: Any
) -> dict[str, Any]:
    """What prefill replicas of an EP state of routing, over what is stated for all: without what is said of the
    ranks of another EP, and of an EP of 1 no placement, which needs a load that is known.
    """
    left_out = OF_LAYOUT if ep != decode_ep else ()
    if ep == 1 and "popularity" not in {**shared, **own}:
        left_out = (*left_out, "placement")
    return {**{key: value for key, value in shared.items() if key not in left_out}, **own}


def _shape(stated: Mapping[str, Any], model: Model, engine: Profile | None) -> dict[str, int]:
    """The sizes that follow from those that are stated: moe_tp x ep = attention_tp x attention_dp, and dense FFNs are
    sliced as attention is (every engine's default). A size that is no whole number is left for validation.
    """
    sizes = {name: stated[name] for name in SHAPE if stated.get(name) is not None}
    if not all(isinstance(value, int) and value > 0 for value in sizes.values()):
        return {}
    tp = sizes.get("attention_tp", 1)
    experts = {name: sizes[name] for name in ("moe_tp", "ep") if name in sizes}
    apart = {name: stated.get(name) for name in ("attention_gpus", "ffn_gpus")}
    if all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in apart.values()):
        return _apart_shape(sizes, experts, apart)  # type: ignore[arg-type]
    if "attention_dp" not in sizes and len(experts) == 2 and not experts["moe_tp"] * experts["ep"] % tp:
        dp = experts["moe_tp"] * experts["ep"] // tp
    else:
        dp = sizes.get("attention_dp", 1)
    group = tp * dp
    found = {"attention_tp": tp, "attention_dp": dp, "dense_tp": sizes.get("dense_tp", tp)}
    if len(experts) == 1:
        (name, size), other = next(iter(experts.items())), {"moe_tp": "ep", "ep": "moe_tp"}
        found[other[name]] = group // size if not group % size else 1
    elif not experts:
        parallel = dp > 1 if engine is None else engine.experts == "parallel"
        sliced = model.moe is None or not parallel
        found |= {"moe_tp": group, "ep": 1} if sliced else {"moe_tp": 1, "ep": group}
    return {name: size for name, size in found.items() if name not in sizes}


def _apart_shape(
    sizes: Mapping[str, int], experts: Mapping[str, int], apart: Mapping[str, int]
) -> dict[str, int]:
    """The sizes that follow where attention and FFNs have GPUs of their own: experts are divided over all of theirs,
    each dense FFN is whole.
    """
    tp, gpus = sizes.get("attention_tp", 1), apart["ffn_gpus"]
    found = {"attention_tp": tp, "attention_dp": max(1, apart["attention_gpus"] // tp), "dense_tp": 1}
    if len(experts) == 1:
        (name, size), other = next(iter(experts.items())), {"moe_tp": "ep", "ep": "moe_tp"}
        found[other[name]] = max(1, gpus // size)
    elif not experts:
        found |= {"moe_tp": 1, "ep": gpus}
    return {name: size for name, size in found.items() if name not in sizes}


def _circumstances(
    deployment: Mapping[str, Any], model: Model, gpu: Mapping[str, Any]
) -> Circumstances | None:
    sizes = [deployment.get(name, 1) for name in ("attention_tp", "attention_dp", "ep")]
    if not all(isinstance(size, int) and 0 < size <= LARGEST for size in sizes):
        return None
    experts = model.moe.num_experts if model.moe is not None else 0
    copies = deployment.get("redundant_experts", 0)
    placed = experts + (copies if isinstance(copies, int) and 0 <= copies <= LARGEST else 0)
    return Circumstances(
        architecture=str(gpu.get("architecture", "")),
        system=str(gpu.get("name", "")),
        gpus=sizes[0] * sizes[1],
        ep=sizes[2],
        attention_dp=sizes[1],
        model=model.family or model.name,
        odd_experts=placed % sizes[2],
        fewest_copies=-experts % sizes[2],
    )


def _put(document: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets a key path; a section that is no mapping is left for validation."""
    head, *rest = keys
    if not rest:
        document[head] = value
        return
    child = document.get(head, {})
    if isinstance(child, Mapping):
        document[head] = dict(child)
        _put(document[head], rest, value)
