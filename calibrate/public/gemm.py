"""Products of matrices out of the measured tables: dense GEMMs, MLA's batched GEMMs, and quantisation by itself.

What the rows are:

- A GEMM row in a quantised format times an engine's linear layer, so it includes the quantisation of the activations,
  which come as BF16. It shows in the numbers (m = 32768, n = 128, k = 8192 on H100: 198 us in BF16, 555 in fp8, where
  reading the FP8 operand alone takes 80), and the package takes its own tables of quantisation off where scales are
  static.
- vLLM's 128-block FP8 rows are bound by the host: no shape is faster than 60 us on H100, 90 us from 32 rows on, 170
  us on B200, where the same DeepGEMM kernels take SGLang 5. No engine decodes so (they replay CUDA graphs): the table
  is left out, and SGLang's DeepGEMM answers for vLLM.
- TensorRT-LLM's per-tensor FP8 rows find the activations' scale first (their collector gives the layer none, since "AIC
  derives fp8_static at query time by subtracting that overhead"), 7 to 14 us; served checkpoints state it.
  ``computescale``, timed for every m and k, is taken off.
- TensorRT-LLM's NVFP4 rows run the first tactic that fits: this collector never enters the engine's autotuner, as its
  collector of experts does and every server at start. Up to twice SGLang's time for the same product: left out, and the
  next engine's rows answer.
- Collectors: https://github.com/ai-dynamo/aiconfigurator/tree/095f58a51c4ca8e61b66ec108d86f223f8d559ce/collector.
- ``mla_bmm``: one product per head, ``num_heads`` on this rank. ``pre`` takes the query into the latent (k = 128 to
  n = 512), ``post`` the latent to the value (k = 512 to n = 128).
- ``quantize``: ``scale_matrix`` is the kernel that quantises with a given scale. ``computescale`` is no kernel but the
  difference of two timings, 0 in most of SGLang's rows: no curve of its own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

FORMATS = {
    "bfloat16": "bf16",
    "fp8_block": "fp8",
    "fp8": "fp8-tensor",
    "nvfp4": "fp4",
    "sq": "int8",
    "int4_wo": "int4",
}
"""Name of a number format in the tables -> as ``Op.dtype``. ``sq`` is SmoothQuant: INT8 weights and activations."""
KERNELS = ("deepgemm", "flashinfer", "cutlass")
"""Kernels that an engine prefers for a shape, first to last, where a table has several for it: on Hopper and Blackwell
SGLang, TensorRT-LLM and vLLM all take DeepGEMM for 128-block FP8 where it can do the shape."""
HOST_BOUND = 10.0
"""A table whose fast rows take this many times as long as the BF16 table's is timed with the host in the way."""
FAST = 0.05
"""Quantile that stands for a table's fast rows."""
UNTUNED = (("trtllm", "nvfp4"),)
"""(engine, format) whose rows were timed without the autotuner that the engine runs."""
DYNAMIC = (("trtllm", "fp8"),)
"""(engine, format) whose rows find the activations' scale, which served checkpoints state."""
ABSORBED = {"mla_gen_pre": (512, 128), "mla_gen_post": (128, 512)}
"""op_name of mla_bmm -> (n, k) of one head's product (DeepSeek-V3's widths, and LongCat-Flash's)."""
QUANTISED = "Times a linear layer: includes quantising the BF16 activations."
NOTES = dict.fromkeys(DYNAMIC, f"{QUANTISED} Less the timed search for their scale (computescale).")


def samples(source: Source, system: str) -> list[Samples]:
    """gemm, bmm and quantise of a system, by every engine that has them."""
    found = []
    for engine in ENGINES:
        found += _dense(source, system, engine)
        found += _batched(source, system, engine)
        found += _quantisation(source, system, engine)
    return found


def left_out(source: Source, system: str) -> list[str]:
    """Tables that make no curve, and why."""
    found = []
    for engine in ENGINES:
        parts = _formats(source, system, engine)
        slow = [name for name, rows in parts.items() if host_bound(rows, parts.get("bfloat16"))]
        found += [f"gemm {FORMATS[name]} by {engine}: bound by the host, not the kernel" for name in slow]
        untuned = [name for name in parts if (engine, name) in UNTUNED]
        found += [
            f"gemm {FORMATS[name]} by {engine}: timed without the engine's autotuner" for name in untuned
        ]
    return found


def host_bound(rows: "pd.DataFrame", reference: "pd.DataFrame | None") -> bool:
    """Whether even the fast rows take several times what the same engine's BF16 rows take."""
    if reference is None:
        return False
    fast, usual = (float(frame["seconds"].quantile(FAST)) for frame in (rows, reference))
    return fast > HOST_BOUND * usual


def with_given_scale(rows: "pd.DataFrame", search: "pd.DataFrame | None") -> "pd.DataFrame":
    """Rows of a linear layer less the search for its activations' scale, by m and k; rows without one are dropped."""
    if search is None:
        return rows
    search = search[search["quant_dtype"] == "fp8"]
    taken = rows.merge(
        search.groupby(["m", "k"])["seconds"].min().rename("_search").reset_index(), on=["m", "k"]
    )
    taken = taken.assign(seconds=taken["seconds"] - taken["_search"]).drop(columns="_search")
    return taken[taken["seconds"] > 0.0].reset_index(drop=True)


def one_kernel(rows: "pd.DataFrame", shape: Sequence[str]) -> "pd.DataFrame":
    """One row per shape: of the kernel that the engine would take (:data:`KERNELS`), then the faster."""
    names = rows["kernel_source"].str.lower()
    rank = names.map(lambda name: next((i for i, part in enumerate(KERNELS) if part in name), len(KERNELS)))
    ordered = rows.assign(_rank=rank).sort_values(["_rank", "seconds"], kind="stable")
    return ordered.drop_duplicates(list(shape)).drop(columns="_rank").sort_index()


def _formats(source: Source, system: str, engine: str) -> dict[str, "pd.DataFrame"]:
    frame = source.read(system, "gemm", engine, "gemm")
    if frame is None:
        return {}
    known = frame[frame["gemm_dtype"].isin(list(FORMATS))]
    return {
        str(name): one_kernel(rows, ("m", "n", "k")).reset_index(drop=True)
        for name, rows in known.groupby("gemm_dtype")
    }


def _dense(source: Source, system: str, engine: str) -> list[Samples]:
    parts = _formats(source, system, engine)
    for name in [name for name in parts if (engine, name) in DYNAMIC]:
        parts[name] = with_given_scale(parts[name], source.read(system, "quantize", engine, "computescale"))
    return [
        Samples(
            kernel="gemm",
            dtype=FORMATS[name],
            backend="",
            engine=engine,
            axes=("m", "n", "k"),
            frame=rows[["m", "n", "k", "seconds"]],
            source=_cite(source, rows, system, engine, "gemm"),
            slices={
                "n=7168": rows["n"] == 7168,
                "k=2048": rows["k"] == 2048,
                "m 96..256": rows["m"].between(96, 256),
                "m 1024..2048": rows["m"].between(1024, 2048),
            },
            note=NOTES.get((engine, name), "" if name == "bfloat16" else QUANTISED),
        )
        for name, rows in parts.items()
        if (engine, name) not in UNTUNED and not host_bound(rows, parts.get("bfloat16"))
    ]


def _batched(source: Source, system: str, engine: str) -> list[Samples]:
    frame = source.read(system, "mla_bmm", engine, "mla_bmm")
    if frame is None:
        return []
    frame = frame[frame["op_name"].isin(list(ABSORBED)) & frame["bmm_dtype"].isin(list(FORMATS))]
    frame = frame.rename(columns={"num_tokens": "m", "num_heads": "groups"}).assign(
        n=frame["op_name"].map(lambda name: ABSORBED[name][0]),
        k=frame["op_name"].map(lambda name: ABSORBED[name][1]),
    )
    found = []
    for name, part in frame.groupby("bmm_dtype"):
        rows = one_kernel(part, ("n", "k", "m", "groups")).reset_index(drop=True)
        found.append(
            Samples(
                kernel="bmm",
                # engines have one FP8 format for it, and models' ops ask for fp8
                dtype="bf16" if name == "bfloat16" else "fp8",
                backend="",
                engine=engine,
                axes=("m", "groups"),
                match=("n", "k"),
                scale_by=("n", "k"),
                frame=rows[["n", "k", "m", "groups", "seconds"]],
                source=_cite(source, rows, system, engine, "mla_bmm"),
                slices={"64 heads": rows["groups"] == 64, "m 96..256": rows["m"].between(96, 256)},
                note="MLA's absorbed products, one per head."
                + (" Includes quantising the activations." if name != "bfloat16" else ""),
            )
        )
    return found


def _quantisation(source: Source, system: str, engine: str) -> list[Samples]:
    frame = source.read(system, "quantize", engine, "scale_matrix")
    if frame is None:
        return []
    rows = frame[(frame["quant_dtype"] == "fp8") & (frame["seconds"] > 0.0)].reset_index(drop=True)
    return [
        Samples(
            kernel="quantise",
            dtype="fp8-tensor",
            backend="",
            engine=engine,
            axes=("m", "k"),
            frame=rows[["m", "k", "seconds"]],
            source=_cite(source, rows, system, engine, "scale_matrix"),
            slices={"k=7168": rows["k"] == 7168, "m 96..256": rows["m"].between(96, 256)},
            note="BF16 to FP8 with a given scale. The gemm tables include it: add it to none of them.",
        )
    ]


def _cite(source: Source, rows: "pd.DataFrame", system: str, engine: str, table: str) -> str:
    kernels = ", ".join(sorted(rows["kernel_source"].unique()))
    version = ", ".join(sorted(rows["version"].unique()))
    return f"{source.label}, {system}, {engine} {version}, {table}: {kernels}"
