"""Precision of a deployment: what is stated, else what the checkpoint holds.

A stated format of a class takes its subclasses along (``linear``: the output projection and dense FFNs; ``experts``:
shared ones). Where tokens are sent to experts of unquantised weights, they travel in BF16 unless something else is
stated.
"""

from collections.abc import Mapping
from typing import Any, get_args

from perfmodel.spec.checkpoint import Formats
from perfmodel.spec.formats import Dtype, ExpertDtype

CLASSES: Mapping[str, tuple[str, ...]] = {
    "linear": ("attention_output", "dense"),
    "experts": ("shared",),
}
"""Class -> those that follow it where they are not stated."""
STAND_INS: Mapping[str, str] = {"mxfp8": "fp8", "int8": "fp8-tensor", "mxfp4": "fp4"}
"""Format of a checkpoint -> the one that stands for it where perfmodel has no such format of a class."""


def with_checkpoint(deployment: Mapping[str, Any], formats: Formats) -> tuple[dict[str, Any], list[str]]:
    """A deployment's section with its precision filled in from the checkpoint, and notes on what differs.

    Args:
        deployment: as stated; a precision that is no mapping is left for validation.
        formats: what the checkpoint holds.
    """
    stated = deployment.get("precision", {})
    if not isinstance(stated, Mapping):
        return dict(deployment), []
    filled: dict[str, Any] = {}
    notes: list[str] = []
    for name, followers in CLASSES.items():
        if name in stated:
            continue
        filled[name] = _known(name, getattr(formats, name), notes)
        for other in followers:
            if getattr(formats, other) != getattr(formats, name):
                filled[other] = _known(other, getattr(formats, other), notes)
    if formats.kv_cache:
        filled["kv_cache"] = formats.kv_cache
    if formats.state:
        filled["state"] = formats.state
    if filled.get("experts") == "bf16":
        filled["dispatch"] = "bf16"
    return {**deployment, "precision": {**filled, **stated}}, [*notes, *_differing(stated, formats)]


def _known(name: str, word: str, notes: list[str]) -> str:
    """The format, or the one that stands for it, with a note."""
    dtypes, experts = get_args(Dtype), get_args(ExpertDtype)
    allowed = (*dtypes, *experts) if name in ("experts", "shared") else dtypes
    if word in allowed:
        return word
    notes.append(f"precision.{name}: the checkpoint's {word} is counted and timed as {STAND_INS[word]}")
    return STAND_INS[word]


def _differing(stated: Mapping[str, Any], formats: Formats) -> list[str]:
    """One note on all that is stated otherwise than the checkpoint has it; none for a format that is published too."""
    wanted = {"linear": formats.linear, "experts": formats.experts}
    if formats.kv_cache:
        wanted["kv_cache"] = formats.kv_cache
    other = {
        name: word
        for name, word in wanted.items()
        if name in stated
        and stated[name] not in (word, "fp32")  # FP32 is how a reference is run, not how one is served
        and not (name != "kv_cache" and stated[name] in formats.published)
    }
    if not other:
        return []
    said = ", ".join(f"{name} {stated[name]}" for name in other)
    has = ", ".join(f"{name} {word}" for name, word in other.items())
    source = f"quantization: {formats.method}" if formats.method else "no quantization_config"
    return [f"precision as stated ({said}) is not the checkpoint's ({has}; {source})"]
