"""Number formats in which a checkpoint's weights are stored, by what they are used for."""

from perfmodel.spec.base import Spec


class Formats(Spec):
    """What a checkpoint holds; a config without ``quantization_config`` is BF16 throughout.

    Words are those of :mod:`perfmodel.spec.formats`, and ``mxfp8`` and ``int8`` where a checkpoint has them.
    """

    linear: str = "bf16"
    """Attention's input projections, and dense FFNs and the output projection where they don't differ."""
    attention_output: str = "bf16"
    """Attention's output projection."""
    dense: str = "bf16"
    """Dense FFNs."""
    experts: str = "bf16"
    """Routed experts."""
    shared: str = "bf16"
    """Shared experts."""
    kv_cache: str | None = None
    """KV cache, where the checkpoint says so (FP8 with calibrated scales); None: the engine decides."""
    state: str | None = None
    """States of linear attention and state-space layers, where the config says so; None: the engine decides."""
    method: str = ""
    """How it was quantised, in the config's own words; empty: it was not."""
    published: tuple[str, ...] = ()
    """Formats in which the same weights are published beside this checkpoint (``fp8``: LongCat-Flash-Chat-FP8)."""
