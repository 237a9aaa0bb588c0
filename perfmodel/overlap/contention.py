"""How ops that run together slow each other: fluid sharing of SMs, HBM, link and network.

Each op, alone, uses resource r for the share d_r = part_r / seconds of its time. When the shares of the ops that run
together add up to more than the resource offers, each op's part on it stretches by the excess:

    stretch_r = max(1, sum of d_r / capacity_r)        time' = latency + max over r of part_r x stretch_r

The capacity of the compute units is 1 - (share of SMs that communication kernels hold); of everything else 1. So a
compute-bound op beside a communication kernel that holds a sixth of the SMs takes 6/5 as long, a memory-bound
one is not slowed by that, and two memory-bound ops halve each other. This proportional partition is unmeasured on GPUs;
Atlas A3 figures (docs/overlap.md) show that real kernels lose less than proportionally when their cores are halved.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Demand(NamedTuple):
    """One op's parts as plain floats, for the timeline's inner loop."""

    seconds: float
    latency_s: float
    compute_s: float
    memory_s: float
    link_s: float
    network_s: float
    held_sms: float


def shared_seconds(demands: Sequence[Demand]) -> list[float]:
    """The time that each of the ops running together would take if that set stayed as it is, s."""
    if len(demands) == 1:
        return [demands[0].seconds]
    compute = memory = link = network = held = 0.0
    for d in demands:
        compute += d.compute_s / d.seconds
        memory += d.memory_s / d.seconds
        link += d.link_s / d.seconds
        network += d.network_s / d.seconds
        held += d.held_sms
    compute = max(1.0, compute / (1.0 - held))
    memory, link, network = max(1.0, memory), max(1.0, link), max(1.0, network)
    return [
        d.latency_s + max(d.compute_s * compute, d.memory_s * memory, d.link_s * link, d.network_s * network)
        for d in demands
    ]
