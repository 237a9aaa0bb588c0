"""What an engine refuses to load: slices that cut a block of scales, heads that do not divide, formats without kernels.

The rules are data (``data/engines/legality.yaml``), each with its source. What does not divide at all is refused by the
scenario itself (:mod:`perfmodel.spec.scenario`), whatever the engine.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from perfmodel.spec.base import Count, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.mixers import CompressedAttention, GatedDeltaNet, Gqa, Kda, Lightning, Mixer, Mla
from perfmodel.spec.scenario import Scenario

FILE = DATA / "engines" / "legality.yaml"


class Rule(Spec):
    """Whom a rule binds, and who says so."""

    engines: tuple[str, ...]
    """Engines that refuse; an empty name: a deployment without one."""
    source: str
    """Where it was read."""

    @property
    def url(self) -> str:
        """The first address of the source."""
        found = re.search(r"https://[^\s;,]+", self.source)
        return found[0] if found else self.source


class WidthRule(Rule):
    """A sliced width must hold whole blocks."""

    formats: tuple[str, ...]
    """Number formats of weights."""
    parts: tuple[str, ...]
    """Of attention, dense, shared and experts."""
    multiple: Count
    """Elements of a block."""
    name: str
    """The format, for people."""
    padded_models: tuple[str, ...] = ()
    """Models (as ``Model.family`` or by name) whose slices engines pad: their own format has no rule, and this one
    stands in for it."""


class FormatRule(Rule):
    """A format without kernels on an architecture."""

    formats: tuple[str, ...]
    architectures: tuple[str, ...]
    fix: str
    """The way out, for people."""


class Rules(Spec):
    """All rules."""

    widths: tuple[WidthRule, ...]
    formats: tuple[FormatRule, ...]
    attention: tuple[FormatRule, ...]
    heads: Rule
    whole_experts: Rule


@cache
def rules() -> Rules:
    """The rules as they ship."""
    return Rules.model_validate(read_document(FILE))


@dataclass(frozen=True, slots=True)
class Cut:
    """A width that a layout slices."""

    part: str
    """attention, dense, shared or experts."""
    key: str
    """Field of the deployment that slices it."""
    parts: int
    """Slices."""
    what: str
    """The width, for people."""
    width: int
    """Elements before slicing."""
    dtype: str
    """Number format of the weights."""
    format_key: str
    """Field of ``deployment.precision`` that sets it."""

    def whole(self, multiple: int) -> bool:
        """Whether every slice holds whole blocks."""
        return self.width % self.parts == 0 and self.width // self.parts % multiple == 0

    def most(self, multiple: int) -> int:
        """Most slices, among the divisors of ``parts``, that hold whole blocks; 1: not sliced."""
        fits = (
            n for n in range(self.parts, 0, -1) if self.parts % n == 0 and self.width % (n * multiple) == 0
        )
        return next(fits, 1)


def refusal(scenario: Scenario) -> str | None:
    """Why the deployment's engine would not load this layout, with the way out; None: it would."""
    for problem in (_format_problem, _heads_problem, _width_problem, _experts_problem):
        text = problem(scenario)
        if text:
            return text
    return None


def _engine(scenario: Scenario) -> str:
    """The engine, as the subject of a sentence."""
    return scenario.deployment.engine or "an engine"


def _formats(scenario: Scenario) -> dict[str, str]:
    """Field of ``deployment.precision`` -> format, of weights that the model has."""
    precision, layers = scenario.deployment.precision, scenario.model.layers
    found: dict[str, str] = {"linear": precision.linear, "attention_output": precision.output_dtype}
    if any(layer.dense_ffn_size for layer in layers):
        found["dense"] = precision.dense_dtype
    if scenario.model.moe:
        found["experts"] = precision.experts
        if scenario.model.moe.shared_ffn_size:
            found["shared"] = precision.shared_dtype
    return found


OF_FFNS = ("dense", "experts", "shared")
"""Formats of what GPUs of FFNs alone hold."""


def _format_problem(s: Scenario) -> str | None:
    engine = s.deployment.engine
    attention = {"attention": s.deployment.precision.attention}
    for known, formats in ((rules().formats, _formats(s)), (rules().attention, attention)):
        for rule in known:
            for name, dtype in formats.items():
                gpu = (s.ffn_cluster if name in OF_FFNS else s.cluster).gpu
                if (
                    engine in rule.engines
                    and dtype in rule.formats
                    and gpu.architecture in rule.architectures
                ):
                    return (
                        f"deployment.precision.{name} = {dtype}: {_engine(s)} has no kernels for it on {gpu.name} "
                        f"({gpu.architecture}): {rule.fix} ({rule.url})"
                    )
    return None


def _heads_problem(s: Scenario) -> str | None:
    rule, tp = rules().heads, s.deployment.attention_tp
    if s.deployment.engine not in rule.engines:
        return None
    for layer in s.model.layers:
        if not isinstance(layer.attention, Gqa):
            continue
        heads = layer.attention.num_kv_heads
        if heads % tp == 0 or tp % heads == 0:
            continue
        allowed = [n for n in range(1, tp) if tp % n == 0 and (heads % n == 0 or n % heads == 0)]
        return (
            f"deployment.attention_tp = {tp} neither divides the model's {heads} KV heads nor is a multiple of them, "
            f"so {_engine(s)} refuses to load it: use attention_tp = {allowed[-1]} ({rule.url})"
        )
    return None


def _cuts(s: Scenario) -> Iterator[Cut]:
    """Widths that the layout slices, each once per run of layers."""
    d, p = s.deployment, s.deployment.precision
    dense, shared, output = (
        own if getattr(p, own) is not None else other
        for own, other in (("dense", "linear"), ("shared", "experts"), ("attention_output", "linear"))
    )

    def cut(part: str, key: str, parts: int, what: str, width: int, format_key: str) -> Cut:
        return Cut(part, key, parts, what, width, getattr(p, format_key), format_key)

    for layer in s.model.layers:
        if layer.attention and d.attention_tp > 1:
            for what, width, is_output in _attention_widths(layer.attention, d.attention_tp):
                own = output if is_output else "linear"
                yield cut("attention", "attention_tp", d.attention_tp, what, width, own)
        if layer.dense_ffn_size and d.dense_tp > 1:
            yield cut("dense", "dense_tp", d.dense_tp, "the dense FFN", layer.dense_ffn_size, dense)
        moe = layer.moe
        if moe and moe.shared_ffn_size and d.dense_tp > 1 and not d.dispatches:
            yield cut("shared", "dense_tp", d.dense_tp, "the shared experts", moe.shared_ffn_size, shared)
        if moe and d.moe_tp > 1:
            yield cut("experts", "moe_tp", d.moe_tp, "an expert's FFN", moe.ffn_size, "experts")


def _attention_widths(attention: Mixer, tp: int) -> Iterator[tuple[str, int, bool]]:
    """(What, width, whether it is the output's) of projections that are divided by heads; KV heads that are copied are
    counted so.
    """
    if isinstance(attention, Mla):
        yield "the queries' projection", attention.num_heads * attention.qk_head_dim, False
        yield "the output projection", attention.num_heads * attention.v_head_dim, True
    elif isinstance(attention, Gqa):
        yield "the queries' projection", attention.num_heads * attention.head_dim, False
        yield "the keys' projection", max(attention.num_kv_heads, tp) * attention.head_dim, False
        yield "the output projection", attention.num_heads * attention.value_head_dim, True
    elif isinstance(attention, CompressedAttention):
        yield "the queries' projection", attention.num_heads * attention.head_dim, False
    elif isinstance(attention, GatedDeltaNet):
        yield "the keys' projection", attention.num_key_heads * attention.key_head_dim, False
        yield "the output projection", attention.num_value_heads * attention.value_head_dim, True
    elif isinstance(attention, Kda | Lightning):
        yield "the queries' projection", attention.num_heads * attention.head_dim, False
        yield "the output projection", attention.num_heads * attention.head_dim, True


def _width_problem(s: Scenario) -> str | None:
    for cut in _cuts(s):
        for rule in rules().widths:
            bound = (
                s.deployment.engine in rule.engines and cut.dtype in rule.formats and cut.part in rule.parts
            )
            padded = cut.part == "experts" and {s.model.family, s.model.name} & set(rule.padded_models)
            if bound and not padded and not cut.whole(rule.multiple):
                return (
                    f"deployment.{cut.key} = {cut.parts} slices {cut.what} of width {cut.width} to "
                    f"{cut.width / cut.parts:g}, no multiple of {rule.multiple} ({rule.name}), so {_engine(s)} refuses "
                    f"to load it: {_way_out(s, cut, rule)} ({rule.url})"
                )
    return None


def _way_out(s: Scenario, cut: Cut, rule: WidthRule) -> str:
    """Layouts that keep whole blocks, on as many GPUs where that can be."""
    d, most = s.deployment, cut.most(rule.multiple)
    ways = []
    if cut.part == "experts":
        moe, gpus = s.model.moe, d.stage_gpus
        if moe and (moe.num_experts + d.redundant_experts) % gpus == 0:
            ways.append(f"deployment.ep={gpus} with deployment.moe_tp=1")
        if d.ep == 1 and most > 1:
            ways.append(f"tensor parallelism of {most} (deployment.moe_tp={most}, attention_tp={most})")
    elif cut.part == "attention":
        ways.append(f"deployment.attention_tp={most} with attention_dp={d.stage_gpus // most}")
    else:
        ways.append(f"deployment.dense_tp={most}")
    format_key = f"deployment.precision.{cut.format_key}"
    return "use " + ", or ".join([*ways, f"a format without blocks ({format_key}=bf16 or fp8-tensor)"])


def _experts_problem(s: Scenario) -> str | None:
    rule, d = rules().whole_experts, s.deployment
    if s.model.moe is None or d.engine not in rule.engines or 1 in (d.moe_tp, d.ep):
        return None
    return (
        f"deployment.moe_tp = {d.moe_tp} with ep = {d.ep}: {_engine(s)} divides experts over all GPUs or slices each "
        f"over all: use ep={d.stage_gpus} with moe_tp=1, or ep=1 with moe_tp={d.stage_gpus} ({rule.url})"
    )
