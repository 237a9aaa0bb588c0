"""Kernels of linear attention, convolutions and hyper-connections out of the measured tables.

What the rows are:

- ``gdn``, ``kda``: two kernels per layer, a causal convolution and the recurrence (decode: the recurrent update,
  prompts: the chunked rule), each by itself: no projections, gates or norms. The state is FP32.
- ``mamba2`` (TensorRT-LLM): the two convolutions alone, 2 to 3 times as long as GDN's of as many channels; not read. No
  table has a state-space scan.
- ``mhc``: ``pre`` and ``post`` of ``num_sites`` places of a layer in one time: divided by them. (One site's bytes over
  the whole time would be 0.43 of H200's memory bandwidth in BF16, both sites' 0.87.)
- KDA's decode kernels differ between releases; rows of verification (``verify``) are left out.
- SGLang's GDN of prompts beyond 32,768 tokens on H200 is up to 4.9 times H100's: left out there.
"""

from typing import TYPE_CHECKING

from calibrate.public.attention_rows import cite
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

STATE = "fp32"
VERSIONS = {"sglang": "0.5.20", "vllm": "0.31.0"}
"""Of KDA: releases; the older ones are of one model before its release, with kernels that differ by head count."""
FEW_HEADS = "kda_fused_decode"
"""A kernel of SGLang 0.5.16 for 12 heads alone, where the next size up has another: left out."""
LONG_PROMPTS = 32768
"""Tokens of all requests beyond which SGLang's GDN on H200 is not read."""
DECODE, PROMPT = ("lanes",), ("queries", "lanes")
"""Axes: heads (or channels) of all requests together, each with a state of its own, and new tokens per request."""


def samples(source: Source, system: str) -> list[Samples]:
    """gdn, kda, conv and mhc kernels of a system, by every engine that has them."""
    found = []
    for engine in ENGINES:
        found += _deltas(source, system, engine)
        found += _convolutions(source, system, engine)
        found += _hyper(source, system, engine)
    return found


def _table(source: Source, system: str, engine: str, name: str) -> tuple["pd.DataFrame | None", str]:
    """A table of linear attention with perfmodel's names, and its version."""
    family = "kda" if name == "kda" else "linear_attention"
    version = VERSIONS.get(engine, "") if name == "kda" else ""
    if version not in source.versions(system, family, engine, name):
        version = "" if name != "kda" else (source.versions(system, family, engine, name) or ("",))[-1]
    version = version or source.version(system, family, engine, name)
    frame = source.read(system, family, engine, name, version)
    if frame is None:
        return None, ""
    if system == "h200_sxm" and engine == "sglang" and name == "gdn":
        frame = frame[frame["batch_size"] * frame["seq_len"] <= LONG_PROMPTS]
    frame = frame.rename(columns={"batch_size": "requests", "seq_len": "queries", "num_v_heads": "heads"})
    return frame[(frame["seconds"] > 0.0) & (frame["phase"] != "verify")], version


def _deltas(source: Source, system: str, engine: str) -> list[Samples]:
    found = []
    for name in ("gdn", "kda"):
        frame, version = _table(source, system, engine, name)
        if frame is None:
            continue
        frame = frame[~frame["kernel_source"].str.contains(f"conv1d|{FEW_HEADS}")]
        for phase, axes in (("generation", DECODE), ("context", PROMPT)):
            rows = frame[frame["phase"] == phase]
            rows = rows.assign(lanes=rows["requests"] * rows["heads"])
            kernels = "/".join(sorted(rows["kernel_source"].unique()))
            if len(rows) < FEWEST:
                continue
            rows = rows.groupby(list(axes), as_index=False)["seconds"].median()
            decode = phase == "generation"
            found.append(
                Samples(
                    kernel=f"{name}_{'decode' if decode else 'prefill'}",
                    dtype=STATE,
                    backend="",
                    engine=engine,
                    axes=axes,
                    frame=rows,
                    source=cite(source, system, engine, version, name, kernels),
                    slices={"512 to 2048 heads": rows["lanes"].between(512, 2048)}
                    if decode
                    else {"new tokens 512..2048": rows["queries"].between(512, 2048)},
                    note="the recurrence alone, key and value width 128; key heads are not told apart",
                )
            )
    return found


def _convolutions(source: Source, system: str, engine: str) -> list[Samples]:
    """Of GDN, over channels: queries, keys and values."""
    whole, version = _table(source, system, engine, "gdn")
    if whole is None:
        return []
    whole = whole[whole["kernel_source"].str.contains("conv1d")]
    channels = 2 * whole["num_k_heads"] * whole["head_k_dim"] + whole["heads"] * whole["head_v_dim"]
    whole = whole.assign(lanes=channels * whole["requests"])
    found = []
    for phase, kernel, axes in (
        ("generation", "conv_update", DECODE),
        ("context", "conv_prefill", PROMPT),
    ):
        rows = whole[whole["phase"] == phase].groupby(list(axes), as_index=False)["seconds"].median()
        if len(rows) < FEWEST:
            continue
        found.append(
            Samples(
                kernel=kernel,
                dtype="bf16",
                backend="",
                engine=engine,
                axes=axes,
                frame=rows,
                source=cite(source, system, engine, version, "gdn", "causal_conv1d"),
                slices={"64k to 256k channels": rows["lanes"].between(2**16, 2**18)},
                note="four taps",
            )
        )
    return found


def _hyper(source: Source, system: str, engine: str) -> list[Samples]:
    frame = source.read(system, "mhc", engine, "mhc_module")
    if frame is None:
        return []
    version = source.version(system, "mhc", engine, "mhc_module")
    frame = frame.assign(seconds=frame["seconds"] / frame["num_sites"])
    frame = frame.rename(columns={"num_tokens": "rows", "hidden_size": "width"})
    found = []
    for name in ("pre", "post"):
        rows = frame[(frame["op_name"] == name) & (frame["seconds"] > 0.0)]
        kernels = "/".join(sorted(rows["kernel_source"].unique()))
        rows = rows.groupby(["rows", "width"], as_index=False)["seconds"].median()
        if len(rows) < FEWEST:
            continue
        found.append(
            Samples(
                kernel=f"mhc_{name}",
                dtype="bf16",
                backend="",
                engine=engine,
                axes=("rows",),
                match=("width",),
                scale_by=("width",),
                frame=rows,
                source=cite(source, system, engine, version, "mhc_module", kernels),
                slices={"1024 to 4096 rows": rows["rows"].between(1024, 4096)},
                note="four streams, 20 rounds of Sinkhorn; of one of the two sites that a row times",
            )
        )
    return found


FEWEST = 20
"""Rows that make a table."""
