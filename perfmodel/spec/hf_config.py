"""Hugging Face ``config.json`` -> :class:`~perfmodel.spec.model.Model`.

Only families whose every part perfmodel models are read; all others are refused by name. Rotary
embeddings, their scaling (YaRN), dropout, token ids and quantization have no place in a
:class:`Model` and are ignored. Each family's reader stands in its own module, with the rules that
its configs leave unsaid.

A multimodal config's ``text_config`` is read alone: the counts leave its other towers out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from perfmodel.errors import SpecError
from perfmodel.spec.hf_fields import MAX_TOKENS, Fields, Parts, refuse, show, telltale
from perfmodel.spec.hf_gqa import GQA_FAMILIES, gqa
from perfmodel.spec.hf_longcat import LONGCAT_FAMILIES, longcat
from perfmodel.spec.hf_mla import MLA_FAMILIES, mla_with_experts
from perfmodel.spec.model import Layer, Model


def model_from_config(
    config: Mapping[str, Any], *, name: str, expected_real_experts: float | None = None
) -> Model:
    """The model that a Hugging Face ``config.json`` describes.

    Args:
        config: the parsed file; a ``text_config`` in it is read in its place.
        name: what the model is called in results and messages.
        expected_real_experts: mean number of computing experts per token that training aimed at
            (K_e), which no config states; None: what uniform routing gives.

    Raises:
        SpecError: a key is missing, of another type, out of range or inconsistent with another.
        UnsupportedError: a family, or a switch in a supported family, that perfmodel does not
            model.
    """
    flat = _text_config(config)
    model_type = _model_type(flat)
    fields = Fields(flat, model_type)
    _check_activation(fields)
    parts = _FAMILIES[model_type](fields)
    common = {
        "hidden_size": fields.integer("hidden_size"),
        "vocab_size": fields.integer("vocab_size", high=MAX_TOKENS),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=False),
        "max_context_tokens": fields.integer("max_position_embeddings", high=MAX_TOKENS),
    }
    fields.refuse_unread()
    _check_expected(parts.layers, expected_real_experts)
    layers = tuple(_with_expected(layer, expected_real_experts) for layer in parts.layers)
    try:
        return Model(
            name=name,
            family=model_type,
            layers=layers,
            mtp=parts.mtp,
            ngram_embedding=parts.ngram_embedding,
            unmodelled=parts.unmodelled,
            **common,
        )
    except ValidationError as error:  # a range that the checks above do not repeat
        raise SpecError(f"model {name}: {_first_problem(error)}") from error


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own keys, and the outer ones that ``text_config`` relies on."""
    if not isinstance(config, Mapping):
        raise SpecError(f"model config: {show(config)} must be a mapping of keys to values")
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, Mapping):
        raise SpecError(f"model config: text_config = {show(text)} must be a mapping of keys to values")
    inherited = ("model_type", "architectures", "tie_word_embeddings")
    return {key: config[key] for key in inherited if key in config} | dict(text)


def _model_type(config: Mapping[str, Any]) -> str:
    """The family: ``model_type``, or what ``architectures`` implies where a config has none."""
    model_type = config.get("model_type")
    if model_type is None:
        model_type = _from_architectures(config.get("architectures"))
    if model_type is None:
        raise SpecError(
            "model config: model_type is missing, and architectures = "
            f"{show(config.get('architectures'))} does not imply it; supported: {SUPPORTED}"
        )
    if not isinstance(model_type, str):
        raise SpecError(f"model config: model_type = {show(model_type)} must be a text")
    if model_type not in _FAMILIES:
        raise refuse(model_type, telltale(config), SUPPORTED)
    return model_type


def _from_architectures(architectures: Any) -> str | None:
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return _ARCHITECTURES.get(first, first) if isinstance(first, str) else None


def _check_activation(fields: Fields) -> None:
    """Every modelled FFN is a SwiGLU of three matrices."""
    fields.word("hidden_act", ("silu", "swish"), default="silu")


def _check_expected(layers: Sequence[Layer], expected: float | None) -> None:
    """K_e must be a number of experts that a token can wake."""
    top_ks = [layer.moe.top_k for layer in layers if layer.moe]
    if expected is None:
        return
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


def _with_expected(layer: Layer, expected: float | None) -> Layer:
    """The layer with K_e, where it has zero-computation experts."""
    if expected is None or layer.moe is None or not layer.moe.num_zero_experts:
        return layer
    moe = layer.moe.model_copy(update={"expected_real_experts": float(expected)})
    return layer.model_copy(update={"moe": moe})


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


_FAMILIES: Final[Mapping[str, Callable[[Fields], Parts]]] = {
    **dict.fromkeys(LONGCAT_FAMILIES, longcat),
    **dict.fromkeys(MLA_FAMILIES, mla_with_experts),
    **dict.fromkeys(GQA_FAMILIES, gqa),
}
_ARCHITECTURES: Final[Mapping[str, str]] = {
    "LongcatFlashForCausalLM": "longcat_flash",
    "LongcatFlashNgramForCausalLM": "longcat_flash_ngram",
    "LongcatCausalLM": "longcat",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GptOssForCausalLM": "gpt_oss",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
"""Class names that imply a family; any other is taken as a model type, to be refused by name."""
SUPPORTED: Final = ", ".join(_FAMILIES)
"""Model types that perfmodel reads."""
