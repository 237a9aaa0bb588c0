"""Expert GEMMs (kernel ``grouped_gemm``) from the tables of whole expert computations.

Every row is one rank's gate-up GEMM, activation and down GEMM, with what each engine does around them in the same
span: quantisation of activations, permutation and its inverse, and in most the choice of the top k (``NOTES``).

What the tables give is the tokens of the whole expert-parallel group, and fused kernels were timed with all of those
tokens present on rank 0, as after an all-gather. Their time follows t = w / ep + o + c x tokens to within 1-5 % from
EP 8 to 256 (w is the work, which both rows and experts share): the term in c is the cost of tokens that have no row
here. A dispatch brings only tokens that have one, so c x (tokens - tokens with a row) is taken off
(``without_strangers``), and rows where that is more than half of the time are left out: little of the experts is
left to see in them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibrate.public import expert_rows
from calibrate.public.expert_lines import extended, idle, settled, without_slow, without_strangers
from calibrate.public.expert_rows import RankLoad
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

AXES = ("rows_per_group", "groups")
MATCH = ("hidden", "width", "skew")
SCALE_BY = ("hidden", "width")
INCLUDES = ("activation", "permute", "unpermute", "reorder")

DTYPES = {"bfloat16": "bf16", "fp8_block": "fp8", "fp8": "fp8-tensor", "nvfp4": "fp4", "int4_wo": "int4"}
"""Name of a number format in the tables -> as ``Op.dtype``. (SGLang 0.5.10 has more models in int4, but gave rank 0 its
tokens with all their picks, those of other ranks moved to its first expert: the time per such row is the same at every
EP size, and the rank's own rows are a small part of them.)"""

MODELS = {
    (2048, 512, 8, 256), (2048, 768, 8, 128), (3072, 1024, 8, 256), (3072, 1536, 8, 256), (4096, 1024, 10, 512),
    (4096, 1536, 8, 128), (4096, 2048, 8, 256), (4096, 14336, 2, 8),
    (6144, 2048, 8, 256), (6144, 2560, 8, 160), (6144, 16384, 2, 8), (7168, 2048, 8, 256), (7168, 2048, 8, 384),
    (7168, 3072, 6, 384),
}  # fmt: skip
"""(hidden, expert width, top k, experts) of models with gated experts. Left out: Nemotron-H, whose experts have no
gate (two GEMMs, but the same column names), and Gemma 4, for which SGLang's kernel has no tuned tiles (EP 2 takes
longer than EP 1)."""
GROUP_LIMITED = (7168, 2048, 8, 256)
"""DeepSeek-V3 chooses experts from 4 of 8 groups. SGLang and vLLM routed the balanced scores by that rule, which
balanced scores fail: half of the groups got nothing and rank 0 up to all rows (EP 2 takes as long as EP 1). Left out
there; Kimi-K2 has the same shape without groups."""
FOREIGN_KERNELS = ("nongated", "min_latency")
"""TensorRT-LLM's experts without a gate, and its low-latency kernels, timed with DeepSeek's group-limited choice for
every model, so with unknown rows (EP 2 takes as long as EP 1)."""
BLACKWELL = ("b200_sxm", "b300_sxm", "gb200", "gb300")
OTHER_KERNELS = {("trtllm", "fp4"): "cutlass", ("trtllm", "fp8"): "deepgemm"}
"""(engine, dtype) -> backend of its table on Blackwell, where the engine's default is another kernel: TensorRT-LLM
serves NVFP4 and FP8 experts with trtllm-gen, which SGLang's FlashInfer tables hold, and these for large batches alone
(the launch scripts named in perfmodel/data/published/silicon_setups.yaml)."""
TRITON = "sglang_fused_moe_triton"
FEW = 16
MAX_TP = 8
MIN_WIDTH = 128

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


def fused(
    source: Source,
    system: str,
    engine: str,
    formats: Mapping[str, str] = DTYPES,
    models: Collection[tuple[int, int, int, int]] = MODELS,
    rows_of: "Callable[[pd.DataFrame], pd.DataFrame] | None" = None,
    reach: float = 1.0,
) -> list[Samples]:
    """One engine's fused experts, per number format, of ``models``; ``rows_of`` chooses among the table's rows, and
    lines continue as :func:`calibrate.public.expert_lines.extended` says.
    """
    version = source.version(system, "moe", engine, "moe")
    frame = source.read(system, "moe", engine, "moe")
    if frame is None:
        return []
    frame = known(rows_of(frame) if rows_of else frame, engine, formats, models)
    frame = frame[usable(frame, engine)]
    if frame.empty:
        return []
    frame = placed(frame, fused_load)
    found = []
    for dtype in dict.fromkeys(formats.values()):
        rows = frame[frame["dtype"] == dtype]
        if rows.empty:
            continue
        rows = extended(settled(without_strangers(without_slow(rows[~idle(rows)]))), reach)
        kernels = ", ".join(sorted({*rows["kernel_source"].dropna()}))
        found.append(
            Samples(
                kernel="grouped_gemm",
                dtype=dtype,
                backend=OTHER_KERNELS.get((engine, dtype), "fused") if system in BLACKWELL else "fused",
                engine=engine,
                axes=AXES,
                frame=rows,
                source=f"{source.label} {system}: {engine} {version} moe ({kernels})",
                match=MATCH,
                scale_by=SCALE_BY,
                slices=slices(rows),
                includes=INCLUDES,
                note=NOTES[engine]
                + " Less the cost of tokens without a row on the rank, see calibrate.public.experts.",
            )
        )
    return found


def known(
    frame: "pd.DataFrame",
    engine: str,
    formats: Mapping[str, str] = DTYPES,
    models: Collection[tuple[int, int, int, int]] = MODELS,
) -> "pd.DataFrame":
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
    wanted = [entry in models and not (entry == GROUP_LIMITED and engine != "trtllm") for entry in model]
    frame = frame[np.array(wanted, dtype=bool) & frame["moe_dtype"].isin(list(formats))]
    exponents = frame["distribution"].str.extract(r"power_law_([0-9.]+)")[0].astype(float).fillna(0.0)
    return frame.assign(
        dtype=frame["moe_dtype"].map(dict(formats)), width=frame["inter_size"] // frame["tp"], skew=exponents
    )


def usable(frame: "pd.DataFrame", engine: str) -> "pd.Series":
    """Rows whose work on rank 0 is known, of widths that are kept.

    Power-law loads: one width per model, powers of two of tokens, and at least one row per expert on average; they
    tell how much a skewed load costs, not where a tile ends.
    """
    keep = (frame["tp"] <= MAX_TP) & (frame["width"] >= MIN_WIDTH)
    whole = np.log2(frame["tokens"])
    enough = (
        (frame["tp"] == 1)
        & (whole == np.rint(whole))
        & (frame["tokens"] * frame["top_k"] >= frame["experts"])
    )
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
    slots: int
    skew: float


def placed(frame: "pd.DataFrame", load: Callable[[Routing], RankLoad]) -> "pd.DataFrame":
    """The frame with rank 0's ``rows``, ``groups``, ``rows_per_group`` and ``arrived`` tokens."""
    columns = ["tokens", "experts", "top_k", "ep", "slots"]
    whole = frame.assign(slots=frame["slots"] if "slots" in frame else frame["experts"])
    keys = [
        Routing(*(int(value) for value in sizes), skew=float(skew))  # type: ignore[misc]
        for *sizes, skew in whole[[*columns, "skew"]].itertuples(index=False, name=None)
    ]
    loads = {key: load(key) for key in set(keys)}
    rows = np.array([loads[key].rows for key in keys])
    groups = np.array([loads[key].groups for key in keys])
    return frame.assign(
        rows=rows,
        groups=groups,
        rows_per_group=rows / groups,
        arrived=np.array([loads[key].tokens for key in keys]),
        spread=np.array([loads[key].spread for key in keys]),
    )


def deepep(source: Source, system: str) -> list[Samples]:
    """DeepGEMM's grouped GEMMs as SGLang calls them after DeepEP: masked (low-latency), contiguous (normal)."""
    found = []
    for table, backend, note in (
        (
            "wideep_generation_moe",
            "masked",
            "Span: gate-up GEMM, activation with quantisation, down GEMM, in a CUDA graph; rows arrive quantised and "
            "ordered.",
        ),
        (
            "wideep_context_moe",
            "contiguous",
            "Span: scatter into expert order, gate-up GEMM, activation with quantisation, down GEMM, gather; launched "
            "one by one, so never below 0.3-0.4 ms. Less the cost of tokens without a row on the rank.",
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
            frame = without_strangers(frame)
        frame = extended(frame)
        found.append(
            Samples(
                kernel="grouped_gemm",
                dtype="fp8",
                backend=backend,
                engine="sglang",
                axes=AXES,
                frame=frame,
                source=f"{source.label} {system}: sglang 0.5.10 {table} (deepepmoe, DeepGEMM)",
                match=MATCH,
                scale_by=SCALE_BY,
                slices={
                    "4 to 16 rows per expert": (frame["rows_per_group"] >= 4) & (frame["rows_per_group"] < 16)
                },
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

    The table tells rank 0's tokens, not its rows: rows are those expected for the drawn routing, times the rank's
    tokens over the expected tokens where they vary from draw to draw.
    """
    frame = source.read(system, "moe", "trtllm", "wideep_moe", "1.3.0rc10")
    if frame is None:
        return []
    frame = frame[frame["distribution"].str.endswith("_eplb")].rename(columns={"num_slots": "slots"})
    frame = known(frame, "trtllm")
    frame = placed(frame, wideep_load)
    drawn = np.where(frame["spread"] > 0.02, frame["rank0_num_tokens"] / frame["arrived"], 1.0)
    frame = frame.assign(
        rows=frame["rows"] * drawn, rows_per_group=np.maximum(frame["rows_per_group"] * drawn, 1.0)
    )
    frame = frame[np.abs(np.log(drawn)) < np.log(1.5)]
    if frame.empty:  # RTX PRO 6000 was timed with models that are not read
        return []
    frame = settled(frame)
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
                source=f"{source.label} {system}: trtllm 1.3.0rc10 wideep_moe (cutlass)",
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
