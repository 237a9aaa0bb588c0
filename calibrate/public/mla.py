"""Multi-head latent attention out of the measured tables: the cores, and DeepSeek-V3's whole attention modules.

Traps settled here:

- ``num_heads`` is what this rank holds, whatever ``tp_size`` says.
- The KV length is ``isl + step`` in the core tables, ``step`` in the module tables of trtllm and vllm (their ``isl`` is
  the one new token, counted in ``step`` already), and ``isl`` in SGLang's wide-EP tables (their ``step`` is 0).
- SGLang's ``context_mla`` on Hopper times the weight-absorbed kernel (its collector sets widths 576/512 and one KV head
  there): at 32,768 tokens 180 TFLOP/s if the expanded core's operations are counted (2 x 320 per pair and head), 610 if
  the absorbed one's are (2 x 1088), and 3.2 times slower than TensorRT-LLM's expanded kernel. Engines expand long
  prompts and perfmodel's ``mla_prefill`` is the expanded core, so these rows are left out and another engine stands in.
- FlashAttention 3 on Hopper with an FP8 cache is up to 7 times slower than with BF16, and no engine serves so: FP8 is
  derived from BF16 by bytes, and flagged. TensorRT-LLM's FP8 on Hopper is sane (0.72 of BF16 where memory binds).
- SGLang's wide-EP modules say they have an FP8 cache, but their time grows with context as the BF16 core's does, within
  10 % on Hopper, and unlike the FP8 core's on every GPU: they are handed on as BF16, and flagged.
"""

from typing import TYPE_CHECKING

from calibrate.public.attention_rows import (
    FORMATS,
    HOPPER,
    cite,
    one_per_shape,
    preferred,
    read,
    renamed,
    slices,
)
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

LATENT, ROPE = 512, 64
"""Widths of a cached latent and its RoPE part in every MLA table (DeepSeek-V3's; LongCat-Flash's are the same)."""
FP8_BYTES = (LATENT + 2 * ROPE) / (2 * (LATENT + ROPE))
"""Bytes of an FP8 latent with a BF16 RoPE part over those of an all-BF16 one: 0.556."""
CORE = ("context", "requests", "heads")
PROMPT = ("new_tokens", "requests", "heads")
NAMES = {"batch_size": "requests", "num_heads": "heads"}
MODEL = "deepseek-ai/DeepSeek-V3"
WIDE_EP = "0.5.10"
"""SGLang version of the wide-EP module tables on every GPU."""
WIDE_EP_PREFERENCE = ("fa3", "trtllm_mla", "flashinfer")
WIDE_EP_FLAG = "the table says FP8 cache, but time grows with context as the BF16 core's"
MODULE_NOTE = (
    "DeepSeek-V3's attention (hidden 7168, q rank 1536): projections, norms, RoPE, cache write and core"
)


NORM_AND_ROPE = ("latent_norm", "rope")
CORE_INCLUDES: dict[str, tuple[str, ...]] = {"trtllm": NORM_AND_ROPE}
"""Engine -> what runs in the span of its core beside it. SGLang's collector times RadixAttention: queries come with
their rotary embedding done, latents normalised, and the token's latent is written inside. DeepSeek-V3's whole module
(128 heads, 4,096 tokens) takes 7.2, 9.5, 6.5 us longer than products and core at batch 1, 4, 8, which is what a norm
and a rotary embedding cost (6.2 to 7). TensorRT-LLM's attention op rotates and writes, and its modules take 0.91 to
1.06 of products and core: its norms run beside them."""
MODULE_INCLUDES = ("gemm", "bmm", *NORM_AND_ROPE)
"""All of an attention between its norm and its all-reduce."""


def samples(source: Source, system: str) -> list[Samples]:
    """mla_decode, mla_prefill and mla_module_decode of a system, by every engine that has them."""
    found = []
    for engine in ENGINES:
        found += _decode(source, system, engine)
        found += _prefill(source, system, engine)
    return [*found, *_modules(source, system), *_wide_ep(source, system)]


def _decode(source: Source, system: str, engine: str) -> list[Samples]:
    """The absorbed core, one new token per request."""
    frame, version = read(source, system, "mla", engine, "generation_mla")
    if frame is None:
        return []
    frame = renamed(frame, NAMES)
    slow = system in HOPPER and engine == "sglang"
    found = []
    for cache, part in frame.groupby("kv_cache_dtype"):
        if slow and cache == "fp8":
            continue
        rows, kernels = one_per_shape(part, CORE)
        found.append(
            Samples(
                kernel="mla_decode",
                dtype=FORMATS[str(cache)],
                backend="",
                engine=engine,
                axes=CORE,
                frame=rows,
                source=cite(source, system, engine, version, "generation_mla", kernels),
                slices=slices(rows, "context"),
                includes=CORE_INCLUDES.get(engine, ()),
                note="weight-absorbed core, one new token per request; the span includes writing that token's latent",
            )
        )
    return [*found, *(fp8_from_bf16(sample) for sample in found if slow)]


def fp8_from_bf16(measured: Samples) -> Samples:
    """The core with FP8 latents and BF16 RoPE parts: the BF16 time at a context whose bytes are as many.

    Both bounds shrink alike: bytes by (512 + 2 x 64) / (2 x 576) = 0.556; tensor-core time, with FP8 arithmetic on the
    latents at twice the rate, by (512/2 + 64 + 512/2) / (512 + 64 + 512) = 0.529. Fixed costs stay. SnapMLA
    (arXiv:2602.10718), LongCat's kernel, works so. Contexts become fractions: nothing is interpolated.

    Compared with FlashMLA on an FP8 cache (vLLM 0.24.0's modules, FP8 less BF16 cache, 131,072 cached tokens and more):
    at 64 heads the derived core takes 1.04 times as long on H100 and 0.80 on H200; at 128 heads 0.66 and 0.61, where
    FlashMLA gains 5 to 10 % over BF16 only. So it is a bound for a kernel whose arithmetic on the latents is FP8.
    """
    rows = measured.frame.assign(context=measured.frame["context"] / FP8_BYTES)
    return Samples(
        kernel=measured.kernel,
        dtype="fp8",
        backend=measured.backend,
        engine=measured.engine,
        axes=measured.axes,
        frame=rows,
        source=measured.source,
        slices=measured.slices,
        includes=measured.includes,
        flag=f"derived: the BF16 kernel's time at {FP8_BYTES:.3f} times the context; the measured FP8 one on Hopper is "
        "FlashAttention 3, up to 7 times slower, which no engine serves with",
        note=measured.note,
    )


def _prefill(source: Source, system: str, engine: str) -> list[Samples]:
    """The expanded core: head widths 192 (queries, keys) and 128 (values), prompts without a cached prefix."""
    frame, version = read(source, system, "mla", engine, "context_mla")
    if frame is None or (system in HOPPER and engine == "sglang"):
        return []
    frame = frame[frame["step"] == 0].rename(columns={**NAMES, "isl": "new_tokens"})
    found = []
    for cache, part in frame.groupby("kv_cache_dtype"):
        rows, kernels = one_per_shape(part, PROMPT)
        found.append(
            Samples(
                kernel="mla_prefill",
                dtype=FORMATS[str(cache)],
                backend="",
                engine=engine,
                axes=PROMPT,
                frame=rows,
                source=cite(source, system, engine, version, "context_mla", kernels),
                slices=slices(rows, "new_tokens"),
                note="expanded core (widths 192/128) over causal prompts without a cached prefix",
            )
        )
    return found


def _modules(source: Source, system: str) -> list[Samples]:
    """TensorRT-LLM's whole decode modules.

    vLLM's are left out: on Hopper they take 40 to 215 us longer than the sum of the same kernels timed alone, which is
    what launching them one by one costs, and an engine replays a graph. Modules of prompts are left out too: they hold
    an eager launch's floor, and a step's prompts and decodes share their projections.
    """
    frame, version = read(source, system, "mla", "trtllm", "mla_generation_module")
    if frame is None:
        return []
    frame = frame[(frame["model"] == MODEL) & (frame["mla_dtype"] == "bfloat16")]
    found = []
    for (weights, cache), part in frame.groupby(["gemm_type", "kv_cache_dtype"]):
        rows, kernels = one_per_shape(part.rename(columns={**NAMES, "step": "context"}), CORE)
        formats = FORMATS[str(weights)], FORMATS[str(cache)]
        source_text = cite(source, system, "trtllm", version, "mla_generation_module", kernels)
        found.append(_module(formats, "trtllm", rows, source_text))
    return found


def _wide_ep(source: Source, system: str) -> list[Samples]:
    """SGLang's decode modules under wide expert parallelism: FP8 weights and cache."""
    frame = source.read(system, "mla", "sglang", "wideep_generation_mla", WIDE_EP)
    if frame is None:
        return []
    frame = preferred(frame.rename(columns={**NAMES, "isl": "context"}), CORE, WIDE_EP_PREFERENCE)
    found = []
    for weights, part in frame.groupby("gemm_type"):
        rows, kernels = one_per_shape(part, CORE)
        formats = FORMATS[str(weights)], "bf16"
        source_text = cite(source, system, "sglang", WIDE_EP, "wideep_generation_mla", kernels)
        found.append(_module(formats, "sglang", rows, source_text, flag=WIDE_EP_FLAG))
    return found


def _module(
    formats: tuple[str, str], engine: str, rows: "pd.DataFrame", source: str, flag: str = ""
) -> Samples:
    """A whole module. ``formats``: of the weights (``Samples.dtype``), of the KV cache (``Samples.backend``)."""
    return Samples(
        kernel="mla_module_decode",
        dtype=formats[0],
        backend=formats[1],
        engine=engine,
        axes=CORE,
        frame=rows,
        source=source,
        slices=slices(rows, "context"),
        includes=MODULE_INCLUDES,
        flag=flag,
        note=MODULE_NOTE,
    )
