"""Kernels of linear attention, convolutions and hyper-connections out of the measured tables.

What the rows are:

- ``gdn``, ``kda``: two kernels per layer, a causal convolution and the recurrence (decode: the recurrent update,
  prompts: the chunked rule), each by itself: no projections, gates or norms. The state is FP32.
- ``mamba2`` (TensorRT-LLM): the two convolutions alone, 2 to 3 times as long as GDN's of as many channels; not read. No
  table has a state-space scan.
- ``mhc``: ``pre`` and ``post`` of ``num_sites`` places of a layer in one time: divided by them. (One site's bytes over
  the whole time would be 0.43 of H200's memory bandwidth in BF16, both sites' 0.87.)
- A row reads one state again and again, so that it comes from L2 up to L2's size; a step reads the states of every
  other layer and all weights in between, so that it comes from memory. Where that makes a difference (L40S and RTX PRO
  6000: 3.9 and 5.7 TB/s of states within L2, 0.66 and 1.46 beyond; KDA's kernels on most GPUs), rows within L2 are
  replaced by the smallest row's time and what a lane costs beyond L2 (:func:`cold`).
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
STATE_BYTES = 128 * 128 * 4
"""Of one head."""
MIB = 2**20
L2_BYTES = {
    "a100_sxm": 40 * MIB,
    "h100_sxm": 50 * MIB,
    "h200_sxm": 50 * MIB,
    "b200_sxm": 126 * MIB,
    "b300_sxm": 126 * MIB,
    "gb200": 126 * MIB,
    "gb300": 126 * MIB,
    "l40s": 96 * MIB,
    "rtx_pro_6000_server": 128 * MIB,
}
"""L2 of a system's GPU, as CUDA reports it (NVIDIA's architecture whitepapers: A100 40 MB, H100 50, L40S 96, RTX PRO
6000 Blackwell 128)."""
BEYOND_L2 = 1.5
"""Times L2's size from which on states come from memory alone: up to there some are still found."""
FASTER_WITHIN = {"gdn": 1.5, "kda": 1.0}
"""Kernel -> how many times as fast states must be within L2 for its rows not to be a step's. GDN's are 3 to 6 times on
L40S and RTX PRO 6000; on data centres' GPUs 0.8 to 1.2 (SGLang's on H200 1.47), which is read as it is."""
WITHIN_SPREAD = 0.1
"""Spread of such a curve at least: the smallest row's time may hold more or less than a launch."""
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
            replaced = cold(rows, L2_BYTES[system], FASTER_WITHIN[name]) if decode else None
            found.append(
                Samples(
                    kernel=f"{name}_{'decode' if decode else 'prefill'}",
                    dtype=STATE,
                    backend="",
                    engine=engine,
                    axes=axes,
                    frame=rows if replaced is None else replaced,
                    source=cite(source, system, engine, version, name, kernels),
                    slices=_slices(rows, replaced),
                    note="the recurrence alone, key and value width 128; key heads are not told apart"
                    + ("" if replaced is None else "; within L2 by what a state costs beyond it"),
                    flag=""
                    if replaced is None
                    else "derived: states that fit L2 were timed within it, and are not there in a step",
                    least_log_std=0.0 if replaced is None else WITHIN_SPREAD,
                )
            )
    return found


def cold(rows: "pd.DataFrame", l2_bytes: float, faster: float) -> "pd.DataFrame | None":
    """Decode rows as a step meets them, whose states come from memory: those within L2 at the least time of all and
    what a lane costs beyond L2 (column ``filled``). None where states within L2 are not ``faster`` times as fast, or
    where too few rows lie beyond.
    """
    size = rows["lanes"] * STATE_BYTES
    within, beyond = rows[size <= l2_bytes], rows[size >= BEYOND_L2 * l2_bytes]
    if within.empty or len(beyond) < 3:
        return None
    per_lane = float((beyond["seconds"] / beyond["lanes"]).median())
    if float((within["lanes"] / within["seconds"]).max()) * per_lane < faster:
        return None
    filled = ~rows.index.isin(beyond.index)
    read = rows["seconds"].min() + per_lane * rows["lanes"]
    return rows.assign(
        seconds=rows["seconds"].where(~filled, read.clip(lower=rows["seconds"])), filled=filled
    )


def _slices(rows: "pd.DataFrame", replaced: "pd.DataFrame | None") -> dict[str, "pd.Series"]:
    """What is left out together: a range of heads, of those that were read; of new tokens of a prompt."""
    if "lanes" in rows and "queries" not in rows:
        low, high = (512, 2048) if replaced is None else (4096, 16384)
        return {f"{low} to {high} heads": rows["lanes"].between(low, high)}
    return {"new tokens 512..2048": rows["queries"].between(512, 2048)}


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
