"""A layout as the command that starts an engine with it, and what of it the engine's flags cannot say.

The flags are data (``data/engines/launch/NAME.yaml``), each with the page of the engine's documentation that it was
read on. A flag is used where every fact in its ``when`` holds: a value, a list of values, or for numbers [least,
most].
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from perfmodel.spec.catalogue import DATA
from perfmodel.spec.deployment import Schedule
from perfmodel.spec.documents import read_document
from perfmodel.spec.scenario import Scenario

FOLDER = DATA / "engines" / "launch"
HEAD = "HEAD_NODE"
"""Stands for the address of a replica's first node, which nobody here knows."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How one kind of replica is started."""

    role: str
    """both, prefill or decode."""
    replicas: int
    """How many of them."""
    command: str
    """Of one replica, on each of its nodes."""
    file: str
    """Content of the file that the command names; empty: none."""
    cannot: tuple[str, ...]
    """What of the layout it does not say."""
    sources: tuple[str, ...]
    """Where the flags were read."""


def overlaps_of(engine: str, *, shortcut: bool) -> tuple[Schedule, ...]:
    """Overlap schedules that an engine has; those of a shortcut-connected model only where it is one."""
    known: tuple[Schedule, ...] = ("sequential", "tbo", "sbo", "sbo-engine")
    own = _document(engine)["overlaps"] if engine in launchable() else known
    return tuple(name for name in known if name in own and (shortcut or not name.startswith("sbo")))


@cache
def launchable() -> tuple[str, ...]:
    """Engines whose flags are known."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def unsaid(scenario: Scenario) -> tuple[str, ...]:
    """What of one side's layout no flag of the engine's says; empty: all of it is said, or no flags are known."""
    engine = scenario.deployment.engine
    if engine not in launchable():
        return ()
    facts = _facts(scenario, "MODEL", "both", 1)
    rules = (one for one in _document(engine)["cannot"] if one.get("layout"))
    return tuple(one["text"].format(**facts) for one in rules if _holds(one.get("when"), facts))


def launches(scenario: Scenario, model: str) -> tuple[Launch, ...]:
    """Commands that start a scenario's replicas, prefill's first where they are apart; none where no flags of the
    engine are known.

    Args:
        scenario: the whole deployment.
        model: path or name of the checkpoint, as the engine is told it.
    """
    if scenario.deployment.engine not in launchable():
        return ()
    side = scenario.prefill_side
    sides = [("both", scenario)] if side is None else [("prefill", side), ("decode", scenario)]
    return tuple(_launch(own, model, role) for role, own in sides)


def _launch(scenario: Scenario, model: str, role: str) -> Launch:
    document = _document(scenario.deployment.engine)
    facts = _facts(scenario, model, role, scenario.serving.replicas)
    flags, lines = (_used(document.get(part, ()), facts) for part in ("flags", "config"))
    words = [document["command"].format(**facts), *(one["text"].format(**facts) for one in flags)]
    cannot = [one["text"].format(**facts) for one in document["cannot"] if _holds(one.get("when"), facts)]
    return Launch(
        role=role,
        replicas=scenario.serving.replicas,
        command=" \\\n  ".join(words),
        file="".join(one["text"].format(**facts) + "\n" for one in lines),
        cannot=tuple(cannot),
        sources=tuple(dict.fromkeys(one["source"] for one in (*flags, *lines))),
    )


def _facts(s: Scenario, model: str, role: str, replicas: int) -> dict[str, Any]:
    """What flags depend on, and what they are filled with."""
    d, serving = s.deployment, s.serving
    gpus, node = d.stage_gpus, s.cluster.node.num_gpus
    both = d.backend if role != "prefill" or not d.dispatches else "deepep-normal"
    dense = any(layer.dense_ffn_size for layer in s.model.layers)
    return {
        "model": model,
        "role": role,
        "replicas": replicas,
        "head": HEAD,
        "file": "config.yaml" if role == "both" else f"{role}.yaml",
        "gpus": gpus,
        "nodes": math.ceil(d.num_gpus / node),
        "pp": d.pp,
        "cp": d.context_parallel,
        "ring": d.passes_keys,
        "ffns": d.ffn_gpus,
        "dcp": d.decode_context_parallel,
        "tp": d.attention_tp,
        "dp": d.attention_dp,
        "dp_per_node": max(1, node // d.attention_tp),
        "dense": dense,
        "dense_tp": d.dense_tp,
        "dense_differs": dense and d.dense_tp != d.attention_tp,
        "dense_odd": d.dense_tp not in (1, d.attention_tp),
        "moe": s.model.moe is not None,
        "ep": d.ep,
        "moe_tp": d.moe_tp,
        "experts": "sliced" if d.ep == 1 else "parallel" if d.moe_tp == 1 else "mixed",
        "backend": both if s.model.moe is not None and d.ep > 1 else "none",
        "deepep_mode": {"prefill": "normal", "decode": "low_latency"}.get(role, "auto"),
        "redundant": d.redundant_experts,
        "overlap": d.overlap,
        "kv": "fp8" if d.precision.kv_cache == "fp8" else "bf16",
        "drafts": d.mtp.draft_tokens,
        "loras": d.lora_adapters,
        "lora_rank": d.lora_rank,
        "drafter": d.mtp.drafter.kind if d.mtp.drafter else "",
        "drafts_and_one": d.mtp.draft_tokens + 1,
        "chunk": serving.max_batched_tokens,
        "chunk_all": serving.max_batched_tokens * d.attention_dp,
        "running": serving.max_running,
        "running_all": serving.max_running * d.attention_dp,
        "whole_prompts": serving.whole_prompts,
        "memory_stated": d.memory_utilization is not None,
        "memory": d.memory_utilization,
    }


def _used(entries: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in entries if _holds(one.get("when"), facts)]


def _holds(when: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> bool:
    """Whether every condition holds."""
    for name, wanted in (when or {}).items():
        value = facts[name]
        if isinstance(wanted, list) and type(wanted[0]) is int:
            if not wanted[0] <= value <= wanted[1]:
                return False
        elif value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


@cache
def _document(engine: str) -> dict[str, Any]:
    document = read_document(FOLDER / f"{engine}.yaml")
    for part in ("flags", "config"):
        for one in document.get(part, ()):
            assert re.match("https://", one["source"]), f"{engine}.yaml: a flag has no source: {one['text']}"
    return document
