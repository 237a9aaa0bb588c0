"""Finding the language model inside a multimodal model's config."""

from collections.abc import Mapping
from typing import Any, Final

from perfmodel.errors import SpecError
from perfmodel.spec.models.fields import show

PATHS: Final = (
    ("text_config",),
    ("thinker_config", "text_config"),
    ("language_config",),
    ("llm_config",),
    ("language_model_config",),
)
"""Where configs keep the language model's own keys."""
INHERITED: Final = (
    "model_type",
    "architectures",
    "tie_word_embeddings",
    "quantization_config",
    "expert_dtype",
)
"""Outer keys that the inner config relies on where it does not state them."""


def language_model(config: Any) -> dict[str, Any]:
    """The language model's own keys, and the outer ones that they rely on: other towers are left out of all counts.

    Raises:
        SpecError: not a mapping, or a wrapper that is none.
    """
    if not isinstance(config, Mapping):
        raise SpecError(f"model config: {show(config)} must be a mapping of keys to values")
    for path in PATHS:
        inner: Any = config
        outer: dict[str, Any] = {}
        for part in path:
            if not isinstance(inner, Mapping) or inner.get(part) is None:
                inner = None
                break
            outer |= {key: inner[key] for key in INHERITED if key in inner}
            inner = inner[part]
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            raise SpecError(
                f"model config: {'.'.join(path)} = {show(inner)} must be a mapping of keys to values"
            )
        return language_model(outer | dict(inner)) if _wraps(inner) else outer | dict(inner)
    return dict(config)


def beneath(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What overrides of a model's keys lie over: the language model's own keys, whatever wraps them; the whole config
    where there are none, or where they reach into the wrapper themselves (``model.text_config``).

    Raises:
        SpecError: as :func:`language_model`.
    """
    reach = {path[0] for path in PATHS} & set(overrides)
    return dict(config) if reach or not overrides else language_model(config)


def _wraps(config: Mapping[str, Any]) -> bool:
    return any(isinstance(config.get(path[0]), Mapping) for path in PATHS)
