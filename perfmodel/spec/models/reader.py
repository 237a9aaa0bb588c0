"""Hugging Face ``config.json`` -> :class:`~perfmodel.spec.model.Model`, by the family's data file.

A config of a family that no file lists is read by a generic one (grouped-query or latent attention, with experts or
without), if every key that may change the architecture is understood; else the key is refused by name. Rotary embeddings
and their scaling, dropout and token ids have no place in a :class:`Model`. A multimodal config's language model is read
alone: the counts leave its other towers out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.model import Layer, Model, Mtp
from perfmodel.spec.models import families, longcat
from perfmodel.spec.models.families import Family
from perfmodel.spec.models.fields import MAX_LAYERS, Fields, show
from perfmodel.spec.models.keys import is_off
from perfmodel.spec.models.kinds import attention, build
from perfmodel.spec.models.patterns import names_by_layer
from perfmodel.spec.models.rules import INTEGER, INTEGER_OR_ZERO, Target, evaluate
from perfmodel.spec.models.wrappers import language_model

GENERIC = {True: "generic_mla", False: "generic_gqa"}
"""Family file for model types that none lists, by whether the config states a compressed key and value."""
MAX_MTP_LAYERS = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What a config says, and what of it nobody has read."""

    model: Model
    family: Family
    unread: Mapping[str, Any]
    """Keys that no rule reads and that look harmless, with their values."""

    @property
    def generic(self) -> bool:
        """Whether no file lists the config's model type."""
        return self.family.name in GENERIC.values()


def model_from_config(
    config: Mapping[str, Any], *, name: str, expected_real_experts: float | None = None
) -> Model:
    """The model that a Hugging Face ``config.json`` describes.

    Args:
        config: the parsed file; a language model wrapped in it is read in its place.
        name: what the model is called in results and messages.
        expected_real_experts: mean number of computing experts per token that training aimed at
            (K_e), which no config states; None: what uniform routing gives.

    Raises:
        SpecError: a key is missing, of another type, out of range or inconsistent with another.
        UnsupportedError: a key, or a value of one, that perfmodel does not model.
    """
    return read_config(config, name=name, expected_real_experts=expected_real_experts).model


def read_config(
    config: Mapping[str, Any], *, name: str, expected_real_experts: float | None = None
) -> Reading:
    """As :func:`model_from_config`, with the family and the keys that nobody has read."""
    flat = language_model(config)
    model_type, found = _family(flat)
    fields = Fields(flat, model_type)
    fields.mark_read(found.known)
    for key, check in found.checks.items():
        _check(key, check, fields)
    layers = _with_expected(_layers(found, fields), expected_real_experts)
    parts = {
        "mtp": _mtp(found, fields, layers),
        "ngram_embedding": longcat.ngram_embedding(found.ngram_embedding, fields)
        if found.ngram_embedding
        else None,
    }
    indexer = None
    if found.indexer is not None:
        indexer = longcat.indexer(fields, sum(run.count * run.num_attentions for run in layers))
    unmodelled = "sparse attention with an index branch" if indexer else None
    model = build(
        Model,
        found.model,
        fields,
        name=name,
        family=model_type,
        layers=layers,
        indexer=indexer,
        unmodelled=unmodelled,
        **parts,
    )
    fields.refuse_unread()
    assert isinstance(model, Model)
    return Reading(model, found, fields.unread())


def _family(config: Mapping[str, Any]) -> tuple[str, Family]:
    """The model type, given or implied by ``architectures``, and its family or a generic one.

    Raises:
        SpecError: neither is there, or not a text.
    """
    model_type, classes = config.get("model_type"), config.get("architectures")
    if model_type is None:
        first = classes[0] if isinstance(classes, list) and classes else None
        model_type = (families.of_architecture(first) or first) if isinstance(first, str) else None
    if model_type is None:
        raise SpecError(
            f"model config: model_type is missing, and architectures = {show(classes)} does not imply it; it is a "
            'text such as "qwen3_moe" (perfmodel show families)'
        )
    if not isinstance(model_type, str):
        raise SpecError(f"model config: model_type = {show(model_type)} must be a text")
    if is_off(model_type):
        raise SpecError("model config: model_type is empty; it is a text such as qwen3_moe")
    found = families.of_model_type(model_type)
    return model_type, found or families.family(GENERIC[not is_off(config.get("kv_lora_rank"))])


def _check(key: str, check: Mapping[str, Any], fields: Fields) -> None:
    """What a family's file demands of a key that sets nothing.

    Raises:
        SpecError: another value than the one that follows from other keys.
        UnsupportedError: a value that is not modelled.
    """
    if "equals" in check:
        if fields.has(key):
            stated, wanted = fields.integer(key, low=0), evaluate(check["equals"], fields, INTEGER_OR_ZERO)
            if stated != wanted:
                raise fields.wrong(fields.alias(key), stated, f"{check['equals']} = {wanted}")
        return
    stated = fields.scalar(key) if not check.get("off") else _raw(fields, key)
    if check.get("off"):
        if not is_off(stated):
            raise fields.not_modelled(fields.alias(key), stated, "false")
    elif stated is not None and stated not in check["in"]:
        raise fields.not_modelled(fields.alias(key), stated, ", ".join(map(str, check["in"])))


def _raw(fields: Fields, key: str) -> Any:
    fields.mark_read((key,))
    return fields.config.get(fields.alias(key)) if fields.has(key) else None


def _layers(found: Family, fields: Fields) -> tuple[Layer, ...]:
    """The runs of equal layers: one per kind, in order of appearance, also where kinds alternate."""
    count = int(evaluate(found.num_layers, fields, Target("integer", high=MAX_LAYERS)))
    attentions = names_by_layer(found.attention_of_layer, fields, count)
    ffns = names_by_layer(found.ffn_of_layer, fields, count)
    kinds: dict[Layer, int] = {}
    built: dict[tuple[str, str], Layer] = {}
    for index, pair in enumerate(zip(attentions, ffns, strict=True)):
        varies = _varies(found.attentions[pair[0]]) or _varies(found.ffns[pair[1]])
        layer = None if varies else built.get(pair)
        if layer is None:
            layer = built[pair] = _layer(found, pair, fields, index)
        kinds[layer] = kinds.get(layer, 0) + 1
    for name in (*found.attentions, *found.ffns):  # what a config says of kinds that no layer has is known, too
        fields.mark_read(_keys_inside(found.attentions.get(name) or found.ffns[name]))
    return tuple(layer.model_copy(update={"count": many}) for layer, many in kinds.items())


def _layer(found: Family, pair: tuple[str, str], fields: Fields, index: int) -> Layer:
    core = attention(found.attentions[pair[0]], fields, index)
    layer = build(Layer, found.ffns[pair[1]], fields, index, count=1, attention=core)
    assert isinstance(layer, Layer)
    return layer


def _varies(rules: Any) -> bool:
    """Whether some rule reads a list at the layer's own position."""
    if isinstance(rules, Mapping):
        return any(_varies(one) for one in rules.values())
    return isinstance(rules, str) and "[]" in rules


def _keys_inside(rules: Any) -> tuple[str, ...]:
    from perfmodel.spec.models.rules import keys_of

    if isinstance(rules, Mapping):
        nested = tuple(key for one in rules.values() for key in _keys_inside(one))
        return nested + keys_of(rules)
    return keys_of(rules) if isinstance(rules, str) else ()


def _mtp(found: Family, fields: Fields, layers: Sequence[Layer]) -> Mtp | None:
    if found.mtp is None:
        return None
    count = evaluate(found.mtp["num_layers"], fields, Target("integer", low=0, high=MAX_MTP_LAYERS))
    if not count:
        return None
    pair = (found.mtp["attention"], found.mtp["ffn"])
    layer = _layer(found, pair, fields, sum(run.count for run in layers) - 1)
    return Mtp(num_layers=count, layer=layer)


def _with_expected(layers: Sequence[Layer], expected: float | None) -> tuple[Layer, ...]:
    """The layers with K_e, where they have zero-computation experts.

    Raises:
        SpecError: K_e is no number of experts that a token can wake.
    """
    if expected is None:
        return tuple(layers)
    top_ks = [layer.moe.top_k for layer in layers if layer.moe]
    good = isinstance(expected, int | float) and not isinstance(expected, bool)
    if not top_ks or not good or not 0 < expected <= min(top_ks):
        allowed = f"above 0 and up to {min(top_ks)}" if top_ks else "left out for a model without experts"
        raise SpecError(f"expected_real_experts = {show(expected)} must be {allowed}")
    fixed = any(layer.moe and not layer.moe.num_zero_experts for layer in layers)
    if fixed and expected != min(top_ks):
        raise SpecError(
            f"expected_real_experts = {show(expected)} must be {min(top_ks)}: without "
            "zero-computation experts every selected expert computes"
        )
    return tuple(
        layer.model_copy(update={"moe": layer.moe.model_copy(update={"expected_real_experts": float(expected)})})
        if layer.moe and layer.moe.num_zero_experts
        else layer
        for layer in layers
    )
