"""Attention times out of the measured tables: grouped-query attention here, latent attention in ``mla``.

Only full attention (window 0) of head width 64 and 128: the widths of the models that perfmodel describes.
"""

from typing import TYPE_CHECKING

from calibrate.public import mla
from calibrate.public.attention_rows import FORMATS, cite, one_per_shape, preferred, read, renamed, slices
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

HEAD_DIMS = (64, 128)
PREFERENCE = ("fa3", "trtllm_mha", "torch_flow", "flashinfer", "torch_flow_flashinfer", "triton")
"""Kernels in the order in which an engine takes them where a table holds several for one shape. SGLang: FlashAttention
3 on Hopper, TensorRT-LLM's MHA on Blackwell (its defaults); FlashInfer, then Triton, only for what these two lack."""
NAMES = {"batch_size": "requests", "num_heads": "heads", "num_key_value_heads": "kv_heads"}
MATCH = ("heads", "kv_heads", "head_dim")
FP8_MATH = "fp8-math"
"""``Samples.backend`` of prefill rows whose arithmetic is FP8 too, where the engine also has BF16 arithmetic on an FP8
cache."""


def samples(source: Source, system: str) -> list[Samples]:
    """Every attention kernel of a system: gqa_decode, gqa_prefill, and those of ``mla.samples``."""
    found = []
    for engine in ENGINES:
        found += _decode(source, system, engine)
        found += _prefill(source, system, engine)
    return found + mla.samples(source, system)


def _decode(source: Source, system: str, engine: str) -> list[Samples]:
    frame, version = read(source, system, "attention", engine, "generation_attention")
    if frame is None:
        return []
    frame = renamed(_full_attention(frame), NAMES)
    shape = ("context", "requests", *MATCH)
    found = []
    for cache, part in preferred(frame, (*shape, "kv_cache_dtype"), PREFERENCE).groupby("kv_cache_dtype"):
        rows, kernels = one_per_shape(part, shape)
        found.append(
            Samples(
                kernel="gqa_decode",
                dtype=FORMATS[str(cache)],
                backend="",
                engine=engine,
                axes=("context", "requests"),
                frame=rows,
                source=cite(source, system, engine, version, "generation_attention", kernels),
                match=MATCH,
                scale_by=("kv_heads", "head_dim"),
                slices=slices(rows, "context"),
                note="one new token per request, BF16 queries",
            )
        )
    return found


def _prefill(source: Source, system: str, engine: str) -> list[Samples]:
    """Prompts without a cached prefix; FP8 caches with FP8 arithmetic only where the engine has nothing else."""
    frame, version = read(source, system, "attention", engine, "context_attention")
    if frame is None:
        return []
    frame = _full_attention(frame)
    frame = frame[frame["step"] == 0].rename(columns={**NAMES, "isl": "new_tokens"})
    shape = ("new_tokens", "requests", *MATCH)
    frame = preferred(frame, (*shape, "kv_cache_dtype"), PREFERENCE)
    present = set(zip(frame["attn_dtype"], frame["kv_cache_dtype"], strict=True))
    found = []
    for (math, cache), part in frame.groupby(["attn_dtype", "kv_cache_dtype"]):
        rows, kernels = one_per_shape(part, shape)
        second = math == "fp8" and ("bfloat16", cache) in present
        found.append(
            Samples(
                kernel="gqa_prefill",
                dtype=FORMATS[str(cache)],
                backend=FP8_MATH if second else "",
                engine=engine,
                axes=("new_tokens", "requests"),
                frame=rows,
                source=cite(source, system, engine, version, "context_attention", kernels),
                match=MATCH,
                scale_by=("heads", "head_dim"),
                slices=slices(rows, "new_tokens"),
                note=f"causal prompts without a cached prefix, {FORMATS[str(math)]} arithmetic",
            )
        )
    return found


def _full_attention(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Full attention of the widths that are read; versions before windows were timed have no column for them."""
    full = frame["window_size"] == 0 if "window_size" in frame else frame["head_dim"] > 0
    return frame[full & frame["head_dim"].isin(HEAD_DIMS)]
