"""Measured dispatches and combines of expert parallelism, by what perfmodel counts of them.

Rows come from three places: the tables of aiconfigurator-core (DeepEP as timed by sglang's collector; TensorRT-LLM's
one-sided all-to-all), DeepEP's own README and TensorRT-LLM's blog (both in ``measured_collectives.csv``). Bytes are
counted with the functions that ops use (:mod:`perfmodel.ops.communication`), whatever bandwidth a source quotes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.public.source import SYSTEMS, Source
from calibrate.tables.collective_samples import (
    BLOG18,
    DEEPEP_NORMAL_SMS,
    LEGACY,
    UNTUNED_RANKS,
    CollectiveSample,
    low_latency_samples,
    normal_samples,
)
from perfmodel.kernels.achievable import read_rows
from perfmodel.ops import communication as wire
from perfmodel.routing.destinations import Destinations, expected_distinct
from perfmodel.spec import catalogue
from perfmodel.units import US

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

KERNELS = ("dispatch", "combine")
PAYLOAD = {"dispatch": "fp8", "combine": "bf16"}
"""What DeepEP's benchmark, and so sglang's collector, sends each way."""
VARIABLES = ("tokens", "ranks", "link_bytes", "network_bytes", "experts")
CLUSTERS = {
    "h100_sxm": "h100-ib",
    "h200_sxm": "h200-ib",
    "b200_sxm": "b200-ib",
    "b300_sxm": "b300-ib",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}
"""Folder of a system -> catalogue cluster: GPUs to a node, GPUs that a link joins, share of the network."""
FEWEST_EXPERTS = 64
"""Low-latency rows of models with 8 or 16 experts are left out: dispatch gives each expert its own SMs, so with one or
two experts to a rank most SMs idle and the time doubles (H100, 128 tokens: 50 us for 2 of 8, 21 us for 4 of 128)."""
MULTI_NODE = "0.5.6.post2"
"""The version that holds rows of several nodes; inside one node a newer version timed the same shapes."""
LOW_LATENCY_README_TOKENS, NORMAL_README_TOKENS = 128.0, 4096.0
"""Tokens per rank of every row of DeepEP's README."""
README_EXPERTS = 256.0
ONE_SIDED_BYTES = {"nvfp4": 0.5 + 1 / 16, "mxfp8": 1 + 1 / 32, "bf16": 2.0}
"""Bytes per element of TensorRT-LLM's payloads, scales included."""


@dataclass(frozen=True)
class Timings:
    """Measured times of one kernel of one library on one GPU."""

    backend: str
    kernel: str
    """dispatch or combine."""
    frame: "pd.DataFrame"
    """Columns: VARIABLES, ``hidden``, ``seconds``."""
    source: str
    note: str


@dataclass(frozen=True)
class Fabric:
    """How a system's GPUs are joined."""

    node_gpus: int
    """GPUs that the tables count as one node."""
    domain: int
    """GPUs that reach each other over the link."""
    nic_gb_per_s: float
    """Share of the network, GB/s per GPU and direction."""


def fabric(system: str) -> Fabric:
    """Of a table's system, from the catalogue."""
    entry = catalogue.entry("clusters", CLUSTERS[system])
    node = entry["node"]
    return Fabric(
        int(node["num_gpus"]), int(node["link_domain_gpus"]), float(entry["network"]["gb_per_s_per_gpu"])
    )


def low_latency(source: Source, system: str, kernel: str) -> Timings | None:
    """DeepEP low-latency; None where the system has no rows.

    Rows of several nodes are the same numbers under h100_sxm and h200_sxm: one run, on either device. Both are Hopper
    with the same link and NICs, so both take it.
    """
    import pandas as pd

    frame = _sglang(source, system, "wideep_deepep_ll")
    if frame is None:
        return None
    frame = frame[frame["num_experts"] >= FEWEST_EXPERTS]
    hidden = frame["hidden_size"].to_numpy(float)
    message = (
        wire.low_latency_dispatch_bytes(hidden, PAYLOAD[kernel])
        if kernel == "dispatch"
        else wire.low_latency_combine_bytes(hidden, PAYLOAD[kernel])
    )
    traffic = wire.deepep_low_latency(
        frame["num_token"].to_numpy(float),
        frame["num_topk"].to_numpy(float),
        message,
        frame["ranks"].to_numpy(float),
        float(fabric(system).domain),
    )
    rows = _rows(frame, traffic, frame[f"{kernel}_avg_t_us"].to_numpy(float))
    origin, extra = f"{source.label}, {system}, sglang, wideep_deepep_ll", ""
    if rows["ranks"].max() > fabric(system).node_gpus:
        # what the link carries there is a thirtieth of what the network does: H800's slower link hardly shows
        readme = low_latency_readme(kernel)
        rows = pd.concat([rows, readme[readme["ranks"] > rows["ranks"].max()]], ignore_index=True)
        origin += f"; {LEGACY}"
        extra = "; EP128 and EP256 are DeepEP's own on H800, 128 tokens, where the network is the limit"
    return Timings(
        "deepep-low-latency",
        kernel,
        rows,
        origin,
        f"{PAYLOAD[kernel]} payload, {FEWEST_EXPERTS} experts or more{extra}",
    )


def normal(source: Source, system: str, kernel: str, sms: int = DEEPEP_NORMAL_SMS) -> Timings | None:
    """DeepEP normal with ``sms`` SMs, transmission and notification together; None where the system has no rows.

    Left out: rows of another device (23 of h200_sxm are tagged H100) and 8 nodes (untuned: three times DeepEP's own
    time, combine's notification alone 8 ms), in whose place stand DeepEP's own EP64 rows, which the network limits.
    """
    import pandas as pd

    frame = _sglang(source, system, "wideep_deepep_normal")
    if frame is None:
        return None
    frame = frame[(frame["dispatch_sms"] == sms) & (frame["combine_sms"] == sms)]
    frame = frame[frame["ranks"] < UNTUNED_RANKS]
    experts, top_k = frame["num_experts"].to_numpy(float), frame["num_topk"].to_numpy(float)
    ranks, domain = frame["ranks"].to_numpy(float), float(fabric(system).domain)
    nodes = np.maximum(1.0, ranks / domain)
    reached_ranks = expected_distinct(experts, ranks, top_k)
    reached_nodes = expected_distinct(experts, nodes, top_k)
    reached = Destinations(
        reached_ranks, reached_ranks * (1 - 1 / ranks), reached_nodes, reached_nodes * (1 - 1 / nodes)
    )
    message = wire.payload_bytes(frame["hidden_size"].to_numpy(float), PAYLOAD[kernel])
    traffic = wire.deepep_normal(frame["num_token"].to_numpy(float), message, reached, ranks, domain)
    micros = frame[f"{kernel}_transmit_us"] + frame[f"{kernel}_notify_us"]
    rows = _rows(frame, traffic, micros.to_numpy(float))
    origin, extra = f"{source.label}, {system}, sglang, wideep_deepep_normal", ""
    if rows["ranks"].max() > fabric(system).node_gpus:
        readme = normal_readme(kernel)
        rows = pd.concat([rows, readme[readme["ranks"] >= UNTUNED_RANKS]], ignore_index=True)
        origin += f"; {LEGACY}"
        extra = "; EP64 is DeepEP's own on H800, 4096 tokens, in place of untuned rows"
    return Timings("deepep-normal", kernel, rows, origin, f"{PAYLOAD[kernel]} payload, {sms} SMs{extra}")


def one_sided(source: Source, system: str, kernel: str) -> Timings | None:
    """TensorRT-LLM's one-sided all-to-all inside a rack: nvfp4 dispatch and BF16 combine of the table, BF16 and MXFP8
    of the blog. None where the system has no rows.
    """
    import pandas as pd

    table = source.read(system, "comm", "trtllm", "trtllm_alltoall")
    if table is None:
        return None
    table = table[(table["kernel_source"] == "NVLinkOneSided") & (table["op_name"] == f"alltoall_{kernel}")]
    frame = pd.DataFrame(
        {
            "tokens": table["num_tokens"],
            "ranks": table["moe_ep_size"],
            "experts": table["num_experts"],
            "top_k": table["topk"],
            "hidden": table["hidden_size"],
            "element": ONE_SIDED_BYTES["nvfp4" if kernel == "dispatch" else "bf16"],
            "seconds": table["seconds"],
        }
    )
    if system == "gb200":
        frame = pd.concat([frame, _blog_one_sided(kernel)], ignore_index=True)
    ranks = frame["ranks"].to_numpy(float)
    distinct = expected_distinct(frame["experts"].to_numpy(float), ranks, frame["top_k"].to_numpy(float))
    reached = Destinations(distinct, distinct * (1 - 1 / ranks), 1.0, 0.0)
    message = (frame["hidden"] * frame["element"]).to_numpy(float)
    traffic = wire.one_sided_all_to_all(frame["tokens"].to_numpy(float), message, reached)
    frame = frame.assign(link_bytes=traffic.link_bytes, network_bytes=0.0)
    return Timings(
        "trtllm-one-sided",
        kernel,
        frame[[*VARIABLES, "hidden", "seconds"]].astype(float),
        f"{source.label}, {system}, trtllm, trtllm_alltoall (NVLinkOneSided); {BLOG18}",
        "hidden 7168, top 8 of 256 experts, inside one rack; SMs held are not published",
    )


def low_latency_readme(kernel: str) -> "pd.DataFrame":
    """DeepEP's own low-latency rows on H800: EP8 to EP256, 128 tokens, hidden 7168, top 8 of 256 experts."""
    return _readme(low_latency_samples(), kernel, LOW_LATENCY_README_TOKENS)


def normal_readme(kernel: str) -> "pd.DataFrame":
    """DeepEP's own normal rows on H800: EP8 to EP64, 4096 tokens, hidden 7168, top 8 of 256 from four nodes."""
    return _readme(normal_samples(), kernel, NORMAL_README_TOKENS)


def _readme(samples: list[CollectiveSample], kernel: str, tokens: float) -> "pd.DataFrame":
    import pandas as pd

    kept = [s for s in samples if s.cluster.gpu.name == "h800-sxm" and s.kernel == kernel]
    return pd.DataFrame(
        {
            "tokens": tokens,
            "ranks": [float(s.ranks) for s in kept],
            "link_bytes": [float(s.traffic.link_bytes) for s in kept],
            "network_bytes": [float(s.traffic.network_bytes) for s in kept],
            "experts": README_EXPERTS,
            "hidden": 7168.0,
            "seconds": [s.seconds for s in kept],
        }
    )


def _blog_one_sided(kernel: str) -> "pd.DataFrame":
    import pandas as pd

    rows = pd.DataFrame(read_rows("measured_collectives.csv")).drop_duplicates()
    rows = rows[rows["library"].str.startswith("TRT-LLM NVLinkOneSided") & (rows["op"] == kernel)]
    rows = rows[rows["gpu"] == "GB200"]
    names = {
        "tokens_per_rank": "tokens",
        "ep_or_ranks": "ranks",
        "experts": "experts",
        "topk": "top_k",
        "hidden": "hidden",
    }
    frame = rows[[*names]].rename(columns=names).astype(float)
    return frame.assign(
        element=rows["dtype"].map(ONE_SIDED_BYTES), seconds=rows["latency_us"].astype(float) * US
    )


def _sglang(source: Source, system: str, table: str) -> "pd.DataFrame | None":
    """Both versions of a table with ``ranks``, without other devices' rows and without what the newer repeats."""
    import pandas as pd

    frames = []
    versions = source.versions(system, "comm", "sglang", table)
    for version in versions:
        frame = source.read(system, "comm", "sglang", table, version)
        if frame is None:
            continue
        frame = frame[[_is_device(device, system) for device in frame["device"]]]
        if version == MULTI_NODE and len(versions) > 1:
            frame = frame[frame["node_num"] > 1]
        frames.append(frame.assign(ranks=frame["node_num"] * fabric(system).node_gpus))
    return pd.concat(frames, ignore_index=True) if frames else None


def _is_device(device: str, system: str) -> bool:
    """Whether a row's device ("NVIDIA H100 80GB HBM3") is the one that the system's folder is named after."""
    return SYSTEMS[system].split("-")[0].upper() in device.split()


def _rows(frame: "pd.DataFrame", traffic: wire.Traffic, micros: NDArray[np.float64]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {
            "tokens": frame["num_token"].to_numpy(float),
            "ranks": frame["ranks"].to_numpy(float),
            "link_bytes": traffic.link_bytes,
            "network_bytes": traffic.network_bytes,
            "experts": frame["num_experts"].to_numpy(float),
            "hidden": frame["hidden_size"].to_numpy(float),
            "seconds": micros * US,
        }
    )
