"""How long a collective takes alone: a fixed cost, and bytes over what a library achieves of each link.

Rows of ``data/kernels/communication.csv`` were fitted on measured collectives by ``python -m
calibrate.tables.achievable``. Bytes come from :mod:`perfmodel.ops.communication`: what the wires carry, not what a
library's benchmark divides by its time.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from perfmodel.errors import DataError
from perfmodel.kernels.achievable import REFERENCE_ARCHITECTURE, read_rows
from perfmodel.numeric import Num, maximum, where
from perfmodel.ops.communication import Traffic
from perfmodel.ops.op import Op
from perfmodel.spec.hardware import Cluster
from perfmodel.units import US

SAME_RAIL = ("deepep-normal", "hybrid-ep", "nccl", "nvls")
"""Backends whose network bytes go between equal-numbered GPUs of different domains."""

STAND_IN_LIBRARY = {"custom": "nccl"}
"""Engines' own all-reduce kernels are in calibrations only; without one they are costed as NCCL's."""


@dataclass(frozen=True, slots=True)
class Collective:
    """One kernel of one communication library on one architecture."""

    backend: str
    """deepep-low-latency, deepep-normal, nccl, nvls or trtllm-one-sided."""
    kernel: str
    """dispatch, combine, all_gather, reduce_scatter, all_reduce, all_to_all or send_recv."""
    architecture: str
    """ampere, hopper, blackwell, cdna3 or cdna4."""
    alpha_us: float
    """Fixed cost inside one link domain, us."""
    network_alpha_us: float
    """Fixed cost when the group spans domains, us; never less than ``alpha_us``."""
    link_fraction: float
    """Of the link's bandwidth per GPU and direction."""
    network_fraction: float
    """Of the network's bandwidth per GPU and direction."""
    sms_held: int
    """Streaming multiprocessors it occupies while it runs."""
    log_std: float
    """Spread: root mean square of log(predicted / measured) over the rows of the fit."""
    num_rows: int
    """Measured rows behind it; 0: derived."""
    max_ranks_measured: int
    """Largest group among those rows."""
    rank_power: float
    """Beyond that group the fixed cost grows with this power of the ranks."""
    beyond_log_std: float
    """Spread beyond that group, where it is larger than ``log_std``."""
    source: str
    """fitted:... or derived:..."""
    note: str
    """What the rows are, and their limits."""
    flag: str
    """Why to trust it less; empty: measured."""
    network_flag: str
    """Why to trust the network part less; empty: measured."""
    network_log_std: float = 0.0
    """Spread of a group that spans domains: how far clusters are apart; 0: as within one."""


@dataclass(frozen=True, slots=True)
class CollectiveTime:
    """The parts of a collective's time; link and network are used at once, so the longer counts."""

    alpha_s: Num
    """Fixed cost, s."""
    link_s: Num
    """Link bytes over achieved link bandwidth, s."""
    network_s: Num
    """Network bytes over achieved network bandwidth, s."""
    flag: str = ""
    """Why to trust it less; empty: inside what was measured."""

    @property
    def seconds(self) -> Num:
        """Time alone, s."""
        return self.alpha_s + maximum(self.link_s, self.network_s)


def collective_seconds(
    traffic: Traffic,
    row: Collective,
    cluster: Cluster,
    *,
    ranks: Num | None = None,
    same_rail: bool = False,
) -> CollectiveTime:
    """Parts of the time of ``traffic``: alpha + max(link / (f_l x link_bw), network / (f_n x network_bw)).

    ``same_rail``: whether network bytes go between equal-numbered GPUs only (DeepEP normal, hierarchical
    NCCL). ``ranks`` adds a flag where the group is larger than any that was measured.
    """
    row = with_stated(row, cluster)
    network_bw = cluster.network_bytes_per_s(same_rail=same_rail)
    crosses = traffic.network_bytes > 0
    grown = row.alpha_us * _beyond(row, ranks) ** row.rank_power
    return CollectiveTime(
        alpha_s=maximum(where(crosses, row.network_alpha_us, row.alpha_us), grown) * US,
        link_s=traffic.link_bytes / (row.link_fraction * cluster.link_bytes_per_s),
        network_s=traffic.network_bytes / (row.network_fraction * network_bw),
        flag=_flags(row, bool(np.any(crosses)), ranks),
    )


OF_ALL_REDUCE = {"all_reduce": 1.0, "all_gather": 0.58, "reduce_scatter": 0.58}
"""Fixed cost over an all-reduce's, which is one after the other: 29.8 and 30.1 of 51.2 us for 16 KB over 16 GPUs of
four GB200 trays (PyPI package aisimulate 0.13.0.dev202610270000000085, gb200, NCCL 2.27.7)."""


def with_stated(row: Collective, cluster: Cluster) -> Collective:
    """The row with what the cluster says of its network's fixed cost (``cluster.network.all_reduce_us``), if it
    does.
    """
    stated, share = cluster.network.all_reduce_us, OF_ALL_REDUCE.get(row.kernel)
    if stated is None or share is None or not row.network_log_std:
        return row
    return replace(row, network_alpha_us=share * stated, network_log_std=row.log_std, network_flag="")


def _beyond(row: Collective, ranks: Num | None) -> Num:
    """How many times as large as the largest measured group this one is, at least 1."""
    return 1.0 if ranks is None else maximum(ranks / row.max_ranks_measured, 1.0)


def spread(row: Collective, ranks: Num, *, crosses: bool = False) -> float:
    """Spread of a row for a group: what its fit leaves, what clusters differ by where it spans domains
    (``crosses``), or what little is known of larger groups.
    """
    if crosses and row.network_log_std:
        return max(row.log_std, row.network_log_std)
    larger = bool(np.any(np.asarray(_beyond(row, ranks)) > 1.0))
    return max(row.log_std, row.beyond_log_std) if larger else row.log_std


@dataclass(frozen=True, slots=True)
class PointToPoint:
    """What one GPU achieves when it sends to one other."""

    bytes_per_s: float
    latency_s: float
    flag: str
    """Why to trust it less; empty: measured."""


def point_to_point(cluster: Cluster, *, same_domain: bool) -> PointToPoint:
    """Between GPUs of one link domain, or over the network between equal-numbered GPUs (NCCL's send_recv)."""
    row = lookup_collective("nccl", "send_recv", cluster.gpu.architecture)
    if same_domain:
        return PointToPoint(row.link_fraction * cluster.link_bytes_per_s, row.alpha_us * US, row.flag)
    bandwidth = row.network_fraction * cluster.network_bytes_per_s(same_rail=True)
    return PointToPoint(bandwidth, row.network_alpha_us * US, _flags(row, crosses=True, ranks=None))


def _flags(row: Collective, crosses: bool, ranks: Num | None) -> str:
    """Everything that makes this use of the row less trustworthy."""
    name = f"{row.backend} {row.kernel}"
    flags = [row.flag, row.network_flag if crosses else ""]
    told = crosses and row.network_log_std  # what tests over several nodes say stands in network_flag
    if row.num_rows and ranks is not None and not told and np.any(np.asarray(ranks) > row.max_ranks_measured):
        limit = f"measured up to {row.max_ranks_measured} on {row.architecture}"
        flags.append(f"{name}: {int(np.max(ranks))} ranks, {limit}")
    return "; ".join(flag for flag in flags if flag)


@cache
def lookup_collective(backend: str, kernel: str, architecture: str) -> Collective:
    """The row of a library's kernel; Hopper's, flagged, for an architecture that has none.

    Raises:
        DataError: no row for this backend and kernel.
    """
    rows = collectives()
    backend = STAND_IN_LIBRARY.get(backend, backend)
    for place in (architecture, REFERENCE_ARCHITECTURE, "blackwell"):
        row = rows.get((backend, kernel, place))
        if row is None:
            continue
        if place == architecture:
            return row
        flag = f"{backend} {kernel} on {architecture}: no timings; uses {place}'s fractions"
        return replace(row, flag="; ".join(filter(None, (flag, row.flag))))
    known = sorted({f"{key[0]} {key[1]}" for key in rows})
    raise DataError(f"collective {backend} {kernel}: no figures; known: {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Stretch:
    """How much longer a library's transfers take while something computes beside them."""

    backend: str
    architecture: str
    stretch: float
    """Time beside compute over time alone."""
    log_std: float
    """What is not known of it: standard deviation of its logarithm."""
    source: str
    note: str


def beside_compute(op: Op, architecture: str) -> tuple[float, float, str]:
    """(stretch, spread of its logarithm, flag) of a transfer that runs beside compute: (1, 0, "") where nothing was
    measured in place.

    Rows of ``data/kernels/in_situ.csv`` were made by :mod:`calibrate.tables.in_situ`; an architecture without one takes
    the library's other row over, flagged.
    """
    rows = {row.architecture: row for row in stretches() if row.backend == op.backend}
    if not rows or op.kernel not in ("dispatch", "combine"):
        return 1.0, 0.0, ""
    row = rows.get(architecture)
    if row is not None:
        return row.stretch, row.log_std, row.note if row.log_std else ""
    row = next(iter(rows.values()))
    return (
        row.stretch,
        row.log_std,
        f"{op.backend} beside compute: measured on {row.architecture} alone ({row.stretch:g} times)",
    )


@cache
def stretches() -> tuple[Stretch, ...]:
    """All rows of ``in_situ.csv``."""
    return tuple(
        Stretch(
            backend=record["backend"],
            architecture=record["architecture"],
            stretch=float(record["stretch"]),
            log_std=float(record["log_std"]),
            source=record["source"],
            note=record["note"],
        )
        for record in read_rows("in_situ.csv")
    )


def held_sms(op: Op, cluster: Cluster) -> float:
    """Share of the streaming multiprocessors that a collective occupies while it runs; 0 where nothing says so."""
    try:
        row = lookup_collective(op.backend, op.kernel, cluster.gpu.architecture)
    except DataError:
        return 0.0
    return row.sms_held / cluster.gpu.num_sms


@cache
def collectives() -> dict[tuple[str, str, str], Collective]:
    """All rows, by (backend, kernel, architecture)."""
    rows = {}
    for record in read_rows("communication.csv"):
        row = Collective(
            backend=record["backend"],
            kernel=record["kernel"],
            architecture=record["architecture"],
            alpha_us=float(record["alpha_us"]),
            network_alpha_us=float(record["network_alpha_us"]),
            link_fraction=float(record["link_fraction"]),
            network_fraction=float(record["network_fraction"]),
            sms_held=int(record["sms_held"]),
            log_std=float(record["log_std"]),
            num_rows=int(record["num_rows"]),
            max_ranks_measured=int(record["max_ranks_measured"]),
            rank_power=float(record["rank_power"]),
            beyond_log_std=float(record["beyond_log_std"]),
            source=record["source"],
            note=record["note"],
            flag=record["flag"],
            network_flag=record["network_flag"],
            network_log_std=float(record["network_log_std"]),
        )
        rows[row.backend, row.kernel, row.architecture] = row
    return rows
