"""Expert GEMMs (kernel ``grouped_gemm``) from the tables of whole expert computations.

Every row is one rank's gate-up GEMM, activation and down GEMM, with what each engine does around them in the same span:
quantisation of activations, permutation and its inverse, and in most the choice of the top k (``NOTES``).

What the tables give is the tokens of the whole expert-parallel group, and fused kernels were timed with all of those
tokens present on rank 0, as after an all-gather. Their time follows t = w / ep + o + c x tokens to within 1-5 % from EP 8
to 256 (w is the work, which both rows and experts share): the term in c is the cost of tokens that have no row here. A
dispatch brings only tokens that have one, so c x (tokens - tokens with a row) is taken off (:func:`without_strangers`), and
rows where that is more than ``STRANGERS`` of the time are left out: little of the experts is left to see in them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from calibrate.public import expert_rows
from calibrate.public.expert_rows import RankLoad
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, PACKAGE, VERSION, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

AXES = ("rows_per_group", "groups")
MATCH = ("hidden", "width", "skew")
SCALE_BY = ("hidden", "width")
INCLUDES = ("activation", "permute", "unpermute", "reorder")

DTYPES = {"bfloat16": "bf16", "fp8_block": "fp8", "fp8": "fp8-tensor", "nvfp4": "fp4", "int4_wo": "int4"}
VERSIONS = {"sglang": "0.5.14", "trtllm": "1.3.0rc20", "vllm": "0.24.0"}
"""Newest whole tables: trtllm 1.3.0rc23 holds a few models only. SGLang 0.5.10 has more models in int4, but gave rank 0 its
tokens with all their picks, those of other ranks moved to its first expert: the time per such row is the same at every EP
size, and the rank's own rows are a small part of them."""

MODELS = {
    (2048, 512, 8, 256), (2048, 768, 8, 128), (3072, 1024, 8, 256), (3072, 1536, 8, 256), (4096, 1024, 10, 512),
    (4096, 1536, 8, 128), (4096, 2048, 8, 256), (4096, 14336, 2, 8),
    (6144, 2048, 8, 256), (6144, 2560, 8, 160), (6144, 16384, 2, 8), (7168, 2048, 8, 256), (7168, 2048, 8, 384),
    (7168, 3072, 6, 384),
}  # fmt: skip
"""(hidden, expert width, top k, experts) of models with gated experts. Left out: Nemotron-H, whose experts have no gate
(two GEMMs, but the same column names), and Gemma 4, for which SGLang's kernel has no tuned tiles (EP 2 takes longer than
EP 1)."""
GROUP_LIMITED = (7168, 2048, 8, 256)
"""DeepSeek-V3 chooses experts from 4 of 8 groups. SGLang and vLLM routed the balanced scores by that rule, which balanced
scores fail: half of the groups got nothing and rank 0 up to all rows (EP 2 takes as long as EP 1). Left out there; Kimi-K2
has the same shape without groups."""
FOREIGN_KERNELS = ("nongated", "min_latency")
"""TensorRT-LLM's experts without a gate, and its low-latency kernels, timed with DeepSeek's group-limited choice for every
model, so with unknown rows (EP 2 takes as long as EP 1)."""
TRITON = "sglang_fused_moe_triton"
FEW = 16
MAX_TP = 8
MIN_WIDTH = 128
STEPS = 4
"""Grid points per octave of rows per group."""
SLOW = 1.25
STRANGERS = 0.5
FROM_EP = 8
LARGE, SMALL = 4096, 256
"""Tokens between which the cost of one more token is read off: at the small end the fixed time hides it."""

NOTES = {
    "sglang": "Span: top-k choice, quantisation, permutation, GEMMs, activation, weighted sum.",
    "trtllm": "Span: top-k choice, quantisation, permutation, GEMMs, activation, weighted sum.",
    "vllm": "Span: top-k choice, quantisation, permutation, GEMMs, activation, weighted sum.",
}


def samples(source: Source, system: str) -> list[Samples]:
    """Every table of expert GEMMs that a system has."""
    found = []
    for engine in ENGINES:
        found += fused(source, system, engine)
    found += deepep(source, system)
    found += wideep(source, system)
    return found


def fused(source: Source, system: str, engine: str) -> list[Samples]:
    """One engine's fused experts, per number format."""
    version = VERSIONS[engine]
    frame = source.read(system, "moe", engine, "moe", version)
    if frame is None:
        return []
    frame = known(frame, engine)
    frame = placed(frame[usable(frame, engine)], fused_load)
    found = []
    for dtype in DTYPES.values():
        rows = frame[frame["dtype"] == dtype]
        if rows.empty:
            continue
        rows = settled(without_strangers(without_slow(rows[~idle(rows)])))
        kernels = ", ".join(sorted({*rows["kernel_source"]}))
        found.append(
            Samples(
                kernel="grouped_gemm",
                dtype=dtype,
                backend="fused",
                engine=engine,
                axes=AXES,
                frame=rows,
                source=f"{PACKAGE} {VERSION} {system}: {engine} {version} moe ({kernels})",
                match=MATCH,
                scale_by=SCALE_BY,
                slices=slices(rows),
                includes=INCLUDES,
                note=NOTES[engine] + " Less the cost of tokens without a row on the rank, see calibrate.public.experts.",
            )
        )
    return found


def known(frame: "pd.DataFrame", engine: str) -> "pd.DataFrame":
    """Rows of the models and number formats that are read, with their names as in perfmodel."""
    frame = frame.rename(
        columns={
            "num_tokens": "tokens",
            "hidden_size": "hidden",
            "num_experts": "experts",
            "topk": "top_k",
            "moe_tp_size": "tp",
            "moe_ep_size": "ep",
        }
    )
    model = list(zip(frame["hidden"], frame["inter_size"], frame["top_k"], frame["experts"], strict=True))
    wanted = [entry in MODELS and not (entry == GROUP_LIMITED and engine != "trtllm") for entry in model]
    frame = frame[np.array(wanted, dtype=bool) & frame["moe_dtype"].isin(DTYPES)]
    exponents = frame["distribution"].str.extract(r"power_law_([0-9.]+)")[0].astype(float).fillna(0.0)
    return frame.assign(
        dtype=frame["moe_dtype"].map(DTYPES), width=frame["inter_size"] // frame["tp"], skew=exponents
    )


def usable(frame: "pd.DataFrame", engine: str) -> "pd.Series":
    """Rows whose work on rank 0 is known, of widths that are kept.

    Power-law loads: one width per model, powers of two of tokens, and at least one row per expert on average; they tell
    how much a skewed load costs, not where a tile ends.
    """
    keep = (frame["tp"] <= MAX_TP) & (frame["width"] >= MIN_WIDTH)
    whole = np.log2(frame["tokens"])
    enough = (frame["tp"] == 1) & (whole == np.rint(whole)) & (frame["tokens"] * frame["top_k"] >= frame["experts"])
    keep &= (frame["skew"] == 0.0) | enough
    keep &= (frame["experts"] >= FEW) | (frame["tp"] <= MAX_TP // 2)
    for name in FOREIGN_KERNELS:
        keep &= ~frame["kernel_source"].str.contains(name)
    if engine == "sglang":
        # with 8 experts SGLang's Triton kernel does as much work on two ranks as on one
        keep &= (frame["ep"] == 1) | (frame["experts"] >= FEW) | (frame["kernel_source"] != TRITON)
        # where SGLang has a faster kernel for most models, Triton's tables would answer for models that do not use it
        for _, kernels in frame.groupby("dtype")["kernel_source"]:
            if kernels.str.contains("flashinfer_trtllm").any():
                keep &= ~(frame.index.isin(kernels.index) & (frame["kernel_source"] == TRITON))
    return keep


def fused_load(row: "Routing") -> RankLoad:
    """Work of rank 0 in an engine's table."""
    if row.skew:
        return expert_rows.power_law(row.tokens, row.experts, row.top_k, row.ep, row.skew)
    return expert_rows.balanced(row.tokens, row.experts, row.top_k, row.ep)


@dataclass(frozen=True, slots=True)
class Routing:
    """What rank 0's share follows from."""

    tokens: int
    experts: int
    top_k: int
    ep: int
    skew: float
    slots: int = 0


def placed(frame: "pd.DataFrame", load: Callable[[Routing], RankLoad]) -> "pd.DataFrame":
    """The frame with rank 0's ``rows``, ``groups``, ``rows_per_group`` and ``arrived`` tokens."""
    columns = ["tokens", "experts", "top_k", "ep", "skew"] + (["slots"] if "slots" in frame else [])
    keys = list(frame[columns].itertuples(index=False, name=None))
    loads = {
        key: load(Routing(*(int(value) for value in key[:4]), float(key[4]), *(int(value) for value in key[5:])))
        for key in set(keys)
    }
    rows = np.array([loads[key].rows for key in keys])
    groups = np.array([loads[key].groups for key in keys])
    return frame.assign(
        rows=rows,
        groups=groups,
        rows_per_group=rows / groups,
        arrived=np.array([loads[key].tokens for key in keys]),
        spread=np.array([loads[key].spread for key in keys]),
    )


def settled(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame on an axis of STEPS values per octave, which each time is moved to along its own line.

    Expected loads, and 384 experts with 8 picks, leave hardly two rows on the same value, and each would be a line of the
    table. The move is at most 1 / (2 STEPS) octave, by the interpolation in (log rows per group, log time) between the rows
    of the same model, ranks and skew. Of an axis of groups, only whole experts.
    """
    keys = ["kernel_source", "hidden", "width", "top_k", "experts", "ep", "tp", "skew", "groups"]
    frame = frame.assign(groups=np.maximum(np.rint(frame["groups"]), 1.0))
    parts = []
    for _, line in frame.groupby([key for key in keys if key in frame], sort=False):
        logs = np.log2(line["rows_per_group"].to_numpy(dtype=float))
        moved = np.rint(STEPS * logs) / STEPS
        order = np.argsort(logs, kind="stable")
        times = np.log(line["seconds"].to_numpy(dtype=float))
        there = np.interp(moved, logs[order], times[order])
        fits = (moved >= logs.min() - 1e-9) & (moved <= logs.max() + 1e-9) | (np.abs(moved - logs) < 0.02)
        moved = np.where(np.abs(moved - logs) < 1e-9, logs, moved)
        parts.append(line.assign(rows_per_group=2.0**moved, seconds=np.exp(there))[fits])
    return _concat(parts)


def idle(frame: "pd.DataFrame") -> "pd.Series":
    """Balanced rows in which some of the rank's experts got nothing.

    TensorRT-LLM's kernels pay about 0.3 us for each such expert: 8 rows on 8 of 256 experts take 97 us, on 8 of 8 27 us.
    Fewer experts are measured without idle ones, at larger EP.
    """
    return (frame["skew"] == 0.0) & (frame["groups"] < frame["experts"] // frame["ep"])


def without_slow(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Rows less those that take ``SLOW`` times as long as more work of the same kernel and model.

    More work: as many tokens or more on as few ranks or fewer, one of them differing. Whole lines of TensorRT-LLM's
    bf16 kernels are 5 times as long as those with half the ranks: their tactic was tuned badly in that process.
    """
    parts = []
    for _, rows in frame.groupby(["kernel_source", "hidden", "inter_size", "top_k", "experts", "skew"], sort=True):
        tokens, ep, tp, seconds = (rows[name].to_numpy(dtype=float) for name in ("tokens", "ep", "tp", "seconds"))
        more = (tokens[:, None] <= tokens) & (ep[:, None] >= ep) & (tp[:, None] >= tp)
        least = np.where(more, seconds, np.inf).min(axis=1)
        parts.append(rows[seconds <= SLOW * least])
    return _concat(parts)


def without_strangers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Times less those of tokens that have no row on the rank.

    The cost of one such token is read off balanced rows of the same kernel and model (:func:`token_cost`); where too few
    EP sizes were timed, the median of the other models' of that kernel, in proportion to the hidden size.
    """
    parts = []
    for _, kernel in frame.groupby("kernel_source", sort=True):
        models = list(kernel.groupby(["hidden", "top_k", "experts"], sort=True))
        costs = {key: token_cost(rows) for key, rows in models}
        per_channel = [cost / key[0] for key, cost in costs.items() if cost is not None]
        usual = float(np.median(per_channel)) if per_channel else 0.0
        for key, rows in models:
            cost = costs[key]
            strangers = (cost if cost is not None else usual * key[0]) * (rows["tokens"] - rows["arrived"])
            parts.append(
                rows.assign(seconds=rows["seconds"] - strangers)[strangers <= STRANGERS * rows["seconds"]]
            )
    return _concat(parts)


def token_cost(frame: "pd.DataFrame") -> float | None:
    """Seconds per token without a row on the rank, from one kernel's times of one model; None where not to be had.

    At each number of tokens and each width, t = w / ep + o is fitted over EP 8 and more; the cost is the median slope of o
    between few and many tokens.
    """
    slopes = []
    balanced = frame[(frame["skew"] == 0.0) & (frame["ep"] >= FROM_EP)]
    for _, rows in balanced.groupby("width"):
        fixed: dict[int, float] = {}
        for tokens, line in rows.groupby("tokens"):
            if line["ep"].nunique() < 3:
                continue
            terms = np.column_stack([1.0 / line["ep"], np.ones(len(line))]) / line["seconds"].to_numpy()[:, None]
            fixed[int(tokens)] = float(np.linalg.lstsq(terms, np.ones(len(line)), rcond=None)[0][1])
        if SMALL in fixed:
            slopes += [
                (value - fixed[SMALL]) / (tokens - SMALL) for tokens, value in fixed.items() if tokens >= LARGE
            ]
    return max(float(np.median(slopes)), 0.0) if slopes else None


def deepep(source: Source, system: str) -> list[Samples]:
    """DeepGEMM's grouped GEMMs as SGLang calls them after DeepEP: masked (low-latency), contiguous (normal)."""
    found = []
    for table, backend, note in (
        (
            "wideep_generation_moe",
            "masked",
            "Span: gate-up GEMM, activation with quantisation, down GEMM, in a CUDA graph; rows arrive quantised and ordered.",
        ),
        (
            "wideep_context_moe",
            "contiguous",
            "Span: scatter into expert order, gate-up GEMM, activation with quantisation, down GEMM, gather; launched one by "
            "one, so never below 0.3-0.4 ms. Less the cost of tokens without a row on the rank.",
        ),
    ):
        frame = source.read(system, "moe", "sglang", table, "0.5.10")
        if frame is None:
            continue
        frame = frame[frame["distribution"] == "uniform"].rename(
            columns={
                "num_tokens": "tokens",
                "hidden_size": "hidden",
                "num_experts": "experts",
                "topk": "top_k",
                "moe_ep_size": "ep",
                "inter_size": "width",
            }
        )
        frame = placed(frame.assign(skew=0.0), uniform_load).reset_index(drop=True)
        if backend == "contiguous":
            frame = without_strangers(frame).reset_index(drop=True)
        found.append(
            Samples(
                kernel="grouped_gemm",
                dtype="fp8",
                backend=backend,
                engine="sglang",
                axes=AXES,
                frame=frame,
                source=f"{PACKAGE} {VERSION} {system}: sglang 0.5.10 {table} (deepepmoe, DeepGEMM)",
                match=MATCH,
                scale_by=SCALE_BY,
                slices={"4 to 16 rows per expert": (frame["rows_per_group"] >= 4) & (frame["rows_per_group"] < 16)},
                includes=("activation",) if backend == "masked" else INCLUDES,
                note=note,
            )
        )
    return found


def uniform_load(row: Routing) -> RankLoad:
    """Work of rank 0 in the tables after DeepEP."""
    return expert_rows.uniform_decode(row.tokens, row.experts, row.top_k, row.ep)


def wideep(source: Source, system: str) -> list[Samples]:
    """TensorRT-LLM's experts with only the tokens that rank 0 receives, under power-law loads levelled by EPLB.

    The table tells rank 0's tokens, not its rows: rows are those expected for the drawn routing, times the rank's tokens
    over the expected tokens where they vary from draw to draw.
    """
    frame = source.read(system, "moe", "trtllm", "wideep_moe", "1.3.0rc10")
    if frame is None:
        return []
    frame = frame[frame["distribution"].str.endswith("_eplb")].rename(columns={"num_slots": "slots"})
    frame = known(frame, "trtllm")
    frame = placed(frame, partial(wideep_load))
    drawn = np.where(frame["spread"] > 0.02, frame["rank0_num_tokens"] / frame["arrived"], 1.0)
    frame = frame.assign(
        rows=frame["rows"] * drawn, rows_per_group=np.maximum(frame["rows_per_group"] * drawn, 1.0)
    )
    frame = settled(frame[np.abs(np.log(drawn)) < np.log(1.5)])
    found = []
    for dtype, rows in frame.groupby("dtype"):
        rows = rows.reset_index(drop=True)
        found.append(
            Samples(
                kernel="grouped_gemm",
                dtype=str(dtype),
                backend="wideep",
                engine="trtllm",
                axes=AXES,
                frame=rows,
                source=f"{PACKAGE} {VERSION} {system}: trtllm 1.3.0rc10 wideep_moe (cutlass)",
                match=MATCH,
                scale_by=SCALE_BY,
                slices=slices(rows),
                includes=INCLUDES,
                flag="rows of the timed rank are expected values of its random routing",
                note="Span: router's top-k over one rank's tokens, quantisation, permutation, GEMMs, activation, sum.",
            )
        )
    return found


def wideep_load(row: Routing) -> RankLoad:
    """Expected work of rank 0 after EPLB."""
    return expert_rows.power_law(row.tokens, row.experts, row.top_k, row.ep, row.skew, row.slots, placed=True)


def slices(frame: "pd.DataFrame") -> dict[str, "pd.Series"]:
    """A model left out whole, and a range of rows."""
    found = {
        "hidden 6144 width 2048": (frame["hidden"] == 6144) & (frame["width"] == 2048),
        "hidden 4096 width 1536": (frame["hidden"] == 4096) & (frame["width"] == 1536),
        "8 to 32 rows per expert": (frame["rows_per_group"] > 8) & (frame["rows_per_group"] < 32),
    }
    return {name: mask for name, mask in found.items() if mask.any() and not mask.all()}


def _concat(frames: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
    import pandas as pd

    parts = [frame for frame in frames if not frame.empty]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
