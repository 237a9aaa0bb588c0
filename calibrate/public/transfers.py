"""Transfers between GPUs: NCCL and the engines' own all-reduces inside a node, dispatch and combine of experts.

Collectives inside a node are tables over wire bytes (this module); dispatch and combine, which cross nodes, are curves
(:mod:`calibrate.public.deepep`). H800 was timed by DeepEP only; its collectives are H100's at the slower link.

What ``message_size`` means was decided by bandwidth limits, at 268,435,456 elements of two bytes (537 MB, H100's link
450 GB/s per direction). all_gather on 8 GPUs takes 1.40 ms: as the *result* on every rank that is 335 GB/s on the wire;
as one rank's input it would be 2,682 GB/s. reduce_scatter (1.40 ms) likewise has its *input* on every rank, and
alltoall (1.49 ms: 315 GB/s) counts all that one rank sends. all_reduce (2.11 ms) is 445 GB/s.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibrate.public import deepep
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source
from calibrate.tables.collective_samples import NCCL_OPS
from perfmodel.kernels.curves import Curve
from perfmodel.ops import communication as wire
from perfmodel.ops.communication import Traffic
from perfmodel.spec import catalogue

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

Array: TypeAlias = NDArray[np.float64]

NCCL_DTYPE = "half"
ELEMENT_BYTES = 2.0
"""Of ``half`` in NCCL's table and ``bfloat16`` in the engines'; int8 rows say the same at half the bytes."""
TRAFFIC: dict[str, Callable[..., Traffic]] = {
    "all_gather": wire.all_gather,
    "reduce_scatter": wire.reduce_scatter,
    "all_reduce": wire.all_reduce,
    "all_to_all": wire.all_to_all,
}
GRAPH = "_graph"
"""Ending of ``kernel_source`` of rows replayed from a CUDA graph. Eager ones time the host: 20 to 80 us up to 1 MB."""
ENGINE_NOTES = {
    "sglang": "SGLang's custom all-reduce (one-shot, then two-shot) from a CUDA graph, NCCL above its 8 to 16 MB",
    "vllm": "vLLM's custom all-reduce (one-shot, then two-shot; symmetric memory on Blackwell) from a CUDA graph, NCCL "
    "above its limit",
    "trtllm": "TensorRT-LLM's AUTO strategy (one-shot, two-shot; MNNVL across trays; NCCL for large messages)",
}
MESSAGE_SLICES = {
    "16 to 64 kB": (2.0**14, 2.0**16),
    "64 to 256 kB": (2.0**16, 2.0**18),
    "256 kB to 1 MB": (2.0**18, 2.0**20),
    "1 to 4 MB": (2.0**20, 2.0**22),
    "4 to 16 MB": (2.0**22, 2.0**24),
}
"""Bytes on the wire: where messages of a decode or prefill step lie, and protocols change."""
H800_BASE = "h100_sxm"


def samples(source: Source, system: str) -> list[Samples]:
    """NCCL's four collectives and each engine's all-reduce, inside a node."""
    return [*nccl_samples(source, system), *engine_samples(source, system)]


def curves(source: Source, system: str, *, experts: bool = False) -> list[Curve]:
    """Dispatch and combine: see :func:`calibrate.public.deepep.curves`."""
    return deepep.curves(source, system, experts=experts)


def h800(source: Source) -> tuple[list[Samples], list[Curve]]:
    """H800: H100's collectives with the link's bytes scaled, and DeepEP fitted on its own rows."""
    return [on_slower_link(s) for s in samples(source, H800_BASE)], deepep.h800(source)


def on_slower_link(of_h100: Samples) -> Samples:
    """H800's time of S bytes is H100's of S x 450 / 200; the fixed part, flat in bytes, stays."""
    share = _link_gb_per_s("h800-ib") / _link_gb_per_s("h100-ib")
    frame = of_h100.frame.assign(bytes=of_h100.frame["bytes"] * share)
    return replace(
        of_h100,
        frame=frame,
        slices=_slices(frame),
        flag=f"derived: h100-sxm's, with {share:.3g} of its bytes in the same time (link 200 of 450 GB/s)",
    )


def nccl_samples(source: Source, system: str) -> list[Samples]:
    """NCCL: 2, 4 and 8 GPUs of a node (2 and 4 of a GB200 tray)."""
    table = source.read(system, "comm", "nccl", "nccl")
    if table is None:
        return []
    table = table[table["nccl_dtype"] == NCCL_DTYPE]
    version = source.version(system, "comm", "nccl", "nccl")
    found = []
    for name, kernel in NCCL_OPS.items():
        rows = table[table["op_name"] == name]
        if len(rows):
            found.append(
                _samples(
                    kernel,
                    "nccl",
                    "",
                    rows,
                    f"{source.label}, {system}, nccl {version}",
                    "NCCL inside one link domain; message_size read as elements of two bytes",
                )
            )
    return found


def engine_samples(source: Source, system: str) -> list[Samples]:
    """Each engine's own all-reduce, as decode replays it."""
    found = []
    for engine in ENGINES:
        table = source.read(system, "comm", engine, "custom_allreduce")
        if table is None:
            continue
        graph = table["kernel_source"].str.endswith(GRAPH)
        rows = (
            table[graph] if graph.any() else table
        )  # TensorRT-LLM's rows do not say; they cost what graphs do
        version = source.version(system, "comm", engine, "custom_allreduce")
        origin = f"{source.label}, {system}, {engine} {version}, custom_allreduce"
        found.append(_samples("all_reduce", "custom", engine, rows, origin, ENGINE_NOTES[engine]))
    return found


RACKS = {"gb200": {"sglang": "0.5.14"}, "gb300": {"vllm": "0.27.0"}}
"""System -> engine -> version whose all-reduces were timed over 8 and 16 GPUs of a rack (two and four trays) in a later
package than the calibrations' own, which hold GB300's by SGLang and TensorRT-LLM."""
RACK_NCCL = {"gb200": "2.23"}
"""System -> folder of NCCL's collectives over as many; its rows are of 2.27.7."""
RACK_TWINS = {
    "gb200": (
        "gb300",
        "trtllm",
        "1.3.0rc20",
        "GB300's, which takes as long over 2 and 4 GPUs (within 1 % to 4 MB)",
    )
}
"""System -> another of the same links, an engine and a version whose all-reduces answer for it, and why they may."""
RACK_NOTE = "over trays of one rack"


def rack_samples(source: Source, system: str) -> list[Samples]:
    """All-reduces of engines, and NCCL's collectives, over more GPUs than a tray of the rack has."""
    found = []
    for engine, version in RACKS.get(system, {}).items():
        table = source.read(system, "comm", engine, "custom_allreduce", version)
        if table is not None:
            rows = table[table["kernel_source"].str.endswith(GRAPH) & (table["num_gpus"] > TRAY)]
            origin = f"{source.label}, {system}, {engine} {version}, custom_allreduce"
            note = f"{ENGINE_NOTES[engine]}; {RACK_NOTE}"
            found.append(_samples("all_reduce", "custom", engine, rows, origin, note))
    if system in RACK_TWINS:
        twin, engine, version, why = RACK_TWINS[system]
        table = source.read(twin, "comm", engine, "custom_allreduce", version)
        if table is not None:
            origin = f"{source.label}, {twin}, {engine} {version}, custom_allreduce"
            note = f"{ENGINE_NOTES[engine]}; {RACK_NOTE}"
            made = _samples("all_reduce", "custom", engine, table[table["num_gpus"] > TRAY], origin, note)
            found.append(replace(made, flag=f"derived: {why}"))
    version = RACK_NCCL.get(system, "")
    table = source.read(system, "comm", "nccl", "nccl", version) if version else None
    if table is not None:
        table = table[(table["nccl_dtype"] == NCCL_DTYPE) & (table["num_gpus"] > TRAY)]
        origin = f"{source.label}, {system}, nccl 2.27.7 (folder {version})"
        found += [
            _samples(kernel, "nccl", "", table[table["op_name"] == name], origin, f"NCCL {RACK_NOTE}")
            for name, kernel in NCCL_OPS.items()
        ]
    return found


TRAY = 4
"""GPUs of one tray of an NVL72."""


def wire_bytes(kernel: str, elements: Array, ranks: Array) -> Array:
    """Bytes on one rank's busier direction of a collective of ``elements`` inside one link domain."""
    traffic = TRAFFIC[kernel](elements * ELEMENT_BYTES, ranks, ranks)
    return np.asarray(traffic.link_bytes, dtype=np.float64)


def _samples(kernel: str, backend: str, engine: str, rows: "pd.DataFrame", origin: str, note: str) -> Samples:
    size = "message_size"
    frame = rows.groupby(["num_gpus", size], as_index=False)["seconds"].min()
    elements, ranks = frame[size].to_numpy(float), frame["num_gpus"].to_numpy(float)
    frame = frame.assign(ranks=frame["num_gpus"], bytes=wire_bytes(kernel, elements, ranks))
    frame = frame[["bytes", "ranks", "seconds"]].reset_index(drop=True)
    return Samples(
        kernel=kernel,
        dtype="any",
        backend=backend,
        engine=engine,
        axes=("bytes",),
        frame=frame,
        source=origin,
        match=("ranks",),
        exact=("ranks",),
        slices=_slices(frame),
        note=note,
    )


def _slices(frame: "pd.DataFrame") -> "dict[str, pd.Series]":
    return {name: frame["bytes"].between(*ends) for name, ends in MESSAGE_SLICES.items()}


def _link_gb_per_s(cluster: str) -> float:
    return float(catalogue.entry("clusters", cluster)["node"]["link_gb_per_s"])
