"""Layouts that an engine loads and that fit in memory, each as the scenario that a user would get.

Defaults follow from the shape (GPUs, EP, attention DP) and the weights' format alone, so a scenario is loaded once for
each, and what changes no default (KV format, schedule, drafts) is set in it; a test holds that both ways give one
scenario.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.engines.launch import unsaid
from perfmodel.engines.legality import refusal
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.plan.question import Kind, Question
from perfmodel.explore.space import (
    CHUNK,
    CP,
    DCP,
    DENSE,
    DP,
    DRAFTS,
    EP,
    FFNS,
    KV,
    MOST_OF,
    OVERLAP,
    PHASE,
    PP,
    SHAPE,
    TP,
    Space,
)
from perfmodel.load import build_scenario
from perfmodel.ops.limits import check_ffn_side, requests_per_rank
from perfmodel.ops.memory import cache_tokens_per_rank
from perfmodel.spec.base import Spec
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.mixers import Gqa
from perfmodel.spec.model import Model
from perfmodel.spec.scenario import Scenario

SET_IN_PLACE = frozenset({KV, OVERLAP, DRAFTS})
"""Keys that no engine's rule depends on."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One legal layout of one replica: it decodes, reads prompts, or does both."""

    kind: Kind
    keys: Mapping[str, Any]
    """What it states over the question's document."""
    scenario: Scenario
    kv_tokens: tuple[int, ...]
    """Tokens that one rank's cache holds, for each chunk size of the space; 0: it does not fit."""
    max_requests: int
    """Requests that one rank runs at most, by dispatch buffers and the engine's own scheduler."""

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.scenario.deployment.num_gpus

    @property
    def reads(self) -> bool:
        """Whether prefill replicas may have it: their GPUs are of one kind."""
        return self.scenario.ffns is None

    @property
    def reads_only(self) -> bool:
        """Whether it computes prompts alone: those of a layout that divides them."""
        return self.scenario.deployment.phase == "prefill"


def document_of(base: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The question's document with key paths set."""
    found: dict[str, Any] = dict(base)
    for path, value in keys.items():
        *heads, last = path.split(".")
        at = found
        for head in heads:
            inner = at.get(head, {})
            at[head] = dict(inner) if isinstance(inner, Mapping) else {"base": inner}
            at = at[head]
        at[last] = value
    return found


def legal_layouts(question: Question, kind: Kind, space: Space) -> Iterator[Layout]:
    """All layouts of a space that the engine loads, with what of a cache they hold.

    Raises:
        SpecError: a value of a space file that no scenario can have.
    """
    base = question.document(kind)
    built: dict[tuple[Any, ...], Scenario | None] = {}
    model = question.scenario(kind).model
    chunks = space.keys[CHUNK]
    for stated in space.layouts():
        keys = _resolved(stated, model, space)
        if keys is None or not _divides(keys, model, kind.gpus):
            continue
        apart = {path: value for path, value in keys.items() if path not in SET_IN_PLACE}
        mark = tuple(map(str, apart.values()))
        if mark not in built:
            built[mark] = _loaded(base, apart, question)
        shape = built[mark]
        if shape is None:
            continue
        scenario = _with(shape, {path: keys[path] for path in keys if path in SET_IN_PLACE})
        if not _is_consistent(scenario) or refusal(scenario):
            continue
        if (
            keys[OVERLAP] != "sequential"
            and not scenario.deployment.dispatches
            and OVERLAP not in question.space
        ):
            continue  # nothing is sent that could be hidden
        if any(path in question.space for path in (*SHAPE, FFNS)) or not unsaid(scenario):
            yield _layout(kind, keys, scenario, chunks)


def _resolved(keys: dict[str, Any], model: Model, space: Space) -> dict[str, Any] | None:
    """The keys with the most that an attention group allows written out, and of divided prompts that a replica computes
    those alone; None where that is what other choices say, or nothing can be so.
    """
    for key, most in ((CP, keys[TP]), (DCP, _most_copies(keys[TP], model))):
        if keys.get(key) == MOST_OF:
            if most == 1 and 1 in space.keys[key]:
                return None
            keys = {**keys, key: most}
    if keys.get(CP, 1) == 1:
        return keys
    if not {"apart", "unlike"} & set(space.pools) or keys[DRAFTS] or keys.get(DCP, 1) > 1 or keys.get(FFNS):
        return None
    return {**keys, PHASE: "prefill"}


def _most_copies(tp: int, model: Model) -> int:
    """Most GPUs of ``tp`` that may divide a cache: as many as have the same keys."""
    heads = [layer.attention.num_kv_heads for layer in model.layers if isinstance(layer.attention, Gqa)]
    return max(1, tp // max(heads)) if heads else tp


def _divides(keys: Mapping[str, Any], model: Model, gpus: int) -> bool:
    """What is cheap to see before a scenario is loaded."""
    group, ffns = keys[TP] * keys[DP], keys.get(FFNS, 0)
    moe = model.moe
    if group * keys.get(PP, 1) + ffns > gpus:
        return False
    group = ffns or group  # those of experts
    if group % keys[EP] or group % keys[DENSE] or (ffns and keys[OVERLAP] != "sequential"):
        return False
    if keys[TP] % keys.get(DCP, 1) or keys[TP] % keys.get(CP, 1) or keys.get(PP, 1) > model.num_layers:
        return False
    if keys.get(DCP, 1) > _most_copies(keys[TP], model):
        return False
    copies = keys.get("deployment.redundant_experts", 0)
    if moe is not None and ((moe.num_experts + copies) % keys[EP] or moe.ffn_size % (group // keys[EP])):
        return False
    return all(
        getattr(layer.attention, "num_heads", keys[TP]) % keys[TP] == 0
        and layer.dense_ffn_size % keys[DENSE] == 0
        for layer in model.layers
    )


def _loaded(base: Mapping[str, Any], keys: Mapping[str, Any], question: Question) -> Scenario | None:
    """The scenario of a shape; None where no such scenario can be."""
    try:
        return build_scenario(document_of(base, keys))
    except SpecError:
        if keys.keys() & question.space.keys() - set(
            SHAPE
        ):  # it may be the file's value that is wrong: say so
            raise
        return None


def _with(scenario: Scenario, values: Mapping[str, Any]) -> Scenario:
    """The scenario with key paths set, unvalidated."""
    for path, value in values.items():
        scenario = _set(scenario, path.split("."), value)
    return scenario


def _set(spec: Any, keys: list[str], value: Any) -> Any:
    head, *rest = keys
    child: Spec = getattr(spec, head)
    return spec.model_copy(update={head: _set(child, rest, value) if rest else value})


def _is_consistent(scenario: Scenario) -> bool:
    """Whether what was set in place keeps what validation asks for."""
    try:
        Deployment.model_validate(scenario.deployment.model_dump())
        Scenario.model_validate(dict(scenario))
    except ValueError:
        return False
    return True


def _layout(kind: Kind, keys: Mapping[str, Any], scenario: Scenario, chunks: tuple[int, ...]) -> Layout:
    try:
        most = requests_per_rank(scenario)
    except InfeasibleError:
        most = 0
    kv = tuple(
        (scenario.serving.kv_tokens or cache_tokens_per_rank(scenario, prompt_tokens=chunk, decodes=most))
        if most
        else 0
        for chunk in (chunks[0], chunks[-1])
    )
    low, high = kv
    span = max(1, chunks[-1] - chunks[0])
    tokens = tuple(
        max(0, round(low + (high - low) * (chunk - chunks[0]) / span))
        if _ffns_hold(scenario, chunk, most)
        else 0
        for chunk in chunks
    )
    return Layout(kind, keys, scenario, tokens, most)


def _ffns_hold(scenario: Scenario, chunk: int, most: int) -> bool:
    """Whether GPUs that compute FFNs alone, if there are any, hold steps with so many tokens of prompts a rank."""
    try:
        check_ffn_side(scenario, prompt_tokens=chunk, decodes=most)
    except InfeasibleError:
        return False
    return True
