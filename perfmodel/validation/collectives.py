"""Suite ``collectives``: transfers alone against the shipped calibrations.

Held-out message sizes of the public tables (role ``check``), and DeepEP's own figures on H800, on which the H800 curves
were fitted (role ``fit``). What other libraries publish is listed and not predicted.
"""

from collections.abc import Mapping
from typing import Any

from perfmodel.kernels.achievable import read_rows
from perfmodel.ops import communication
from perfmodel.routing.destinations import destinations
from perfmodel.spec import catalogue
from perfmodel.units import GB, US
from perfmodel.validation.measured import (
    calibration_names,
    find_curve,
    held_out_rows,
    identities,
    shipped,
    timing_row,
)
from perfmodel.validation.rows import Row
from perfmodel.validation.suites import Progress

NAME = "collectives"
TRANSFERS = (
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "all_to_all",
    "send_recv",
    "dispatch",
    "combine",
)
TABLES = "aiconfigurator"
BACKENDS = {"DeepEP V1 low-latency": "deepep-low-latency", "DeepEP V1 normal": "deepep-normal"}
GPUS = {
    "H100-SXM": "h100-sxm",
    "H100-SXM (CX7)": "h100-sxm",
    "H200": "h200-sxm",
    "H800-SXM": "h800-sxm",
    "B200": "b200-sxm",
    "GB200": "gb200-nvl72",
}
"""GPU as printed -> catalogue name."""
DOMAIN = 8
"""GPUs of an H800 node."""


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that are judged."""
    return identities(calibration_names())


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows."""
    held = held_out_rows(NAME, lambda kernel: kernel in TRANSFERS, progress)
    return [*held, *(_published(record) for record in _records())]


def _records() -> list[dict[str, str]]:
    return [
        row for row in read_rows("measured_collectives.csv") if TABLES not in row["library"] + row["source"]
    ]


def _published(record: Mapping[str, str]) -> Row:
    """A library's own figure: predicted where it is DeepEP's on H800."""
    kernel = record["op"]
    backend = BACKENDS.get(record["library"])
    label = f"{record['library']} {record['gpu']} {kernel} EP{record['ep_or_ranks']} {record['tokens_per_rank']} tokens"
    common: dict[str, Any] = {
        "id": " ".join(filter(None, (label, record["dtype"], f"hidden {record['hidden']}", record["sms"]))),
        "model": record["gpu"],
        "source": record["source"],
        "system": GPUS.get(record["gpu"], ""),
    }
    if backend is None or record["gpu"] != "H800-SXM":
        stated = record["latency_us"] or record["bandwidth_GBps"]
        unit = "us" if record["latency_us"] else "GB/s"
        return Row(
            suite=NAME,
            quantity=f"{kernel} ({unit})",
            unit=unit,
            measured=float(stated or "nan"),
            predicted=None,
            role="check",
            reason="a library, or a way of timing, that no calibration holds",
            **common,
        )
    variables, counted = _work(record, backend)
    measured = (
        float(record["latency_us"]) * US
        if record["latency_us"]
        else counted / (float(record["bandwidth_GBps"]) * GB)
    )
    curve = find_curve(shipped("h800-sxm"), kernel, record["dtype"], backend)
    return timing_row(NAME, curve, variables, measured=measured, kernel=kernel, role="fit", **common)


def _work(record: Mapping[str, str], backend: str) -> tuple[dict[str, float], float]:
    """What a curve asks for, and the bytes that the library's bandwidth counts (docs/communication.md)."""
    ranks, tokens = float(record["ep_or_ranks"]), float(record["tokens_per_rank"])
    hidden, top_k, dtype = float(record["hidden"]), float(record["topk"]), record["dtype"]
    moe = next(layer.moe for layer in catalogue.model("deepseek-v3").layers if layer.moe)
    common = {"tokens": tokens, "ranks": ranks, "experts": float(record["experts"])}
    if backend == "deepep-low-latency":
        message = (
            communication.low_latency_dispatch_bytes(hidden, dtype)
            if record["op"] == "dispatch"
            else communication.low_latency_combine_bytes(hidden, dtype)
        )
        traffic = communication.deepep_low_latency(tokens, top_k, message, ranks, DOMAIN)
        counted = tokens * top_k * message
    else:
        message = communication.payload_bytes(hidden, dtype)
        reached = destinations(moe, int(ranks), DOMAIN, mean_real_experts=top_k)
        traffic = communication.deepep_normal(tokens, message, reached, ranks, DOMAIN)
        copies = reached.ranks if ranks <= DOMAIN else reached.nodes
        counted = tokens * float(copies) * message
    work = {"link_bytes": float(traffic.link_bytes), "network_bytes": float(traffic.network_bytes)}
    return {**common, **work, "bytes": work["link_bytes"] + work["network_bytes"]}, float(counted)
