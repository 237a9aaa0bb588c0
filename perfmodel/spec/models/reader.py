"""Hugging Face ``config.json`` -> :class:`~perfmodel.spec.model.Model`, by the family's data file.

A config of a family that no file lists is read by a generic one (grouped-query or latent attention, with experts or
without), if every key that may change the architecture is understood; else the key is refused by name. Rotary
embeddings and their scaling, dropout and token ids have no place in a :class:`Model`. A multimodal config's language
model is read alone: the counts leave its other towers out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import DataError, PerfModelError, SpecError, UnsupportedError
from perfmodel.spec.model import Layer, Model, Mtp
from perfmodel.spec.models import families
from perfmodel.spec.models.checkpoint import Layout, formats
from perfmodel.spec.models.families import Family
from perfmodel.spec.models.fields import MAX_LAYERS, PER_LAYER, Fields, show
from perfmodel.spec.models.keys import is_off
from perfmodel.spec.models.kinds import build, mixer
from perfmodel.spec.models.ngram import ngram_embedding
from perfmodel.spec.models.patterns import keys_of_pattern, names_by_layer, names_in
from perfmodel.spec.models.rules import INTEGER_OR_ZERO, Target, evaluate, keys_of
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
    config: Mapping[str, Any],
    *,
    name: str,
    expected_real_experts: float | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Model:
    """The model that a Hugging Face ``config.json`` describes.

    Args:
        config: the parsed file; a language model wrapped in it is read in its place.
        name: what the model is called in results and messages.
        expected_real_experts: mean number of computing experts per token that training aimed at
            (K_e), which no config states; None: what uniform routing gives.
        beside: the content of ``hf_quant_config.json``, where one lies beside the config.

    Raises:
        SpecError: a key is missing, of another type, out of range or inconsistent with another.
        UnsupportedError: a key, or a value of one, that perfmodel does not model.
    """
    return read_config(config, name=name, expected_real_experts=expected_real_experts, beside=beside).model


def read_config(
    config: Mapping[str, Any],
    *,
    name: str,
    expected_real_experts: float | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Reading:
    """As :func:`model_from_config`, with the family and the keys that nobody has read."""
    flat = language_model(config)
    model_type, found = _family(flat)
    try:
        return _read(flat, model_type, found, name, expected_real_experts, beside)
    except KeyError as error:  # a config's keys are asked for by Fields
        raise DataError(f"data/families/{found.name}.yaml: a rule lacks {error} (docs/models.md)") from error
    except PerfModelError as error:
        if found.model_types:
            raise
        raise type(error)(
            f"model_type = {show(model_type)} is in no family's file (perfmodel show families), so that it is read as "
            f"{found.title[0].lower()}{found.title[1:]}: {error}"
        ) from error


def _read(
    flat: Mapping[str, Any],
    model_type: str,
    found: Family,
    name: str,
    expected_real_experts: float | None,
    beside: Mapping[str, Any] | None,
) -> Reading:
    fields = Fields(flat, model_type)
    fields.mark_read(found.known)
    for key, check in found.checks.items():
        _check(key, check, fields)
    runs, places = _layers(found, fields)
    layers = _with_expected(runs, expected_real_experts)
    tables = found.ngram_embedding
    model = build(
        Model,
        found.model,
        fields,
        name=name,
        family=model_type,
        layers=layers,
        mtp=_mtp(found, fields, layers),
        ngram_embedding=ngram_embedding(tables, fields) if tables else None,
        formats=formats(flat, _layout(found, layers, places), beside),
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
    known = families.refused().get(model_type) if found is None else None
    if known:
        raise UnsupportedError(
            f"model_type = {show(model_type)} ({known['title']}) is not modelled: it has {known['has']}; that would "
            f"need {known['needs']} (docs/models.md)"
        )
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
                rule = str(check["equals"]).partition(" |")[0]
                raise fields.wrong(fields.alias(key), stated, f"{rule} = {wanted}, or left out")
        return
    if "each" in check:
        strange = next((one for one in fields.items(key) or () if str(one) not in check["each"]), None)
        if strange is not None:
            raise fields.not_modelled(
                f"{key}, which holds {show(strange)},", strange, ", ".join(check["each"])
            )
        return
    if check.get("own"):
        listed = fields.items(key) or []
        other = next((index for index, one in enumerate(listed) if one != index), None)
        if other is not None:
            raise fields.not_modelled(
                f"{key}, which holds {show(listed[other])} for layer {other},",
                listed[other],
                "each layer's own number (layers that share a cache are not)",
            )
        return
    if "present" in check:
        fields.mark_read((key,))
        if key not in fields.config:
            raise SpecError(
                f"model config ({fields.model_type}): {key} is missing; state it, or null for none"
            )
        return
    if check.get("unset"):
        value = _raw(fields, key)
        if not is_off(value):
            known = families.refused().get(f"{fields.model_type} with {key}")
            because = f": it has {known['has']}; that would need {known['needs']}" if known else ""
            raise fields.not_modelled(fields.alias(key), value, f"false{because}")
        return
    word = fields.scalar(key)
    if word is not None and word not in check["in"]:
        raise fields.not_modelled(fields.alias(key), word, ", ".join(map(str, check["in"])))


def _raw(fields: Fields, key: str) -> Any:
    fields.mark_read((key,))
    return fields.config.get(fields.alias(key)) if fields.has(key) else None


def _layers(found: Family, fields: Fields) -> tuple[tuple[Layer, ...], list[int]]:
    """The runs of equal layers (one per kind, in order of appearance, also where kinds alternate), and which of them
    each layer belongs to.
    """
    count = int(evaluate(found.num_layers, fields, Target("integer", high=MAX_LAYERS)))
    fields.counted_by = " or ".join(dict.fromkeys(keys_of(found.num_layers)))
    mixers = names_by_layer(found.attention_of_layer, fields, count)
    ffns = names_by_layer(found.ffn_of_layer, fields, count)
    built: dict[tuple[str, str], Layer] = {}
    runs: list[Layer] = []
    places: list[int] = []
    stated = bool(fields.config.get(PER_LAYER))
    varies = {
        pair: stated or _by_layer(_rules_of(found, pair))
        for pair in dict.fromkeys(zip(mixers, ffns, strict=True))
    }
    for index, pair in enumerate(zip(mixers, ffns, strict=True)):
        layer = None if varies[pair] else built.get(pair)
        if layer is None:
            layer = built[pair] = _layer(found, pair, fields.at_layer(index), index)
        if layer not in runs:
            runs.append(layer)
        places.append(runs.index(layer))
    for pattern, parts in ((found.attention_of_layer, found.attentions), (found.ffn_of_layer, found.ffns)):
        fields.mark_read(keys_of_pattern(pattern))
        for name in names_in(pattern):  # what a config says of kinds that it could have is known, too
            fields.mark_read(keys_of(parts.get(name)))
    counted = (layer.model_copy(update={"count": places.count(i)}) for i, layer in enumerate(runs))
    return tuple(counted), places


def _by_layer(rules: Iterable[Any]) -> bool:
    """Whether a rule reads a list with an entry per layer."""
    return any("[]" in text for one in rules for text in _texts(one))


def _rules_of(found: Family, pair: tuple[str, str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the family says of a layer with this attention and this FFN.

    Raises:
        DataError: its file names what it does not describe.
    """
    for name, parts in zip(pair, (found.attentions, found.ffns), strict=True):
        if name not in parts:
            raise DataError(f"data/families/{found.name}.yaml: {name!r} is not among {', '.join(parts)}")
    return found.attentions[pair[0]], found.ffns[pair[1]]


def _layer(found: Family, pair: tuple[str, str], fields: Fields, index: int) -> Layer:
    of_mixer, of_ffn = _rules_of(found, pair)
    rules = {**of_ffn, **of_mixer.get("layer", {})}
    layer = build(Layer, rules, fields, index, count=1, attention=mixer(of_mixer, fields, index))
    assert isinstance(layer, Layer)
    return layer


def _texts(rules: Any) -> Iterator[str]:
    """Every text in a mapping of rules."""
    if isinstance(rules, Mapping):
        for one in rules.values():
            yield from _texts(one)
    elif isinstance(rules, str):
        yield rules


def _layout(found: Family, runs: Sequence[Layer], places: Sequence[int]) -> Layout:
    """What a checkpoint's lists of modules are asked for."""

    def having(part: Callable[[Layer], Any]) -> list[int]:
        return [i for i, place in enumerate(places) if part(runs[place])]

    return Layout(
        mixers=having(lambda run: run.attention),
        dense=having(lambda run: run.dense_ffn_size),
        experts=having(lambda run: run.moe),
        shared=having(lambda run: run.moe and run.moe.shared_ffn_size),
        modules=found.modules or None,
    )


def _mtp(found: Family, fields: Fields, layers: Sequence[Layer]) -> Mtp | None:
    if found.mtp is None:
        return None
    count = evaluate(found.mtp["num_layers"], fields, Target("integer", low=0, high=MAX_MTP_LAYERS))
    if not count:
        return None
    if type(count) is not int or not 0 < count <= MAX_MTP_LAYERS:  # by a table of the family's file
        raise DataError(
            f"data/families/{found.name}.yaml: mtp.num_layers = {show(count)} must be a whole number from 0 to "
            f"{MAX_MTP_LAYERS}"
        )
    pair = (
        names_by_layer(found.mtp["attention"], fields, 1)[0],
        names_by_layer(found.mtp["ffn"], fields, 1)[0],
    )
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
        layer.model_copy(
            update={"moe": layer.moe.model_copy(update={"expected_real_experts": float(expected)})}
        )
        if layer.moe and layer.moe.num_zero_experts
        else layer
        for layer in layers
    )
