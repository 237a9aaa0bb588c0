"""Whole modules in decode of compressed attention (DeepSeek-V4: CSA, HCA) and of block selection (MiniMax-M3: MSA).

What the rows are: all of an attention from its first projection to its last, index branch inside; KV length = ``step``
(vLLM's MSA: one more, its steps are 2^n - 1), heads those of the rank, the rest of the model as tensor parallelism
leaves it. Traps settled here:

- SGLang's CSA ran over equal scores, on which its top-k kernel takes 20 to 30 times as long as on others up to 65,536
  tokens (H200, Flash: 82 us instead of 3), and from 131,072 on another kernel that does not mind. Both are in
  ``dsv4_csa_topk_calib``, timed alone in both score patterns: the difference is taken off every row.
- TensorRT-LLM's CSA doubles between what is selected whole and 8,192 tokens (110 to 243 us on B200, one request, and
  125 at 10,240), as its DSA does at 2,048: left out there.
- SGLang's batches above 256 are not in a CUDA graph: left out. So are its modules on RTX PRO 6000: a fallback that
  takes 10.6 (CSA) and 12.5 ms (HCA) for 16 requests, whatever the context.
- TensorRT-LLM's MSA is a fallback on Hopper and Ada (up to 3.5 s), and between GPUs of one chip its Blackwell kernel is
  up to 68 times apart: left out.
- Contexts end at fewer tokens the more requests there are. CSA and HCA continue by what a key costs an index branch
  (:func:`calibrate.public.sparse.key_seconds`), by bytes; MSA's grid is nearly whole.
- Modules of prompts: SGLang's of MSA are launched one by one (0.3 to 0.5 ms at any length). vLLM's are not (55 us for
  one token, as in decode) and take twice what their parts are derived to: read, without a prefix. Those behind 128
  tokens tell how well that does for chunks (median error 1.8 to 3.5 %). HCA's parts, whose kernels were timed, take
  0.83 to 1.19 of its modules. CSA's modules ran over equal scores, and vLLM's 4,096 tokens take twice as long behind as
  many (SGLang's 1.1 times): left out, the parts answer.
"""

from typing import TYPE_CHECKING

import numpy as np

from calibrate.public.attention_rows import FORMATS, cite, one_per_shape, slices
from calibrate.public.mla import CORE, MODULE_INCLUDES
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source
from calibrate.public.sparse import FAMILY, MOST_CAPTURED, continued, key_seconds

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

MODELS = {"DeepSeek-V4-Flash": "flash", "DeepSeek-V4-Pro": "pro"}
"""Name of a model, whoever converted it -> how kernel classes name its widths."""
SELECTED = {"flash": 512, "pro": 1024}
"""Entries that an index branch takes."""
RATIOS = {"csa": 4, "hca": 128}
INDEX_KEY_BYTES, ENTRY_BYTES = 132.0, 584.0
"""Of an FP8 index key of 128 elements, and of an entry of 512 (:mod:`perfmodel.ops.mixers.compressed`)."""
WINDOW = 128
UNUSUAL = ("rtx_pro_6000_server",)
"""Systems whose compressed modules are a fallback."""
SPIKE_ENDS = 8192
TIES, APART = "dsv4_csa_topk_calib", ("v2_flat", "v2_top_last")
"""Scores that are all equal, and those with the largest last, by the kernel that the modules ran."""
INDEX = ("index_logits", "index_topk")
COMPRESSED_INCLUDES = {
    "csa": (*MODULE_INCLUDES, "compress", *INDEX),
    "hca": (*MODULE_INCLUDES, "compress"),
}
BLOCKS_INCLUDES = ("gemm", "rope", "msa_logits", "msa_topk")
BLOCKS_HEADS = (8, 16, 32, 64)
"""Of a rank at TP 8 to 1; vLLM's table has others, which no rank of MiniMax-M3 holds."""
PROMPT = ("queries", "requests", "heads")
LONGEST_BLOCKS = 131072
"""Tokens up to which more than one request was timed."""


def samples(source: Source, system: str) -> list[Samples]:
    """Modules of a system, by every engine that has them."""
    found = []
    for engine in ENGINES:
        for kind in RATIOS:
            found += _compressed(source, system, engine, kind)
        found += _blocks(source, system, engine)
    return [*found, *_prompts(source, system)]


def _compressed(source: Source, system: str, engine: str, kind: str) -> list[Samples]:
    table = f"dsv4_{kind}_generation_module"
    frame = source.read(system, FAMILY, engine, table)
    if frame is None or system in UNUSUAL:
        return []
    version = source.version(system, FAMILY, engine, table)
    # the checkpoints are FP8; SGLang's rows in BF16 are of no server
    frame = frame[(frame["gemm_type"] == "fp8_block") & (frame["seconds"] > 0.0)]
    if engine == "sglang":
        frame = frame[frame["batch_size"] <= MOST_CAPTURED]
        if kind == "csa":
            frame = without_ties(frame, source.read(system, FAMILY, "sglang", TIES))
    frame = frame.rename(columns={"batch_size": "requests", "num_heads": "heads", "step": "context"})
    sizes = _sizes(frame)
    found = []
    for size in MODELS.values():
        part = frame[sizes == size]
        whole = RATIOS["csa"] * SELECTED[size] if kind == "csa" else WINDOW
        if engine == "trtllm" and kind == "csa":
            part = part[(part["context"] <= whole) | (part["context"] > SPIKE_ENDS)]
        if part.empty:
            continue
        rows, kernels = one_per_shape(part, CORE)
        per_token = key_seconds(source, system) / RATIOS[kind]
        if kind == "hca":
            per_token *= ENTRY_BYTES / INDEX_KEY_BYTES
        rows = continued(rows, per_token, whole)
        found.append(
            Samples(
                kernel=f"{kind}_{size}_module_decode",
                dtype="fp8",
                backend="fp8",
                engine=engine,
                axes=CORE,
                frame=rows,
                source=cite(source, system, engine, version, table, kernels),
                slices=slices(rows, "context"),
                includes=COMPRESSED_INCLUDES[kind],
                note=_note(engine, kind),
            )
        )
    return found


def _note(engine: str, kind: str) -> str:
    said = "projections, norms, RoPE, cache write, compression, core"
    if kind == "csa":
        said += ", index branch"
        if engine == "sglang":
            return f"{said}; the top-k's time over equal scores replaced by that over others, timed alone"
        if engine == "trtllm":
            return f"{said}; without the rows between what is selected whole and {SPIKE_ENDS:,} tokens"
    return said


def _sizes(frame: "pd.DataFrame") -> "pd.Series":
    """Whose rows: flash, pro or neither."""
    return frame["model"].str.split("/").str[-1].str.removesuffix("-FP8").map(MODELS)


def without_ties(rows: "pd.DataFrame", alone: "pd.DataFrame | None") -> "pd.DataFrame":
    """Modules less what the top-k takes longer over equal scores, of the nearest batch and context that were timed.

    Without that table (``alone``) none: rows that hold an unknown part of the time are not read.
    """
    if alone is None:
        return rows.iloc[:0]
    alone = alone[alone["isl"] == 1]
    wide = (
        alone.assign(size=_sizes(alone))
        .pivot_table(index=["size", "batch_size", "step"], columns="score_mode", values="seconds")
        .dropna(subset=list(APART))
    )
    more = (wide[APART[0]] - wide[APART[1]]).clip(lower=0.0).reset_index(name="more")
    parts = []
    for size, part in rows.groupby(_sizes(rows)):
        known = more[more["size"] == size]
        if known.empty:
            continue
        places = np.log2(known[["batch_size", "step"]].to_numpy(dtype=float) + 1.0)
        asked = np.log2(part[["batch_size", "step"]].to_numpy(dtype=float) + 1.0)
        # the context decides which kernel runs, so it counts first
        far = np.abs(asked[:, None] - places[None]) @ np.array([1.0, 100.0])
        parts.append(part.assign(seconds=part["seconds"] - known["more"].to_numpy()[np.argmin(far, axis=1)]))
    import pandas as pd

    return pd.concat(parts) if parts else rows.iloc[:0]


def _blocks(source: Source, system: str, engine: str) -> list[Samples]:
    table = "msa_generation_module"
    frame = source.read(system, "msa", engine, table) if engine != "trtllm" else None
    if frame is None:
        return []
    version = source.version(system, "msa", engine, table)
    frame = frame.rename(columns={"batch_size": "requests", "num_heads": "heads"})
    frame = frame.assign(context=frame["step"] + (engine == "vllm"))
    frame = frame[
        (frame["seconds"] > 0.0)
        & frame["heads"].isin(BLOCKS_HEADS)
        & (frame["context"] <= LONGEST_BLOCKS)
        & ((engine != "sglang") | (frame["requests"] <= MOST_CAPTURED))
    ]
    found = []
    for (weights, cache), part in frame.groupby(["gemm_type", "kv_cache_dtype"]):
        rows, kernels = one_per_shape(part, CORE)
        found.append(
            Samples(
                kernel="msa_module_decode",
                dtype=FORMATS[str(weights)],
                backend=FORMATS[str(cache)],
                engine=engine,
                axes=CORE,
                frame=rows,
                source=cite(source, system, engine, version, table, kernels),
                slices=slices(rows, "context"),
                includes=BLOCKS_INCLUDES,
                note="projections, norms, RoPE, cache write, block scores and selection, core over 16 blocks of 128",
            )
        )
    return found


def _prompts(source: Source, system: str) -> list[Samples]:
    """Prompts of MSA, by vLLM."""
    table = "msa_context_module"
    frame = source.read(system, "msa", "vllm", table)
    if frame is None:
        return []
    version = source.version(system, "msa", "vllm", table)
    frame = frame.rename(columns={"batch_size": "requests", "num_heads": "heads", "isl": "queries"})
    frame = frame[(frame["seconds"] > 0.0) & (frame["step"] == 0) & frame["heads"].isin(BLOCKS_HEADS)]
    found = []
    for (weights, cache), part in frame.groupby(["gemm_type", "kv_cache_dtype"]):
        rows, kernels = one_per_shape(part, PROMPT)
        found.append(
            Samples(
                kernel="msa_module_prefill",
                dtype=FORMATS[str(weights)],
                backend=FORMATS[str(cache)],
                engine="vllm",
                axes=PROMPT,
                frame=rows,
                source=cite(source, system, "vllm", version, table, kernels),
                slices={
                    "requests 16..64": rows["requests"].between(16, 64),
                    "new tokens 1024..4096": rows["queries"].between(1024, 4096),
                },
                includes=BLOCKS_INCLUDES,
                note="prompts without a prefix; behind one, what the whole takes less what the prefix does",
            )
        )
    return found
